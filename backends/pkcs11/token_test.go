package pkcs11_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/backends/backendtest"
	"github.com/keyward/keyward/backends/pkcs11"
	softhsmtest "github.com/keyward/keyward/softhsm-test"
	p11 "github.com/miekg/pkcs11"
)

var (
	oidSecp256k1 = []byte{0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x0a}
	oidP256      = []byte{0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07}
)

func TestSuite(t *testing.T) {
	backendtest.Run(t, backendtest.Options{}, func(t *testing.T) backends.Backend {
		return softhsmtest.NewToken(t).Open(t)
	})
}

// TestGeneratedAttributes reads everything back that a resident key's safety rests on.
func TestGeneratedAttributes(t *testing.T) {
	tok := softhsmtest.NewToken(t)
	b := tok.Open(t)
	k := backendtest.Generate(t, b, "keyward-x")
	u, err := pkcs11.ParseURI(k.URI())
	if err != nil {
		t.Fatal(err)
	}
	want := pkcs11.URI{Token: softhsmtest.Label, Serial: tok.Serial, ID: u.ID, Object: "keyward-x", Type: "private"}
	if diff := cmp.Diff(want, u); diff != "" || len(u.ID) != 16 {
		t.Errorf("URI (-want +got):\n%s", diff)
	}
	r := raw(t, tok.Module, b)
	private := r.find(t, p11.NewAttribute(p11.CKA_CLASS, p11.CKO_PRIVATE_KEY))
	if len(private) != 1 {
		t.Fatalf("the token has %d private keys, want 1", len(private))
	}
	for name, a := range map[string]*p11.Attribute{
		"TOKEN":             p11.NewAttribute(p11.CKA_TOKEN, true),
		"PRIVATE":           p11.NewAttribute(p11.CKA_PRIVATE, true),
		"SENSITIVE":         p11.NewAttribute(p11.CKA_SENSITIVE, true),
		"ALWAYS_SENSITIVE":  p11.NewAttribute(p11.CKA_ALWAYS_SENSITIVE, true),
		"EXTRACTABLE":       p11.NewAttribute(p11.CKA_EXTRACTABLE, false),
		"NEVER_EXTRACTABLE": p11.NewAttribute(p11.CKA_NEVER_EXTRACTABLE, true),
		"LOCAL":             p11.NewAttribute(p11.CKA_LOCAL, true),
		"SIGN":              p11.NewAttribute(p11.CKA_SIGN, true),
		"SIGN_RECOVER":      p11.NewAttribute(p11.CKA_SIGN_RECOVER, false),
		"DECRYPT":           p11.NewAttribute(p11.CKA_DECRYPT, false),
		"UNWRAP":            p11.NewAttribute(p11.CKA_UNWRAP, false),
		"DERIVE":            p11.NewAttribute(p11.CKA_DERIVE, false),
		"ID":                p11.NewAttribute(p11.CKA_ID, u.ID),
	} {
		got, err := r.GetAttributeValue(r.s, private[0], []*p11.Attribute{p11.NewAttribute(a.Type, nil)})
		if err != nil || string(got[0].Value) != string(a.Value) {
			t.Errorf("CKA_%s = %v, %v, want %x", name, got, err, a.Value)
		}
	}
	if _, err := r.GetAttributeValue(r.s, private[0], []*p11.Attribute{p11.NewAttribute(p11.CKA_VALUE, nil)}); err == nil {
		t.Error("the token gives the private key out")
	}
}

// TestTokenGoneAndBack: SoftHSM then finds nothing and reports no error, which must not
// be taken for "no such key".
func TestTokenGoneAndBack(t *testing.T) {
	tok := softhsmtest.NewToken(t)
	b := tok.Open(t)
	k := backendtest.Generate(t, b, "keyward-x")
	from, to := filepath.Join(tok.Dir, "tokens"), filepath.Join(tok.Dir, "away")
	if err := os.Rename(from, to); err != nil {
		t.Fatal(err)
	}
	_, sign := k.SignDigest(t.Context(), [32]byte{1})
	_, known := b.Key(t.Context(), k.URI())
	_, unknown := b.Key(t.Context(), "pkcs11:id=%01")
	_, list := b.Keys(t.Context(), "")
	_, generate := b.Generate(t.Context(), backends.KeyAttributes{Label: "keyward-y"})
	for name, err := range map[string]error{
		"SignDigest": sign, "Key": known, "Key of an unknown": unknown, "Keys": list, "Generate": generate,
		"Destroy": b.Destroy(t.Context(), k.URI()),
	} {
		if !errors.Is(err, backends.ErrUnavailable) || errors.Is(err, backends.ErrKeyNotFound) {
			t.Errorf("%s without a token = %v, want ErrUnavailable", name, err)
		}
	}
	if st := b.Status(t.Context()); st.State != "unavailable" {
		t.Errorf("Status = %+v, want unavailable", st)
	}
	if err := os.Rename(to, from); err != nil {
		t.Fatal(err)
	}
	recovers(t, k)
	if _, err := b.Key(t.Context(), k.URI()); err != nil {
		t.Errorf("Key = %v", err)
	}
	wantLabels(t, b, "keyward-x")
}

