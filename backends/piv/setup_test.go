package piv_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"testing"

	gopiv "github.com/go-piv/piv-go/v2/piv"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/backends/piv"
	"github.com/keyward/keyward/internal/cardsim"
	"github.com/keyward/keyward/internal/pcsc"
)

const (
	insChange   = 0x24
	insUnblock  = 0x2c
	insPutData  = 0xdb
	insGenerate = 0x47
	newPIN      = "161803"
)

// raw sends commands to the card in the first reader as another program would, and returns the last
// status word.
func (b *bench) raw(t *testing.T, cmds ...pcsc.Command) (sw pcsc.Status) {
	t.Helper()
	c, err := pcsc.Dial()
	must(t, err)
	defer c.Close()
	card, err := c.Open(cardsim.ReaderName + " 00 00")
	must(t, err)
	defer card.Close()
	for _, cmd := range append([]pcsc.Command{{INS: 0xa4, P1: 0x04, Data: []byte{0xa0, 0, 0, 3, 8}}}, cmds...) {
		_, sw, err = card.Do(cmd)
		must(t, err)
	}
	return sw
}

// wantClean wants the card to be free, and neither a PIN nor the management key to be verified.
func (b *bench) wantClean(t *testing.T, after string) {
	t.Helper()
	b.AwaitFree(t, 0)
	if sw := b.askVerified(t); sw == pcsc.OK {
		t.Errorf("after %s the PIN is still verified", after)
	}
	if sw := b.raw(t, pcsc.Command{INS: insPutData, P1: 0x3f, P2: 0xff,
		Data: []byte("\x5c\x03\x5f\xc1\x02\x53\x00")}); sw != 0x6982 {
		t.Errorf("after %s the management key is still verified: %v", after, sw)
	}
}

func (b *bench) inspect(t *testing.T) *piv.Inventory {
	t.Helper()
	mark := b.shown(0)
	inv, err := piv.Inspect(b.serial)
	must(t, err)
	if n := b.shown(mark); n != 0 {
		t.Errorf("Inspect showed %d PINs", n)
	}
	return inv
}

func TestInspect(t *testing.T) {
	ours := []piv.SlotKey{{Slot: 0x9d, Algorithm: "P-256", PIN: piv.PINAlways, Touch: piv.TouchCached, Generated: true}}
	described := cmpopts.IgnoreUnexported(piv.SlotKey{})
	for name, firmware := range firmwares {
		t.Run(name, func(t *testing.T) {
			b := newCard(t, firmware)
			card := piv.Card{Reader: cardsim.ReaderName + " 00 00", Serial: testSerial, Firmware: name}
			want := &piv.Inventory{Card: card}
			if name != "5.2.7" {
				tries := piv.Reference{Default: true, Left: 3, Full: 3}
				want = &piv.Inventory{Card: card, Described: true, PIN: tries, PUK: tries,
					ManagementKey: piv.Reference{Default: true}}
			}
			if diff := cmp.Diff(want, b.inspect(t), described); diff != "" {
				t.Errorf("a new card (-want +got):\n%s", diff)
			}
			setUp(t, b.serial, key{firmware, piv.PINAlways, piv.TouchCached})
			b.wantClean(t, "setting up")
			if want.Described {
				tries := piv.Reference{Left: 3, Full: 3}
				want.PIN, want.PUK, want.ManagementKey, want.Stored, want.Slots = tries, tries, piv.Reference{}, true, ours
			}
			if diff := cmp.Diff(want, b.inspect(t), described); diff != "" {
				t.Errorf("a card that was set up (-want +got):\n%s", diff)
			}
			if name != "5.2.7" {
				wantErr(t, "ChangePIN", (&piv.Setup{Serial: b.serial}).ChangePIN([]byte("000000"), []byte(newPIN)),
					backends.ErrPINIncorrect)
				want.PIN.Left = 2
			}
			if diff := cmp.Diff(want, b.inspect(t), described); diff != "" {
				t.Errorf("after a wrong PIN (-want +got):\n%s", diff)
			}
		})
	}
}

