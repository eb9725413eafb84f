package pcsc

import (
	"errors"
	"testing"
)

// FuzzCollect: whatever a card answers, in parts of any size, collecting it ends, is bounded, and gives
// a status word that is not "there is more".
func FuzzCollect(f *testing.F) {
	for _, seed := range []string{"", "\x90\x00", "ab\x61\x01c\x90\x00", "\x61\x00", "\x69\x82", "\x90"} {
		f.Add([]byte(seed), uint8(4))
		f.Add([]byte(seed), uint8(255))
	}
	f.Fuzz(func(t *testing.T, answers []byte, size uint8) {
		sent, rest := 0, answers
		data, sw, err := collect(func(apdu []byte) ([]byte, error) {
			sent++
			if len(rest) == 0 {
				rest = answers // a card that goes on for ever
			}
			n := min(len(rest), int(size))
			part := rest[:n]
			rest = rest[n:]
			return part, nil
		}, []byte{0, 0xCA, 0, 0x6E, 0})
		switch {
		case sent > maxParts || len(data) > maxResponse:
			t.Errorf("collect took %d commands and has %d bytes", sent, len(data))
		case err != nil && !errors.Is(err, ErrGarbled):
			t.Errorf("collect = %v, want ErrGarbled", err)
		case err == nil && sw>>8 == 0x61:
			t.Errorf("collect ends with status word %v", sw)
		}
	})
}
