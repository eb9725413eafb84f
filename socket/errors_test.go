package socket

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/holiman/uint256"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/chain"
	"github.com/keyward/keyward/internal/zktx"
	"github.com/keyward/keyward/policy"
	"github.com/keyward/keyward/session"
	"github.com/keyward/keyward/socket/api"
)

func TestReplyTo(t *testing.T) {
	const device = `backend "hsm1", slot 3: `
	denial := &policy.Denial{
		Reason: "lifetimeLimitExceeded", Revert: "Lifetime limit exceeded", Detail: "5 + 6 is more than 10", Policy: 1,
		Constraint: -1,
		Limit:      uint256.NewInt(10), Used: uint256.NewInt(5), Asked: uint256.NewInt(6), Remaining: uint256.NewInt(5),
	}
	for _, tt := range []struct {
		name    string
		err     error
		code    int
		message string // how it begins
		data    string
	}{
		{"denial", fmt.Errorf("signing: %w", denial), 4001, "User denied: Lifetime limit exceeded: 5 + 6 is more than 10",
			`{"reason":"lifetimeLimitExceeded","revert":"Lifetime limit exceeded","detail":"5 + 6 is more than 10","policy":1,"limit":"10","used":"5","asked":"6","remaining":"5"}`},
		{"unknown signer", session.ErrUnknownSigner, 4100, session.ErrUnknownSigner.Error(), `{"reason":"unknownSigner"}`},
		{"forbidden signer", fmt.Errorf("of another user: %w", session.ErrUnknownSigner), 4100,
			session.ErrUnknownSigner.Error(), `{"reason":"unknownSigner"}`},
		{"no session", errNoSession, 4100, "no session", `{"reason":"noSession"}`},
		{"stranger on admin.sock", errNotOperator, 4100, "only the user", `{"reason":"notOperator"}`},
		{"refused method", &unsupported{"eth_sendTransaction", whySend}, 4200,
			"eth_sendTransaction is not supported: the agent signs", `{"reason":"unsupportedMethod"}`},
		{"unknown method", &unknownMethod{"eth_foo"}, -32601, "the method eth_foo does not exist/is not available",
			`{"reason":"unknownMethod"}`},
		{"field", &zktx.FieldError{Path: "message.gasLimit", Msg: "is missing"}, -32602,
			"invalid params: message.gasLimit: is missing",
			`{"reason":"invalidParams","path":"message.gasLimit"}`},
		{"spec", fmt.Errorf("spec: %w", &policy.JSONError{Path: "feeLimit", Msg: "is missing"}), -32602,
			"invalid params: spec: feeLimit: is missing",
			`{"reason":"invalidParams","path":"feeLimit"}`},
		{"parameter", badParam("hooks", "want an array"), -32602, "invalid params: hooks: want an array",
			`{"reason":"invalidParams","path":"hooks"}`},
		{"ambiguous", fmt.Errorf("%w: a, b", session.ErrAmbiguous), -32602, "several sessions fit: a, b",
			`{"reason":"ambiguousSession","path":"session"}`},
		{"overload", fmt.Errorf("%w: 64 do", session.ErrOverloaded), -32005,
			"too many requests wait for the key's device: send it again", `{"reason":"tooManyRequests","retryable":true}`},
		{"operator's mistake", fmt.Errorf("%w: no client", session.ErrInvalid), -32602, "invalid request: no client",
			`{"reason":"invalidParams"}`},
		{"halted", fmt.Errorf("%w: disk full at /var/lib", session.ErrHalted), -32000, session.ErrHalted.Error(),
			`{"reason":"halted","hint":"see the agent's log, repair what it names, start the agent again"}`},
		{"locked by the operator", session.ErrLocked, -32000, "locked by the operator",
			`{"reason":"lockedByOperator","retryable":true,"hint":"keyward unlock"}`},
		{"damaged file", fmt.Errorf("state/keys/x: %w: cut short", backends.ErrKeyDamaged), -32000,
			"what is stored of the session's key is damaged",
			`{"reason":"keyDamaged","hint":"put the key's file back from a backup"}`},
		{"bad signature", fmt.Errorf("token x: %w", backends.ErrBadSignature), -32000,
			"the key's device made a bad signature, which is not released",
			`{"reason":"badSignature","retryable":true,"hint":"keyward backend check"}`},
		{"restarting", errRestarting, -32000, "the agent is restarting", `{"reason":"restarting","retryable":true}`},
		{"clock", fmt.Errorf("%w: slow by 10m", session.ErrClock), -32000, session.ErrClock.Error(),
			`{"reason":"clockSkew","retryable":true,"hint":"set the host's clock right; keyward status says by how much it is off"}`},
		{"old registry", fmt.Errorf("%w: of noon", session.ErrRegistryStale), -32000, session.ErrRegistryStale.Error(),
			`{"reason":"registryStale","retryable":true,"hint":"keyward status"}`},
		{"chain absent", fmt.Errorf("chain x: %w: EOF", chain.ErrUnavailable), -32000, chain.ErrUnavailable.Error(),
			`{"reason":"chainUnavailable","retryable":true,"hint":"keyward status"}`},
		{"block reorganised away", fmt.Errorf("chain x: %w", chain.ErrReorg), -32000, chain.ErrUnavailable.Error(),
			`{"reason":"chainUnavailable","retryable":true,"hint":"keyward status"}`},
		{"garbled answer", fmt.Errorf("chain x: %w", chain.ErrGarbled), -32000, chain.ErrGarbled.Error(),
			`{"reason":"chainGarbled","retryable":true,"hint":"keyward status"}`},
		{"other chain's node", fmt.Errorf("chain x: %w", chain.ErrWrongChain), -32000, chain.ErrWrongChain.Error(),
			`{"reason":"wrongChainEndpoint","hint":"keyward status"}`},
		{"contract reverts", fmt.Errorf("chain x: %w", chain.ErrReverted), -32000, chain.ErrReverted.Error(),
			`{"reason":"chainReverted"}`},
		{"no such event", fmt.Errorf("chain x: %w", chain.ErrNotFound), -32602, "chain x: not found on chain",
			`{"reason":"notOnChain"}`},
		{"device locked", fmt.Errorf(device+"%w", backends.ErrLocked), -32000, "the key's device is locked",
			`{"reason":"deviceLocked","retryable":true,"hint":"keyward unlock"}`},
		{"admin PIN", fmt.Errorf(device+"%w", backends.ErrAdminPINNeeded), -32000, "the device needs its admin PIN",
			`{"reason":"deviceLocked","retryable":true,"hint":"keyward unlock --backend NAME --admin-pin"}`},
		{"wrong PIN", fmt.Errorf(device+"%w", backends.ErrPINIncorrect), -32000, "the key's device refused the PIN",
			`{"reason":"pinIncorrect","hint":"keyward unlock"}`},
		{"last PIN try", fmt.Errorf(device+"%w", backends.ErrPINFinalTry), -32000, "the key's device has one PIN try left",
			`{"reason":"pinFinalTry","hint":"reset the PIN's counter with the device's own tool, then: keyward unlock"}`},
		{"device refused", fmt.Errorf(device+"%w", backends.ErrRefused), -32000, "the key's device refused",
			`{"reason":"deviceRefused","hint":"keyward status"}`},
		{"not touched", fmt.Errorf(device+"%w", backends.ErrNotTouched), -32000, "the key's device was not touched in time",
			`{"reason":"notTouched","retryable":true,"hint":"touch the device when it blinks"}`},
		{"device busy", fmt.Errorf(device+"%w", backends.Busy(errors.New("in use"))), -32000, "the key's device is busy",
			`{"reason":"deviceBusy","retryable":true,"hint":"keyward status"}`},
		{"device full", fmt.Errorf(device+"%w", backends.ErrFull), -32000, "the key's device refused",
			`{"reason":"deviceRefused","hint":"keyward status"}`},
		{"device absent", fmt.Errorf(device+"%w", backends.ErrUnavailable), -32000, "the key's device is absent",
			`{"reason":"deviceUnavailable","retryable":true,"hint":"keyward status"}`},
		{"key gone", fmt.Errorf(device+"%w", backends.ErrKeyNotFound), -32000, "the session's key is not in its device",
			`{"reason":"keyNotFound","hint":"keyward key list"}`},
		{"key twice", fmt.Errorf(device+"%w", backends.ErrKeyAmbiguous), -32000, "the device has more than one key",
			`{"reason":"keyAmbiguous","hint":"keyward key list"}`},
		{"timed out", fmt.Errorf(device+"%w", context.DeadlineExceeded), -32000, "timed out",
			`{"reason":"timeout","retryable":true}`},
		{"cancelled", context.Canceled, -32000, "the agent is restarting", `{"reason":"restarting","retryable":true}`},
		{"anything else", errors.New(device + "secret path"), -32000, "internal error", `{"reason":"internal"}`},
		{"busy", errBusy, -32005, "too many requests", `{"reason":"tooManyRequests","retryable":true}`},
		{"memory", errMemory, -32005, "too many large messages", `{"reason":"tooManyRequests","retryable":true}`},
		{"connections", errConnections, -32005, "too many connections", `{"reason":"tooManyConnections","retryable":true}`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := replyTo(tt.err, false)
			if got.Code != tt.code || !strings.HasPrefix(got.Message, tt.message) {
				t.Errorf("replyTo(%v) = %d %q, want %d %q", tt.err, got.Code, got.Message, tt.code, tt.message)
			}
			if diff := cmp.Diff(tt.data, string(got.Data)); diff != "" {
				t.Errorf("data (-want +got):\n%s", diff)
			}
			if strings.Contains(got.Message, "hsm1") {
				t.Errorf("message %q tells an app about devices", got.Message)
			}
			if operator := replyTo(tt.err, true); operator.Code != got.Code ||
				!strings.Contains(operator.Message, tt.err.Error()) && got.Code == -32000 {
				t.Errorf("to the operator %d %q, want the same code and the whole error", operator.Code, operator.Message)
			}
			checkWords(t, got.Message)
		})
	}
}

