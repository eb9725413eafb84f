package pkcs11_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/backends/backendtest"
	"github.com/keyward/keyward/backends/pkcs11"
	softhsmtest "github.com/keyward/keyward/softhsm-test"
	p11 "github.com/miekg/pkcs11"
)

// TestAnyErrorHeals: a module that fails with whatever code until it is initialized again is initialized again, and is
// not said to be ready meanwhile. The codes are those that modules were seen with, and one that nobody has.
func TestAnyErrorHeals(t *testing.T) {
	for _, function := range []string{"Sign", "SignInit"} {
		for _, rv := range []uint64{
			0x2, 0x5, 0x6, 0x30, 0x31, 0x32, 0x40, 0x50, 0x54, 0x60, 0x68, 0x82, 0x90, 0x91, 0xB0, 0xB3, 0xE0, 0x101, 0x190,
			0x1A0,
			0x80000001, 0x12345678,
		} {
			t.Run(fmt.Sprintf("%s %#x", function, rv), func(t *testing.T) {
				cfg, ctl := newShim(t)
				b := softhsmtest.Open(t, cfg)
				k := backendtest.Generate(t, b, "keyward-x")
				inits := ctl.On("Initialize").Calls()
				ctl.On(function).Set(softhsmtest.Return, rv, 1<<40)
				eventually(t, 15*time.Second, func() error {
					_, err := k.SignDigest(t.Context(), [32]byte{1})
					if err == nil {
						return errors.New("it signs before it was initialized again")
					}
					if st := b.Status(t.Context()); st.State == "ready" && ctl.On("Initialize").Calls() == inits {
						t.Errorf("Status = %+v after %v", st, err)
					}
					if ctl.On("Initialize").Calls() == inits {
						return fmt.Errorf("not initialized again: %w", err)
					}
					return nil
				})
				ctl.On(function).Set(softhsmtest.Return, 0, 0)
				recovers(t, k)
				if st := b.Status(t.Context()); st.State != "ready" {
					t.Errorf("Status = %+v, want ready", st)
				}
			})
		}
	}
}

// TestErrorThatStays: new connections are spaced out.
func TestErrorThatStays(t *testing.T) {
	cfg, ctl := newShim(t)
	b := softhsmtest.Open(t, cfg)
	k := backendtest.Generate(t, b, "keyward-x")
	inits := ctl.On("Initialize").Calls()
	ctl.On("Sign").Set(softhsmtest.Return, p11.CKR_OPERATION_ACTIVE, 1<<40)
	for range 500 {
		if _, err := k.SignDigest(t.Context(), [32]byte{1}); err == nil {
			t.Fatal("SignDigest succeeded")
		}
	}
	if n := ctl.On("Initialize").Calls() - inits; n < 1 || n > 4 {
		t.Errorf("C_Initialize was called %d times for 500 errors", n)
	}
}

// TestThrottled: CKR_FUNCTION_FAILED of a device that signs otherwise costs no connection. The call is repeated for as
// long as it has time, and then says that the device is busy.
func TestThrottled(t *testing.T) {
	cfg, ctl := newShim(t)
	b := softhsmtest.Open(t, cfg)
	k := backendtest.Generate(t, b, "keyward-x")
	backendtest.Verify(t, k, [32]byte{1})
	inits := ctl.On("Initialize").Calls()
	ctl.On("Sign").Set(softhsmtest.Return, p11.CKR_FUNCTION_FAILED, 3)
	backendtest.Verify(t, k, [32]byte{2})
	ctl.On("Sign").Set(softhsmtest.Return, p11.CKR_FUNCTION_FAILED, 1<<40)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := k.SignDigest(ctx, [32]byte{3}); !errors.Is(err, backends.ErrBusy) {
		t.Errorf("SignDigest = %v, want ErrBusy", err)
	}
	if n := ctl.On("Initialize").Calls() - inits; n != 0 {
		t.Errorf("C_Initialize was called %d times", n)
	}
	eventually(t, 15*time.Second, func() error { // it was no throttling
		_, _ = k.SignDigest(t.Context(), [32]byte{4})
		if ctl.On("Initialize").Calls() == inits {
			return errors.New("not initialized again")
		}
		return nil
	})
	ctl.On("Sign").Set(softhsmtest.Return, 0, 0)
	recovers(t, k)
}

