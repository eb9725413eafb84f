// Package piv seals session keys to a P-256 key in the PIV application of a YubiKey 5.
//
// PIV has no secp256k1, so the card can't hold a session's key. It holds a key that was generated
// in it, which its attestation proves, and session keys are encrypted to that: see package
// sealed for the files and seal.go for the encryption.
//
// # The card is shared
//
// It is opened for one operation, exclusively, and closed again with nothing verified; gpg and
// ykman can use it in between. It is found anew each time, by its serial number, and its key is
// checked before a PIN is shown, so a card that was pulled, swapped or comes back needs no care.
// Operations take turns, those of other processes too if they have the same Config.Locks.
//
// The few commands are spoken here, over package pcsc: the PIN of a signature goes from locked memory
// to the card, answers are bounded, and no failure leaves the card held. piv-go checks
// attestations, no more: it keeps PINs in strings, and a card that fails to open is held until the
// process ends (its issue 116).
//
// # Time
//
// A call of the PC/SC library can't be interrupted, so an operation may last longer than its
// context if the card hangs or waits for a touch. Run the backend with package isolated,
// which returns in time and ends the process if it has to.
package piv

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/backends/sealed"
	"github.com/keyward/keyward/internal/pcsc"
	"github.com/keyward/keyward/internal/secret"
)

// Config says which key to use, and how.
type Config struct {
	Name string // in errors and logs
	// Attestation is what [Setup.Attest] returned when the key was generated: PEM. The key, the card's
	// serial number, the slot and the policies are taken from there.
	Attestation []byte
	Roots       []byte // PEM; whom to believe an attestation. Nil: Yubico.
	// Serial, Slot and the policies, if not zero, must be the attested ones.
	Serial      uint32
	Slot        Slot
	PINPolicy   PINPolicy
	TouchPolicy TouchPolicy

	PINs     secret.PINs       // nil only if the key's PIN policy is never
	Dir      string            // of the sealed keys; see [sealed.Config]
	Locks    string            // directory of the locks of cards that other processes use too; see [pcsc.Lock]. "": none
	CacheFor time.Duration     // how long an opened key is kept in locked memory; 0: not at all
	Waiting  func(what string) // is told when a touch is waited for; "": not any more. Nil: nobody is
	Logger   *slog.Logger      // nil: nothing is logged
}

// Backend is a directory of keys that one YubiKey opens.
type Backend struct {
	*sealed.Backend
	dev *device
}

var (
	_ backends.Backend  = (*Backend)(nil)
	_ backends.Lister   = (*Backend)(nil)
	_ backends.Limited  = (*Backend)(nil)
	_ backends.Unlocker = (*Backend)(nil)
	_ backends.Prober   = (*Backend)(nil)
	_ backends.Waiter   = (*Backend)(nil)
	_ backends.Attester = (*Backend)(nil)
	_ sealed.Wrapper    = (*device)(nil)
)

// Open checks the configuration. The card need not be there.
func Open(cfg Config) (*Backend, error) {
	key, err := cfg.key()
	if err != nil {
		return nil, fmt.Errorf("piv %s: %w", cfg.Name, err)
	}
	if key.PINPolicy != PINNever && cfg.PINs == nil {
		return nil, fmt.Errorf("piv %s: the key needs a PIN, and none is configured", cfg.Name)
	}
	dev := &device{cfg: cfg, key: key, turn: make(chan struct{}, 1)}
	b, err := sealed.Open(sealed.Config{
		Name: "piv " + cfg.Name, Dir: cfg.Dir, Wrapper: dev, CacheFor: cfg.CacheFor, Logger: cfg.Logger,
	})
	if err != nil {
		return nil, err
	}
	return &Backend{b, dev}, nil
}

