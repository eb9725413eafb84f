package pkcs11_test

import (
	"bytes"
	"encoding/base64"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	p11 "github.com/miekg/pkcs11"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/backends/backendtest"
	"github.com/keyward/keyward/backends/pkcs11"
	softhsmtest "github.com/keyward/keyward/softhsm-test"
)

func attr(typ uint, value any) *p11.Attribute { return p11.NewAttribute(typ, value) }

// privateKeys are those that the token has, session objects among them.
func privateKeys(t *testing.T, tok *softhsmtest.Token, b *pkcs11.Wrapped) []p11.ObjectHandle {
	t.Helper()
	return raw(t, tok.Module, b.Backend).find(t, attr(p11.CKA_CLASS, p11.CKO_PRIVATE_KEY))
}

func findKEK(t *testing.T, r rawToken, label string) p11.ObjectHandle {
	t.Helper()
	found := r.find(t, attr(p11.CKA_CLASS, p11.CKO_SECRET_KEY), attr(p11.CKA_LABEL, label))
	if len(found) != 1 {
		t.Fatalf("%d keys have the label %q", len(found), label)
	}
	return found[0]
}

func destroyKEK(t *testing.T, tok *softhsmtest.Token, b *pkcs11.Wrapped, label string) {
	t.Helper()
	r := raw(t, tok.Module, b.Backend)
	if err := r.DestroyObject(r.s, findKEK(t, r, label)); err != nil {
		t.Fatal(err)
	}
}

var wrapPad = []*p11.Mechanism{p11.NewMechanism(p11.CKM_AES_KEY_WRAP_PAD, nil)}

