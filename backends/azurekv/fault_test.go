package azurekv

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/ethereum/go-ethereum/crypto"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/backends/azurekv/kvfake"
	"github.com/keyward/keyward/backends/backendtest"
)

// once and always are faults that end, or do not.
func once(f kvfake.Fault) *kvfake.Fault   { f.Times = 1; return &f }
func always(f kvfake.Fault) *kvfake.Fault { return &f }

// edit changes a member of an answer.
func edit(name string, value any) func([]byte) []byte {
	return func(body []byte) []byte {
		var answer map[string]any
		if err := json.Unmarshal(body, &answer); err != nil {
			panic(err)
		}
		answer[name] = value
		out, err := json.Marshal(answer)
		if err != nil {
			panic(err)
		}
		return out
	}
}

func TestSignFaults(t *testing.T) {
	retryIn := func(seconds string) map[string]string { return map[string]string{"Retry-After": seconds} }
	for _, test := range []struct {
		name  string
		fault *kvfake.Fault
		calls int   // of Sign
		want  error // nil: it signs
		says  string
	}{
		{"throttled once", once(kvfake.Fault{Status: 429, Header: retryIn("0")}), 2, nil, ""},
		{"throttled for longer than there is time", always(kvfake.Fault{Status: 429, Header: retryIn("3600")}), 1,
			backends.ErrUnavailable, "throttles"},
		{"service down once", once(kvfake.Fault{Status: 503}), 2, nil, ""},
		{"internal error once", once(kvfake.Fault{Status: 500}), 2, nil, ""},
		{"connection cut after the request was sent", once(kvfake.Fault{Cut: true}), 2, nil, ""},
		{"access denied", always(kvfake.Fault{Status: 403, Code: "ForbiddenByRbac"}), 1, backends.ErrRefused,
			"Microsoft.KeyVault/vaults/keys/sign/action is missing on https://" + vaultHost},
		{"access denied by policy", always(kvfake.Fault{Status: 403, Code: "ForbiddenByPolicy"}), 1, backends.ErrRefused,
			`the key permission "sign"`},
		{"credentials expired", always(kvfake.Fault{Status: 401}), 1, backends.ErrRefused,
			"does not accept the credentials, or they have expired"},
		{"firewall", always(kvfake.Fault{Status: 403, Code: "ForbiddenByFirewall"}), 1, backends.ErrRefused, "firewall"},
		{"key disabled", always(kvfake.Fault{Status: 403, Code: "KeyDisabled"}), 1, backends.ErrRefused,
			"the key is disabled; enable it"},
		{"bad request", always(kvfake.Fault{Status: 400, Code: "BadParameter"}), 1, backends.ErrRefused,
			"finds fault with the request"},
		{"answer about another key once", once(kvfake.Fault{Change: edit("kid", "https://"+vaultHost+
			"/keys/x/0123456789abcdef0123456789abcdef")}), 2, nil, ""},
		{"answer without a key once", once(kvfake.Fault{Change: edit("kid", nil)}), 2, nil, ""},
		{"garbage once", once(kvfake.Fault{Change: func([]byte) []byte { return []byte("<html>") }}), 2, nil, ""},
		{"short signature", always(kvfake.Fault{Change: edit("value",
			base64.RawURLEncoding.EncodeToString(make([]byte, 63)))}), 1, backends.ErrBadSignature, "63 bytes"},
		{"zeros for a signature", always(kvfake.Fault{Change: edit("value",
			base64.RawURLEncoding.EncodeToString(make([]byte, 64)))}), 1, backends.ErrBadSignature, "out of range"},
	} {
		t.Run(test.name, func(t *testing.T) {
			b, s := start(t, vaultHost, Config{KeyType: EC})
			k := generate(t, b, "keyward-1")
			s.Fault("Sign", test.fault)
			digest := [32]byte{1, 2, 3}
			sig, err := k.SignDigest(t.Context(), digest)
			if n := s.Calls("Sign"); n != test.calls {
				t.Errorf("%d calls, want %d", n, test.calls)
			}
			if test.want == nil {
				if err != nil {
					t.Fatal(err)
				}
				if _, err := backends.Recoverable(crypto.FromECDSAPub(k.Public()), digest, sig); err != nil {
					t.Error(err)
				}
				return
			}
			if !errors.Is(err, test.want) || !strings.Contains(fmt.Sprint(err), test.says) {
				t.Errorf("error %v, want %v that says %q", err, test.want, test.says)
			}
			if errors.Is(test.want, backends.ErrRefused) && errors.Is(err, backends.ErrUnavailable) {
				t.Errorf("error %v: a refusal is no invitation to try again", err)
			}
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("error %q is not one line", err)
			}
			// The vault has refused each try, rather than answered nonsense.
			if certain := errors.Is(err, backends.ErrNotSigned); certain != (test.want != backends.ErrBadSignature) {
				t.Errorf("error %v, certain %v", err, certain)
			}
			s.Fault("Sign", nil)
			backendtest.Verify(t, k, digest) // nothing is lost
		})
	}
}

