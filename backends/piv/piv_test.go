package piv_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/backends/backendtest"
	"github.com/keyward/keyward/backends/isolated"
	"github.com/keyward/keyward/backends/piv"
	"github.com/keyward/keyward/backends/sealed"
	"github.com/keyward/keyward/internal/cardsim"
	"github.com/keyward/keyward/internal/secret"
)

func TestSuite(t *testing.T) {
	for name, firmware := range map[string]cardsim.Firmware{"5.4.3": cardsim.Firmware543, "5.7.1": cardsim.Firmware571} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, key{firmware, piv.PINOnce, piv.TouchNever})
			backendtest.Run(t, backendtest.Options{Signatures: 16}, func(t *testing.T) backends.Backend {
				b.dir = t.TempDir()
				return b.open(t, secret.NewKeeper(source(testPIN), secret.UntilLock))
			})
		})
	}
}

func TestSuiteIsolated(t *testing.T) {
	b := newBench(t, plain)
	backendtest.Run(t, backendtest.Options{Signatures: 16}, func(t *testing.T) backends.Backend {
		b.dir = t.TempDir()
		return b.isolate(t, secret.NewKeeper(source(testPIN), 0), isolated.Config{})
	})
}

// TestPolicies signs with a key of each policy. The card's log says whether a PIN was needed.
func TestPolicies(t *testing.T) {
	for _, tt := range []struct {
		pin   piv.PINPolicy
		touch piv.TouchPolicy
		shown int
	}{
		{piv.PINNever, piv.TouchNever, 0},
		{piv.PINAlways, piv.TouchNever, 4},
		{piv.PINAlways, piv.TouchCached, 4},
	} {
		t.Run(string(tt.pin)+" "+string(tt.touch), func(t *testing.T) {
			b := newBench(t, key{cardsim.Firmware571, tt.pin, tt.touch})
			b.card.AutoTouch(true)
			mark := b.shown(0)
			p := b.open(t, secret.NewKeeper(source(testPIN), 0))
			k := backendtest.Generate(t, p, "keyward-x")
			for range 3 {
				backendtest.Verify(t, k, [32]byte{1})
			}
			if n := b.shown(mark); n != tt.shown {
				t.Errorf("the card was shown %d PINs, want %d", n, tt.shown)
			}
		})
	}
}

// TestCardIsFreeBetweenOperations: another program opens the card, and finds nothing verified.
func TestCardIsFreeBetweenOperations(t *testing.T) {
	b := newBench(t, plain)
	p := b.open(t, secret.NewKeeper(source(testPIN), 0))
	k := backendtest.Generate(t, p, "keyward-x")
	for range 3 {
		backendtest.Verify(t, k, [32]byte{1})
		b.AwaitFree(t, 0)
		// A YubiKey answers a VERIFY without data by 9000 if a PIN is verified.
		if sw := b.askVerified(t); sw&0xfff0 != 0x63c0 {
			t.Errorf("another program finds the PIN verified: %04x", sw)
		}
	}
}

