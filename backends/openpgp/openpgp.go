// Package openpgp keeps secp256k1 keys in the OpenPGP application of a card (Functional
// Specification of the OpenPGP application 3.4), such as a YubiKey from firmware 5.2.3.
//
// # Keys
//
// A card holds two keys that can sign what they are given: the signature key and the
// authentication key. Each is generated on the card and never leaves it. A key that Keyward did not
// make is never touched; see [usage] for how they are told apart.
//
// # One operation at a time
//
// The card is opened for each operation, exclusively, and closed again, so that gpg can use it
// in between. Operations of processes with the same Config.Locks take turns. Closing resets it: no PIN stays verified.
// Nothing else is kept of a card, so one that was plugged in again, or a daemon that was started again, needs no
// attention. The public key is read from the card and compared before each signature, which is verified after.
//
// A call into the card can't be interrupted. It is made by a goroutine, one at a time; who waits
// for it leaves when its context is done. As long as a card hangs, every operation ends
// at its deadline with [backends.ErrUnavailable]; pulling the card ends it. Run the
// backend in a child process to have a hang ended without a hand.
//
// # PINs
//
// [secret.PINs] has the rules. The card's retry counter is read before each PIN is shown.
package openpgp

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/internal/pcsc"
	"github.com/keyward/keyward/internal/secret"
)

// Config says which card to use, and how.
type Config struct {
	Name   string // in errors and logs
	Serial string // as printed on the YubiKey, or shown by gpg --card-status

	Slots []string // that keys may be generated in, "sig" and "aut"; nil: both, "sig" first

	PIN      secret.PINs // the user PIN, for signing
	AdminPIN secret.PINs // for generating and destroying; nil: neither is possible

	// Touch is the touch policy that slots are given when a key is generated: "off", "on",
	// "fixed" (on, until the key is deleted with all others), "cached" or "cached-fixed" (a touch
	// holds for 15 s). "": the slot's policy stays as it is.
	Touch string

	// Overwrite lists the fingerprints, 40 hex digits, of keys that Keyward did not make and may
	// overwrite all the same.
	Overwrite []string

	// OnWait, if not nil, is told for what person the card waits; "": not any more.
	OnWait func(what string)

	// OnHang, if not nil, is told when a call into the card stack has not returned some seconds after its operation should
	// have ended. It may never: nobody can interrupt it, and only the end of the process gives back the card, its lock and
	// the PIN's turn.
	OnHang func(reason string)

	// Locks is the directory of the locks of cards that other processes use too; see [pcsc.Lock]. "": there are none.
	Locks string

	// Timeout is of one operation, a touch and the wait for others included; 0: 35 s. If it has time for a touch, see
	// [backends.TouchTime], no operation that wants one is begun when there is not.
	Timeout time.Duration
	Logger  *slog.Logger // nil: nothing is logged
}

const defaultTimeout = 35 * time.Second // for a touch, and one before it

// ErrNoSlot: all slots that may be used hold a key. Destroy one of ours, or free one. It is a [backends.ErrFull].
var ErrNoSlot = fmt.Errorf("%w: no free slot", backends.ErrFull)

// Backend is a card.
type Backend struct {
	cfg   Config
	log   *slog.Logger
	slots []*slot

	turn    chan struct{} // holds one element while an operation has the card
	overdue atomic.Bool   // and nobody waits for its result any more, but the card still has to answer

	life context.Context // done when Close begins
	end  context.CancelFunc

	mu      sync.Mutex // never held across a call into the card or a wait
	reader  string     // where the card was last; a hint
	waiting string     // for what person; "": none
}

var (
	_ backends.Backend  = (*Backend)(nil)
	_ backends.Lister   = (*Backend)(nil)
	_ backends.Limited  = (*Backend)(nil)
	_ backends.Unlocker = (*Backend)(nil)
	_ backends.Prober   = (*Backend)(nil)
	_ backends.Waiter   = (*Backend)(nil)
	_ backends.Counter  = (*Backend)(nil)
)

// Open checks the configuration. It does not need the card, and asks for no PIN: whether they are
// there is in Status.
func Open(cfg Config) (*Backend, error) {
	serial, err := parseSerial(cfg.Serial)
	if err != nil {
		return nil, fmt.Errorf("openpgp %s: %w", cfg.Name, err)
	}
	cfg.Serial = serial
	if _, ok := touchPolicies[cfg.Touch]; !ok && cfg.Touch != "" {
		return nil, fmt.Errorf("openpgp %s: unknown touch policy %q", cfg.Name, cfg.Touch)
	}
	for _, fp := range cfg.Overwrite {
		if raw, err := hex.DecodeString(fp); err != nil || len(raw) != len(noFingerprint) {
			return nil, fmt.Errorf("openpgp %s: fingerprint %q: want 40 hex digits", cfg.Name, fp)
		}
	}
	if cfg.PIN == nil || cfg.Timeout < 0 {
		return nil, fmt.Errorf("openpgp %s: a PIN is needed, and the timeout can't be negative", cfg.Name)
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = defaultTimeout
	}
	b := &Backend{cfg: cfg, log: cfg.Logger, turn: make(chan struct{}, 1)}
	if b.log == nil {
		b.log = slog.New(slog.DiscardHandler)
	}
	b.log = b.log.With("backend", cfg.Name)
	if b.slots, err = usableSlots(cfg.Slots); err != nil {
		return nil, fmt.Errorf("openpgp %s: %w", cfg.Name, err)
	}
	b.life, b.end = context.WithCancel(context.Background())
	return b, nil
}

