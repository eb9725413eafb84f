package isolated

import (
	"errors"
	"testing"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/internal/secret"
)

// TestEmptyPIN: on the wire it would be no PIN, and the Keeper would try it.
func TestEmptyPIN(t *testing.T) {
	dir := newCard(t)
	c := &card{dir: dir}
	b := open(t, Config{Type: "card", Settings: dir, PINs: secret.NewKeeper(nil, secret.UntilLock)})
	if err := b.(backends.Unlocker).Unlock(t.Context(), []byte(cardPIN)); err != nil {
		t.Fatal(err)
	}
	if err := b.(backends.Unlocker).Unlock(t.Context(), []byte{}); !errors.Is(err, backends.ErrPINIncorrect) {
		t.Errorf("Unlock = %v, want ErrPINIncorrect", err)
	}
	if n := c.number("shown"); n != 1 {
		t.Errorf("the card was shown %d PINs, want the first alone", n)
	}
	if err := b.(backends.Unlocker).Unlock(t.Context(), nil); err != nil {
		t.Errorf("Unlock with the PIN that is held = %v", err)
	}
}