// A signature of another key is well formed, and only verification can tell.
func TestSignatureOfAnotherKey(t *testing.T) {
	b, s := start(t, vaultHost, Config{KeyType: EC})
	k, other := generate(t, b, "keyward-1"), generate(t, b, "keyward-2")
	digest := [32]byte{5}
	s.Fault("Sign", always(kvfake.Fault{Change: edit("value",
		base64.RawURLEncoding.EncodeToString(s.Sign(other.id.name, digest[:])))}))
	sig, err := k.SignDigest(t.Context(), digest)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := backends.Recoverable(crypto.FromECDSAPub(k.Public()), digest, sig); !errors.Is(err,
		backends.ErrBadSignature) {
		t.Errorf("error %v, want ErrBadSignature", err)
	}
}

func TestSlow(t *testing.T) {
	b, s := start(t, vaultHost, Config{KeyType: EC})
	k := generate(t, b, "keyward-1")
	s.Fault("Sign", always(kvfake.Fault{Delay: time.Hour}))
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := k.SignDigest(ctx, [32]byte{1}); !errors.Is(err, backends.ErrUnavailable) ||
		!errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v, want ErrUnavailable and DeadlineExceeded", err)
	}
	s.Fault("Sign", nil)
	backendtest.Verify(t, k, [32]byte{1})
}

func TestDisabledKey(t *testing.T) {
	b, s := start(t, vaultHost, Config{KeyType: EC})
	k := generate(t, b, "keyward-1")
	s.SetDisabled(k.id.name, true)
	_, sign := k.SignDigest(t.Context(), [32]byte{1})
	_, find := b.Key(t.Context(), k.URI())
	for name, err := range map[string]error{"SignDigest": sign, "Key": find} {
		if !errors.Is(err, backends.ErrRefused) || !strings.Contains(err.Error(), "disabled") {
			t.Errorf("%s: %v, want ErrRefused", name, err)
		}
	}
	if keys, err := b.Keys(t.Context(), ""); err != nil || len(keys) != 0 {
		t.Errorf("Keys: %v, %v, want none", keys, err)
	}
	s.SetDisabled(k.id.name, false)
	backendtest.Verify(t, k, [32]byte{1})
}

// Expired credentials: no token, and the error says what to look at.
func TestNoToken(t *testing.T) {
	b, s := start(t, vaultHost, Config{KeyType: EC})
	s.Fault("token", always(kvfake.Fault{Status: http.StatusUnauthorized}))
	_, err := b.Generate(t.Context(), backends.KeyAttributes{Label: "keyward-1"})
	if !errors.Is(err, backends.ErrRefused) || !strings.Contains(err.Error(), "Azure gives no token") {
		t.Errorf("error %v, want ErrRefused about the token", err)
	}
	if strings.Contains(fmt.Sprint(err), kvfake.Env["AZURE_CLIENT_SECRET"]) {
		t.Errorf("error %v shows the secret", err)
	}
	s.Fault("token", nil)
	backendtest.Verify(t, generate(t, b, "keyward-1"), [32]byte{1})
}