// TestTemplateThatIsRefused: an HSM that takes no attribute that makes no sense for an elliptic curve makes a key all
// the same, and the key does not do what it is not for.
func TestTemplateThatIsRefused(t *testing.T) {
	cfg, ctl := newShim(t)
	b := softhsmtest.Open(t, cfg)
	ctl.RefuseUsage.Store(1)
	k := backendtest.Generate(t, b, "keyward-x")
	backendtest.Verify(t, k, [32]byte{1})
	if n := ctl.On("GenerateKeyPair").Calls(); n != 1 {
		t.Errorf("%d templates were passed on, want 1", n)
	}
	r := raw(t, cfg.Module, b)
	private := r.find(t, p11.NewAttribute(p11.CKA_CLASS, p11.CKO_PRIVATE_KEY))
	for _, attr := range []uint{p11.CKA_DECRYPT, p11.CKA_UNWRAP, p11.CKA_DERIVE, p11.CKA_SIGN_RECOVER} {
		got, err := r.GetAttributeValue(r.s, private[0], []*p11.Attribute{p11.NewAttribute(attr, nil)})
		if err != nil || got[0].Value[0] != 0 {
			t.Errorf("attribute %#x is %v, %v, want false", attr, got, err)
		}
	}
	ctl.On("SetAttributeValue").Set(softhsmtest.Return, p11.CKR_ATTRIBUTE_READ_ONLY, 1)
	if k, err := b.Generate(t.Context(), backends.KeyAttributes{Label: "keyward-y"}); err == nil ||
		!strings.Contains(err.Error(), "CKA_DECRYPT") {
		t.Errorf("Generate of a key that decrypts = %v, %v", k, err)
	}
	wantLabels(t, b, "keyward-x")
}

// setText has the token call itself so.
func setText(ctl *softhsmtest.Faults, label, serial string) {
	copy(ctl.Label[:], label+strings.Repeat(" ", 32))
	copy(ctl.Serial[:], serial+strings.Repeat(" ", 16))
	ctl.Text.Store(1)
}

// TestOddNames: a token whose label is no UTF-8, and whose serial has ESC and NUL, keeps keys that are found again
// after a restart and can be destroyed. Nothing of its names reaches a terminal as it is.
func TestOddNames(t *testing.T) {
	cfg, ctl := newShim(t)
	setText(ctl, "\xff\xfelabel", "12\x1b[2J\x0034")
	cfg.TokenLabel, cfg.TokenSerial = "", "12\x1b[2J\x0034"
	b := softhsmtest.Open(t, cfg)
	k := backendtest.Generate(t, b, "keyward-x")
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	b = softhsmtest.Open(t, cfg)
	found, err := b.Key(t.Context(), k.URI())
	if err != nil {
		t.Fatalf("Key(%q) = %v", k.URI(), err)
	}
	backendtest.Verify(t, found, [32]byte{1})
	if st := b.Status(t.Context()); st.State != "ready" ||
		(strings.ContainsAny(st.Detail, "\x1b\x00") || !utf8.ValidString(st.Detail)) {
		t.Errorf("Status = %q", st)
	}
	if err := b.Destroy(t.Context(), k.URI()); err != nil {
		t.Errorf("Destroy = %v", err)
	}
}

// TestTokenWithoutNames is known by its slot, or as the only one.
func TestTokenWithoutNames(t *testing.T) {
	cfg, ctl := newShim(t)
	setText(ctl, "", "")
	cfg.TokenLabel, cfg.TokenSerial = "", ""
	if b, err := pkcs11.Open(t.Context(), cfg); err == nil {
		b.Close()
		t.Error("Open took a configuration that names no token")
	}
	cfg.Slot = "no such slot"
	b := softhsmtest.Open(t, cfg)
	if st := b.Status(t.Context()); st.State != "unavailable" || !strings.Contains(st.Detail, `slot "no such slot"`) {
		t.Errorf("Status = %+v, want unavailable", st)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	slot := ""
	for _, cfg.Slot = range []string{pkcs11.AnySlot, "its slot"} {
		if cfg.Slot != pkcs11.AnySlot {
			cfg.Slot = slot
		}
		b := softhsmtest.Open(t, cfg)
		k := backendtest.Generate(t, b, "keyward-x")
		slot = b.SlotDescription()
		if found, err := b.Key(t.Context(), k.URI()); err != nil {
			t.Errorf("slot %q: Key(%q) = %v", cfg.Slot, k.URI(), err)
		} else {
			backendtest.Verify(t, found, [32]byte{1})
		}
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
