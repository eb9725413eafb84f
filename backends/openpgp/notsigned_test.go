package openpgp_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/internal/cardsim"
)

// What fails before the signing command has signed nothing, and so has a card that answers the command itself with one
// of these status words. All else is in doubt.
func TestWhatIsCertainlyNotSigned(t *testing.T) {
	c := given(t, cardsim.OpenPGPConfig{})
	_, k := signer(t, c, "sig")
	type row struct {
		fault   cardsim.Fault
		certain bool
	}
	rows := []row{
		{cardsim.Fault{INS: insSelect, Do: cardsim.NoStatus}, true},
		{cardsim.Fault{INS: insVerify, Do: cardsim.Status, SW: cardsim.SWInternal}, true},
		{cardsim.Fault{INS: insPSO, Do: cardsim.NoStatus}, false},
		{cardsim.Fault{INS: insPSO, Do: cardsim.Short}, false},
		{cardsim.Fault{INS: insPSO, Do: cardsim.Endless}, false},
	}
	for _, sw := range []uint16{0x6600, 0x6700, 0x6982, 0x6983, 0x6985, 0x6A80, 0x6A88, 0x6B00, 0x6D00, 0x6E00} {
		rows = append(rows, row{cardsim.Fault{INS: insPSO, Do: cardsim.Status, SW: sw}, true})
	}
	for _, sw := range []uint16{0x6400, 0x6581, 0x6F00, 0x6C40, 0x6A86, 0x9000} {
		rows = append(rows, row{cardsim.Fault{INS: insPSO, Do: cardsim.Status, SW: sw}, false})
	}
	for _, r := range rows {
		t.Run(fmt.Sprintf("%+v", r.fault), func(t *testing.T) {
			c.Fail(r.fault)
			_, err := k.SignDigest(t.Context(), [32]byte{1})
			c.Heal()
			if err == nil || errors.Is(err, backends.ErrNotSigned) != r.certain {
				t.Errorf("SignDigest = %v, certain %v, want %v", err, !r.certain, r.certain)
			}
			recovers(t, 0, k)
		})
	}
}
