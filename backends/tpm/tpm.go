// Package tpm seals session keys to a storage key in the machine's TPM 2.0.
//
// TPMs have no secp256k1, so a TPM can't hold a session's key. It holds a storage key that it generated itself, and
// that never leaves it; session keys are encrypted to that: see package sealed for the files and seal.go for the
// encryption. A session's key is in locked memory while it signs.
//
// # What is bound to what
//
// The TPM opens a secret only under the storage key that sealed it, in the TPM that did; only with the auth value that
// is made from the session, the signer, the account and the chain; only while the chosen PCRs have the values that they
// had; and only with the storage key's PIN, if it has one, of which the TPM counts the wrong tries.
//
// # The TPM is shared
//
// It is opened for one operation, and closed again with nothing left in it. The kernel's resource manager (/dev/tpmrm0)
// keeps programs apart. A TPM emulator's socket has none and serves one program at a time. Operations of one Backend
// take turns.
package tpm

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/backends/sealed"
	"github.com/keyward/keyward/internal/secret"
)

// Config says which storage key to use, and how.
type Config struct {
	Name     string        // in errors and logs
	Device   string        // path of a TPM's device node, or of a TPM emulator's Unix socket; "": [DefaultDevice]
	Key      Key           // what [Setup.Create] returned
	PCRs     PCRs          // that keys made from now on are bound to
	PINs     secret.PINs   // of the storage key; nil: it has none
	Dir      string        // of the sealed keys; see [sealed.Config]
	CacheFor time.Duration // how long an opened key is kept in locked memory; 0: not at all
	Timeout  time.Duration // of one operation
	Logger   *slog.Logger  // nil: nothing is logged
}

// Backend is a directory of keys that one TPM opens.
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
	_ sealed.Wrapper    = (*device)(nil)
)

// Open makes a Backend. The TPM need not be there.
func Open(cfg Config) (*Backend, error) {
	if cfg.Device == "" {
		cfg.Device = DefaultDevice
	}
	dev := &device{cfg: cfg, turn: make(chan struct{}, 1)}
	b, err := sealed.Open(sealed.Config{Name: "tpm " + cfg.Name, Dir: cfg.Dir, Wrapper: dev, CacheFor: cfg.CacheFor,
		Logger: cfg.Logger})
	if err != nil {
		return nil, err
	}
	return &Backend{b, dev}, nil
}

// Concurrency: the TPM does one thing at a time, and keys that are kept open need no TPM.
func (b *Backend) Concurrency() int {
	if b.dev.cfg.CacheFor > 0 {
		return backends.DefaultConcurrency
	}
	return 4
}

// Unlock has the TPM look at the PIN, once, and wipes it.
func (b *Backend) Unlock(ctx context.Context, pin []byte) error {
	if err := b.dev.unlock(ctx, pin); err != nil {
		return b.dev.wrap("unlocking", err)
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

// device is one storage key of one TPM.
type device struct {
	cfg  Config
	turn chan struct{} // holds one element while the TPM is used
}

func (d *device) keyName() string { return "tpm " + d.cfg.Key.NameHex() }

// wrap says which backend failed at what.
func (d *device) wrap(what string, err error) error {
	return fmt.Errorf("tpm %s: %s: %w", d.cfg.Name, what, err)
}

// withTPM calls f with the TPM, opened, and the storage key in it. It may call f twice, if the first call found the TPM
// full.
func (d *device) withTPM(ctx context.Context, f func(context.Context, *conn, *storage) error) error {
	if d.cfg.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, d.cfg.Timeout)
		defer cancel()
	}
	if ctx.Err() != nil {
		return fmt.Errorf("%w: not begun: %w", backends.ErrUnavailable, context.Cause(ctx))
	}
	select {
	case d.turn <- struct{}{}:
	case <-ctx.Done():
		return backends.Busy(fmt.Errorf("the TPM is busy with requests before this one: %w", context.Cause(ctx)))
	}
	c, err := dial(ctx, d.cfg.Device)
	if err != nil {
		<-d.turn
		return err
	}
	err = c.withRoom(func() error {
		s, err := findStorage(c, d.cfg.Key)
		if err != nil {
			return err
		}
		if err := d.needed(s); err != nil {
			return err
		}
		return f(ctx, c, s)
	})
	if c.dead {
		// The kernel's close waits for the TPM. The caller does not, but the next operation does.
		go func() { c.close(); <-d.turn }()
		return err
	}
	c.close()
	<-d.turn
	return err
}

// withRoom calls f, and again after making room if there was none. What f did before is undone by that.
func (c *conn) withRoom(f func() error) error {
	err := f()
	if !errors.Is(err, errNoRoom) || c.dead {
		return err
	}
	if err := c.free(); err != nil {
		return explain("making room", err)
	}
	return f()
}

func (d *device) unlock(ctx context.Context, pin []byte) error {
	defer clear(pin)
	k, ok := d.cfg.PINs.(*secret.Keeper)
	if !ok {
		if pin != nil {
			return fmt.Errorf("%w: the backend has no PIN", backends.ErrRefused)
		}
		return d.withTPM(ctx, func(context.Context, *conn, *storage) error { return nil })
	}
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
	return d.withTPM(ctx, d.checkPIN)
}

// Status implements [sealed.Wrapper]. No PIN is tried.
func (d *device) Status(ctx context.Context) backends.Status {
	detail := "storage key " + d.cfg.Key.HandleHex() + " of " + d.cfg.Device
	var l Lockout
	err := d.withTPM(ctx, func(_ context.Context, c *conn, s *storage) (err error) {
		if s.needsPIN() {
			l, err = readLockout(c)
		}
		return err
	})
	switch {
	case errors.Is(err, backends.ErrBusy):
		return backends.Status{State: "ready", Detail: detail + ", in use"}
	case err != nil:
		return backends.Status{State: "unavailable", Detail: d.wrap("asking the TPM", err).Error()}
	case d.cfg.PINs == nil:
		return backends.Status{State: "ready", Detail: detail}
	case l.Left() == 0:
		return backends.Status{State: "locked", Detail: detail + "; the TPM is locked after too many wrong PINs: " +
			remedies.Blocked}
	case l.Left() == 1:
		return backends.Status{State: "locked", Detail: detail + "; one wrong PIN more would lock the TPM: " + remedies.Final}
	}
	detail += "; " + secret.TriesLeft(l.Left())
	if err := d.cfg.PINs.Ready(ctx); err != nil {
		return backends.Status{State: "locked", Detail: d.wrap(detail, err).Error()}
	}
	return backends.Status{State: "ready", Detail: detail}
}

// closeTimeout is how long Close waits for a TPM that does not answer.
const closeTimeout = 2 * time.Second

// Close implements [sealed.Wrapper]. Nothing is open between operations, but one that was cut short may still be
// ending.
func (d *device) Close() error {
	select {
	case d.turn <- struct{}{}:
		<-d.turn
	case <-time.After(closeTimeout):
	}
	return nil
}
