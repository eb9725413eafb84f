package backends

import "context"

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
