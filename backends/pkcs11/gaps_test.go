package pkcs11_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/backends/backendtest"
	softhsmtest "github.com/keyward/keyward/softhsm-test"
	p11 "github.com/miekg/pkcs11"
)

// TestShortSignature: a signature that is not r ‖ s is none.
func TestShortSignature(t *testing.T) {
	cfg, ctl := newShim(t)
	b := softhsmtest.Open(t, cfg)
	k := backendtest.Generate(t, b, "keyward-x")
	for _, missing := range []uint64{1, 32, 64} {
		ctl.SignShort.Store(missing)
		if sig, err := k.SignDigest(t.Context(), [32]byte{1}); !errors.Is(err, backends.ErrBadSignature) ||
			!strings.Contains(err.Error(), "want 64") {
			t.Errorf("a signature without its last %d bytes: %x, %v, want ErrBadSignature", missing, sig, err)
		}
	}
	ctl.SignShort.Store(0)
	backendtest.Verify(t, k, [32]byte{1})
}

// TestURIWithoutAKey: a URI that names no key means none, also on a token that has only one.
func TestURIWithoutAKey(t *testing.T) {
	tok := softhsmtest.NewToken(t)
	b := tok.Open(t)
	k := backendtest.Generate(t, b, "keyward-x")
	for _, uri := range []string{"pkcs11:", "pkcs11:token=" + tok.Label, "pkcs11:serial=" + tok.Serial + ";type=private"} {
		if got, err := b.Key(t.Context(), uri); err == nil {
			t.Errorf("Key(%q) is %s", uri, got.URI())
		}
		if err := b.Destroy(t.Context(), uri); err == nil {
			t.Errorf("Destroy(%q) succeeded", uri)
		}
	}
	backendtest.Verify(t, k, [32]byte{1})
}

// TestPublicKeysThatDiffer: a private key whose CKA_ID has two public keys is ambiguous, whichever comes first.
func TestPublicKeysThatDiffer(t *testing.T) {
	tok := softhsmtest.NewToken(t)
	b := tok.Open(t)
	r := raw(t, tok.Module, b)
	r.generate(t, "\x01", "before", oidSecp256k1)
	r.generate(t, "\x02", "after", oidSecp256k1)
	for id, keep := range map[string]int{"\x01": 0, "\x02": 1} { // of two key pairs of one CKA_ID, one private key stays
		r.generate(t, id, "other", oidSecp256k1)
		private := r.find(t, p11.NewAttribute(p11.CKA_CLASS, p11.CKO_PRIVATE_KEY), p11.NewAttribute(p11.CKA_ID, []byte(id)))
		if len(private) != 2 {
			t.Fatalf("%d private keys, want 2", len(private))
		}
		if err := r.DestroyObject(r.s, private[1-keep]); err != nil {
			t.Fatal(err)
		}
	}
	for _, uri := range []string{"pkcs11:id=%01", "pkcs11:id=%02"} {
		if got, err := b.Key(t.Context(), uri); !errors.Is(err, backends.ErrKeyAmbiguous) {
			t.Errorf("Key(%q) = %v, %v, want ErrKeyAmbiguous", uri, got, err)
		}
	}
	wantLabels(t, b)
}

// TestListWhileAKeyIsDestroyed: a key that another program destroys while the keys are listed is left out.
func TestListWhileAKeyIsDestroyed(t *testing.T) {
	cfg, ctl := newShim(t)
	b := softhsmtest.Open(t, cfg)
	backendtest.Generate(t, b, "keyward-x")
	backendtest.Generate(t, b, "keyward-y")
	ctl.On("GetAttributeValue").Set(softhsmtest.Return, p11.CKR_OBJECT_HANDLE_INVALID, 1)
	list, err := b.Keys(t.Context(), "")
	if err != nil || len(list) != 1 {
		t.Errorf("Keys = %d keys, %v, want the one that is left", len(list), err)
	}
	wantLabels(t, b, "keyward-x", "keyward-y")
}