// TestInspectOddCard: what a card does not have, refuses or garbles hides nothing else.
func TestInspectOddCard(t *testing.T) {
	b := newBench(t, key{cardsim.Firmware543, piv.PINOnce, piv.TouchNever})
	const getMetadata, getData = 0xf7, 0xcb
	// the PUK: a YubiKey Bio has none
	b.card.Fail(cardsim.Fault{INS: getMetadata, Skip: 1, Do: cardsim.Status, SW: 0x6a88})
	b.card.Fail(cardsim.Fault{INS: getMetadata, Skip: 1, Do: cardsim.Status, SW: 0x6f00}) // slot 9a
	b.card.Fail(cardsim.Fault{INS: getMetadata, Do: cardsim.Short})                       // slot 9c: nothing, as a success
	b.card.Fail(cardsim.Fault{INS: getData, Do: cardsim.Status, SW: 0x6a82})              // the admin data
	inv := b.inspect(t)
	if !inv.PUK.Absent || inv.PIN.Left != 3 || inv.Stored || len(inv.Slots) != 1 || inv.Slots[0].Slot != 0x9d {
		t.Errorf("Inspect = %+v, want no PUK, and all the rest", inv)
	}
	if odd := inv.Unreadable; len(odd) != 2 || !strings.Contains(odd[0], "slot 9a: ") ||
		!strings.Contains(odd[0], "6F00") || !strings.Contains(odd[1], "slot 9c: ") {
		t.Errorf("Unreadable = %q, want slots 9a and 9c", odd)
	}
	// PIV is switched off over USB.
	b.card.Heal()
	b.card.Fail(cardsim.Fault{INS: 0xa4, Do: cardsim.Status, SW: 0x6a82})
	cards, err := piv.Cards()
	if err != nil || len(cards) != 1 || cards[0].Err == nil ||
		!strings.Contains(cards[0].Err.Error(), "ykman config usb --enable PIV") {
		t.Errorf("Cards = %+v, %v, want what to do about PIV", cards, err)
	}
	// The attestation certificate is not there.
	b.card.Heal()
	b.card.Fail(cardsim.Fault{INS: getData, Do: cardsim.Status, SW: 0x6a82})
	s := &piv.Setup{Serial: b.serial, Roots: roots()}
	wantErr(t, "CheckRoots", s.CheckRoots(), backends.ErrRefused, "no attestation certificate")
	// The key is on another curve.
	b.card.Heal()
	b.card.Fail(cardsim.Fault{INS: getMetadata, Do: cardsim.Lie, Answer: func(data []byte) []byte {
		return bytes.Replace(data, []byte{0x01, 0x01, 0x11}, []byte{0x01, 0x01, 0x14}, 1)
	}})
	wantErr(t, "CheckEmpty of a slot with a P-384 key", s.CheckEmpty(0x9d), piv.ErrOtherKey, "P-384")
}

// TestSlotKeyIs tells the key that was attested from the one that it was overwritten with.
func TestSlotKeyIs(t *testing.T) {
	b := newBench(t, plain)
	s := &piv.Setup{Serial: b.serial, Roots: roots()}
	attested, err := s.Attest(0x9d)
	must(t, err)
	if slots := b.inspect(t).Slots; !slots[0].Is(attested.Public) {
		t.Errorf("%+v is not the key that was attested", slots[0])
	}
	management, err := s.ManagementKey([]byte(testPIN))
	must(t, err)
	_, err = s.Generate(management, 0x9d, attested.PINPolicy, attested.TouchPolicy, true)
	must(t, err)
	if slots := b.inspect(t).Slots; slots[0].Is(attested.Public) {
		t.Errorf("%+v is another key, and passes for the one that was attested", slots[0])
	}
}

func TestCards(t *testing.T) {
	b := newCard(t, cardsim.Firmware543)
	reader := func(i int) string { return fmt.Sprintf("%s 00 %02d", cardsim.ReaderName, i) }
	first := piv.Card{Reader: reader(0), Serial: testSerial, Firmware: "5.4.3"}
	second := piv.Card{Reader: reader(1), Serial: 99, Firmware: "5.7.1"}
	wantCards := func(when string, want ...piv.Card) {
		t.Helper()
		cards, err := piv.Cards()
		must(t, err)
		if diff := cmp.Diff(want, cards, cmp.Comparer(func(a, b error) bool {
			return errors.Is(a, b) ||
				errors.Is(b, a)
		})); diff != "" {
			t.Errorf("%s (-want +got):\n%s", when, diff)
		}
	}
	wantCards("an empty reader", first)
	b.Insert(t, 1, cardsim.NewYubiKey(cardsim.Firmware571, 99))
	wantCards("two cards", first, second)

	c, err := pcsc.Dial()
	must(t, err)
	_, err = c.Open(reader(1))
	must(t, err)
	wantCards("one is in use", first, piv.Card{Reader: reader(1), Err: pcsc.ErrInUse})
	must(t, c.Close())
	b.AwaitFree(t, 1)
	wantCards("it is free again", first, second)
	if n := len(b.card.PINTries()); n != 0 {
		t.Errorf("the card was shown %d PINs", n)
	}

	b.Remove(1)
	b.AwaitEmpty(t, 1)
	b.Insert(t, 1, cardsim.NewCard(cardsim.NewOpenPGP(cardsim.OpenPGPConfig{Serial: 99})))
	cards, err := piv.Cards()
	must(t, err)
	if len(cards) != 2 || cards[1].Serial != 0 || cards[1].Err == nil ||
		!strings.Contains(cards[1].Err.Error(), "selecting PIV") {
		t.Errorf("with an OpenPGP card: %+v", cards)
	}
	b.AwaitFree(t, 1)
	if _, err := piv.Inspect(99); err == nil || !strings.Contains(err.Error(), "YubiKey 99") {
		t.Errorf("Inspect of a card that is not there = %v", err)
	}

	b.Remove(0)
	b.Remove(1)
	b.AwaitEmpty(t, 0)
	b.AwaitEmpty(t, 1)
	wantCards("no card")
	b.Kill()
	_, err = piv.Cards()
	wantErr(t, "Cards", err, pcsc.ErrNoService)
}

