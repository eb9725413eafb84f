package pkcs11_test

import (
	"testing"

	"github.com/ethereum/go-ethereum/crypto"
	"github.com/google/go-cmp/cmp"
	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/backends/pkcs11"
	p11 "github.com/miekg/pkcs11"
)

// rawToken is the token that a Backend is connected to, without the Backend: the library is
// initialized and logged in already, which is the whole process's.
type rawToken struct {
	*p11.Ctx
	s p11.SessionHandle
}

func raw(t *testing.T, module string, b *pkcs11.Backend) rawToken {
	t.Helper()
	if st := b.Status(t.Context()); st.State != "ready" {
		t.Fatalf("Status = %+v, want ready", st)
	}
	ctx := p11.New(module)
	s, err := ctx.OpenSession(b.SlotID(), p11.CKF_SERIAL_SESSION|p11.CKF_RW_SESSION)
	if err != nil {
		t.Fatal(err)
	}
	return rawToken{ctx, s}
}

// find returns the objects that have the attributes.
func (r rawToken) find(t *testing.T, attrs ...*p11.Attribute) []p11.ObjectHandle {
	t.Helper()
	if err := r.FindObjectsInit(r.s, attrs); err != nil {
		t.Fatal(err)
	}
	found, _, err := r.FindObjects(r.s, 100)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.FindObjectsFinal(r.s); err != nil {
		t.Fatal(err)
	}
	return found
}

// generate makes a key pair with just that CKA_ID, label and curve.
func (r rawToken) generate(t *testing.T, id, label string, curve []byte) (pub, priv p11.ObjectHandle) {
	t.Helper()
	attrs := []*p11.Attribute{
		p11.NewAttribute(p11.CKA_TOKEN, true), p11.NewAttribute(p11.CKA_ID, []byte(id)),
		p11.NewAttribute(p11.CKA_LABEL, label),
	}
	pub, priv, err := r.GenerateKeyPair(r.s, []*p11.Mechanism{p11.NewMechanism(p11.CKM_EC_KEY_PAIR_GEN, nil)},
		append([]*p11.Attribute{p11.NewAttribute(p11.CKA_EC_PARAMS, curve)}, attrs...),
		append([]*p11.Attribute{p11.NewAttribute(p11.CKA_SIGN, true)}, attrs...))
	if err != nil {
		t.Fatal(err)
	}
	return pub, priv
}

// rawCount is the number of objects on the token.
func rawCount(t *testing.T, cfg pkcs11.Config, b *pkcs11.Backend) int {
	t.Helper()
	r := raw(t, cfg.Module, b)
	defer r.CloseSession(r.s)
	return len(r.find(t))
}

// wantLabels checks which keys the Backend lists.
func wantLabels(t *testing.T, b *pkcs11.Backend, want ...string) {
	t.Helper()
	list, err := b.Keys(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range list {
		got = append(got, e.Label)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("labels (-want +got):\n%s", diff)
	}
}

func uncompressed(k backends.Key) []byte { return crypto.FromECDSAPub(k.Public()) }
