package transit

import (
	"bytes"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/backends/backendtest"
	"github.com/keyward/keyward/backends/sealed"
	"github.com/keyward/keyward/backends/transit/transitfake"
	"github.com/keyward/keyward/internal/secret"
)

func TestSuite(t *testing.T) {
	cfg := newFake(t).config()
	backendtest.Run(t, backendtest.Options{}, func(t *testing.T) backends.Backend { return open(t, cfg) })
}

func TestSuiteCached(t *testing.T) {
	cfg := newFake(t).config()
	cfg.CacheFor = time.Hour
	backendtest.Run(t, backendtest.Options{}, func(t *testing.T) backends.Backend { return open(t, cfg) })
}

// With a namespace, and mounts of other names than the usual ones.
func TestSuiteNamespaceAndLogin(t *testing.T) {
	fake := newFake(t)
	fake.Namespace, fake.Mount = "admin/team-1", "encryption/transit"
	fake.AddRole("machines", "role-1", "secret-1")
	cfg := fake.config()
	cfg.Namespace, cfg.Mount = fake.Namespace, fake.Mount
	cfg.Auth = Auth{Method: "approle", Mount: "machines", Role: "role-1", Secret: given("secret-1")}
	backendtest.Run(t, backendtest.Options{}, func(t *testing.T) backends.Backend { return open(t, cfg) })
}

func newWrapper(t *testing.T, cfg Config) *wrapper {
	t.Helper()
	c, err := newClient(cfg)
	if err != nil {
		t.Fatal(err)
	}
	w := &wrapper{c: c}
	t.Cleanup(func() { w.Close() })
	return w
}

// Vault itself refuses what was sealed for something else.
func TestBinding(t *testing.T) {
	fake := newFake(t)
	w := newWrapper(t, fake.config())
	bind := sealed.Binding{Label: "keyward-x", Signer: [20]byte{1}, Account: "0x36615Cf349d7F6344891B1e7CA7C72883F5dc049",
		ChainID: 2741}
	key, err := secret.Take(bytes.Repeat([]byte{7}, 32))
	if err != nil {
		t.Fatal(err)
	}
	defer key.Close()
	wrapped, err := w.Wrap(t.Context(), key, bind)
	if err != nil {
		t.Fatal(err)
	}
	opened, err := w.Unwrap(t.Context(), wrapped, bind)
	if err != nil || !opened.Equal(key) {
		t.Fatalf("Unwrap = %v", err)
	}
	opened.Close()
	fake.SetKey("other", nil)
	for name, change := range map[string]func(*sealed.Binding, *sealed.Wrapped){
		"session":   func(b *sealed.Binding, _ *sealed.Wrapped) { b.Label = "keyward-y" },
		"signer":    func(b *sealed.Binding, _ *sealed.Wrapped) { b.Signer[19] ^= 1 },
		"account":   func(b *sealed.Binding, _ *sealed.Wrapped) { b.Account = "" },
		"chain":     func(b *sealed.Binding, _ *sealed.Wrapped) { b.ChainID++ },
		"key":       func(_ *sealed.Binding, w *sealed.Wrapped) { w.Key = strings.Replace(w.Key, testKey, "other", 1) },
		"cut short": func(_ *sealed.Binding, w *sealed.Wrapped) { w.Blob = w.Blob[:len(w.Blob)-4] },
		"no prefix": func(_ *sealed.Binding, w *sealed.Wrapped) { w.Blob = w.Blob[6:] },
		"version": func(_ *sealed.Binding, w *sealed.Wrapped) {
			w.Blob = bytes.Replace(w.Blob, []byte("v1"), []byte("v9"), 1)
		},
		"version 01": func(_ *sealed.Binding, w *sealed.Wrapped) {
			w.Blob = bytes.Replace(w.Blob, []byte("v1"), []byte("v01"), 1)
		},
		"not base64": func(_ *sealed.Binding, w *sealed.Wrapped) { w.Blob = append(bytes.Clone(w.Blob), '!') },
		"nothing":    func(_ *sealed.Binding, w *sealed.Wrapped) { w.Blob = []byte("vault:v1:") },
		"other bytes": func(_ *sealed.Binding, w *sealed.Wrapped) {
			w.Blob = []byte("vault:v1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA")
		},
	} {
		other, altered := bind, wrapped
		change(&other, &altered)
		if _, err := w.Unwrap(t.Context(), altered, other); !errors.Is(err, sealed.ErrDamaged) {
			t.Errorf("%s: Unwrap = %v, want ErrDamaged", name, err)
		}
	}
	for _, name := range []string{"", "arn:aws:kms:x", strings.Replace(wrapped.Key, testKey, "..", 1),
		strings.Replace(wrapped.Key, testKey, "a/b", 1),
		strings.Replace(wrapped.Key, "transit/keys", "other/keys", 1)} {
		if _, err := w.Unwrap(t.Context(), sealed.Wrapped{Key: name, Blob: wrapped.Blob}, bind); !errors.Is(err,
			backends.ErrUnavailable) {
			t.Errorf("Unwrap with the key %q = %v, want ErrUnavailable", name, err)
		}
	}
}