// usableSlots are the slots of these names; nil: all.
func usableSlots(names []string) ([]*slot, error) {
	if names == nil {
		return slots, nil
	}
	var list []*slot
	for _, name := range names {
		sl := slotNamed(name)
		if sl == nil {
			return nil, fmt.Errorf("unknown slot %q, want sig or aut", name)
		}
		list = append(list, sl)
	}
	return list, nil
}

// Close waits for the operation in flight, if it ends within the timeout. The error says that the
// card hangs; Close may be called again. Calls after it give [backends.ErrUnavailable].
func (b *Backend) Close() error {
	b.end()
	timeout := time.NewTimer(b.cfg.Timeout)
	defer timeout.Stop()
	select {
	case b.turn <- struct{}{}:
		<-b.turn
		return nil
	case <-timeout.C:
		return fmt.Errorf("openpgp %s: closing: the card hangs, and is still open", b.cfg.Name)
	}
}

// Status reports the card's state, having asked the card, unless others use it for long or wait for a touch.
func (b *Backend) Status(ctx context.Context) backends.Status {
	if what := b.Waiting(); what != "" {
		return backends.Status{State: "ready", Detail: what}
	}
	ctx, cancel := context.WithTimeout(ctx, b.cfg.Timeout)
	defer cancel()
	waits, cancel := context.WithTimeout(ctx, pcsc.StatusPatience)
	defer cancel()
	var other string // what another backend waits for
	hear := func(what string) {
		if what != "" {
			other = what
			cancel()
		}
	}
	p := patience{waits, hear, pcsc.StatusInUse}
	detail, err := once(ctx, p, b, "asking the card", func(s *session) (string, error) {
		detail, err := s.describe()
		return detail, errors.Join(err, mayBeTried(s.data.pw.triesUser))
	}, nil)
	if err == nil {
		if err = b.cfg.PIN.Ready(ctx); err != nil {
			err = fmt.Errorf("card %s: %w", b.cfg.Serial, err)
		}
	}
	switch {
	case err == nil:
		return backends.Status{State: "ready", Detail: detail}
	case errors.Is(err, errBusy) && !b.overdue.Load():
		return backends.Status{State: "ready", Detail: fmt.Sprintf("card %s is in use by a request", b.cfg.Serial)}
	case errors.Is(err, pcsc.ErrBusy) && other != "":
		return backends.Status{State: "ready", Detail: other}
	case errors.Is(err, pcsc.ErrBusy):
		return backends.Status{State: "ready", Detail: fmt.Sprintf("card %s is in use by another backend", b.cfg.Serial)}
	case needsOperator(err):
		return backends.Status{State: "locked", Detail: err.Error()}
	}
	return backends.Status{State: "unavailable", Detail: err.Error()}
}

// needsOperator reports whether err ends when the operator does something about a PIN.
func needsOperator(err error) bool {
	return errors.Is(err, backends.ErrLocked) || errors.Is(err, backends.ErrPINIncorrect) ||
		errors.Is(err, backends.ErrPINFinalTry)
}

// describe says what the card is and what is in its slots.
func (s *session) describe() (string, error) {
	contents, err := s.contents()
	return fmt.Sprintf("%s %s in %q, OpenPGP %s", s.data.model(), s.data.serial, s.reader, contents), err
}

// name is what a person calls the card. A YubiKey's serial number is printed on it without leading zeros.
func (s *session) name() string {
	if s.data.manufacturer == yubico {
		return "YubiKey " + strings.TrimLeft(s.data.serial, "0")
	}
	return "card " + s.data.serial
}

// contents says what is in the application, its version first.
func (s *session) contents() (string, error) {
	var in []string
	for _, sl := range slots {
		st, err := s.inspect(sl)
		if err != nil {
			return "", err
		}
		what := map[usage]string{empty: "empty", free: "free", ours: fmt.Sprintf("0x%x", st.signer[:]),
			foreign: "a key that is not Keyward's"}[st.usage]
		in = append(in, fmt.Sprintf("%s: %s", sl.name, what))
	}
	return fmt.Sprintf("%d.%d; %s; PIN tries left: %d, admin PIN: %d",
		s.data.version[0], s.data.version[1], strings.Join(in, ", "), s.data.pw.triesUser, s.data.pw.triesAdmin), nil
}

// Describe says of the card in that reader which version of the application it has, what is in its slots and how many
// PIN tries are left. It is opened for a moment, and then reset; no PIN is tried.
func Describe(ctx context.Context, reader string) (text string, err error) {
	client, err := pcsc.Dial()
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, client.Close()) }()
	return pcsc.WhenFree(func() (text string, err error) {
		s, err := openReader(ctx, client, reader)
		defer func() { err = errors.Join(err, s.closeCard()) }()
		if err != nil {
			return "", err
		}
		return s.contents()
	})
}

// Manufacturers' numbers in the application identifier.
const (
	yubico   = 0x0006
	nitrokey = 0x000F
)

// Waiting implements [backends.Waiter].
func (b *Backend) Waiting() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.waiting
}

// setWaiting says what a person has to do now; "": nothing.
func (b *Backend) setWaiting(what string) {
	b.mu.Lock()
	b.waiting = what
	b.mu.Unlock()
	if b.cfg.OnWait != nil {
		b.cfg.OnWait(what)
	}
}

// Concurrency: the card does one thing at a time. A few requests more are here, so that their clients are told
// when it waits for a touch.
func (b *Backend) Concurrency() int { return 4 }
