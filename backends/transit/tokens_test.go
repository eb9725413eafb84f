package transit

import (
	"bytes"
	"errors"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/backends/backendtest"
	"github.com/keyward/keyward/backends/transit/transitfake"
	"github.com/keyward/keyward/internal/syncbuf"
)

// logins are the ways to log in, with what the fake has to know for each.
var logins = []struct {
	method, mount, role string
}{
	{"approle", "", "role-1"}, {"kubernetes", "", "keyward"}, {"kubernetes", "clusters/west", "keyward"},
}

// A token that Vault takes back, or that ended, is replaced by a login, without an error.
func TestLoginAgain(t *testing.T) {
	for _, l := range logins {
		t.Run(l.method+l.mount, func(t *testing.T) {
			t.Parallel()
			fake := newFake(t)
			cfg := fake.config()
			secretID := &credential{}
			secretID.set("secret-1")
			cfg.Auth = Auth{Method: l.method, Mount: l.mount, Role: l.role, Secret: secretID.source}
			fake.AddRole(cfg.Auth.mount(), l.role, "secret-1")
			k := backendtest.Generate(t, open(t, cfg), "keyward-x")
			if n := fake.Calls("login"); n != 1 {
				t.Errorf("%d logins for the first key, want 1", n)
			}
			fake.RevokeTokens()
			var wg sync.WaitGroup
			for range 16 {
				wg.Go(func() {
					if _, err := k.SignDigest(t.Context(), [32]byte{1}); err != nil {
						t.Error(err)
					}
				})
			}
			wg.Wait()
			if n := fake.Calls("login"); n != 2 {
				t.Errorf("%d logins after the token was taken back, want 1 more", n)
			}
			// Another secret: that of a rotated secret ID, or of a service account's token.
			fake.RemoveRole(cfg.Auth.mount(), l.role)
			fake.AddRole(cfg.Auth.mount(), l.role, "secret-2")
			fake.RevokeTokens()
			if _, err := k.SignDigest(t.Context(), [32]byte{1}); !errors.Is(err, ErrLogin) ||
				strings.Contains(err.Error(), "secret-1") || !errors.Is(err, backends.ErrNotSigned) {
				t.Errorf("SignDigest = %v, want ErrLogin without the secret", err)
			}
			before := fake.Calls("login")
			for range 5 {
				if _, err := k.SignDigest(t.Context(), [32]byte{1}); !errors.Is(err, ErrLogin) {
					t.Errorf("SignDigest = %v, want ErrLogin", err)
				}
			}
			if n := fake.Calls("login") - before; n != 0 {
				t.Errorf("a secret that was refused is tried %d times more: Vault locks a role after 5", n)
			}
			secretID.set("secret-2")
			backendtest.Verify(t, k, [32]byte{1})
		})
	}
}

