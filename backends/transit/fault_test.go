package transit

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/backends/backendtest"
	"github.com/keyward/keyward/backends/transit/transitfake"
)

// Faults of the call that a signature needs. Each has its error, its number of calls and its advice, none stays, and
// after each it is certain that nothing was signed.
func TestFaults(t *testing.T) {
	const page = "<html>Bad gateway</html>"
	for _, tt := range []struct {
		name  string
		fault transitfake.Fault
		times int     // -1: every call
		calls int     // that are made; 0: any number
		wants []error // nil: it succeeds
		never []error
		says  string
	}{
		{name: "throttled twice", fault: transitfake.Fault{Status: 429, Errors: []string{"rate limit quota exceeded"}},
			times: 2, calls: 3},
		{name: "not yet replicated", fault: transitfake.Fault{Status: 412}, times: 1, calls: 2},
		{name: "throttled until the deadline", fault: transitfake.Fault{Status: 429}, times: -1,
			wants: []error{backends.ErrUnavailable}, says: "quotas/rate-limit"},
		{name: "asked to wait for longer than there is", fault: transitfake.Fault{Status: 429, RetryAfter: 60}, times: -1,
			calls: 1, wants: []error{backends.ErrUnavailable}},
		{name: "sealed", fault: transitfake.Fault{Status: 503, Errors: []string{"Vault is sealed"}}, times: -1,
			wants: []error{ErrSealed, backends.ErrUnavailable}, says: "vault operator unseal"},
		{name: "sealed for a moment", fault: transitfake.Fault{Status: 503, Errors: []string{"Vault is sealed"}}, times: 1,
			calls: 2},
		{name: "internal error once", fault: transitfake.Fault{Status: 500, Errors: []string{"internal error"}}, times: 1,
			calls: 2},
		{name: "standby", fault: transitfake.Fault{Status: 473, Errors: []string{"standby"}}, times: 1, calls: 2},
		{name: "slow", fault: transitfake.Fault{Delay: time.Hour}, times: -1,
			wants: []error{backends.ErrUnavailable, context.DeadlineExceeded}},
		{name: "connection cut after the call", fault: transitfake.Fault{Cut: true}, times: 1, calls: 2},
		{name: "connection cut before", fault: transitfake.Fault{CutHard: true}, times: 1, calls: 2},
		{name: "cut each time", fault: transitfake.Fault{CutHard: true}, times: -1, wants: []error{backends.ErrUnavailable},
			says: "no answer from http://"},
		{name: "garbled once", fault: transitfake.Fault{Status: 200, Body: `{"data": {"plaint`}, times: 1, calls: 2},
		{name: "garbled each time", fault: transitfake.Fault{Status: 200, Body: page}, times: -1,
			wants: []error{backends.ErrUnavailable}, says: "is it Vault?"},
		{name: "a proxy's page", fault: transitfake.Fault{Status: 403, Body: page}, times: -1,
			wants: []error{backends.ErrUnavailable}, never: []error{backends.ErrRefused}, says: "is not Vault"},
		{name: "a proxy's other page", fault: transitfake.Fault{Status: 404, Body: page}, times: -1,
			wants: []error{backends.ErrUnavailable}, never: []error{backends.ErrKeyNotFound}},
		{name: "denied", fault: transitfake.Fault{Status: 403, Errors: []string{"permission denied"}}, times: -1, calls: 2,
			wants: []error{ErrDenied}, never: []error{backends.ErrUnavailable},
			says: `allow "update" on "transit/decrypt/keyward"`},
		{name: "mount not there", fault: transitfake.Fault{Status: 404, Errors: []string{"no handler for route"}}, times: -1,
			calls: 1,
			wants: []error{backends.ErrRefused}, never: []error{backends.ErrKeyNotFound}, says: "check mount and namespace"},
		{name: "key deleted", fault: transitfake.Fault{Status: 400, Errors: []string{"encryption key not found"}}, times: -1,
			calls: 1, wants: []error{backends.ErrKeyNotFound}},
		{name: "another refusal", fault: transitfake.Fault{Status: 405, Errors: []string{"unsupported"}}, times: -1, calls: 1,
			wants: []error{backends.ErrRefused}},
		{name: "an empty answer", fault: transitfake.Fault{Status: 200, Body: "{}"}, times: -1, calls: 1, wants: []error{}},
		{name: "a short file key", fault: transitfake.Fault{Status: 200, Body: `{"data":{"plaintext":"AAAA"}}`}, times: -1,
			calls: 1, wants: []error{backends.ErrKeyDamaged}},
		{name: "another file key", fault: transitfake.Fault{Status: 200,
			Body: `{"data":{"plaintext":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="}}`}, times: -1, calls: 1,
			wants: []error{backends.ErrKeyDamaged}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			fake := newFake(t)
			k := backendtest.Generate(t, open(t, fake.config()), "keyward-x")
			timeout := 30 * time.Second
			if tt.times < 0 && tt.calls == 0 {
				timeout = 3 * time.Second
			}
			ctx, cancel := context.WithTimeout(t.Context(), timeout)
			defer cancel()
			fake.Inject("decrypt", tt.times, tt.fault)
			before := fake.Calls("decrypt")
			_, err := k.SignDigest(ctx, [32]byte{1})
			if (err == nil) != (tt.wants == nil) {
				t.Fatalf("SignDigest = %v, want an error: %v", err, tt.wants != nil)
			}
			for _, want := range tt.wants {
				if !errors.Is(err, want) {
					t.Errorf("SignDigest = %v, want %v", err, want)
				}
			}
			for _, never := range tt.never {
				if errors.Is(err, never) {
					t.Errorf("SignDigest = %v, which is %v", err, never)
				}
			}
			if err != nil && (!errors.Is(err, backends.ErrNotSigned) || !strings.Contains(err.Error(), tt.says)) {
				t.Errorf("SignDigest = %v, want ErrNotSigned, and %q in it", err, tt.says)
			}
			if err != nil && strings.Contains(err.Error(), rootToken) {
				t.Errorf("the error has the token: %v", err)
			}
			if n := fake.Calls("decrypt") - before; tt.calls != 0 && n != tt.calls {
				t.Errorf("%d calls, want %d", n, tt.calls)
			}
			fake.Clear()
			backendtest.Verify(t, k, [32]byte{1})
		})
	}
}