// TestReasonsAreDocumented: an app's developer finds each reason.
func TestReasonsAreDocumented(t *testing.T) {
	guide, err := os.ReadFile("../docs/app-guide.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range replies {
		if r.code == api.CodeUnavailable && !bytes.Contains(guide, []byte("`"+r.data.Reason+"`")) {
			t.Errorf("docs/app-guide.md does not have %q", r.data.Reason)
		}
	}
}

// viem gives errors with these words another meaning.
func checkWords(t *testing.T, message string) {
	t.Helper()
	for _, words := range []string{"nonce too low", "execution reverted", "insufficient funds"} {
		if strings.Contains(strings.ToLower(message), words) {
			t.Errorf("message %q has the words %q", message, words)
		}
	}
}

func TestTablesAvoidWords(t *testing.T) {
	for _, r := range replies {
		checkWords(t, r.message)
		checkWords(t, r.err.Error())
		// viem sends these again by itself: a refusal must not be among them, nor what takes the operator.
		if r.code == -32603 || r.code == -32007 || r.code == 429 {
			t.Errorf("%v is answered with %d", r.err, r.code)
		}
	}
	for _, m := range refusedMethods {
		checkWords(t, m.Why)
	}
}

func TestDenialOfError(t *testing.T) {
	reply := replyTo(&policy.Denial{Reason: "valueTooHigh", Policy: 0, Constraint: -1, Asked: uint256.NewInt(7)}, false)
	encoded, err := json.Marshal(reply)
	if err != nil {
		t.Fatal(err)
	}
	var got api.Error
	if err := json.Unmarshal(encoded, &got); err != nil {
		t.Fatal(err)
	}
	d := got.Denial()
	if d == nil || d.Reason != "valueTooHigh" || d.Policy == nil || *d.Policy != 0 || d.Constraint != nil ||
		d.Asked == nil {
		t.Errorf("Denial() of %s = %+v", encoded, d)
	}
	if (&api.Error{Code: -32000, Data: got.Data}).Denial() != nil {
		t.Error("Denial() of an error that is none is not nil")
	}
}
