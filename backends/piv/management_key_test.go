package piv_test

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	gopiv "github.com/go-piv/piv-go/v2/piv"
	"github.com/google/go-cmp/cmp"

	"github.com/keyward/keyward/backends/piv"
	"github.com/keyward/keyward/internal/cardsim"
	"github.com/keyward/keyward/internal/pcsc"
)

// wantManagementAlgorithm wants the card to ask only who has a management key of that algorithm.
func (b *bench) wantManagementAlgorithm(t *testing.T, want byte) {
	t.Helper()
	for _, algorithm := range []byte{0x03, 0x08, 0x0a, 0x0c} {
		_, sw := ask(t, b.card, "\x00\x87"+string([]byte{algorithm})+"\x9b\x04\x7c\x02\x80\x00\x00")
		if (sw == pcsc.OK) != (algorithm == want) {
			t.Errorf("asked for algorithm %02x of the management key, the card answers %v; want it to be %02x", algorithm, sw,
				want)
		}
	}
}

// TestManagementKeyAlgorithm: a new one is for AES-192 where the card can do that.
func TestManagementKeyAlgorithm(t *testing.T) {
	const tripleDES, aes192 = 0x03, 0x0a
	for name, algorithms := range map[string]struct{ factory, set byte }{
		"5.7.1": {aes192, aes192}, "5.4.3": {tripleDES, aes192}, "5.2.7": {tripleDES, tripleDES},
	} {
		t.Run(name, func(t *testing.T) {
			b := newCard(t, firmwares[name])
			b.wantManagementAlgorithm(t, algorithms.factory)
			s := &piv.Setup{Serial: b.serial}
			must(t, s.ProtectManagementKey(piv.DefaultManagementKey(), []byte(piv.DefaultPIN)))
			b.wantManagementAlgorithm(t, algorithms.set)
		})
	}
}

// TestManagementKeyOfAnotherAlgorithm: one that somebody else set is used as the card says.
func TestManagementKeyOfAnotherAlgorithm(t *testing.T) {
	const aes128, aes192, aes256 = 0x08, 0x0a, 0x0c
	for name, firmware := range map[string]cardsim.Firmware{"5.7.1": cardsim.Firmware571, "5.4.3": cardsim.Firmware543} {
		for size, algorithm := range map[int]byte{16: aes128, 32: aes256} {
			t.Run(fmt.Sprintf("%s, %d bytes", name, size), func(t *testing.T) {
				b := newCard(t, firmware)
				key := bytes.Repeat([]byte{7}, size)
				yk, err := gopiv.Open(cardsim.ReaderName + " 00 00")
				must(t, err)
				must(t, yk.SetManagementKey(piv.DefaultManagementKey(), key))
				must(t, yk.Close())
				b.wantManagementAlgorithm(t, algorithm)
				s := &piv.Setup{Serial: b.serial, Roots: roots()}
				_, err = s.Generate(key, 0x9d, piv.PINOnce, piv.TouchNever, false)
				must(t, err)
				_, err = s.Generate(key[:8], 0x82, piv.PINOnce, piv.TouchNever, false)
				wantErr(t, "Generate with a part of the key", err, piv.ErrManagementKey)
				must(t, s.ProtectManagementKey(key, []byte(piv.DefaultPIN)))
				b.wantManagementAlgorithm(t, aes192)
			})
		}
	}
}

