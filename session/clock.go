package session

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/keyward/keyward/chain"
)

// ErrClock: the agent's clock and a chain's block times are further apart than the operator
// allows, so nothing is signed for that chain. It passes once the clock is right.
var ErrClock = errors.New("the agent's clock disagrees with the chain's")

// fastLooks is how many looks in a row have to find the agent's clock ahead.
const fastLooks = 3

// clock compares the agent's clock with the block times of one chain. Its methods may be called concurrently.
//
// A block is not made before its time, so block times ahead of ours by more than the bound mean that ours
// is slow, whatever node says so. Block times behind ours mean a clock that is fast, or a node that has stopped or is
// catching up, or a chain that makes no blocks; those must stop nothing. So ours is only held for
// fast if, several looks in a row, there was a new block since the look before, which is then
// younger than that look; and block times went on no faster than time does. What is left is a node that
// follows the chain at a constant distance of more than the bound: it looks like a fast clock, and nothing is signed.
type clock struct {
	bound time.Duration // 0: nothing is compared

	mu        sync.Mutex
	looked    bool
	head      chain.Block
	firstSeen moment // of head
	lastLook  moment
	ahead     int // looks in a row that found ours ahead
}

// moment is a time by two clocks: the one that is to be right, and one that nobody sets.
type moment struct {
	wall  time.Time
	since time.Duration // since a time that is the same for all moments
}

// momentOf reads both clocks from now; start is any earlier time, the same each time.
func momentOf(start, now time.Time) moment {
	return moment{wall: now.Round(0), since: now.Sub(start)} // Sub prefers the monotonic reading, Round drops it
}

// look takes note of the newest block, which was read just now.
func (c *clock) look(head chain.Block, now moment) {
	c.mu.Lock()
	defer c.mu.Unlock()
	defer func() { c.looked, c.lastLook = true, now }()
	if !c.looked || head.Number < c.head.Number {
		c.head, c.firstSeen, c.ahead = head, now, 0
		return
	}
	age := now.since - c.firstSeen.since
	if head.Number == c.head.Number {
		if behind(head, now) <= c.bound+age {
			c.ahead = 0 // the clock was set meanwhile
		}
		return
	}
	advanced := blockTime(head).Sub(blockTime(c.head))
	keepsUp := advanced <= age+age/2+2*time.Second // else the node is catching up
	if keepsUp && behind(head, now) > c.bound+now.since-c.lastLook.since {
		c.ahead++
	} else {
		c.ahead = 0
	}
	c.head, c.firstSeen = head, now
}

// check returns an [ErrClock] if the agent's clock can't be right at now. It reads only memory. A slow clock that is
// set right passes at once: how far time has gone on since the look is not taken from it.
func (c *clock) check(now moment) error {
	if c.bound == 0 {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.looked {
		return nil
	}
	least := blockTime(c.head).Add(now.since - c.firstSeen.since)
	if slow := least.Sub(now.wall); slow > c.bound {
		return fmt.Errorf("%w: the agent's clock says %s, block %d was made at %s: it is slow by %v at least, %v is allowed",
			ErrClock,
			stamp(now.wall), c.head.Number, stamp(blockTime(c.head)), slow.Round(time.Second), c.bound)
	}
	if c.ahead >= fastLooks {
		return fmt.Errorf("%w: the agent's clock says %s, but block %d, just made, has the time %s: the clock is fast, or "+
			"the node lags; %v is allowed", ErrClock,
			stamp(now.wall), c.head.Number, stamp(blockTime(c.head)), c.bound)
	}
	return nil
}

// last returns the newest block that was seen, and when it was looked at; the zero time if never.
func (c *clock) last() (chain.Block, time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.head, c.lastLook.wall
}

// behind is how much older than now the block is.
func behind(b chain.Block, now moment) time.Duration { return now.wall.Sub(blockTime(b)) }

// blockTime is a block's time, not after the year 9999.
func blockTime(b chain.Block) time.Time { return time.Unix(int64(min(b.Time, lastUnix)), 0).UTC() }

// lastUnix is the last second of the year 9999, which is the last that RFC 3339 can write.
const lastUnix = 253402300799

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
