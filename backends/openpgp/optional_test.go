package openpgp_test

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/backends/backendtest"
	"github.com/keyward/keyward/internal/cardsim"
	"github.com/keyward/keyward/internal/secret"
)

// What the standard leaves to a card may be missing there: a card without data objects for private use has keys without
// labels, and is not asked for the objects.
func TestNoPrivateUse(t *testing.T) {
	for name, cfg := range map[string]cardsim.OpenPGPConfig{"YubiKey": {NoPrivateUse: true},
		"other": {NoPrivateUse: true, Generic: true, Sticky: true}} {
		t.Run(name, func(t *testing.T) {
			given(t, cfg)
			b := open(t, config())
			first, second := backendtest.Generate(t, b, "keyward-x"), backendtest.Generate(t, b, "keyward-y")
			backendtest.Verify(t, first, [32]byte{1})
			again, err := open(t, config()).Key(t.Context(), second.URI())
			if err != nil {
				t.Fatal(err)
			}
			backendtest.Verify(t, again, [32]byte{2})
			if list, err := b.Keys(t.Context(), ""); err != nil || len(list) != 2 || list[0].Label != "" {
				t.Errorf("Keys = %v, %v, want two without labels", list, err)
			}
			if list, err := b.Keys(t.Context(), "keyward-"); err != nil || len(list) != 0 {
				t.Errorf("Keys with a prefix = %v, %v, want none", list, err)
			}
			if err := b.Destroy(t.Context(), first.URI()); err != nil {
				t.Fatal(err)
			}
			if st := b.Status(t.Context()); st.State != "ready" {
				t.Errorf("Status = %+v", st)
			}
			backendtest.Verify(t, backendtest.Generate(t, b, "keyward-z"), [32]byte{3})
		})
	}
}

// A card that can't do the curve is left as it was: its list of algorithms is read first.
func TestNoCurve(t *testing.T) {
	for name, cfg := range map[string]cardsim.OpenPGPConfig{"YubiKey": {NoK256: true},
		"other": {NoK256: true, Generic: true}} {
		t.Run(name, func(t *testing.T) {
			c := given(t, cfg)
			b := open(t, config())
			mark := len(c.Log())
			_, err := b.Generate(t.Context(), backends.KeyAttributes{Label: "keyward-x"})
			if !errors.Is(err, backends.ErrRefused) || !strings.Contains(err.Error(), "has no secp256k1") {
				t.Fatalf("Generate = %v, want ErrRefused", err)
			}
			if name == "YubiKey" && !strings.Contains(err.Error(), "FIPS") {
				t.Errorf("the error does not name the models: %v", err)
			}
			for _, e := range c.Log()[mark:] {
				if e.INS == 0xDA || e.INS == 0x20 || e.INS == 0x47 && e.P1 == 0x80 {
					t.Errorf("the card was changed or shown a PIN by %+v", e)
				}
			}
			if st := b.Status(t.Context()); !strings.Contains(st.Detail, "sig: empty, aut: empty") {
				t.Errorf("Status = %+v, want empty slots", st)
			}
		})
	}
}

// How many tries a card has in all is not assumed: with two, the right PIN is shown at the first start, and a wrong one
// leaves a mark, so that the next start does not spend the other.
func TestTwoTries(t *testing.T) {
	given(t, cardsim.OpenPGPConfig{Tries: 2})
	marks := filepath.Join(t.TempDir(), "pins")
	conf := config()
	conf.PIN = secret.NewKeeper(fixed(userPIN), secret.UntilLock).MarkIn(marks)
	b := open(t, conf)
	k := backendtest.Generate(t, b, "keyward-x")
	backendtest.Verify(t, k, [32]byte{1})

	c := given(t, cardsim.OpenPGPConfig{}) // of three tries, a wrong PIN leaves two
	conf.AdminPIN = secret.NewKeeper(fixed(adminPIN), secret.UntilLock)
	conf.PIN = secret.NewKeeper(fixed(userPIN), secret.UntilLock)
	k = backendtest.Generate(t, open(t, conf), "keyward-x")
	start := len(c.PINTries())
	for n := range 3 {
		conf.PIN = secret.NewKeeper(fixed(wrongPIN), secret.UntilLock).MarkIn(marks)
		found, err := open(t, conf).Key(t.Context(), k.URI())
		if err != nil {
			t.Fatal(err)
		}
		want := backends.ErrLocked
		if n == 0 {
			want = backends.ErrPINIncorrect
		}
		if _, err := found.SignDigest(t.Context(), [32]byte{1}); !errors.Is(err, want) {
			t.Errorf("start %d with a wrong PIN: %v, want %v", n, err, want)
		}
	}
	if n := len(c.PINTries()) - start; n != 1 {
		t.Errorf("%d PINs were shown, want 1", n)
	}
}
