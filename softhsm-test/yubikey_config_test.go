package softhsmtest

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keyward/keyward/backends/piv"
	"github.com/keyward/keyward/internal/cardsim"
	"github.com/keyward/keyward/internal/pcsc"
)

// TestYubiKeySetupKeepsTheConfiguration: the file has its mode and its text afterwards, and the section in lines of
// its own, also after a line that was not ended.
func TestYubiKeySetupKeepsTheConfiguration(t *testing.T) {
	b := newYubiKeyBench(t, cardsim.Firmware543)
	file := filepath.Join(b.Dir, "config.toml")
	conf, err := os.ReadFile(file)
	b.must(err)
	for _, mode := range []os.FileMode{0o640, 0o600} {
		for end, before := range map[string][]byte{"no newline": bytes.TrimRight(conf, "\n"), "a newline": conf} {
			b.card.FactoryReset()
			b.must(os.WriteFile(file, before, mode))
			b.must(os.Chmod(file, mode))
			b.setUpYubiKey()
			info, err := os.Stat(file)
			b.must(err)
			if info.Mode().Perm() != mode {
				t.Errorf("the configuration's mode is %v, want %v", info.Mode().Perm(), mode)
			}
			after, err := os.ReadFile(file)
			b.must(err)
			added, kept := bytes.CutPrefix(after, before)
			if !kept || bytes.Count(added, []byte("\n[backends.yubikey]\n")) != 1 {
				t.Errorf("after a file that ends with %s, its text is kept: %v; added is\n%s", end, kept, added)
			}
		}
	}
	b.works("yubikey")
}

// TestYubiKeySetupBesideAnotherCard: another card is held by another program, which is no reason to fail, whichever
// reader it is in.
func TestYubiKeySetupBesideAnotherCard(t *testing.T) {
	for reader, others := range []int{1, 0} {
		t.Run(fmt.Sprintf("in reader %d", others), func(t *testing.T) {
			b := newYubiKeyBench(t, cardsim.Firmware543)
			if reader != 0 {
				b.pcscd.Remove(0)
				b.pcscd.AwaitEmpty(t, 0)
				b.pcscd.Insert(t, reader, b.card)
			}
			other := cardsim.NewYubiKey(cardsim.Firmware571, pivSerial+1)
			b.pcscd.Insert(t, others, other)
			c, err := pcsc.Dial()
			b.must(err)
			held, err := c.Open(fmt.Sprintf("%s 00 %02d", cardsim.ReaderName, others))
			b.must(err)
			_, stderr, err := b.trySetup()
			if err != nil || !strings.Contains(stderr, "the card is in use by another program") {
				t.Fatalf("yubikey setup = %v, want it to succeed and to say that the other card is in use:\n%s", err, stderr)
			}
			b.must(held.Close())
			b.must(c.Close())
			if n := len(other.PINTries()) + other.Count(0x24) + other.Count(0x47); n != 0 {
				t.Errorf("the other card was asked %d times", n)
			}
			if inv := b.inventory(); inv.Serial != pivSerial || len(inv.Slots) != 1 {
				t.Errorf("the card after the setup: %+v", inv)
			}
		})
	}
}

// TestYubiKeySetupOfALargeSerial: one that is not an int everywhere is left to the attestation.
func TestYubiKeySetupOfALargeSerial(t *testing.T) {
	for serial, written := range map[uint32]bool{1<<31 - 1: true, 1 << 31: false, 3000000000: false, 1<<32 - 1: false} {
		t.Run(fmt.Sprint(serial), func(t *testing.T) {
			b := newYubiKeyBench(t, cardsim.Firmware543)
			b.pcscd.Remove(0)
			b.pcscd.AwaitEmpty(t, 0)
			b.card = cardsim.NewYubiKey(cardsim.Firmware543, serial)
			b.pcscd.Insert(t, 0, b.card)
			b.setUpYubiKey("--serial", fmt.Sprint(serial))
			conf, err := os.ReadFile(filepath.Join(b.Dir, "config.toml"))
			b.must(err)
			_, section, _ := bytes.Cut(conf, []byte("[backends.yubikey]"))
			if got := bytes.Contains(section, fmt.Appendf(nil, "\nserial = %d ", serial)); got != written {
				t.Errorf("the serial number is written: %v, want %v:\n%s", got, written, section)
			}
			if !written && bytes.Contains(section, []byte("\nserial =")) {
				t.Errorf("another serial number is written:\n%s", section)
			}
			attestation, err := os.ReadFile(filepath.Join(b.Dir, "yubikey-attestation.pem"))
			b.must(err)
			if key, err := piv.ParseAttestation(attestation, attestationRoots()); err != nil || key.Serial != serial {
				t.Errorf("the attestation is of %v, %v, want serial %d", key, err, serial)
			}
			if out := b.Keyward("yubikey", "status"); !strings.Contains(out, fmt.Sprintf("YubiKey %d, ", serial)) ||
				!strings.Contains(out, `backend "yubikey"`) {
				t.Errorf("yubikey status:\n%s", out)
			}
			b.works("yubikey")
		})
	}
}