// TestBoundToCardSessionAndBytes: a key sealed to one card opens on no other, for no other
// session, and not after any byte of its file has changed.
func TestBoundToCardSessionAndBytes(t *testing.T) {
	b := newBench(t, plain)
	keeper := secret.NewKeeper(source(testPIN), secret.UntilLock)
	p := b.open(t, keeper)
	k := backendtest.Generate(t, p, "keyward-x")
	backendtest.Verify(t, k, [32]byte{1})
	file := theFile(t, b.dir)
	sealedKey, err := os.ReadFile(file)
	must(t, err)

	t.Run("changed byte", func(t *testing.T) {
		for i := range sealedKey {
			if i%7 != 0 { // each byte takes the card; package sealed changes every one
				continue
			}
			changed := append([]byte(nil), sealedKey...)
			changed[i] ^= 1
			must(t, os.WriteFile(file, changed, 0o600))
			_, err := k.SignDigest(t.Context(), [32]byte{1})
			if err == nil {
				t.Errorf("it opens with byte %d changed", i)
			} else if !errors.Is(err, sealed.ErrDamaged) && !errors.Is(err, backends.ErrUnavailable) {
				t.Errorf("with byte %d changed: %v", i, err)
			}
		}
		must(t, os.WriteFile(file, sealedKey, 0o600))
		backendtest.Verify(t, k, [32]byte{1})
	})
	t.Run("another card", func(t *testing.T) {
		other := cardsim.NewYubiKey(cardsim.Firmware543, testSerial+1)
		b.Insert(t, 1, other)
		o := &bench{PCSCD: b.PCSCD, card: other, serial: testSerial + 1, dir: t.TempDir()}
		o.attestation = setUp(t, o.serial, plain)
		must(t, os.WriteFile(filepath.Join(o.dir, filepath.Base(file)), sealedKey, 0o600))
		q := o.open(t, secret.NewKeeper(source(testPIN), 0))
		k, err := q.Key(t.Context(), k.URI())
		must(t, err)
		_, err = k.SignDigest(t.Context(), [32]byte{1})
		wantErr(t, "SignDigest", err, backends.ErrUnavailable, "sealed to yubikey:12345678:9d")
		b.Remove(1)
	})
	if tries := b.card.PINTries(); tries[len(tries)-1].SW != cardsim.SWOK {
		t.Error("the last PIN that the card was shown was wrong")
	}
}

// theFile is the only file of a key in dir.
func theFile(t *testing.T, dir string) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	must(t, err)
	var keys []string
	for _, f := range files {
		if info, err := os.Stat(f); err == nil && info.Mode().IsRegular() && info.Size() > 0 {
			keys = append(keys, f)
		}
	}
	if len(keys) != 1 {
		t.Fatalf("%s has %q, want one key", dir, keys)
	}
	return keys[0]
}

func TestStatusAndAttestation(t *testing.T) {
	b := newBench(t, plain)
	p := b.open(t, secret.NewKeeper(nil, secret.UntilLock))
	if st := p.Status(t.Context()); st.State != "locked" || !strings.Contains(st.Detail, "keyward unlock") {
		t.Errorf("Status = %+v, want locked", st)
	}
	must(t, p.Unlock(t.Context(), []byte(testPIN)))
	for _, want := range []string{"12345678", "5.4.3", "9d", "PIN policy once", "touch policy never", "3 PIN tries left"} {
		if st := p.Status(t.Context()); st.State != "ready" || !strings.Contains(st.Detail, want) {
			t.Errorf("Status = %+v, want ready and %q", st, want)
		}
	}
	k := backendtest.Generate(t, p, "keyward-x")
	at, err := p.Attest(t.Context(), k.URI())
	must(t, err)
	if len(at.Chain) != 2 || !at.Verified || !strings.Contains(at.Detail, "slot 9d of YubiKey 12345678") {
		t.Errorf("Attest = %+v", at)
	}
	must(t, p.Lock(t.Context()))
	_, err = k.SignDigest(t.Context(), [32]byte{})
	wantErr(t, "SignDigest", err, backends.ErrLocked)
}

func TestAttestationIsChecked(t *testing.T) {
	b := newBench(t, plain)
	for name, cfg := range map[string]piv.Config{
		"Yubico's roots":  {Attestation: b.attestation},
		"no root":         {Attestation: b.attestation, Roots: []byte{}},
		"no attestation":  {Roots: roots()},
		"one certificate": {Attestation: roots(), Roots: roots()},
		"another serial":  {Attestation: b.attestation, Roots: roots(), Serial: 1},
		"another slot":    {Attestation: b.attestation, Roots: roots(), Slot: 0x82},
		"another PIN":     {Attestation: b.attestation, Roots: roots(), PINPolicy: piv.PINAlways},
		"another touch":   {Attestation: b.attestation, Roots: roots(), TouchPolicy: piv.TouchAlways},
		"no PIN source":   {Attestation: b.attestation, Roots: roots()},
	} {
		cfg.Name, cfg.Dir = "test", t.TempDir()
		if name != "no PIN source" {
			cfg.PINs = secret.NewKeeper(nil, 0)
		}
		if p, err := piv.Open(cfg); err == nil {
			p.Close()
			t.Errorf("%s: Open succeeded", name)
		}
	}
}