// TestManagementKeyIsSetLast: before, it is stored and noted, so a card that is pulled in between has the old one or
// tells the new one.
func TestManagementKeyIsSetLast(t *testing.T) {
	b := newCard(t, cardsim.Firmware543)
	changes := make(chan string, 16)
	for _, ins := range []byte{insPutData, insSetManagement, insGenerate} {
		b.card.Fail(cardsim.Fault{INS: ins, Times: -1, Do: cardsim.Lie, Ask: func(cmd *cardsim.Command) {
			change := fmt.Sprintf("%02x", cmd.INS)
			if cmd.INS == insPutData {
				change += fmt.Sprintf(" %x", cmd.Data[2:5]) // after 5c 03
			}
			changes <- change
		}})
	}
	must(t, (&piv.Setup{Serial: b.serial}).ProtectManagementKey(piv.DefaultManagementKey(), []byte(piv.DefaultPIN)))
	b.card.Heal()
	close(changes)
	var got []string
	for change := range changes {
		got = append(got, change)
	}
	want := []string{fmt.Sprintf("db %x", piv.ObjectProtected), fmt.Sprintf("db %x", piv.ObjectAdmin), "ff"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the commands that change the card (-want +got):\n%s", diff)
	}
}

// TestProtectNotesWhatIsStored: the key is stored and in use, but it is not noted.
func TestProtectNotesWhatIsStored(t *testing.T) {
	const tagAdmin = 0x80
	b := newBench(t, plain)
	s := &piv.Setup{Serial: b.serial, Roots: roots()}
	management, err := s.ManagementKey([]byte(testPIN))
	must(t, err)
	sets := b.card.Count(insSetManagement)
	for before, want := range map[string]string{"": "\x81\x01\x02", "\x81\x01\x01": "\x81\x01\x03"} {
		must(t, piv.PutObject(b.serial, management, piv.ObjectAdmin, tagAdmin, []byte(before)))
		if b.inspect(t).Stored {
			t.Fatalf("with the admin data %x the key is noted", before)
		}
		must(t, s.ProtectManagementKey(piv.DefaultManagementKey(), []byte(testPIN)))
		admin, err := piv.Object(b.serial, []byte(testPIN), piv.ObjectAdmin, tagAdmin)
		if err != nil || string(admin) != want {
			t.Errorf("the admin data %x becomes %x, %v, want %x", before, admin, err, want)
		}
	}
	if again, err := s.ManagementKey([]byte(testPIN)); err != nil || !bytes.Equal(again, management) ||
		b.card.Count(insSetManagement) != sets {
		t.Errorf("the management key was replaced (%v)", err)
	}
}

// TestProtectLosesNoField: an object that has a field beside ours is somebody else's.
func TestProtectLosesNoField(t *testing.T) {
	for name, object := range map[string]struct {
		number int
		fields string
	}{
		"printed information": {piv.ObjectProtected, "\x88\x00\x01\x04name"},
		"admin data":          {piv.ObjectAdmin, "\x80\x00\x70\x00"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newCard(t, cardsim.Firmware543)
			must(t, piv.PutFields(b.serial, piv.DefaultManagementKey(), object.number, []byte(object.fields)))
			puts := b.card.Count(insPutData)
			err := (&piv.Setup{Serial: b.serial}).ProtectManagementKey(piv.DefaultManagementKey(), []byte(piv.DefaultPIN))
			if err == nil {
				t.Fatal("ProtectManagementKey succeeds")
			}
			wantErr(t, "ProtectManagementKey", err, err, fmt.Sprintf("object %x holds something else", object.number))
			if b.card.Count(insPutData) != puts || b.card.Count(insSetManagement) != 0 {
				t.Error("the card was changed")
			}
		})
	}
}

// TestInspectWaits: another program holds the card for a moment.
func TestInspectWaits(t *testing.T) {
	const held = 200 * time.Millisecond
	b := newCard(t, cardsim.Firmware543)
	c, err := pcsc.Dial()
	must(t, err)
	card, err := c.Open(cardsim.ReaderName + " 00 00")
	must(t, err)
	released := make(chan error, 1)
	time.AfterFunc(held, func() { released <- card.Close() })
	if inv := b.inspect(t); inv.Serial != b.serial {
		t.Errorf("Inspect = %+v", inv)
	}
	must(t, <-released)
	must(t, c.Close())
	b.AwaitFree(t, 0)
}
