package cardsim

import (
	"context"
	"time"
)

// defaultTouchTimeout is how long a YubiKey blinks before it gives up with 6982.
const defaultTouchTimeout = 15 * time.Second

// touch is the metal contact of a card.
type touch struct {
	timeout time.Duration
	auto    bool          // somebody always touches at once
	waiting chan struct{} // closed by Touch; nil if no command waits
	started chan struct{} // closed when a command begins to wait; nil if nobody asked
}

// WaitTouch is called by an applet and waits for a finger. It is false if none came in time, or if the
// card lost its power.
func (cmd *Command) WaitTouch() bool {
	c := cmd.card
	c.mu.Lock()
	if c.touch.auto {
		c.mu.Unlock()
		return true
	}
	touched := make(chan struct{})
	c.touch.waiting = touched
	if c.touch.started != nil {
		close(c.touch.started)
		c.touch.started = nil
	}
	timeout := time.NewTimer(c.touch.timeout)
	c.mu.Unlock()
	defer timeout.Stop()
	defer func() {
		c.mu.Lock()
		c.touch.waiting = nil
		c.mu.Unlock()
	}()
	select {
	case <-touched:
		return true
	case <-timeout.C:
		return false
	case <-cmd.ctx.Done():
		return false
	}
}

// Touch touches the card, and tells if a command waited for it. If none did, nothing happens.
func (c *Card) Touch() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.touch.waiting == nil {
		return false
	}
	close(c.touch.waiting)
	c.touch.waiting = nil
	return true
}

// Blinks reports whether a command waits for a touch.
func (c *Card) Blinks() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.touch.waiting != nil
}

// AwaitBlink returns once a command waits for a touch, or with the error of ctx.
func (c *Card) AwaitBlink(ctx context.Context) error {
	c.mu.Lock()
	if c.touch.waiting != nil {
		c.mu.Unlock()
		return nil
	}
	if c.touch.started == nil {
		c.touch.started = make(chan struct{})
	}
	started := c.touch.started
	c.mu.Unlock()
	select {
	case <-started:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// AutoTouch says whether each wait for a touch ends at once, as if somebody touched.
func (c *Card) AutoTouch(on bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.touch.auto = on
}

// SetTouchTimeout changes how long a command waits for a touch; it is 15 s at first.
func (c *Card) SetTouchTimeout(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.touch.timeout = d
}