// TestSlotInUse: a key is lost only if that is asked for.
func TestSlotInUse(t *testing.T) {
	for name, firmware := range firmwares {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, key{firmware, piv.PINOnce, piv.TouchNever})
			s := &piv.Setup{Serial: b.serial, Roots: roots()}
			management, err := s.ManagementKey([]byte(testPIN))
			must(t, err)
			first, err := s.Attest(0x9d)
			must(t, err)
			_, err = s.Generate(management, 0x9d, piv.PINOnce, piv.TouchNever, false)
			wantErr(t, "Generate", err, piv.ErrSlotInUse, "slot 9d")
			kept, err := s.Attest(0x9d)
			must(t, err)
			if !kept.Public.Equal(first.Public) {
				t.Error("the key was replaced")
			}
			b.wantClean(t, "ErrSlotInUse")
			second, err := s.Generate(management, 0x9d, piv.PINAlways, piv.TouchCached, true)
			must(t, err)
			if second.Public.Equal(first.Public) || second.PINPolicy != piv.PINAlways || second.TouchPolicy != piv.TouchCached {
				t.Errorf("replacing it gave %v", second)
			}
			_, err = s.Generate(management, 0x82, piv.PINOnce, piv.TouchNever, false)
			must(t, err)
			b.wantClean(t, "Generate")
		})
	}
}

// TestImportedKeyIsInUse: the card can't attest it, but it is there.
func TestImportedKeyIsInUse(t *testing.T) {
	b := newCard(t, cardsim.Firmware543)
	imported, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	yk, err := gopiv.Open(cardsim.ReaderName + " 00 00")
	must(t, err)
	must(t, yk.SetPrivateKeyInsecure(piv.DefaultManagementKey(), gopiv.SlotKeyManagement, imported, gopiv.Key{
		PINPolicy: gopiv.PINPolicyOnce, TouchPolicy: gopiv.TouchPolicyNever,
	}))
	must(t, yk.Close())
	if slots := b.inspect(t).Slots; len(slots) != 1 || slots[0].Generated {
		t.Errorf("Inspect finds %+v, want an imported key", slots)
	}
	s := &piv.Setup{Serial: b.serial, Roots: roots()}
	_, err = s.Generate(piv.DefaultManagementKey(), 0x9d, piv.PINOnce, piv.TouchNever, false)
	wantErr(t, "Generate", err, piv.ErrSlotInUse)
	if _, err := s.Attest(0x9d); err == nil {
		t.Error("Attest of an imported key succeeds")
	}
}

// TestWrongManagementKey: it is said so, and costs no try of anything.
func TestWrongManagementKey(t *testing.T) {
	wrong := map[string][]byte{"another": make([]byte, 24), "short": make([]byte, 16), "none": nil}
	for name, firmware := range firmwares {
		t.Run(name, func(t *testing.T) {
			b := newCard(t, firmware)
			s := &piv.Setup{Serial: b.serial, Roots: roots()}
			for name, management := range wrong {
				_, err := s.Generate(management, 0x9d, piv.PINOnce, piv.TouchNever, false)
				wantErr(t, "Generate with "+name, err, piv.ErrManagementKey)
				err = s.ProtectManagementKey(management, []byte(piv.DefaultPIN))
				wantErr(t, "ProtectManagementKey with "+name, err, piv.ErrManagementKey)
				b.wantClean(t, "a wrong management key")
			}
			for _, try := range b.card.PINTries() {
				if try.SW != cardsim.SWOK {
					t.Errorf("a PIN was refused: %+v", try)
				}
			}
			if sw := b.askVerified(t); sw != 0x63c3 {
				t.Errorf("the PIN has tries of %v, want 63C3", sw)
			}
			if _, err := s.ManagementKey([]byte(piv.DefaultPIN)); err == nil {
				t.Error("a management key is stored")
			}
			if n := b.card.Count(insGenerate) + b.card.Count(insSetManagement); n != 0 {
				t.Errorf("%d keys were made or set", n)
			}
			must(t, s.ProtectManagementKey(piv.DefaultManagementKey(), []byte(piv.DefaultPIN)))
		})
	}
}