// A key that somebody has deleted in the vault.
func TestDeletedKey(t *testing.T) {
	b, s := start(t, vaultHost, Config{KeyType: EC})
	k := generate(t, b, "keyward-1")
	if err := b.Destroy(t.Context(), k.URI()); err != nil {
		t.Fatal(err)
	}
	s.Fault("Sign", nil)
	if _, err := k.SignDigest(t.Context(), [32]byte{1}); !errors.Is(err, backends.ErrKeyNotFound) || s.Calls("Sign") != 1 {
		t.Errorf("error %v after %d calls, want ErrKeyNotFound after 1", err, s.Calls("Sign"))
	}
}

// A wrong vault's name is told from a vault that does not answer.
func TestUnknownHost(t *testing.T) {
	err := opSign.explain(vault{url: "https://x.vault.azure.net"},
		&net.OpError{Op: "dial", Err: &net.DNSError{Name: "x.vault.azure.net", IsNotFound: true}})
	if !errors.Is(err, backends.ErrUnavailable) || !strings.Contains(err.Error(),
		"there is no host x.vault.azure.net; check the vault's name") {
		t.Errorf("error %v, want ErrUnavailable that names the host", err)
	}
}

// A key of another vault is not looked for in this one.
func TestOtherVault(t *testing.T) {
	b, s := start(t, vaultHost, Config{KeyType: EC})
	before := s.Calls("GetKey")
	_, err := b.Key(t.Context(), scheme+"https://other.vault.azure.net/keys/k/0123456789abcdef0123456789abcdef")
	if !errors.Is(err, backends.ErrKeyNotFound) || s.Calls("GetKey") != before {
		t.Errorf("error %v after %d calls, want ErrKeyNotFound after none", err, s.Calls("GetKey")-before)
	}
}

// A lost answer of CreateKey: the key that is used is the one that there is, and nothing else is left.
func TestGenerateAnswerLost(t *testing.T) {
	b, s := start(t, vaultHost, Config{KeyType: EC})
	s.Fault("CreateKey", once(kvfake.Fault{Cut: true}))
	k := generate(t, b, "keyward-1")
	backendtest.Verify(t, k, [32]byte{1})
	if names := s.Names(); len(names) != 1 {
		t.Errorf("keys %v, want one", names)
	}
	s.Fault("CreateKey", always(kvfake.Fault{Change: func(body []byte) []byte {
		return bytes.Replace(body,
			[]byte("P-256K"), []byte("P-256"), 1)
	}}))
	if _, err := b.Generate(t.Context(), backends.KeyAttributes{Label: "keyward-2"}); err == nil {
		t.Error("a key on another curve was taken")
	}
	if names := s.Names(); len(names) != 1 {
		t.Errorf("keys %v: the one on another curve was left behind", names)
	}
}

// A deleted key can be purged only when Azure is done with deleting it.
func TestPurge(t *testing.T) {
	b, s := start(t, vaultHost, Config{KeyType: EC, Purge: true})
	k := generate(t, b, "keyward-1")
	s.SetDeleting(1)
	if err := b.Destroy(t.Context(), k.URI()); err != nil {
		t.Fatal(err)
	}
	if n := s.Calls("PurgeDeletedKey"); n != 2 {
		t.Errorf("%d calls of PurgeDeletedKey, want 2", n)
	}
	if err := b.Destroy(t.Context(), k.URI()); !errors.Is(err, backends.ErrKeyNotFound) {
		t.Errorf("second Destroy: %v, want ErrKeyNotFound", err)
	}
}
