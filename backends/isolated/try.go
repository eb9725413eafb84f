package isolated

import (
	"context"
	"fmt"
	"slices"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/internal/secret"
)

// pins returns the Keeper that the child means.
func (c *child) pins(admin bool) (*secret.Keeper, error) {
	pins := c.b.cfg.PINs
	if admin {
		pins = c.b.cfg.AdminPINs
	}
	if pins == nil {
		return nil, fmt.Errorf("%w: it was told that there is no such PIN", errMalformed)
	}
	return pins, nil
}

// readyRequest asks whether a PIN is to be had.
type readyRequest struct {
	Admin bool `json:"admin"`
}

// tryRequest asks for the PIN for one try.
type tryRequest struct {
	N     uint64 `json:"n"` // names the try
	Admin bool   `json:"admin"`
	Left  int    `json:"left"`
	Full  int    `json:"full"`

	Device string `json:"device,omitempty"`
	Fixed  bool   `json:"fixed,omitempty"`
}

// settleRequest says what became of a try.
type settleRequest struct {
	N     uint64     `json:"n"`
	Error *wireError `json:"error"` // nil: the device took the PIN
}

// try is one try that the child makes.
type try struct {
	pin     chan []byte // holds one
	verdict chan error  // holds one
	done    chan error  // holds one: what the Keeper says
}

// errCutShort leaves a try in doubt.
var errCutShort = fmt.Errorf("%w: the process that showed the PIN to the device ended", backends.ErrUnavailable)

// try returns the PIN. The Keeper's try goes on until the child settles it, or dies.
func (c *child) try(ctx context.Context, pins *secret.Keeper, r tryRequest) ([]byte, error) {
	t := &try{pin: make(chan []byte, 1), verdict: make(chan error, 1), done: make(chan error, 1)}
	c.mu.Lock()
	known := c.tries[r.N] != nil
	if !known {
		c.tries[r.N] = t
	}
	c.mu.Unlock()
	if known {
		return nil, fmt.Errorf("%w: try %d is under way", errMalformed, r.N)
	}
	go func() {
		t.done <- pins.Try(ctx, secret.Tries{Left: r.Left, Full: r.Full, Device: r.Device, Fixed: r.Fixed},
			func(pin []byte) error {
				t.pin <- slices.Clone(pin)
				select {
				case err := <-t.verdict:
					return err
				case <-c.exited: // not before: a dying child may still show the PIN
					return errCutShort
				}
			})
	}()
	select {
	case pin := <-t.pin:
		return pin, nil
	case err := <-t.done:
		c.mu.Lock()
		delete(c.tries, r.N)
		c.mu.Unlock()
		return nil, err
	}
}

// settle returns what the Keeper makes of the verdict.
func (c *child) settle(r settleRequest) error {
	c.mu.Lock()
	t := c.tries[r.N]
	delete(c.tries, r.N)
	c.mu.Unlock()
	if t == nil {
		return fmt.Errorf("%w: no try %d", errMalformed, r.N)
	}
	var verdict error
	if r.Error != nil {
		verdict = r.Error.err()
	}
	t.verdict <- verdict
	return <-t.done
}

// dropTries wipes PINs that were not fetched by anyone. The process is gone.
func (c *child) dropTries() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, t := range c.tries {
		select {
		case pin := <-t.pin:
			clear(pin)
		default:
		}
	}
}
