package pkcs11_test

import (
	"sync/atomic"
	"testing"

	"github.com/keyward/keyward/backends"
	softhsmtest "github.com/keyward/keyward/softhsm-test"
	p11 "github.com/miekg/pkcs11"
)

// BenchmarkSign is a signature through the Backend; BenchmarkRawSign, next to it, is
// C_SignInit and C_Sign alone.
func BenchmarkSign(b *testing.B) {
	k := benchKey(b, softhsmtest.NewToken(b).Open(b))
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := k.SignDigest(b.Context(), [32]byte{1}); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

func BenchmarkRawSign(b *testing.B) {
	tok := softhsmtest.NewToken(b)
	backend := tok.Open(b)
	benchKey(b, backend)
	ctx := p11.New(tok.Module)
	var failed atomic.Value
	b.RunParallel(func(pb *testing.PB) {
		s, err := ctx.OpenSession(backend.SlotID(), p11.CKF_SERIAL_SESSION|p11.CKF_RW_SESSION)
		if err != nil {
			failed.Store(err)
			return
		}
		if err := ctx.FindObjectsInit(s, []*p11.Attribute{p11.NewAttribute(p11.CKA_CLASS, p11.CKO_PRIVATE_KEY)}); err != nil {
			failed.Store(err)
			return
		}
		h, _, err := ctx.FindObjects(s, 1)
		if err != nil || ctx.FindObjectsFinal(s) != nil {
			failed.Store(err)
			return
		}
		for pb.Next() {
			err := ctx.SignInit(s, []*p11.Mechanism{p11.NewMechanism(p11.CKM_ECDSA, nil)}, h[0])
			if err == nil {
				_, err = ctx.Sign(s, make([]byte, 32))
			}
			if err != nil {
				failed.Store(err)
				return
			}
		}
	})
	if err := failed.Load(); err != nil {
		b.Error(err)
	}
}

func benchKey(b *testing.B, backend backends.Backend) backends.Key {
	b.Helper()
	k, err := backend.Generate(b.Context(), backends.KeyAttributes{Label: "keyward-bench"})
	if err != nil {
		b.Fatal(err)
	}
	b.ResetTimer()
	return k
}
