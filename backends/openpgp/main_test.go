package openpgp_test

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/backends/backendtest"
	"github.com/keyward/keyward/backends/openpgp"
	"github.com/keyward/keyward/internal/cardsim"
	"github.com/keyward/keyward/internal/secret"
)

// pcscd is the one of all tests of the process: libpcsclite remembers its socket.
var pcscd *cardsim.PCSCD

func TestMain(m *testing.M) {
	code, err := withPCSCD(m.Run)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(code)
}

func withPCSCD(run func() int) (code int, err error) {
	dir, err := os.MkdirTemp("", "keyward-openpgp-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	if pcscd, err = cardsim.Start(dir); err != nil {
		return 0, err
	}
	defer pcscd.Stop()
	if err := os.Setenv(cardsim.SocketEnv, pcscd.Socket); err != nil {
		return 0, err
	}
	return run(), nil
}

const (
	serial   = 12345678
	userPIN  = "472911"
	adminPIN = "83920175"
)

// card is a card in a reader.
type card struct {
	*cardsim.Card
	app *cardsim.OpenPGP
	cfg cardsim.OpenPGPConfig
}

// newCard makes a card whose PINs are not the factory's.
func newCard(cfg cardsim.OpenPGPConfig) card {
	given := cfg
	if cfg.Serial == 0 {
		cfg.Serial = serial
	}
	app := cardsim.NewOpenPGP(cfg)
	app.SetPINs(userPIN, adminPIN)
	return card{cardsim.NewCard(app), app, given}
}

// stays is the card that given left in reader 0 for the next test; nil: none.
var stays *card

// given is a card as good as new, which is in reader 0 already if the test before had one of its kind:
// to plug one in takes pcscd most of a second.
func given(t *testing.T, cfg cardsim.OpenPGPConfig) card {
	t.Helper()
	if stays == nil || stays.cfg != cfg {
		c := insert(t, cfg)
		stays = &c
	}
	stays.Heal()
	stays.SetTouchTimeout(time.Minute)
	stays.app.FactoryReset()
	stays.app.SetPINs(userPIN, adminPIN)
	return *stays
}

// insert plugs a new card into reader 0, instead of the one that may be there.
func insert(t *testing.T, cfg cardsim.OpenPGPConfig) card {
	t.Helper()
	unplug(t, 0)
	stays = nil
	c := newCard(cfg)
	pcscd.Insert(t, 0, c.Card)
	return c
}

// unplug takes a card out, and waits until pcscd saw that.
func unplug(t *testing.T, reader int) {
	t.Helper()
	pcscd.Remove(reader)
	pcscd.AwaitEmpty(t, reader)
}

// fixed is a source that always gives pin.
func fixed(pin string) secret.Source {
	return func(context.Context) (*secret.Buffer, error) { return secret.Take([]byte(pin)) }
}

// config is for the card with the usual serial and PINs.
func config() openpgp.Config {
	return openpgp.Config{
		Name: "yubi", Serial: fmt.Sprint(serial), Timeout: time.Minute,
		PIN:      secret.NewKeeper(fixed(userPIN), secret.UntilLock),
		AdminPIN: secret.NewKeeper(fixed(adminPIN), secret.UntilLock),
	}
}

// open opens a backend; it is closed when the test ends.
func open(t *testing.T, cfg openpgp.Config) *openpgp.Backend {
	t.Helper()
	b, err := openpgp.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return b
}

// CheckBackend holds YubiKeys, and cards that differ from them where the specification leaves it
// open, to the contract.
func TestBackend(t *testing.T) {
	for name, cfg := range map[string]cardsim.OpenPGPConfig{
		"YubiKey": {},
		"Other":   {Generic: true, Sticky: true},
	} {
		t.Run(name, func(t *testing.T) {
			c := given(t, cfg)
			backendtest.Run(t, backendtest.Options{Keys: 2}, func(t *testing.T) backends.Backend {
				c.app.FactoryReset()
				c.app.SetPINs(userPIN, adminPIN)
				return open(t, config())
			})
		})
	}
}