// TestFirstCallWithoutToken is TestTokenGoneAndBack with each call as the one that finds out.
func TestFirstCallWithoutToken(t *testing.T) {
	calls := map[string]func(*testing.T, *pkcs11.Backend, backends.Key) error{
		"Key": func(t *testing.T, b *pkcs11.Backend, _ backends.Key) error {
			_, err := b.Key(t.Context(), "pkcs11:id=%01")
			return err
		},
		"Key by label": func(t *testing.T, b *pkcs11.Backend, _ backends.Key) error {
			_, err := b.Key(t.Context(), "pkcs11:object=x")
			return err
		},
		"Keys": func(t *testing.T, b *pkcs11.Backend, _ backends.Key) error {
			_, err := b.Keys(t.Context(), "")
			return err
		},
		"Destroy": func(t *testing.T, b *pkcs11.Backend, k backends.Key) error {
			return b.Destroy(t.Context(), k.URI())
		},
		"Status": func(t *testing.T, b *pkcs11.Backend, _ backends.Key) error {
			if st := b.Status(t.Context()); st.State != "ready" {
				return fmt.Errorf("%w: %s", backends.ErrUnavailable, st.Detail)
			}
			return nil
		},
	}
	for name, call := range calls {
		t.Run(name, func(t *testing.T) {
			tok := softhsmtest.NewToken(t)
			b := tok.Open(t)
			k := backendtest.Generate(t, b, "keyward-x")
			from, to := filepath.Join(tok.Dir, "tokens"), filepath.Join(tok.Dir, "away")
			if err := os.Rename(from, to); err != nil {
				t.Fatal(err)
			}
			if err := call(t, b, k); !errors.Is(err, backends.ErrUnavailable) || errors.Is(err, backends.ErrKeyNotFound) {
				t.Errorf("%s = %v, want ErrUnavailable", name, err)
			}
			if err := os.Rename(to, from); err != nil {
				t.Fatal(err)
			}
			recovers(t, k)
		})
	}
}

func TestSessionsClosedByDevice(t *testing.T) {
	tok := softhsmtest.NewToken(t)
	b := tok.Open(t)
	k := backendtest.Generate(t, b, "keyward-x")
	for range 3 {
		if err := b.CloseAllSessions(t.Context()); err != nil {
			t.Fatal(err)
		}
		backendtest.Verify(t, k, [32]byte{1})
	}
}

func TestKeyDestroyedByAnotherProcess(t *testing.T) {
	tok := softhsmtest.NewToken(t)
	b := tok.Open(t)
	k, stays := backendtest.Generate(t, b, "keyward-x"), backendtest.Generate(t, b, "keyward-y")
	backendtest.Verify(t, k, [32]byte{1})
	destroyElsewhere(t, tok, k.URI())
	if _, err := k.SignDigest(t.Context(), [32]byte{1}); !errors.Is(err, backends.ErrKeyNotFound) {
		t.Errorf("SignDigest = %v, want ErrKeyNotFound", err)
	}
	if err := b.Destroy(t.Context(), k.URI()); !errors.Is(err, backends.ErrKeyNotFound) {
		t.Errorf("Destroy = %v, want ErrKeyNotFound", err)
	}
	backendtest.Verify(t, stays, [32]byte{1})
	wantLabels(t, b, "keyward-y")
}