// key is the attested key, which has to be the configured one.
func (cfg *Config) key() (*AttestedKey, error) {
	key, err := ParseAttestation(cfg.Attestation, cfg.Roots)
	if err != nil {
		return nil, err
	}
	var wrong string
	switch {
	case cfg.Serial != 0 && cfg.Serial != key.Serial:
		wrong = fmt.Sprintf("serial %d is configured", cfg.Serial)
	case cfg.Slot != 0 && cfg.Slot != key.Slot:
		wrong = fmt.Sprintf("slot %v is configured", cfg.Slot)
	case cfg.PINPolicy != "" && cfg.PINPolicy != key.PINPolicy:
		wrong = fmt.Sprintf("PIN policy %s is configured", cfg.PINPolicy)
	case cfg.TouchPolicy != "" && cfg.TouchPolicy != key.TouchPolicy:
		wrong = fmt.Sprintf("touch policy %s is configured", cfg.TouchPolicy)
	default:
		return key, nil
	}
	return nil, fmt.Errorf("%s, but the attested key is %v; what a key is can't be changed: correct the configuration "+
		"or generate another key", wrong, key)
}

// Unlock shows the PIN to the card, once, and wipes it.
func (b *Backend) Unlock(ctx context.Context, pin []byte) error {
	d := b.dev
	if err := d.unlock(ctx, pin); err != nil {
		return d.wrap("unlocking", err)
	}
	return nil
}

// Lock forgets the PIN, and wipes keys that are kept open.
func (b *Backend) Lock(context.Context) error {
	if k, ok := b.dev.cfg.PINs.(*secret.Keeper); ok {
		k.Lock()
	}
	b.Forget()
	return nil
}

// Waiting implements [backends.Waiter].
func (b *Backend) Waiting() string { return b.dev.waitsFor() }

// Attest returns the statement on the key that all keys of this backend are sealed to.
func (b *Backend) Attest(ctx context.Context, uri string) (*backends.Attestation, error) {
	if _, err := b.Key(ctx, uri); err != nil {
		return nil, err
	}
	return &backends.Attestation{
		Chain:    b.dev.key.chain,
		Verified: true, // by Open
		Detail:   fmt.Sprintf("sealed to %v; the session's key itself was made by the agent", b.dev.key),
	}, nil
}

// device is one key of one card, wherever that is now.
type device struct {
	cfg  Config
	key  *AttestedKey
	turn chan struct{} // holds one element while the card is used
	held *pcsc.Held    // the card's lock; of who has the turn

	mu      sync.Mutex // never held over a call to the card
	waiting string
}

// wrap says which backend failed at what.
func (d *device) wrap(what string, err error) error {
	return fmt.Errorf("piv %s: %s: %w", d.cfg.Name, what, err)
}

// withCard calls f with the card, opened.
func (d *device) withCard(ctx context.Context, f func(*session) error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("%w: not begun: %w", backends.ErrUnavailable, context.Cause(ctx))
	}
	select {
	case d.turn <- struct{}{}:
	case <-ctx.Done():
		return d.unavailable(backends.Busy(fmt.Errorf("the card is busy with requests before this one%s: %w", d.because(),
			context.Cause(ctx))))
	}
	defer func() { <-d.turn }()
	return d.withCardInTurn(patience{Context: ctx, tell: d.setWaiting}, f)
}

// patience is for waiting for other processes.
type patience struct {
	context.Context                   // until it is done
	tell            func(what string) // told what a person has to do before a backend's process is done; "": nothing
	program         time.Duration     // for a program that is none of ours; see [pcsc.FreeWithin]
}

// withCardInTurn is withCard for who has the turn in this process.
func (d *device) withCardInTurn(p patience, f func(*session) error) error {
	held, err := pcsc.Lock(p, d.lock(), p.tell)
	if err != nil {
		return d.unavailable(err)
	}
	d.held = held
	defer held.Unlock()
	client, err := pcsc.Dial()
	if err != nil {
		return d.unavailable(err)
	}
	defer client.Close() // releases the card, whatever happened to it
	s, err := pcsc.FreeWithin(p.program, func() (*session, error) { return openSerial(client, d.key.Serial) })
	if err != nil {
		return d.unavailable(err)
	}
	defer s.close()
	if err := s.checkKey(d.key); err != nil {
		return d.unavailable(err)
	}
	return d.unavailable(f(s))
}

// lock is the path of the card's lock; "": it has none.
func (d *device) lock() string {
	if d.cfg.Locks == "" {
		return ""
	}
	return filepath.Join(d.cfg.Locks, fmt.Sprintf("%08d.lock", d.key.Serial))
}