// A login that gets no answer is made again, and one while Vault is sealed is no refusal.
func TestLoginFaults(t *testing.T) {
	fake := newFake(t)
	fake.AddRole("approle", "role-1", "secret-1")
	cfg := fake.config()
	cfg.Auth = Auth{Method: "approle", Role: "role-1", Secret: given("secret-1")}
	k := backendtest.Generate(t, open(t, cfg), "keyward-x")
	for name, fault := range map[string]func(){
		"cut":     func() { fake.Inject("login", 1, cutHard) },
		"sealed":  func() { fake.Inject("login", 1, sealedAnswer) },
		"garbled": func() { fake.Inject("login", 1, garbled) },
		"empty":   func() { fake.Inject("login", 1, empty) },
	} {
		fake.RevokeTokens()
		fault()
		if _, err := k.SignDigest(t.Context(), [32]byte{1}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A login that is not where the configuration says is a refusal: it says nothing of keys.
func TestNoSuchLogin(t *testing.T) {
	fake := newFake(t)
	k := backendtest.Generate(t, open(t, fake.config()), "keyward-x")
	cfg := fake.config()
	cfg.Dir = filepath.Join(t.TempDir(), "keys")
	cfg.Auth = Auth{Method: "approle", Mount: "elsewhere", Role: "role-1", Secret: given("secret-1")}
	for _, messages := range [][]string{nil, {"no handler for route"}} {
		fake.Inject("login", 1, transitfake.Fault{Status: 404, Errors: messages})
		_, err := open(t, cfg).Generate(t.Context(), backends.KeyAttributes{Label: "keyward-y"})
		if !errors.Is(err, backends.ErrRefused) || errors.Is(err, backends.ErrKeyNotFound) {
			t.Errorf("Generate = %v, want ErrRefused and not ErrKeyNotFound", err)
		}
	}
	backendtest.Verify(t, k, [32]byte{1})
}

// A token is renewed when two thirds of its life are over, and replaced when it can't live longer.
func TestRenewal(t *testing.T) {
	t.Parallel()
	fake := newFake(t)
	fake.TokenLife, fake.MaxLife = 3*time.Second, 8*time.Second
	fake.AddRole("approle", "role-1", "secret-1")
	cfg := fake.config()
	cfg.Timeout = 2 * time.Second
	cfg.Auth = Auth{Method: "approle", Role: "role-1", Secret: given("secret-1")}
	k := backendtest.Generate(t, open(t, cfg), "keyward-x")
	for began := time.Now(); time.Since(began) < 9*time.Second; time.Sleep(100 * time.Millisecond) {
		backendtest.Verify(t, k, [32]byte{1})
	}
	renewals, logins := fake.Calls("renew-self"), fake.Calls("login")
	if renewals < 2 || renewals > 12 || logins < 2 || logins > 4 {
		t.Errorf("%d renewals and %d logins in 9 s, with lives of 3 s and 8 s at most", renewals, logins)
	}
}

// A given token is renewed from the start on, though nothing is signed, and a renewal that fails is made again.
func TestGivenTokenIsRenewedWhileIdle(t *testing.T) {
	t.Parallel()
	fake := newFake(t)
	fake.TokenLife = time.Hour
	fake.AddToken("hvs.short", 10*time.Second, true)
	fake.Inject("renew-self", 1, cutHard)
	fake.Inject("lookup-self", 1, cutHard)
	cfg := fake.config()
	cfg.Auth.Secret = given("hvs.short")
	b := open(t, cfg)
	for deadline := time.Now().Add(time.Minute); fake.Calls("renew-self") < 2; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the token was not renewed")
		}
	}
	backendtest.Verify(t, backendtest.Generate(t, b, "keyward-x"), [32]byte{1})
}

// A given token that Vault refuses is read again: another program may have replaced it. One that may not look itself
// up is used.
func TestGivenTokenIsReplaced(t *testing.T) {
	fake := newFake(t)
	cfg := fake.config()
	value := &credential{}
	value.set(rootToken)
	cfg.Auth.Secret = value.source
	fake.Deny("auth/token/lookup-self")
	k := backendtest.Generate(t, open(t, cfg), "keyward-x")
	fake.RevokeTokens()
	fake.AddToken("hvs.second", 0, false)
	value.set("hvs.second")
	backendtest.Verify(t, k, [32]byte{1})
	fake.RevokeTokens()
	if _, err := k.SignDigest(t.Context(), [32]byte{1}); !errors.Is(err, ErrDenied) ||
		strings.Contains(err.Error(), "hvs.") {
		t.Errorf("SignDigest with a token that was taken back = %v, want ErrDenied without the token", err)
	}
}

// No secret is in a log or an error, whatever Vault answers.
func TestNothingSecretIsTold(t *testing.T) {
	fake := newFake(t)
	cfg := fake.config()
	log := &syncbuf.Buffer{}
	cfg.Logger = slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	cfg.Timeout = time.Second
	cfg.Auth = Auth{Method: "approle", Role: "role-1", Secret: given("secret-1")}
	b := open(t, cfg)
	var told bytes.Buffer
	generate := func() {
		_, err := b.Generate(t.Context(), backends.KeyAttributes{Label: "keyward-x"})
		told.WriteString(b.Status(t.Context()).Detail)
		if err == nil {
			t.Error("Generate succeeded")
		} else {
			told.WriteString(err.Error())
		}
	}
	generate() // Vault quotes the secret ID in its answer
	for _, l := range []string{`{"auth":{"client_token":"hvs.secret-1\u0000","lease_duration":1}}`,
		`{"auth":{"client_token":"hvs.secret-1"}`, `{"errors":["secret-1"]}`} {
		b = open(t, cfg)
		fake.Inject("login", -1, answering(l))
		generate()
		fake.Clear()
	}
	if all := told.String() + log.String(); strings.Contains(all, "secret-1") {
		t.Errorf("the text contains a secret: %s", all)
	}
}
