package session

import (
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/holiman/uint256"

	"github.com/keyward/keyward/audit"
	"github.com/keyward/keyward/policy"
	"github.com/keyward/keyward/rules"
)

// judgeMessage asks the guard rules about a message, which nothing else allows. What the session's spec refuses as a
// transaction it refuses as a message of the same effect, too.
func (s *Signer) judgeMessage(peer audit.Peer, sess *Session, req *SignRequest) *judgement {
	now := s.Sessions.cfg.Now()
	j := &judgement{sess: sess, at: now, message: true}
	switch {
	case !sess.signs():
		j.refused = notActive(sess)
	case now.Unix() < 0 || s.Sessions.pastExpiry(sess, now):
		j.refused = s.Sessions.expired(sess)
	case sess.Kind != EOA:
		j.refused = messageDenial(ReasonMessage, req.What+
			" is not signed: the session validator of a smart account refuses messages (ERC-1271) of session keys on chain")
	default:
		j.refused = s.Watcher.refuse(sess, now)
	}
	if j.refused != nil {
		return j
	}
	set := s.Guard.Load()
	j.rules = set.Hash()
	in := s.ruleInput(peer, sess, now)
	in.Message = req.Message
	j.guard = set.Judge(in)
	switch v := j.guard; {
	case v.Denied != nil:
		j.refused = guardDenial(v.Denied)
	case v.Allowed == nil:
		j.refused = messageDenial(ReasonMessage, req.What+" is not signed: no guard rule allows it")
	case len(v.Approvals) > 0:
		j.refused = messageDenial(ReasonGuardRule,
			"guard rule "+strings.Join(needed(v.Approvals), ", ")+": it wants an approval, which is for transactions only")
	default:
		j.digest = v.Allowed.Digest
		j.refused = specAllows(sess, v.Allowed, uint64(now.Unix()))
	}
	return j
}

func messageDenial(reason, detail string) *policy.Denial {
	return &policy.Denial{Reason: reason, Detail: detail, Policy: -1, Constraint: -1}
}

// specAllows refuses a message whose effect, as a transaction, the session's spec refuses or limits. A limit of the
// spec counts transactions by their nonce, which a message has not, so it can't hold for messages.
func specAllows(sess *Session, a *rules.Allowed, now uint64) error {
	if a.Call == nil {
		return nil
	}
	charges, err := sess.Spec.Check(a.Call, sess.Spec.PeriodIDs(a.Call, now), now)
	if err != nil {
		return err
	}
	for _, c := range charges {
		if amount := uint256.Int(c.Amount); !amount.IsZero() {
			return messageDenial(ReasonGuardRule, fmt.Sprintf(
				"guard rule %q: the session's spec limits %s, and its limits count transactions only: leave that limit out of "+
					"the spec, and give the rule one", a.Rule, c.Tracker))
		}
	}
	return nil
}

// grantMessage counts a message, unless it was refused before that.
func (l *Ledger) grantMessage(id ID, j *judgement, rec *audit.Record) (*Reservation, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.books[id]
	switch {
	case l.locked:
		return nil, ErrLocked
	case b == nil || !b.Load().signs():
		return nil, notActive(b.session())
	}
	known, changes, err := weighMessage(id, j.guard, j.at, l.tallyLocked)
	if err != nil {
		return nil, err
	}
	rec.Verdict = &audit.Verdict{Allow: true, Repeat: known, Rules: j.rules}
	var c *change
	if !known {
		c = &change{id: id, tallies: changes}
	}
	r := &Reservation{ledger: l, pass: &Pass{id, b.version, l.lockVersion, rec}, entry: &entry{
		rec: rec, change: c, after: func() { l.talliedLocked(changes) },
	}}
	if err := l.enqueueLocked(r.entry); err != nil {
		return nil, err
	}
	l.tallyAheadLocked(changes)
	b.inDevice++
	return r, nil
}

// Keys of tallies that belong to no rule. A rule's name has no slash and is not empty.
const (
	keyTally    = "/key/"    // the most that was signed for a channel or nonce
	signedTally = "/signed/" // a digest that was signed
)

// weighMessage works out what a message adds, all or nothing, or why it is refused: a *policy.Denial. It is pure, apart
// from find. A digest that was granted before adds nothing.
//
// All messages of a nonce cost the most of them, as only one can be used. Of a channel the same is true, since its
// amounts are cumulative, and a message with less than the most is refused. What is counted is never given back: that a
// message was not used only the chain can prove.
func weighMessage(id ID, v *rules.Verdict, at time.Time, find func(key string) (tally, error)) (known bool,
	changes []newTally, err error) {
	a := v.Allowed
	signed := signedTally + string(id) + "/" + a.Digest.String()
	before, err := find(signed)
	if err != nil || len(before) > 0 {
		return err == nil, nil, err
	}
	rise := a.Amount
	if a.Key != "" {
		have, err := find(keyTally + a.Key)
		if err != nil {
			return false, nil, err
		}
		most := have.since(0)
		switch {
		case !rise.Lt(&most):
			rise.Sub(&rise, &most)
		case a.Rising:
			return false, nil, belowMark(a, most)
		default:
			rise.Clear()
		}
		if !rise.IsZero() {
			changes = append(changes, newTally{keyTally + a.Key, forever(a.Amount)})
		}
	}
	counters := v.Counters
	if a.Budget != nil {
		budget := *a.Budget
		budget.Amount = rise
		counters = append(counters[:len(counters):len(counters)], budget)
	}
	counted, _, err := count(counters, at, find)
	if err != nil {
		return false, nil, err
	}
	return false, append(append(changes, counted...), newTally{signed, forever(*uint256.NewInt(1))}), nil
}

// forever is a tally that no window ends.
func forever(amount uint256.Int) tally { return tally{{0, math.MaxInt64, amount}} }

func belowMark(a *rules.Allowed, most uint256.Int) error {
	asked := a.Amount
	return &policy.Denial{
		Reason: ReasonGuardRule, Policy: -1, Constraint: -1, Used: &most, Asked: &asked,
		Detail: fmt.Sprintf("guard rule %q: the channel was signed up to %s, and a message with less, %s, is another one: "+
			"amounts of a channel only rise",
			a.Rule, most.Dec(), asked.Dec()),
	}
}

// grantedMessage is what a grant's record has of a message.
type grantedMessage struct {
	Rule   string            `json:"rule"`
	Fields map[string]string `json:"fields,omitempty"` // by path
	Text   string            `json:"text,omitempty"`   // of EIP-191, cut
}

// maxMessageText is how much of a text is recorded, in bytes.
const maxMessageText = 1024

func recordMessage(req *SignRequest, j *judgement) any {
	if j.guard == nil || j.guard.Allowed == nil {
		return nil
	}
	m := grantedMessage{Rule: j.guard.Allowed.Rule, Text: clip(string(req.Message.Personal), maxMessageText)}
	for path, value := range j.guard.Allowed.Values {
		if m.Fields == nil {
			m.Fields = map[string]string{}
		}
		m.Fields[path] = clip(value, maxMessageText)
	}
	return m
}