// TestForeignRoot: a card whose attestations would not be believed is not changed, and neither are they.
func TestForeignRoot(t *testing.T) {
	b := newCard(t, cardsim.Firmware543)
	ours := &piv.Setup{Serial: b.serial, Roots: roots()}
	must(t, ours.CheckRoots())
	made, err := ours.Generate(piv.DefaultManagementKey(), 0x9d, piv.PINOnce, piv.TouchNever, false)
	must(t, err)
	for name, foreign := range map[string][]byte{"Yubico's": nil, "none": {}, "no PEM": []byte("x")} {
		s := &piv.Setup{Serial: b.serial, Roots: foreign}
		if err := s.CheckRoots(); err == nil {
			t.Errorf("%s: CheckRoots accepts the card", name)
		}
		if _, err := s.Generate(piv.DefaultManagementKey(), 0x9d, piv.PINOnce, piv.TouchNever, true); err == nil {
			t.Errorf("%s: Generate accepts the card", name)
		}
		b.wantClean(t, "a refused attestation")
		if _, err := s.Attest(0x9d); err == nil {
			t.Errorf("%s: Attest accepts it", name)
		}
	}
	if kept, err := ours.Attest(0x9d); err != nil || !kept.Public.Equal(made.Public) {
		t.Errorf("the key that was there is gone: %v, %v", kept, err)
	}
}

// TestChangedManagementKeyIsNotStored: what ykman leaves stored when it changes the key without the PIN is not the key.
func TestChangedManagementKeyIsNotStored(t *testing.T) {
	b := newCard(t, cardsim.Firmware571)
	s := &piv.Setup{Serial: b.serial, Roots: roots()}
	must(t, s.ProtectManagementKey(piv.DefaultManagementKey(), []byte(piv.DefaultPIN)))
	stored, err := s.ManagementKey([]byte(piv.DefaultPIN))
	must(t, err)
	must(t, s.CheckManagementKey(stored))
	other := bytes.Repeat([]byte{7}, 24)
	yk, err := gopiv.Open(cardsim.ReaderName + " 00 00")
	must(t, err)
	must(t, yk.SetManagementKey(stored, other))
	must(t, yk.Close())
	_, err = s.ManagementKey([]byte(piv.DefaultPIN))
	wantErr(t, "ManagementKey", err, piv.ErrNotStored)
	wantErr(t, "CheckManagementKey", s.CheckManagementKey(stored), piv.ErrManagementKey)
	must(t, s.CheckManagementKey(other))
}

func TestValidPIN(t *testing.T) {
	for pin, says := range map[string]string{
		"271828": "", "aB3-~!xy": "", "12345": "5 characters", "123456789": "9 characters", "123456": "factory",
		"12345678": "factory",
		"271828\r": "line ends of Windows", "2718 28": "ASCII", "271828\xff": "ASCII", "27182ä": "ASCII",
	} {
		if err := piv.ValidPIN("PIN", []byte(pin)); says == "" && err != nil || says != "" &&
			(err == nil || !strings.Contains(err.Error(), says)) {
			t.Errorf("ValidPIN(%q) = %v, want %q", pin, err, says)
		}
	}
}

// TestRefusedPIN: from firmware 5.7 on, a card has rules of its own.
func TestRefusedPIN(t *testing.T) {
	b := newCard(t, cardsim.Firmware571)
	b.card.Fail(cardsim.Fault{INS: 0x24, Do: cardsim.Status, SW: 0x6985})
	err := (&piv.Setup{Serial: b.serial}).ChangePIN([]byte(piv.DefaultPIN), []byte(newPIN))
	for _, says := range []string{"the card's own rules refuse the new one",
		"the card wants 8 characters, as a YubiKey FIPS does"} {
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("ChangePIN = %v, want %q in it", err, says)
		}
	}
}
