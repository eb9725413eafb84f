package backends

import (
	"context"
	"fmt"
	"time"
)

// waitingKey is the context key of [WithWaiting].
type waitingKey struct{}

// WithWaiting has tell told, during a call that is made with the returned context, what a person has to do for the
// device to go on, also if it waits on account of another call; "": it does not wait any more. tell is
// told in order, the last time before the call returns, and must return at once: it holds up all calls of the device.
//
// Only backends in a process of their own (package isolated) tell; others may.
func WithWaiting(ctx context.Context, tell func(what string)) context.Context {
	return context.WithValue(ctx, waitingKey{}, tell)
}

// Waiting returns what [WithWaiting] was given, or nil.
func Waiting(ctx context.Context) func(what string) {
	tell, _ := ctx.Value(waitingKey{}).(func(what string))
	return tell
}

// TouchTime is what an operation that waits for a touch takes, with a second for the rest of it: a YubiKey waits for
// 15.
const TouchTime = 16 * time.Second

// TimeForTouch is ErrBusy if an operation that may wait for a touch would outlast ctx. It is not to be begun then:
// the touch that a person gives after that is for nobody.
func TimeForTouch(ctx context.Context) error {
	deadline, limited := ctx.Deadline()
	if left := time.Until(deadline); limited && left < TouchTime {
		return Busy(fmt.Errorf("not begun, as it may take a touch and %.1f s of its time are left, less than %v: the card "+
			"was busy with requests before this one, or the time limit is too short",
			max(left, 0).Seconds(), TouchTime))
	}
	return nil
}
