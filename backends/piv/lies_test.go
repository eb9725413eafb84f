package piv_test

import (
	"crypto/ecdh"
	"crypto/rand"
	"testing"

	"github.com/keyward/keyward/backends/piv"
	"github.com/keyward/keyward/internal/cardsim"
	"github.com/keyward/keyward/internal/pcsc"
)

const (
	insGetData = 0xcb
	insAttest  = 0xf9
)

// ask sends a command to the card's PIV application, not by way of pcscd.
func ask(t *testing.T, card *cardsim.Card, apdu string) (data []byte, sw pcsc.Status) {
	t.Helper()
	const selectPIV = "\x00\xa4\x04\x00\x05\xa0\x00\x00\x03\x08"
	var answer []byte
	for _, command := range []string{selectPIV, apdu} {
		if answer, _ = card.Transmit(t.Context(), []byte(command)); len(answer) < 2 {
			t.Fatalf("the answer to %x is %x", command, answer)
		}
	}
	n := len(answer) - 2
	return answer[:n], pcsc.Status(answer[n])<<8 | pcsc.Status(answer[n+1])
}

// TestAnotherKeyIsAttested: what the card says that it generated, what it was to generate and what it attests
// have to be the same key.
func TestAnotherKeyIsAttested(t *testing.T) {
	b := newCard(t, cardsim.Firmware543)
	s := &piv.Setup{Serial: b.serial, Roots: roots()}
	generate := func() error {
		_, err := s.Generate(piv.DefaultManagementKey(), 0x9d, piv.PINAlways, piv.TouchAlways, true)
		return err
	}
	another, err := ecdh.P256().GenerateKey(rand.Reader)
	must(t, err)
	const pinAt, touchAt, never = 7, 10, 1 // ac 09 80 01 11 aa 01 PIN ab 01 TOUCH
	for name, lie := range map[string]cardsim.Fault{
		"another public key": {Answer: func(data []byte) []byte {
			point := another.PublicKey().Bytes()
			return append(data[:len(data)-len(point)], point...)
		}},
		"another PIN policy":   {Ask: func(cmd *cardsim.Command) { cmd.Data[pinAt] = never }},
		"another touch policy": {Ask: func(cmd *cardsim.Command) { cmd.Data[touchAt] = never }},
	} {
		lie.INS, lie.Do = insGenerate, cardsim.Lie
		b.card.Fail(lie)
		wantErr(t, name, generate(), piv.ErrNotAttested, "the card attests")
		must(t, generate())
	}
	b.wantClean(t, "what is not attested")
}

// TestAnotherPlaceIsAttested: a statement that leads to the roots has to be about that slot of that card.
func TestAnotherPlaceIsAttested(t *testing.T) {
	const serial = 99
	b := newCard(t, cardsim.Firmware543)
	other := cardsim.NewYubiKey(cardsim.Firmware543, serial)
	b.Insert(t, 1, other)
	s := &piv.Setup{Serial: b.serial, Roots: roots()}
	for _, key := range []struct {
		serial uint32
		slot   piv.Slot
	}{{b.serial, 0x9d}, {b.serial, 0x82}, {serial, 0x9d}} {
		_, err := (&piv.Setup{Serial: key.serial, Roots: roots()}).Generate(piv.DefaultManagementKey(), key.slot, piv.PINOnce,
			piv.TouchNever, false)
		must(t, err)
	}
	byOther := func(apdu string) func([]byte) []byte {
		return func([]byte) []byte {
			data, sw := ask(t, other, apdu)
			if sw != pcsc.OK {
				t.Errorf("the other card answers %v to %x", sw, apdu)
			}
			return data
		}
	}
	const ( // both with extended lengths, so that the answer comes in one piece
		attest      = "\x00\xf9\x9d\x00\x00\x00\x00"
		certificate = "\x00\xcb\x3f\xff\x00\x00\x05\x5c\x03\x5f\xff\x01\x00\x00"
	)
	for name, tc := range map[string]struct {
		lies []cardsim.Fault
		says string
	}{
		"another slot": {
			[]cardsim.Fault{{INS: insAttest, Ask: func(cmd *cardsim.Command) { cmd.P1 = 0x82 }}},
			"slot 82 of YubiKey 12345678",
		},
		"another card": {
			[]cardsim.Fault{{INS: insAttest, Answer: byOther(attest)}, {INS: insGetData, Answer: byOther(certificate)}},
			"slot 9d of YubiKey 99",
		},
	} {
		for what, step := range map[string]struct {
			call func() error
			read int // how many objects are read before the attestation's certificate
		}{
			"Attest": {func() error { _, err := s.Attest(0x9d); return err }, 0},
			// Generate reads the certificate also before it generates, to find out whether it would be believed.
			"Generate": {func() error {
				_, err := s.Generate(piv.DefaultManagementKey(), 0x9d, piv.PINOnce, piv.TouchNever, true)
				return err
			}, 1},
		} {
			for _, lie := range tc.lies {
				lie.Do = cardsim.Lie
				if lie.INS == insGetData {
					lie.Skip = step.read
				}
				b.card.Fail(lie)
			}
			err := step.call()
			if err == nil {
				t.Errorf("%s of %s succeeds", what, name)
				continue
			}
			wantErr(t, what+" of "+name, err, err, "the card attests", tc.says, "instead of slot 9d")
			must(t, step.call())
		}
	}
	b.wantClean(t, "what is not attested")
}

