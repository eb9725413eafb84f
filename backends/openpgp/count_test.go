package openpgp_test

import (
	"errors"
	"testing"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/backends/backendtest"
	"github.com/keyward/keyward/internal/cardsim"
)

// The card's counter has the signatures of all programs, begins again with each key, and is that of the signature key
// alone.
func TestSignatures(t *testing.T) {
	for name, cfg := range map[string]cardsim.OpenPGPConfig{"YubiKey": {}, "other": {Generic: true}} {
		t.Run(name, func(t *testing.T) {
			card := given(t, cfg)
			b, other := open(t, config()), open(t, config())
			k, aut := backendtest.Generate(t, b, "keyward-x"), backendtest.Generate(t, b, "keyward-y")
			want := func(uri string, n uint64, counts bool) {
				t.Helper()
				if got, ok, err := b.Signatures(t.Context(), uri); got != n || ok != counts || err != nil {
					t.Errorf("Signatures(%s) = %d, %v, %v, want %d, %v", uri, got, ok, err, n, counts)
				}
			}
			began, _, err := b.Signatures(t.Context(), k.URI())
			if err != nil {
				t.Fatal(err)
			}
			backendtest.Verify(t, k, [32]byte{1})
			backendtest.Verify(t, aut, [32]byte{2})
			same, err := other.Key(t.Context(), k.URI())
			if err != nil {
				t.Fatal(err)
			}
			backendtest.Verify(t, same, [32]byte{3})
			want(k.URI(), began+2, true)
			want(aut.URI(), 0, false)
			if user, admin := card.app.Tries(); user != 3 || admin != 3 {
				t.Errorf("tries left: %d and %d", user, admin)
			}
			if err := b.Destroy(t.Context(), k.URI()); err != nil {
				t.Fatal(err)
			}
			if _, _, err := b.Signatures(t.Context(), k.URI()); !errors.Is(err, backends.ErrKeyNotFound) {
				t.Errorf("Signatures without the key: %v, want ErrKeyNotFound", err)
			}
			want(backendtest.Generate(t, b, "keyward-z").URI(), began, true)
		})
	}
}
