package backends

import "sync/atomic"

// Sending is what one call of SignDigest has sent to its device, in all its tries. Its zero value has sent nothing. The
// call and what goes on after the call has ended may use it concurrently.
type Sending struct{ state atomic.Uint32 }

const (
	waiting   uint32 = iota // the device has nothing to sign, and has signed nothing
	sent                    // the device has a try
	doubtful                // the device had a try, did not refuse it, and got another
	abandoned               // the call has ended: the device gets nothing any more
)

// Begin must be called before each try, immediately before the first byte or function call by which the device may
// sign. If it returns false the call has ended, and the caller must not go on.
func (s *Sending) Begin() bool {
	for {
		switch {
		case s.state.CompareAndSwap(waiting, sent), s.state.CompareAndSwap(sent, doubtful), s.state.Load() == doubtful:
			return true
		case s.state.Load() == abandoned:
			return false
		}
	}
}

// Refused says that the device has answered the try with a refusal, after which no signature exists.
func (s *Sending) Refused() { s.state.CompareAndSwap(sent, waiting) }

// End ends a call that fails with err. It marks err as [ErrNotSigned] if the device got no try, or refused each.
func (s *Sending) End(err error) error {
	if s.state.CompareAndSwap(waiting, abandoned) || s.state.Load() == abandoned {
		return NotSigned(err)
	}
	return err
}

// NotSigned marks err, which keeps its text, as [ErrNotSigned].
func NotSigned(err error) error { return &marked{err, ErrNotSigned} }

// NotMade marks err, which keeps its text, as [ErrNotMade].
func NotMade(err error) error { return &marked{err, ErrNotMade} }