// TestCardWithoutTheManagementKey: a card that takes the management key without having it is somebody else's, and
// gets no other key.
func TestCardWithoutTheManagementKey(t *testing.T) {
	for name, firmware := range firmwares {
		t.Run(name, func(t *testing.T) {
			b := newCard(t, firmware)
			s := &piv.Setup{Serial: b.serial, Roots: roots()}
			for what, step := range map[string]func() error{
				"Generate": func() error {
					_, err := s.Generate(piv.DefaultManagementKey(), 0x9d, piv.PINOnce, piv.TouchNever, false)
					return err
				},
				"ProtectManagementKey": func() error {
					return s.ProtectManagementKey(piv.DefaultManagementKey(), []byte(piv.DefaultPIN))
				},
			} {
				for where, wrong := range map[string]func(response []byte){
					"first byte": func(r []byte) { r[0] ^= 1 },
					"last byte":  func(r []byte) { r[len(r)-1] ^= 1 },
					"all":        func(r []byte) { clear(r) },
				} {
					const head = 4 // 7c, length, 82, length
					b.card.Fail(cardsim.Fault{INS: insAuthenticate, Skip: 1, Do: cardsim.Lie, Answer: func(data []byte) []byte {
						wrong(data[head:])
						return data
					}})
					wantErr(t, what+" with a wrong response: "+where, step(), pcsc.ErrGarbled, "does not have the management key")
				}
			}
			if n := b.card.Count(insGenerate) + b.card.Count(insPutData) + b.card.Count(insSetManagement); n != 0 {
				t.Errorf("%d keys were generated, stored or set", n)
			}
			b.wantClean(t, "a wrong response")
			must(t, s.ProtectManagementKey(piv.DefaultManagementKey(), []byte(piv.DefaultPIN)))
		})
	}
}

// TestNothingToAttest: a card that does not describe its slots says in one of several ways that there is no key.
// Any other refusal may hide one.
func TestNothingToAttest(t *testing.T) {
	b := newCard(t, cardsim.Firmware{5, 2, 7})
	s := &piv.Setup{Serial: b.serial, Roots: roots()}
	for _, sw := range []uint16{cardsim.SWWrongData, cardsim.SWFileNotFound, cardsim.SWReferenceNotFound} {
		b.card.Fail(cardsim.Fault{INS: insAttest, Do: cardsim.Status, SW: sw})
		if err := s.CheckEmpty(0x9d); err != nil {
			t.Errorf("CheckEmpty when the card answers %04x = %v", sw, err)
		}
	}
	for _, sw := range []uint16{cardsim.SWNotSatisfied, cardsim.SWConditions, cardsim.SWInternal, cardsim.SWUnknownINS} {
		b.card.Fail(cardsim.Fault{INS: insAttest, Do: cardsim.Status, SW: sw})
		_, err := s.Generate(piv.DefaultManagementKey(), 0x9d, piv.PINOnce, piv.TouchNever, false)
		if err == nil {
			t.Errorf("Generate when the card answers %04x succeeds", sw)
			continue
		}
		wantErr(t, "Generate", err, err, "whether slot 9d has a key")
	}
	if n := b.card.Count(insGenerate); n != 0 {
		t.Errorf("%d keys were generated", n)
	}
}
