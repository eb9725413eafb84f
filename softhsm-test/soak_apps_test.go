//go:build soak || lossy

package softhsmtest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/ethereum/go-ethereum/crypto"

	"github.com/keyward/keyward/policy"
	"github.com/keyward/keyward/socket/api"
	"github.com/keyward/keyward/socket/client"
)

// app is an honest client with a session of its own. It asks for each transaction until it has the signature. Safe for
// concurrent use.
type app struct {
	session *api.Session
	limit   int // of its transfers, each of 1 wei
	client  *client.Client
	unlock  func(backend string) // asks the operator

	mu       sync.Mutex
	nonce    uint64
	received map[policy.Hash]bool // digests of signatures that arrived
	denied   int                  // transactions that are beyond the limit
	errors   map[string]int       // other answers, by their word
}

// newApp makes a session that may transfer limit wei, and its client.
func (s *soak) newApp(backend string, limit int, options ...string) *app {
	return &app{
		session: s.a.activeSessionOn(backend, transferSpec(limit), options...), limit: limit, client: s.a.Client(),
		unlock:   s.unlock,
		received: map[policy.Hash]bool{}, errors: map[string]int{},
	}
}

// signNext asks for the next transaction's signature until it arrives: through faults, restarts and queues that are
// full. It returns an error for what should not happen.
func (a *app) signNext(ctx context.Context) error {
	a.mu.Lock()
	nonce := a.nonce
	a.nonce++
	a.mu.Unlock()
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(time.Duration(5+rand.IntN(20)) * time.Millisecond) {
		signed, err := a.client.SignTransaction(ctx, transferTx(a.session.ID, nonce))
		if err == nil {
			return a.receive(signed)
		}
		answer := client.Details(err)
		switch {
		case time.Now().After(deadline):
			return fmt.Errorf("no signature for nonce %d after two minutes: %w", nonce, err)
		case answer == nil:
			a.count("connection lost")
		case answer.Code == api.CodeDenied && a.limit == soakLimit: // which others may have used up
			a.mu.Lock()
			a.denied++
			a.mu.Unlock()
			time.Sleep(50 * time.Millisecond) // an app that is polite
			return nil
		case !answer.Details().Retryable && answer.Details().Reason != "badSignature":
			return fmt.Errorf("nonce %d: %w", nonce, err)
		default:
			a.count(answer.Details().Reason)
			if answer.Details().Reason == "deviceLocked" {
				a.unlock(a.session.Backend)
			}
		}
	}
}

// receive takes a signature, which has to be right.
func (a *app) receive(signed *api.SignedTransaction) error {
	rsv := append([]byte(nil), signed.Signature...)
	if len(rsv) != 65 || rsv[64] < 27 {
		return fmt.Errorf("the signature %x has not 65 bytes and V of 27 or 28", rsv)
	}
	rsv[64] -= 27
	key, err := crypto.SigToPub(signed.Digest[:], rsv)
	if err != nil || policy.Address(crypto.PubkeyToAddress(*key)) != a.session.Signer {
		return errors.Join(err, fmt.Errorf("the signature %x is not the session's", rsv))
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.received[signed.Digest] {
		return fmt.Errorf("the digest %v arrived for two transactions", signed.Digest)
	}
	a.received[signed.Digest] = true
	return nil
}

func (a *app) count(word string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.errors[word]++
}

// all are the apps, each of which has a session.
func (s *soak) all() []*app {
	list := []*app{s.honest, s.greedy}
	for _, a := range s.apps {
		if a != list[len(list)-1] {
			list = append(list, a)
		}
	}
	return list
}

// received is how many signatures have arrived.
func (s *soak) received() (n int) {
	for _, a := range s.all() {
		a.mu.Lock()
		n += len(a.received)
		a.mu.Unlock()
	}
	return n
}
