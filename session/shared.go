package session

import (
	"github.com/holiman/uint256"

	"github.com/keyward/keyward/rules"
)

// What a ledger that several agents share decides by, in its database: the same as this package, so that both refuse
// with the same words.

// CounterWindow returns where c's window begins at now, and which part of the window now is in. All are Unix seconds.
func CounterWindow(c *rules.Counter, now int64) (begins, part int64) { return windowOf(c, now) }

// CounterKey names a counter among those of all rules.
func CounterKey(c *rules.Counter) string { return tallyKey(c) }

// CounterDenial is the refusal of a counter of which used is used in its window. It is a *policy.Denial.
func CounterDenial(c *rules.Counter, used uint256.Int) error { return overLimit(c, used) }

// NotActive is the refusal of a session that can't sign in its present state; nil is none. It is a *policy.Denial.
func NotActive(sess *Session) error { return notActive(sess) }

// Signs reports whether the session's state lets it sign.
func (s *Session) Signs() bool { return s.signs() }
