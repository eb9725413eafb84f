package piv

import (
	"fmt"
	"sync"
	"time"
)

// touchDelay is how long a card may take before it is said to wait for a touch: with touch
// policy "cached" it often does not.
const touchDelay = 300 * time.Millisecond

// duringTouch calls f, and tells while it waits for a touch, if the key wants one.
func (d *device) duringTouch(f func() error) error {
	if d.key.TouchPolicy == TouchNever {
		return f()
	}
	var told sync.WaitGroup
	told.Add(1)
	timer := time.AfterFunc(touchDelay, func() {
		defer told.Done()
		d.waitForPerson(fmt.Sprintf("waiting for a touch of YubiKey %d, which blinks: touch its metal contact", d.key.Serial))
	})
	err := f()
	if !timer.Stop() {
		told.Wait()
		d.waitForPerson("")
	}
	return err
}

// waitForPerson says what a person has to do, also to other processes that want the card. The caller has the turn.
func (d *device) waitForPerson(what string) {
	d.setWaiting(what)
	d.held.Tell(what)
}

func (d *device) setWaiting(what string) {
	d.mu.Lock()
	d.waiting = what
	d.mu.Unlock()
	if d.cfg.Waiting != nil {
		d.cfg.Waiting(what)
	}
}

func (d *device) waitsFor() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.waiting
}

// because explains a card that is busy.
func (d *device) because() string {
	if what := d.waitsFor(); what != "" {
		return " (" + what + ")"
	}
	return ""
}
