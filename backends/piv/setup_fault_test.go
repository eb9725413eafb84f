package piv_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/backends/piv"
	"github.com/keyward/keyward/internal/cardsim"
)

// TestSetupFaults makes a card misbehave at each command of each step of setting it up, less those that open
// and close it, which are the same for all. Afterwards it is free, has what it had before or what
// was asked for, and takes the step again.
func TestSetupFaults(t *testing.T) {
	s := &piv.Setup{Serial: testSerial, Roots: roots()}
	for name, step := range map[string]struct {
		run   func() error
		again func(t *testing.T)
	}{
		"ChangePIN": {
			run: func() error { return s.ChangePIN([]byte(piv.DefaultPIN), []byte(newPIN)) },
			again: func(t *testing.T) {
				err := s.ChangePIN([]byte(piv.DefaultPIN), []byte(newPIN))
				if errors.Is(err, backends.ErrPINIncorrect) { // it was changed
					err = s.ChangePIN([]byte(newPIN), []byte(testPIN))
				}
				must(t, err)
			},
		},
		"ProtectManagementKey": {
			run: func() error {
				return s.ProtectManagementKey(piv.DefaultManagementKey(), []byte(piv.DefaultPIN))
			},
			again: func(t *testing.T) {
				must(t, s.ProtectManagementKey(piv.DefaultManagementKey(), []byte(piv.DefaultPIN)))
				management, err := s.ManagementKey([]byte(piv.DefaultPIN))
				must(t, err)
				_, err = s.Generate(management, 0x82, piv.PINNever, piv.TouchNever, false)
				must(t, err)
			},
		},
		"Generate": {
			run: func() error {
				_, err := s.Generate(piv.DefaultManagementKey(), 0x9d, piv.PINOnce, piv.TouchNever, false)
				return err
			},
			again: func(t *testing.T) {
				_, err := s.Generate(piv.DefaultManagementKey(), 0x9d, piv.PINOnce, piv.TouchNever, false)
				if errors.Is(err, piv.ErrSlotInUse) { // it was generated
					_, err = s.Attest(0x9d)
					must(t, err)
					_, err = s.Generate(piv.DefaultManagementKey(), 0x9d, piv.PINOnce, piv.TouchNever, true)
				}
				must(t, err)
			},
		},
	} {
		t.Run(name, func(t *testing.T) { testSetupFaults(t, step.run, step.again) })
	}
}

func testSetupFaults(t *testing.T, run func() error, again func(*testing.T)) {
	b := newCard(t, cardsim.Firmware543)
	must(t, run())
	const opening, closing = 3, 1 // SELECT, the version, the serial number; SELECT
	commands := b.card.Log()
	for i, command := range commands {
		if i < opening || i >= len(commands)-closing {
			continue
		}
		skip := 0
		for _, before := range commands[:i] {
			if before.INS == command.INS {
				skip++
			}
		}
		for name, do := range map[string]cardsim.FaultKind{
			"garbage": cardsim.Garbage, "unplugged": cardsim.UnplugDuring,
		} {
			when := fmt.Sprintf("%s at command %d, %02x", name, i, command.INS)
			b.card.FactoryReset()
			b.card.Fail(cardsim.Fault{INS: command.INS, Skip: skip, Do: do})
			err := run()
			b.card.Heal()
			if do == cardsim.UnplugDuring {
				if err == nil {
					t.Errorf("%s: it succeeds", when)
				}
				b.AwaitEmpty(t, 0)
				b.Insert(t, 0, b.card)
			}
			b.wantClean(t, when)
			again(t)
			b.wantClean(t, when+", and again")
			if t.Failed() {
				t.Fatalf("%s: the error was %v", when, err)
			}
		}
	}
}
