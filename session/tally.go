package session

import (
	"fmt"
	"time"

	"github.com/holiman/uint256"

	"github.com/keyward/keyward/policy"
	"github.com/keyward/keyward/rules"
)

// ReasonGuardRule is the reason of a denial by one of the operator's guard rules; part of the protocol.
const ReasonGuardRule = "guardRule"

// tally is what one counter of a guard rule has counted, oldest first. It is replaced, never changed.
type tally []tallied

// tallied is what was counted in a part of the time. It counts as long as until is in the rule's window.
type tallied struct {
	from   int64 // Unix seconds: names the part
	until  int64 // Unix seconds: the last time that something was counted in it
	amount uint256.Int
}

// slidingParts is how many parts a sliding window has at least. A part is a second or more.
const slidingParts = 60

// windowOf returns where c's window begins at now, and which part now is in, in Unix seconds.
func windowOf(c *rules.Counter, now int64) (begins, part int64) {
	length := int64(c.Window / time.Second)
	if length == 0 { // it never ends
		return 0, 0
	}
	if !c.Sliding {
		begins = now - now%length
		return begins, begins
	}
	return now - length + 1, now - now%max(1, length/slidingParts)
}

// since is the sum of what was counted in a window that begins then; the largest number if that does not fit. What was
// counted later than now, by a clock that was set back, is in it.
func (t tally) since(begins int64) (sum uint256.Int) {
	for i := range t {
		if t[i].until >= begins {
			sum = addCapped(sum, t[i].amount)
		}
	}
	return sum
}

// clockSlack is how many seconds a part is kept after it has left the window: the clock may be set back by as much.
const clockSlack = 60

// add returns t with amount counted at now, without the parts that have left the window for good.
func (t tally) add(begins, part, now int64, amount uint256.Int) tally {
	next := make(tally, 0, len(t)+1)
	found := false
	for _, have := range t {
		if have.until < begins-clockSlack {
			continue
		}
		if have.from == part {
			have.amount, have.until, found = addCapped(have.amount, amount), max(have.until, now), true
		}
		next = append(next, have)
	}
	if !found {
		next = append(next, tallied{part, now, amount})
	}
	return next
}

// less returns t without amount, which was counted in part.
func (t tally) less(part int64, amount uint256.Int) tally {
	next := append(make(tally, 0, len(t)), t...)
	for i := range next {
		if next[i].from == part {
			next[i].amount = lessCapped(next[i].amount, amount)
		}
	}
	return next
}

// openTally is a counter in memory.
type openTally struct {
	tally
	entries int // that are not on disk yet
}

// counted is what a grant has added to a counter, for taking it back.
type counted struct {
	key    string
	part   int64
	amount uint256.Int
}

// newTally is a counter's new content, as a change.
type newTally struct {
	key string
	tally
}

// tallyKey names a counter. A rule's name has no slash.
func tallyKey(c *rules.Counter) string { return c.Rule + "/" + c.Key }

// countLocked works out what g adds to the counters of guard rules: all, or the first refusal, a *policy.Denial. A
// digest that was granted before adds nothing.
func (l *Ledger) countLocked(g *Grant, known bool) (changes []newTally, added []counted, err error) {
	if known {
		return nil, nil, nil
	}
	return count(g.Counters, g.At, l.tallyLocked)
}

// count works out what counters add to what find has: all, or the first refusal, a *policy.Denial.
func count(counters []rules.Counter, at time.Time, find func(key string) (tally, error)) (changes []newTally,
	added []counted, err error) {
	now := at.Unix()
	for i := range counters {
		c := &counters[i]
		key := tallyKey(c)
		have, err := find(key)
		if err != nil {
			return nil, nil, err
		}
		begins, part := windowOf(c, now)
		used := have.since(begins)
		if sum, overflow := new(uint256.Int).AddOverflow(&used, &c.Amount); overflow || sum.Gt(&c.Limit) {
			return nil, nil, overLimit(c, used)
		}
		if c.Amount.IsZero() {
			continue
		}
		changes = append(changes, newTally{key, have.add(begins, part, now, c.Amount)})
		added = append(added, counted{key, part, c.Amount})
	}
	return changes, added, nil
}

