package secret

import (
	"testing"

	"github.com/keyward/keyward/backends"
)

// An admin PIN is for one try, also if it is not known what became of that.
func TestAdminKeeperDoubtfulTry(t *testing.T) {
	d := newDevice()
	d.lose = true
	k := NewAdminKeeper("yubi", nil)
	unlock(t, k, pinned(t, "123456"))
	held := k.pin
	if err := k.Try(t.Context(), d.tries, d.verify); err == nil {
		t.Fatal("Try succeeded")
	}
	if n := held.Len(); n != 0 {
		t.Errorf("%d bytes of the PIN are left", n)
	}
	d.lose = false
	d.try(t, k, backends.ErrAdminPINNeeded, 1)
	unlock(t, k, pinned(t, "123456"))
	d.try(t, k, nil, 2)
}