// Status tells what is wrong with the server, and a server that is back is ready with the next look.
func TestHealth(t *testing.T) {
	fake := newFake(t)
	cfg := fake.config()
	cfg.Timeout = 2 * time.Second
	b := open(t, cfg)
	for _, tt := range []struct {
		status int
		says   string // "": ready
	}{
		{503, "sealed"}, {200, ""}, {429, ""}, {501, "not initialized"}, {200, ""},
	} {
		fake.SetHealth(tt.status)
		_, err := b.Generate(t.Context(), backends.KeyAttributes{Label: "keyward-x"})
		st := b.Status(t.Context())
		if (st.State == "ready") != (tt.says == "") || !strings.Contains(st.Detail, tt.says) {
			t.Errorf("health %d (%v): Status = %+v, want %q", tt.status, err, st, tt.says)
		}
	}
	before := fake.Calls("keys") + fake.Calls("health")
	b.Status(t.Context())
	if n := fake.Calls("keys") + fake.Calls("health") - before; n != 0 {
		t.Errorf("Status after a call makes %d calls, want none", n)
	}
}

// A standby sends requests on to the active server, once, and not to one without TLS.
func TestRedirects(t *testing.T) {
	fake := newFake(t)
	standby := httptest.NewServer(http.RedirectHandler(fake.url+"/v1/transit/keys/"+testKey, http.StatusTemporaryRedirect))
	defer standby.Close()
	cfg := fake.config()
	cfg.Address, cfg.Timeout = standby.URL, 500*time.Millisecond
	w := newWrapper(t, cfg)
	if _, err := w.describe(t.Context()); err != nil {
		t.Errorf("by way of a standby: %v", err)
	}
	circle := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, r.URL.Path, http.StatusTemporaryRedirect)
	}))
	defer circle.Close()
	cfg.Address = circle.URL
	if _, err := newWrapper(t, cfg).describe(t.Context()); !errors.Is(err, backends.ErrUnavailable) ||
		!strings.Contains(err.Error(), "more than once") {
		t.Errorf("in a circle: %v, want ErrUnavailable", err)
	}
}