// knownKEK imports an AES key that the attacker knows, and that can do all.
func knownKEK(t *testing.T, r rawToken) p11.ObjectHandle {
	t.Helper()
	h, err := r.CreateObject(r.s, []*p11.Attribute{
		attr(p11.CKA_CLASS, p11.CKO_SECRET_KEY), attr(p11.CKA_KEY_TYPE, p11.CKK_AES),
		attr(p11.CKA_VALUE, bytes.Repeat([]byte{7}, 32)),
		attr(p11.CKA_TOKEN, false), attr(p11.CKA_WRAP, true), attr(p11.CKA_UNWRAP, true), attr(p11.CKA_ENCRYPT, true),
		attr(p11.CKA_DECRYPT, true),
	})
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// stored is what is wrapped in the only key file.
func stored(t *testing.T, dir string) []byte {
	t.Helper()
	files, _ := filepath.Glob(filepath.Join(dir, "*.key"))
	data, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	_, value, _ := strings.Cut(strings.TrimSpace(string(data)), "\nwrapped ")
	blob, err := base64.StdEncoding.DecodeString(value)
	if err != nil {
		t.Fatal(err)
	}
	return blob
}

// unwrapAs unwraps blob as an attacker with the PIN would try to.
func unwrapAs(r rawToken, kek p11.ObjectHandle, blob []byte, change ...*p11.Attribute) (p11.ObjectHandle, error) {
	template := []*p11.Attribute{
		attr(p11.CKA_CLASS, p11.CKO_PRIVATE_KEY), attr(p11.CKA_KEY_TYPE, p11.CKK_EC), attr(p11.CKA_TOKEN, false),
		attr(p11.CKA_PRIVATE, true),
		attr(p11.CKA_SENSITIVE, true), attr(p11.CKA_EXTRACTABLE, false), attr(p11.CKA_SIGN, true),
		attr(p11.CKA_DECRYPT, false),
		attr(p11.CKA_UNWRAP, false), attr(p11.CKA_DERIVE, false), attr(p11.CKA_SIGN_RECOVER, false),
	}
	for _, c := range change {
		changed := false
		for i, a := range template {
			if a.Type == c.Type {
				template[i], changed = c, true
			}
		}
		if !changed {
			template = append(template, c)
		}
	}
	return r.UnwrapKey(r.s, wrapPad, kek, blob, template)
}

// The PIN and a key's file do not give the key: each attack of docs/backends/pkcs11.md is refused
// by the token.
func TestWrappedKeyIsNotExtracted(t *testing.T) {
	for _, movable := range []bool{false, true} {
		tok, cfg := newWrappedToken(t, movable)
		b := openWrapped(t, cfg)
		k := backendtest.Generate(t, b, "keyward-x")
		r := raw(t, tok.Module, b.Backend)
		kek, known, blob := findKEK(t, r, kekLabel), knownKEK(t, r), stored(t, cfg.Dir)
		var trusted []*p11.Attribute // what the movable template wants named
		if movable {
			trusted = append(trusted, attr(p11.CKA_WRAP_WITH_TRUSTED, true))
		}
		if h, err := unwrapAs(r, kek, blob, trusted...); err != nil {
			t.Fatalf("unwrapping as the agent does: %v", err)
		} else if err := r.DestroyObject(r.s, h); err != nil {
			t.Fatal(err)
		}
		refused := func(what string, err error) {
			t.Helper()
			var rv p11.Error
			if !errors.As(err, &rv) {
				t.Errorf("movable %v: %s: %v, want the token to refuse", movable, what, err)
			}
		}
		unwraps := func(what string, change ...*p11.Attribute) {
			t.Helper()
			_, err := unwrapAs(r, kek, blob, append(trusted, change...)...)
			refused("unwrapping as "+what, err)
		}
		unwraps("readable", attr(p11.CKA_SENSITIVE, false))
		unwraps("readable and extractable", attr(p11.CKA_SENSITIVE, false), attr(p11.CKA_EXTRACTABLE, true))
		unwraps("one that derives", attr(p11.CKA_DERIVE, true))
		unwraps("one without login", attr(p11.CKA_PRIVATE, false))
		unwraps("a secret key", attr(p11.CKA_CLASS, p11.CKO_SECRET_KEY), attr(p11.CKA_KEY_TYPE, p11.CKK_GENERIC_SECRET))
		_, err := unwrapAs(r, known, blob)
		refused("unwrapping with another key", err)
		if movable {
			unwraps("one that any key wraps", attr(p11.CKA_WRAP_WITH_TRUSTED, false))
			h, err := unwrapAs(r, kek, blob, append(trusted, attr(p11.CKA_EXTRACTABLE, true))...)
			if err != nil {
				t.Fatal(err)
			}
			attackObject(t, r, refused, h, known)
		} else {
			unwraps("extractable", attr(p11.CKA_EXTRACTABLE, true))
		}
		for _, h := range privateKeys(t, tok, b) {
			attackObject(t, r, refused, h, known)
		}
		attackKEK(t, r, refused, kek, known, blob)
		backendtest.Verify(t, k, [32]byte{1})
		b.Close()
	}
}

// attackObject tries to get at a private key in the token.
func attackObject(t *testing.T, r rawToken, refused func(string, error), h, known p11.ObjectHandle) {
	t.Helper()
	_, err := r.GetAttributeValue(r.s, h, []*p11.Attribute{attr(p11.CKA_VALUE, nil)})
	refused("reading the key", err)
	_, err = r.WrapKey(r.s, wrapPad, known, h)
	refused("wrapping the key with an imported key", err)
	refused("making it readable", r.SetAttributeValue(r.s, h, []*p11.Attribute{attr(p11.CKA_SENSITIVE, false)}))
	_, err = r.CopyObject(r.s, h, []*p11.Attribute{attr(p11.CKA_SENSITIVE, false)})
	refused("copying it as readable", err)
	if values, err := r.GetAttributeValue(r.s, h, []*p11.Attribute{attr(p11.CKA_EXTRACTABLE, nil)}); err != nil ||
		values[0].Value[0] != 0 {
		refused("having any key wrap it", r.SetAttributeValue(r.s, h,
			[]*p11.Attribute{attr(p11.CKA_WRAP_WITH_TRUSTED, false)}))
		_, err = r.CopyObject(r.s, h, []*p11.Attribute{attr(p11.CKA_WRAP_WITH_TRUSTED, false)})
		refused("copying it for any key to wrap", err)
		return
	}
	refused("making it extractable", r.SetAttributeValue(r.s, h, []*p11.Attribute{attr(p11.CKA_EXTRACTABLE, true)}))
	_, err = r.CopyObject(r.s, h, []*p11.Attribute{attr(p11.CKA_EXTRACTABLE, true)})
	refused("copying it as extractable", err)
}

// attackKEK tries to get at the key-encryption key, or to use it otherwise than the agent does.
func attackKEK(t *testing.T, r rawToken, refused func(string, error), kek, known p11.ObjectHandle, blob []byte) {
	t.Helper()
	_, err := r.GetAttributeValue(r.s, kek, []*p11.Attribute{attr(p11.CKA_VALUE, nil)})
	refused("reading the key-encryption key", err)
	_, err = r.WrapKey(r.s, wrapPad, known, kek)
	refused("wrapping the key-encryption key", err)
	for what, change := range map[string]*p11.Attribute{
		"decrypt": attr(p11.CKA_DECRYPT, true), "extractable": attr(p11.CKA_EXTRACTABLE, true),
		"no template": attr(p11.CKA_UNWRAP_TEMPLATE, []byte{}),
		"modifiable":  attr(p11.CKA_MODIFIABLE, true), "derive": attr(p11.CKA_DERIVE, true),
	} {
		refused("changing the key-encryption key: "+what, r.SetAttributeValue(r.s, kek, []*p11.Attribute{change}))
		_, err = r.CopyObject(r.s, kek, []*p11.Attribute{change, attr(p11.CKA_TOKEN, false)})
		refused("copying the key-encryption key: "+what, err)
	}
	refused("decrypting with the key-encryption key",
		r.DecryptInit(r.s, []*p11.Mechanism{p11.NewMechanism(p11.CKM_AES_ECB, nil)}, kek))
	refused("encrypting with the key-encryption key",
		r.EncryptInit(r.s, []*p11.Mechanism{p11.NewMechanism(p11.CKM_AES_ECB, nil)}, kek))
	refused("vouching for an imported key", r.SetAttributeValue(r.s, known, []*p11.Attribute{attr(p11.CKA_TRUSTED, true)}))
}

// While a key is made it is extractable: another session with the PIN does not get it either.
func TestWrappedKeyIsNotExtractedWhileItIsMade(t *testing.T) {
	tok, cfg := newWrappedToken(t, false)
	ctl := softhsmtest.NewFaults(t, tok)
	cfg.Config = tok.Config()
	b := openWrapped(t, cfg)
	r := raw(t, tok.SoftHSMToken.Module, b.Backend)
	known := knownKEK(t, r)
	ctl.On("WrapKey").Set(softhsmtest.Hang, 0, 1)
	made := make(chan error)
	go func() {
		_, err := b.Generate(t.Context(), backends.KeyAttributes{Label: "keyward-x"})
		made <- err
	}()
	eventually(t, cfg.OpTimeout, func() error {
		if ctl.On("WrapKey").Left() != 0 {
			return errors.New("it is not being wrapped")
		}
		return nil
	})
	found := r.find(t, attr(p11.CKA_CLASS, p11.CKO_PRIVATE_KEY))
	if len(found) != 1 {
		t.Errorf("%d private keys, want the one that is made", len(found))
	}
	for _, h := range found {
		attackObject(t, r, func(what string, err error) {
			if rv := p11.Error(0); !errors.As(err, &rv) {
				t.Errorf("%s: %v, want the token to refuse", what, err)
			}
		}, h, known)
	}
	ctl.Release.Store(1)
	if err := <-made; err != nil {
		t.Fatal(err)
	}
}

// A key-encryption key that does not protect what it wraps is refused, with the reason, and no key is made.
func TestUnsafeKEK(t *testing.T) {
	tok, cfg := newWrappedToken(t, false)
	makeKEK(t, tok, "twice", false)
	resident := softhsmtest.Open(t, tok.Config())
	r := raw(t, tok.Module, resident)
	safe := []*p11.Attribute{
		attr(p11.CKA_TOKEN, true), attr(p11.CKA_VALUE_LEN, 32), attr(p11.CKA_SENSITIVE, true),
		attr(p11.CKA_EXTRACTABLE, false),
		attr(p11.CKA_WRAP, true), attr(p11.CKA_UNWRAP, true), attr(p11.CKA_ENCRYPT, false), attr(p11.CKA_DECRYPT, false),
		attr(p11.CKA_ID, "x"),
	}
	for label, change := range map[string]*p11.Attribute{
		"readable": attr(p11.CKA_SENSITIVE, false), "extractable": attr(p11.CKA_EXTRACTABLE, true),
		"no wrap": attr(p11.CKA_WRAP, false), "not trusted": nil, "twice": nil,
	} {
		template := append([]*p11.Attribute{attr(p11.CKA_LABEL, label)}, safe...)
		if change != nil {
			template = append(template, change)
			template = without(template, change)
		}
		if _, err := r.GenerateKey(r.s, []*p11.Mechanism{p11.NewMechanism(p11.CKM_AES_KEY_GEN, nil)}, template); err != nil {
			t.Fatalf("%s: %v", label, err)
		}
	}
	if err := resident.Close(); err != nil {
		t.Fatal(err)
	}
	for label, says := range map[string]string{
		"readable": "CKA_SENSITIVE is false", "extractable": "CKA_EXTRACTABLE is true", "no wrap": "CKA_WRAP is false",
		"not trusted": "CKA_TRUSTED",
		"not there":   "keyward pkcs11 wrap-key", "twice": "2 key-encryption keys",
	} {
		cfg.KEK = label
		b, err := pkcs11.OpenWrapped(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := b.Generate(t.Context(), backends.KeyAttributes{Label: "keyward-x"}); err == nil ||
			!strings.Contains(err.Error(), says) {
			t.Errorf("%s: Generate = %v, want %q", label, err, says)
		}
		if st := b.Status(t.Context()); st.State != "unavailable" || !strings.Contains(st.Detail, says) {
			t.Errorf("%s: Status = %+v, want %q", label, st, says)
		}
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// without is template with only the last of change's type.
func without(template []*p11.Attribute, change *p11.Attribute) (out []*p11.Attribute) {
	for _, a := range template {
		if a.Type != change.Type || a == change {
			out = append(out, a)
		}
	}
	return out
}