// unavailable names the card, and makes errors of the card retryable. nil stays nil.
func (d *device) unavailable(err error) error {
	if err == nil {
		return nil
	}
	for _, is := range []error{
		backends.ErrUnavailable, backends.ErrRefused, backends.ErrLocked, backends.ErrPINIncorrect, backends.ErrPINFinalTry,
		sealed.ErrDamaged,
	} {
		if errors.Is(err, is) {
			return fmt.Errorf("YubiKey %d: %w", d.key.Serial, err)
		}
	}
	return fmt.Errorf("%w: YubiKey %d: %w", backends.ErrUnavailable, d.key.Serial, err)
}

// showPIN has the card verify the PIN, if the key needs that.
func (d *device) showPIN(ctx context.Context, s *session) error {
	if d.key.PINPolicy == PINNever {
		return nil
	}
	left, err := s.tries()
	if err != nil {
		return err
	}
	return d.cfg.PINs.Try(ctx, left, func(pin []byte) error {
		if string(pin) == DefaultPIN {
			return secret.NotSpent(fmt.Errorf("%w: it is the factory's, which everybody knows, so it was not tried; change "+
				"it with: ykman piv access change-pin", backends.ErrPINIncorrect))
		}
		return s.verify(pin)
	})
}

func (d *device) unlock(ctx context.Context, pin []byte) error {
	defer clear(pin)
	if k, ok := d.cfg.PINs.(*secret.Keeper); ok {
		var given *secret.Buffer
		if pin != nil {
			var err error
			if given, err = secret.Take(pin); err != nil {
				return err
			}
		}
		if err := k.Unlock(ctx, given); err != nil {
			return err
		}
	} else if pin != nil {
		return errors.New("the PIN is to be given to the parent process")
	}
	return d.withCard(ctx, func(s *session) error { return d.showPIN(ctx, s) })
}

// Status implements [sealed.Wrapper]. It waits for another process, unless that waits for a touch.
func (d *device) Status(ctx context.Context) backends.Status {
	select {
	case d.turn <- struct{}{}:
		defer func() { <-d.turn }()
	default: // so that a status never waits for a touch
		if what := d.waitsFor(); what != "" {
			return backends.Status{State: "ready", Detail: what}
		}
		return backends.Status{State: "ready", Detail: fmt.Sprintf("YubiKey %d is in use by a request", d.key.Serial)}
	}
	var left secret.Tries
	detail := d.key.String()
	waits, cancel := context.WithTimeout(ctx, pcsc.StatusPatience)
	defer cancel()
	var other string // what another backend waits for
	hear := func(what string) {
		if what != "" {
			other = what
			cancel()
		}
	}
	err := d.withCardInTurn(patience{waits, hear, pcsc.StatusInUse}, func(s *session) (err error) {
		if d.key.PINPolicy == PINNever {
			return nil
		}
		if left, err = s.tries(); err == nil {
			detail += fmt.Sprintf("; %d PIN tries left", left.Left)
		}
		return err
	})
	switch {
	case errors.Is(err, pcsc.ErrBusy) && other != "":
		return backends.Status{State: "ready", Detail: other}
	case errors.Is(err, pcsc.ErrBusy):
		return backends.Status{State: "ready", Detail: fmt.Sprintf("YubiKey %d is in use by another backend", d.key.Serial)}
	case err != nil:
		return backends.Status{State: "unavailable", Detail: d.wrap("asking the card", err).Error()}
	case d.key.PINPolicy == PINNever:
		return backends.Status{State: "ready", Detail: detail}
	case left.Left == 1:
		return backends.Status{State: "locked", Detail: d.wrap("asking the card",
			d.unavailable(fmt.Errorf("%w, then run: keyward unlock", finalTry("PIN")))).Error()}
	case left.Left == 0:
		return backends.Status{State: "locked", Detail: detail +
			"; the PIN is blocked: unblock it with the PUK, then run: keyward unlock"}
	}
	if err := d.cfg.PINs.Ready(ctx); err != nil {
		return backends.Status{State: "locked", Detail: d.wrap("YubiKey "+fmt.Sprint(d.key.Serial), err).Error()}
	}
	return backends.Status{State: "ready", Detail: detail}
}

// Close implements [sealed.Wrapper]. Nothing is open between operations.
func (d *device) Close() error { return nil }

// Concurrency: the card does one thing at a time. A few requests more are here, so that their clients are told
// when it waits for a touch.
func (b *Backend) Concurrency() int { return 4 }
