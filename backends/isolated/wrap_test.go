package isolated

import (
	"errors"
	"fmt"
	"testing"

	"github.com/keyward/keyward/backends"
)

// TestErrorNamesItsBackendOnce: the child's backend does, or else the parent.
func TestErrorNamesItsBackendOnce(t *testing.T) {
	child := func(text string) error { return (&wireError{Text: text, Is: []string{"ErrUnavailable"}}).err() }
	for _, tt := range []struct {
		err  error
		want string
	}{
		{child("piv yubikey: generating a key: opening it again: YubiKey 1: gone"),
			"piv yubikey: generating a key: opening it again: YubiKey 1: gone"},
		{unavailable(child("piv yubikey: signing: gone")), "piv yubikey: signing: gone"},
		{child("malformed"), "yubikey: signing: malformed"},
		{child("piv yubikey2: signing: gone"), "yubikey: signing: piv yubikey2: signing: gone"},
		{child("no key named yubikey: gone"), "yubikey: signing: no key named yubikey: gone"},
		{errors.New("the child is gone"), "yubikey: signing: the child is gone"},
		{fmt.Errorf("%w (touch it): %w", backends.ErrNotTouched, child("piv yubikey: signing: late")),
			"device unavailable: it was not touched in time (touch it): piv yubikey: signing: late"},
	} {
		b := &Backend{cfg: Config{Name: "yubikey", Type: "piv"}}
		err := b.wrap("signing", tt.err)
		if err.Error() != tt.want || !errors.Is(err, tt.err) {
			t.Errorf("wrap(%q) = %q, want %q", tt.err, err, tt.want)
		}
	}
}
