package session

import (
	"context"
	"fmt"
	"time"

	"github.com/ethereum/go-ethereum/crypto"

	"github.com/keyward/keyward/audit"
	"github.com/keyward/keyward/backends"
)

// SelfTest is what a backend did with a throw-away key.
type SelfTest struct {
	Backend    string              `json:"backend"`
	Protection backends.Protection `json:"protection,omitempty"` // of the key, if it was made
	KeyURI     string              `json:"keyUri,omitempty"`
	Steps      []SelfTestStep      `json:"steps"`
}

// SelfTestStep is one thing that was asked of the backend.
type SelfTestStep struct {
	Name  string        `json:"name"` // "generate", "find", "sign", "destroy"
	Took  time.Duration `json:"took"` // nanoseconds
	Error string        `json:"error,omitempty"`
}

// OK reports whether every step went well.
func (t *SelfTest) OK() bool {
	for _, s := range t.Steps {
		if s.Error != "" {
			return false
		}
	}
	return true
}

// selfTestDigest is what a throw-away key signs. It is no transaction's, and the key is no account's.
var selfTestDigest = [32]byte(crypto.Keccak256([]byte("keyward self-test")))

// SelfTest has a backend make a key, find it, sign, and destroy it, and records that. The key is destroyed whatever
// fails; where it can't be, or the agent is killed meanwhile, Run does it later, as with a session
// whose creation was cut short. The error is that there was no test: [ErrInvalid], [ErrHalted].
func (s *Sessions) SelfTest(ctx context.Context, by audit.Peer, name string) (*SelfTest, error) {
	backend := s.cfg.Backends[name]
	if backend == nil {
		return nil, s.noBackend(name)
	}
	id, end := s.claimNew()
	defer end()
	if err := s.putIntent(ctx, id, intent{Backend: name}); err != nil {
		return nil, err
	}
	t := &SelfTest{Backend: name}
	clean := t.run(ctx, backend, KeyLabelPrefix+string(id))
	rec := &audit.Record{
		Time: s.cfg.Now().UTC(), Event: audit.BackendChecked, Peer: &by, KeyURI: t.KeyURI, Protection: string(t.Protection),
		Detail: t,
	}
	e := &entry{rec: rec}
	if clean {
		e = s.ledger.dropIntent(id, rec)
	}
	return t, s.enqueue(context.WithoutCancel(ctx), e)
}

// run does the steps, and reports whether no key can be left.
func (t *SelfTest) run(ctx context.Context, backend backends.Backend, label string) (clean bool) {
	var key backends.Key
	made := t.step("generate", func() (err error) {
		key, err = backend.Generate(ctx, backends.KeyAttributes{Label: label})
		return err
	})
	if !made {
		return false
	}
	t.Protection, t.KeyURI = key.Protection(), key.URI()
	_ = t.step("find", func() error {
		found, err := backend.Key(ctx, key.URI())
		if err == nil && !found.Public().Equal(key.Public()) {
			err = fmt.Errorf("%w: its URI finds another key", backends.ErrKeyAmbiguous)
		}
		return err
	}) && t.step("sign", func() error {
		sig, err := key.SignDigest(ctx, selfTestDigest)
		if err == nil {
			_, err = backends.Recoverable(crypto.FromECDSAPub(key.Public()), selfTestDigest, sig)
		}
		return err
	})
	return t.step("destroy", func() error {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), deviceTimeout)
		defer cancel()
		return backend.Destroy(ctx, key.URI())
	})
}

func (t *SelfTest) step(name string, do func() error) (ok bool) {
	start := time.Now()
	err := do()
	s := SelfTestStep{Name: name, Took: time.Since(start)}
	if err != nil {
		s.Error = err.Error()
	}
	t.Steps = append(t.Steps, s)
	return err == nil
}