// Rehearsal counts what guard rules count as the ledger does, in memory. The zero value has counted nothing. It is not
// safe for concurrent use.
type Rehearsal struct{ tallies map[string]tally }

// Judge applies the rules to in, and counts it if nothing denies. It returns the name of the rule that denies and a
// *policy.Denial; or the name of one that wants an approval and [ErrNotApproved]; or "" and nil.
func (r *Rehearsal) Judge(set *rules.Set, in *rules.Input) (rule string, err error) {
	v := set.Judge(in)
	if v.Denied != nil {
		return v.Denied.Rule, guardDenial(v.Denied)
	}
	find := func(key string) (tally, error) { return r.tallies[key], nil }
	for i := range v.Counters { // one by one, to name the first that refuses
		if _, _, err := count(v.Counters[i:i+1], in.Now, find); err != nil {
			return v.Counters[i].Rule, err
		}
	}
	changes, _, err := count(v.Counters, in.Now, find)
	if err != nil {
		return "", err
	}
	if r.tallies == nil {
		r.tallies = map[string]tally{}
	}
	for _, c := range changes {
		r.tallies[c.key] = c.tally
	}
	if len(v.Approvals) > 0 {
		return v.Approvals[0].Rule, ErrNotApproved
	}
	return "", nil
}

func guardDenial(d *rules.Denied) *policy.Denial {
	return &policy.Denial{Reason: ReasonGuardRule, Detail: d.Error(), Policy: -1, Constraint: -1}
}

func overLimit(c *rules.Counter, used uint256.Int) error {
	remaining := new(uint256.Int)
	if c.Limit.Gt(&used) {
		remaining.Sub(&c.Limit, &used)
	}
	whose := ""
	if c.Key != "" {
		whose = " for " + c.Key
	}
	window := ""
	if c.Window > 0 {
		window = fmt.Sprintf(" in a window of %s", c.Window)
	}
	limit, asked := c.Limit, c.Amount
	return &policy.Denial{
		Reason: ReasonGuardRule, Policy: -1, Constraint: -1, Limit: &limit, Used: &used, Asked: &asked, Remaining: remaining,
		Detail: fmt.Sprintf("guard rule %q: %s of %s are used%s%s, %s more are asked for",
			c.Rule, used.Dec(), limit.Dec(), whose, window, asked.Dec()),
	}
}

// tallyLocked returns a counter, from memory or else from the store.
func (l *Ledger) tallyLocked(key string) (tally, error) {
	if open := l.tallies[key]; open != nil {
		return open.tally, nil
	}
	return l.store.tally(key)
}

// tallyAheadLocked makes changes count in memory. The entry that makes them durable is in line.
func (l *Ledger) tallyAheadLocked(changes []newTally) {
	for _, c := range changes {
		open := l.tallies[c.key]
		if open == nil {
			open = &openTally{}
			if l.tallies == nil {
				l.tallies = map[string]*openTally{}
			}
			l.tallies[c.key] = open
		}
		open.tally = c.tally
		open.entries++
	}
}

// talliedLocked runs when changes are on disk. What is not ahead of the disk is forgotten when there is too much of it.
func (l *Ledger) talliedLocked(changes []newTally) {
	for _, c := range changes {
		l.tallies[c.key].entries--
	}
	if len(l.tallies) <= maxCachedTotals {
		return
	}
	for key, open := range l.tallies {
		if open.entries == 0 {
			delete(l.tallies, key)
		}
	}
}

// uncountLocked works out the counters without what a grant has added.
func (l *Ledger) uncountLocked(added []counted) (changes []newTally, err error) {
	for _, c := range added {
		have, err := l.tallyLocked(c.key)
		if err != nil {
			return nil, err
		}
		changes = append(changes, newTally{c.key, have.less(c.part, c.amount)})
	}
	return changes, nil
}
