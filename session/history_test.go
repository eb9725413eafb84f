package session

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/holiman/uint256"

	"github.com/keyward/keyward/policy"
)

// historyLimit is the fee limit of a history's session, wei; historyNonces is how many nonces its clients use.
const (
	historyLimit  = 1000 // of testSpec
	historyNonces = 5
)

// historyCall is what a client asks for: a signature for a nonce with a fee, or, with a fee of 0, how much is used.
type historyCall struct {
	nonce, fee uint64
}

// historyAnswer is what it gets.
type historyAnswer struct {
	signed bool
	used   uint64
}

// costsByNonce is a limit's state in the model: of all signatures for a nonce the dearest counts.
type costsByNonce [historyNonces]uint64

func (c costsByNonce) used() (sum uint64) {
	for _, fee := range c {
		sum += fee
	}
	return sum
}

// limitModel is a limit as one client alone would see it: a signature is made if and only if it fits.
var limitModel = porcupine.Model{
	Init: func() any { return costsByNonce{} },
	Step: func(state, input, output any) (bool, any) {
		costs, call, answer := state.(costsByNonce), input.(historyCall), output.(historyAnswer)
		if call.fee == 0 {
			return answer.used == costs.used(), costs
		}
		next := costs
		next[call.nonce] = max(next[call.nonce], call.fee)
		fits := next.used() <= historyLimit
		if answer.signed != fits {
			return false, costs
		}
		if fits {
			return true, next
		}
		return true, costs
	},
	DescribeOperation: func(input, output any) string { return fmt.Sprintf("%+v → %+v", input, output) },
}

// Clients side by side see the limit as if they came one after the other: no order of their requests explains an
// answer that over-spends, and none that refuses what fits.
func TestHistoriesOfALimit(t *testing.T) {
	for seed := range uint64(8) {
		history := aHistory(t, seed)
		if res, _ := porcupine.CheckOperationsVerbose(limitModel, history, time.Minute); res != porcupine.Ok {
			t.Errorf("seed %d: %v: no order of these explains them:\n%s", seed, res, describe(history))
		}
	}
}

// aHistory has six clients ask an agent side by side.
func aHistory(t *testing.T, seed uint64) (history []porcupine.Operation) {
	t.Helper()
	a := newAgent(t)
	sess := a.active(t)
	began := time.Now()
	var mu sync.Mutex
	var clients sync.WaitGroup
	for id := range 6 {
		rng := rand.New(rand.NewPCG(seed, uint64(id)))
		clients.Go(func() {
			for i := range 10 {
				call := historyCall{nonce: rng.Uint64N(historyNonces), fee: 1 + rng.Uint64N(400)}
				if rng.IntN(4) == 0 {
					call = historyCall{}
				}
				op := porcupine.Operation{ClientId: id, Input: call, Call: int64(time.Since(began))}
				op.Output = a.answer(t, sess, call, id*10+i)
				op.Return = int64(time.Since(began))
				mu.Lock()
				history = append(history, op)
				mu.Unlock()
			}
		})
	}
	clients.Wait()
	return history
}

// answer is what a client gets. number makes its transaction one of its own.
func (a *agent) answer(t *testing.T, sess *Session, call historyCall, number int) historyAnswer {
	if call.fee == 0 {
		all, err := a.Usage(sess.ID)
		for _, u := range all {
			if used := uint256.Int(u.Used); u.Tracker.Kind == policy.FeeTracker {
				return historyAnswer{used: used.Uint64()}
			}
		}
		t.Errorf("Usage = %v, %v", all, err)
		return historyAnswer{}
	}
	req := transfer(sess, call.nonce)
	req.Tx.Value = uint256.Int{}
	req.Tx.GasLimit, req.Tx.MaxFeePerGas = *uint256.NewInt(call.fee), *uint256.NewInt(1)
	req.Tx.GasPerPubdata = *uint256.NewInt(50_000 + uint64(number))
	_, err := a.Sign(t.Context(), app, req)
	var d *policy.Denial
	if err != nil && (!errors.As(err, &d) || d.Reason != policy.ReasonLifetimeExceeded) {
		t.Errorf("Sign = %v", err)
	}
	return historyAnswer{signed: err == nil}
}

func describe(history []porcupine.Operation) (text string) {
	for _, op := range history {
		text += fmt.Sprintf("client %d, %d to %d: %s\n", op.ClientId, op.Call, op.Return,
			limitModel.DescribeOperation(op.Input, op.Output))
	}
	return text
}

// A history that over-spends is found out.
func TestOverspendingHistory(t *testing.T) {
	call := func(client int, from, to int64, nonce, fee uint64, signed bool) porcupine.Operation {
		return porcupine.Operation{ClientId: client, Input: historyCall{nonce, fee}, Call: from,
			Output: historyAnswer{signed: signed}, Return: to}
	}
	both := []porcupine.Operation{call(1, 0, 10, 1, 600, true), call(2, 0, 10, 2, 600, true)}
	one := []porcupine.Operation{call(1, 0, 10, 1, 600, true), call(2, 0, 10, 2, 600, false)}
	replaced := []porcupine.Operation{call(1, 0, 10, 1, 600, true), call(2, 0, 10, 1, 900, true)}
	if porcupine.CheckOperations(limitModel, both) || !porcupine.CheckOperations(limitModel, one) ||
		!porcupine.CheckOperations(limitModel, replaced) {
		t.Error("the model takes two signatures that pass the limit together, or refuses one or a replacement that do not")
	}
}