// A transit key that does not protect what it seals is refused, with the reason, and no key is made.
func TestUnsafeKeys(t *testing.T) {
	for says, change := range map[string]func(*transitfake.Key){
		"no derivation":          func(k *transitfake.Key) { k.Derived = false },
		"exportable":             func(k *transitfake.Key) { k.Exportable = true },
		"allow_plaintext_backup": func(k *transitfake.Key) { k.AllowPlaintextBackup = true },
		`its type is "ed25519"`:  func(k *transitfake.Key) { k.Type = "ed25519" },
	} {
		fake := newFake(t)
		fake.SetKey(testKey, change)
		b := open(t, fake.config())
		if _, err := b.Generate(t.Context(), backends.KeyAttributes{Label: "keyward-x"}); !errors.Is(err, ErrUnsafeKey) ||
			!strings.Contains(err.Error(), says) {
			t.Errorf("Generate = %v, want ErrUnsafeKey and %q", err, says)
		}
		if fake.Calls("encrypt") != 0 {
			t.Errorf("%s: a file key was sent", says)
		}
		if st := b.Status(t.Context()); st.State != "unavailable" || !strings.Contains(st.Detail, says) {
			t.Errorf("%s: Status = %+v", says, st)
		}
	}
}

// A new version of the transit key seals keys again, and those of the old one open until then; so does another key.
func TestRewrap(t *testing.T) {
	fake := newFake(t)
	cfg := fake.config()
	cfg.Dir, cfg.CacheFor = filepath.Join(t.TempDir(), "keys"), time.Hour
	b := open(t, cfg)
	k, other := backendtest.Generate(t, b, "keyward-x"), backendtest.Generate(t, b, "keyward-y")
	rewrap := func(b *sealed.Backend, want bool) {
		t.Helper()
		if done, err := b.Rewrap(t.Context(), k.URI()); err != nil || done != want {
			t.Errorf("Rewrap = %v, %v, want %v", done, err, want)
		}
		found, err := b.Key(t.Context(), k.URI())
		if err != nil {
			t.Fatal(err)
		}
		backendtest.Verify(t, found, [32]byte{1})
	}
	rewrap(b, false)
	fake.Rotate(testKey)
	backendtest.Verify(t, other, [32]byte{1})
	rewrap(b, true)
	rewrap(b, false)
	// What was sealed by a version that Vault opens no more is refused, and lost of nothing: lowering the bound helps.
	fake.SetKey(testKey, func(k *transitfake.Key) { k.MinDecryptionVersion = 2 })
	b.Forget()
	backendtest.Verify(t, k, [32]byte{2})
	if _, err := other.SignDigest(t.Context(), [32]byte{1}); !errors.Is(err, backends.ErrRefused) ||
		errors.Is(err, backends.ErrKeyDamaged) ||
		!strings.Contains(err.Error(), "min_decryption_version") {
		t.Errorf("SignDigest below min_decryption_version = %v, want ErrRefused and what to do", err)
	}
	b.Close()
	cfg.Key = "keyward-2027"
	fake.SetKey(cfg.Key, nil)
	b = open(t, cfg)
	rewrap(b, true)
	fake.DeleteKey(testKey)
	b.Forget()
	rewrap(b, false)
	if err := b.Destroy(t.Context(), k.URI()); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Rewrap(t.Context(), k.URI()); !errors.Is(err, backends.ErrKeyNotFound) {
		t.Errorf("Rewrap of a destroyed key = %v, want ErrKeyNotFound", err)
	}
}
