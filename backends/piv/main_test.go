package piv_test

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/backends/isolated"
	"github.com/keyward/keyward/backends/piv"
	"github.com/keyward/keyward/internal/cardsim"
	"github.com/keyward/keyward/internal/secret"
)

const (
	testSerial = 12345678
	testPIN    = "271828"
	testPUK    = "31415926"
)

// TestMain is also the child process of package isolated.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == isolated.Arg {
		if err := isolated.Serve(map[string]isolated.Opener{"piv": openChild}); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

type childSettings struct {
	Attestation, Roots []byte
	Dir                string
	CacheFor           time.Duration
}

func openChild(_ context.Context, name string, settings json.RawMessage, env *isolated.Env) (backends.Backend, error) {
	var s childSettings
	if err := isolated.Decode(settings, &s); err != nil {
		return nil, err
	}
	return piv.Open(piv.Config{
		Name: name, Attestation: s.Attestation, Roots: s.Roots, Dir: s.Dir, CacheFor: s.CacheFor,
		PINs: env.PINs, Waiting: env.Waiting, Logger: env.Logger,
	})
}

// roots is the simulator's root in PEM.
func roots() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cardsim.AttestationRoot().Raw})
}

// bench is a pcscd with a set-up YubiKey in its first reader.
type bench struct {
	*cardsim.PCSCD
	card        *cardsim.Card
	serial      uint32
	attestation []byte
	dir         string
	locks       string // see piv.Config
}

// key says how the bench's key is made.
type key struct {
	firmware cardsim.Firmware
	pin      piv.PINPolicy
	touch    piv.TouchPolicy
}

var plain = key{cardsim.Firmware543, piv.PINOnce, piv.TouchNever}

// newCard is a bench with a card as it leaves the factory.
func newCard(t *testing.T, firmware cardsim.Firmware) *bench {
	t.Helper()
	b := &bench{PCSCD: cardsim.StartPCSCD(t), serial: testSerial, dir: t.TempDir()}
	b.card = cardsim.NewYubiKey(firmware, b.serial)
	b.Insert(t, 0, b.card)
	return b
}

func newBench(t *testing.T, k key) *bench {
	t.Helper()
	b := newCard(t, k.firmware)
	b.attestation = setUp(t, b.serial, k)
	return b
}

// setUp makes a card that is new ready for use, and returns the attestation of its key.
func setUp(t *testing.T, serial uint32, k key) []byte {
	t.Helper()
	s := &piv.Setup{Serial: serial, Roots: roots()}
	must(t, s.ChangePUK([]byte(piv.DefaultPUK), []byte(testPUK)))
	must(t, s.ChangePIN([]byte(piv.DefaultPIN), []byte(testPIN)))
	must(t, s.ProtectManagementKey(piv.DefaultManagementKey(), []byte(testPIN)))
	management, err := s.ManagementKey([]byte(testPIN))
	must(t, err)
	generated, err := s.Generate(management, 0x9d, k.pin, k.touch, false)
	must(t, err)
	return generated.MarshalPEM()
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func source(pin string) secret.Source {
	return func(context.Context) (*secret.Buffer, error) { return secret.Take([]byte(pin)) }
}

// open opens the backend in this process.
func (b *bench) open(t *testing.T, pins secret.PINs) *piv.Backend {
	t.Helper()
	p, err := piv.Open(piv.Config{
		Name: "test", Attestation: b.attestation, Roots: roots(), Dir: b.dir, Locks: b.locks, PINs: pins,
		Logger: slog.New(slog.NewTextHandler(t.Output(), nil)),
	})
	must(t, err)
	t.Cleanup(func() { must(t, p.Close()) })
	return p
}

// isolate opens the backend in a child process.
func (b *bench) isolate(t *testing.T, keeper *secret.Keeper, cfg isolated.Config) backends.Backend {
	t.Helper()
	cfg.Name, cfg.Type, cfg.PINs = "test", "piv", keeper
	cfg.Settings = childSettings{Attestation: b.attestation, Roots: roots(), Dir: b.dir}
	if cfg.Timeout == 0 {
		cfg.Timeout = time.Minute
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.NewTextHandler(t.Output(), nil))
	}
	p, err := isolated.Open(t.Context(), cfg)
	must(t, err)
	t.Cleanup(func() {
		if err := p.Close(); err != nil && !errors.Is(err, backends.ErrUnavailable) {
			t.Errorf("Close: %v", err)
		}
	})
	return p
}

// shown is how often the card was shown a PIN since mark.
func (b *bench) shown(mark int) int { return len(b.card.PINTries()) - mark }

// wantErr wants err to be want and to say each of the texts.
func wantErr(t *testing.T, what string, err, want error, texts ...string) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s = %v, want %v", what, err, want)
		return
	}
	for _, text := range texts {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("%s = %v, want it to say %q", what, err, text)
		}
	}
	if bytes.Contains([]byte(err.Error()), []byte(testPIN)) {
		t.Errorf("%s has the PIN: %v", what, err)
	}
}