// TestKeysOfOthers: keys that other programs made, and what is ambiguous about them.
func TestKeysOfOthers(t *testing.T) {
	tok := softhsmtest.NewToken(t)
	b := tok.Open(t)
	r := raw(t, tok.Module, b)
	r.generate(t, "\x01", "one", oidSecp256k1)
	r.generate(t, "\x02", "twin", oidSecp256k1)
	r.generate(t, "\x03", "twin", oidSecp256k1)
	r.generate(t, "\x04", "same-id", oidSecp256k1)
	r.generate(t, "\x04", "same-id", oidSecp256k1)
	r.generate(t, "\x05", "p256", oidP256)
	r.generate(t, "", "no-id", oidSecp256k1)
	pub, _ := r.generate(t, "\x06", "no-public", oidSecp256k1)
	if err := r.DestroyObject(r.s, pub); err != nil {
		t.Fatal(err)
	}
	r.generate(t, "\x07;\xff", "odd id", oidSecp256k1)
	someError := errors.New("some error")
	for _, tt := range []struct {
		uri  string
		want error
	}{
		{"pkcs11:id=%01", nil},
		{"pkcs11:id=%01;object=one;type=private", nil},
		{"pkcs11:object=one", nil},
		{"pkcs11:id=%01;object=two", backends.ErrKeyNotFound},
		{"pkcs11:id=%02;object=twin", nil},
		{"pkcs11:object=twin", backends.ErrKeyAmbiguous},
		{"pkcs11:id=%04", backends.ErrKeyAmbiguous},
		{"pkcs11:object=same-id", backends.ErrKeyAmbiguous},
		{"pkcs11:id=%05", backends.ErrKeyNotFound},
		{"pkcs11:object=no-id", backends.ErrKeyNotFound},
		{"pkcs11:id=%06", someError},
		{"pkcs11:id=%07%3B%FF", nil},
		{"pkcs11:id=%01;token=keyward-test", nil},
		{"pkcs11:id=%01;serial=" + tok.Serial, nil},
		{"pkcs11:id=%01;manufacturer=SoftHSM%20project;model=SoftHSM%20v2", nil},
		{"pkcs11:id=%01;token=another", backends.ErrUnavailable},
		{"pkcs11:id=%01;serial=0", backends.ErrUnavailable},
		{"pkcs11:id=%01;type=public", someError},
		{"pkcs11:token=keyward-test", someError},
	} {
		k, err := b.Key(t.Context(), tt.uri)
		if (tt.want == nil) != (err == nil) || tt.want != nil && tt.want != someError && !errors.Is(err, tt.want) {
			t.Errorf("Key(%q) = %v, want %v", tt.uri, err, tt.want)
		}
		if err == nil {
			backendtest.Verify(t, k, [32]byte{1})
		}
		if tt.want == backends.ErrKeyAmbiguous {
			if err := b.Destroy(t.Context(), tt.uri); !errors.Is(err, backends.ErrKeyAmbiguous) {
				t.Errorf("Destroy(%q) = %v, want ErrKeyAmbiguous", tt.uri, err)
			}
		}
	}
	wantLabels(t, b, "odd id", "one", "twin", "twin")
}

// TestReplacedKey: a CKA_ID that another key has now is not the key that was asked for.
func TestReplacedKey(t *testing.T) {
	tok := softhsmtest.NewToken(t)
	b := tok.Open(t)
	r := raw(t, tok.Module, b)
	pub, priv := r.generate(t, "\x01", "one", oidSecp256k1)
	k, err := b.Key(t.Context(), "pkcs11:id=%01")
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range []p11.ObjectHandle{pub, priv} {
		if err := r.DestroyObject(r.s, h); err != nil {
			t.Fatal(err)
		}
	}
	r.generate(t, "\x01", "one", oidSecp256k1)
	if _, err := k.SignDigest(t.Context(), [32]byte{1}); !errors.Is(err, backends.ErrKeyNotFound) {
		t.Errorf("SignDigest = %v, want ErrKeyNotFound", err)
	}
}

func TestNewSoftHSMTokenKeepsWhatIsThere(t *testing.T) {
	tok := softhsmtest.NewToken(t)
	before, err := os.ReadFile(tok.PINFile)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := pkcs11.NewSoftHSMToken(tok.Dir, "again", tok.Module); !errors.Is(err, os.ErrExist) {
		t.Errorf("NewSoftHSMToken = %v, want ErrExist", err)
	}
	if after, err := os.ReadFile(tok.PINFile); err != nil || string(after) != string(before) {
		t.Errorf("the PIN file changed (%v)", err)
	}
	for _, label := range []string{"", " x", strings.Repeat("x", 33)} {
		if _, err := pkcs11.NewSoftHSMToken(t.TempDir(), label, tok.Module); err == nil {
			t.Errorf("NewSoftHSMToken with label %q succeeded", label)
		}
	}
}
