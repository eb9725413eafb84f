package piv_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keyward/keyward/backends/piv"
	"github.com/keyward/keyward/internal/cardsim"
)

const insSetManagement = 0xff

// firmwares are those that tell a management key apart: AES-192 from the factory, AES-192 by choice,
// and 3DES on a card that describes nothing.
var firmwares = map[string]cardsim.Firmware{"5.7.1": cardsim.Firmware571, "5.4.3": cardsim.Firmware543,
	"5.2.7": {5, 2, 7}}

// TestYkmanNeedsThePINOnly: ykman says where the management key is, and generates a key and
// changes what it has noted by the PIN alone.
func TestYkmanNeedsThePINOnly(t *testing.T) {
	for name, firmware := range firmwares {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, key{firmware, piv.PINOnce, piv.TouchNever})
			ykman := func(args ...string) string {
				t.Helper()
				cmd := exec.CommandContext(t.Context(), "ykman", append([]string{"--device", "12345678", "piv"}, args...)...)
				cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8")
				out, err := cmd.CombinedOutput()
				if err != nil {
					t.Fatalf("ykman piv %s: %v\n%s", strings.Join(args, " "), err, out)
				}
				return string(out)
			}
			const want = "Management key is stored on the YubiKey, protected by PIN."
			if out := ykman("info"); !strings.Contains(out, want) {
				t.Errorf("ykman piv info does not say %q:\n%s", want, out)
			}
			public := filepath.Join(t.TempDir(), "public.pem")
			ykman("keys", "generate", "--pin", testPIN, "--algorithm", "ECCP256", "9a", public)
			ykman("certificates", "generate", "--pin", testPIN, "--subject", "CN=test", "9a", public)

			// ykman replaces the management key; ours is read where it has put it.
			s := &piv.Setup{Serial: b.serial, Roots: roots()}
			ours, err := s.ManagementKey([]byte(testPIN))
			must(t, err)
			ykman("access", "change-management-key", "--pin", testPIN, "--generate", "--protect", "--force")
			theirs, err := s.ManagementKey([]byte(testPIN))
			must(t, err)
			if bytes.Equal(ours, theirs) {
				t.Error("ykman did not change the management key")
			}
			_, err = s.Generate(ours, 0x82, piv.PINOnce, piv.TouchNever, false)
			wantErr(t, "Generate with the key before", err, piv.ErrManagementKey)
			_, err = s.Generate(theirs, 0x82, piv.PINOnce, piv.TouchNever, false)
			must(t, err)
		})
	}
}

// TestProtectKeepsWhatElseIsThere: other fields of both objects stay. A salt goes, as it says that the key is
// derived from the PIN, and so does a key that is stored but not in use.
func TestProtectKeepsWhatElseIsThere(t *testing.T) {
	const tagAdmin, tagProtected = 0x80, 0x88
	b := newCard(t, cardsim.Firmware543)
	factory := piv.DefaultManagementKey()
	pukBlocked, time, salt := []byte("\x81\x01\x01"), []byte("\x83\x04\x01\x02\x03\x04"),
		append([]byte("\x82\x10"), make([]byte, 16)...)
	other, stale := append([]byte("\x8a\x81\x80"), make([]byte, 0x80)...), append([]byte("\x89\x18"), make([]byte, 24)...)
	must(t, piv.PutObject(b.serial, factory, piv.ObjectAdmin, tagAdmin, bytes.Join([][]byte{pukBlocked, salt, time}, nil)))
	must(t, piv.PutObject(b.serial, factory, piv.ObjectProtected, tagProtected, append(stale, other...)))

	s := &piv.Setup{Serial: b.serial}
	must(t, s.ProtectManagementKey(factory, []byte(piv.DefaultPIN)))
	management, err := s.ManagementKey([]byte(piv.DefaultPIN))
	must(t, err)
	admin, err := piv.Object(b.serial, []byte(piv.DefaultPIN), piv.ObjectAdmin, tagAdmin)
	must(t, err)
	if want := append([]byte("\x81\x01\x03"), time...); !bytes.Equal(admin, want) {
		t.Errorf("the admin data is %x, want %x", admin, want)
	}
	protected, err := piv.Object(b.serial, []byte(piv.DefaultPIN), piv.ObjectProtected, tagProtected)
	must(t, err)
	if want := append(bytes.Clone(other), append([]byte("\x89\x18"), management...)...); !bytes.Equal(protected, want) {
		t.Errorf("the protected data is %x, want %x", protected, want)
	}
}

// TestProtectLosesNothing: what is in the objects and is not ykman's stays, and so does the management key.
func TestProtectLosesNothing(t *testing.T) {
	for name, object := range map[string]struct {
		number int
		tag    byte
		value  []byte
	}{
		"printed information": {piv.ObjectProtected, 0x01, []byte("name")},
		"no TLV":              {piv.ObjectProtected, 0x88, []byte{0x89}},
		"other admin data":    {piv.ObjectAdmin, 0x70, nil},
		"no TLV, admin":       {piv.ObjectAdmin, 0x80, []byte{0x81, 0x05}},
	} {
		t.Run(name, func(t *testing.T) {
			b := newCard(t, cardsim.Firmware543)
			must(t, piv.PutObject(b.serial, piv.DefaultManagementKey(), object.number, object.tag, object.value))
			s := &piv.Setup{Serial: b.serial}
			if err := s.ProtectManagementKey(piv.DefaultManagementKey(), []byte(piv.DefaultPIN)); err == nil {
				t.Error("ProtectManagementKey succeeds")
			}
			got, err := piv.Object(b.serial, []byte(piv.DefaultPIN), object.number, object.tag)
			if err != nil || !bytes.Equal(got, object.value) {
				t.Errorf("the object is %x, %v, want %x", got, err, object.value)
			}
			inv, err := piv.Inspect(b.serial)
			must(t, err)
			if !inv.ManagementKey.Default {
				t.Error("the management key was changed")
			}
		})
	}
}

// TestProtectTwice: a stored key that is in use stays.
func TestProtectTwice(t *testing.T) {
	for name, firmware := range firmwares {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, key{firmware, piv.PINOnce, piv.TouchNever})
			s := &piv.Setup{Serial: b.serial, Roots: roots()}
			stored, err := s.ManagementKey([]byte(testPIN))
			must(t, err)
			sets := b.card.Count(insSetManagement)
			for _, old := range [][]byte{piv.DefaultManagementKey(), stored} {
				must(t, s.ProtectManagementKey(old, []byte(testPIN)))
			}
			again, err := s.ManagementKey([]byte(testPIN))
			must(t, err)
			if !bytes.Equal(stored, again) || b.card.Count(insSetManagement) != sets {
				t.Error("the management key was replaced")
			}
			_, err = s.Generate(stored, 0x82, piv.PINOnce, piv.TouchNever, false)
			must(t, err)
		})
	}
}

// TestProtectReplacesTheFactoryKey: it is no secret, even if somebody has stored it.
func TestProtectReplacesTheFactoryKey(t *testing.T) {
	const tagProtected = 0x88
	b := newCard(t, cardsim.Firmware543)
	factory := piv.DefaultManagementKey()
	must(t, piv.PutObject(b.serial, factory, piv.ObjectProtected, tagProtected, append([]byte("\x89\x18"), factory...)))
	s := &piv.Setup{Serial: b.serial}
	must(t, s.ProtectManagementKey(factory, []byte(piv.DefaultPIN)))
	if b.inspect(t).ManagementKey.Default {
		t.Error("the management key is still the factory's")
	}
}
