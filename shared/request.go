package shared

import (
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"github.com/holiman/uint256"

	"github.com/keyward/keyward/audit"
	"github.com/keyward/keyward/policy"
	"github.com/keyward/keyward/session"
)

// request is one element of a batch, as keyward.charge reads it.
type request struct {
	Session  string     `json:"s,omitempty"`
	Nonce    string     `json:"n,omitempty"`
	Digest   string     `json:"d,omitempty"`
	Charges  [][]string `json:"c,omitempty"` // tracker, amount, limit, the record's text before the amount
	Denied   int        `json:"x,omitempty"` // the policy refuses, unless a limit does before
	Counters [][]any    `json:"k,omitempty"` // key, begins, part, now, amount, limit
	Rules    string     `json:"u,omitempty"` // as JSON
	Put      *row       `json:"w,omitempty"`
	Back     *back      `json:"b,omitempty"`
	Before   string     `json:"a,omitempty"` // the record
	After    string     `json:"z,omitempty"`
	Stays    string     `json:"f,omitempty"` // the record of a charge that is not taken back
}

// back is a charge to take back. Calls is how many calls for the digest this agent has seen fail for certain.
type back struct {
	Session  string  `json:"s"`
	Nonce    string  `json:"n"`
	Digest   string  `json:"d"`
	Calls    int     `json:"calls"`
	Counters [][]any `json:"k,omitempty"` // key, part, amount
}

// verdict is what the database says of a request.
type verdict struct {
	V        string   `json:"v"`
	Index    int      `json:"i"`
	Used     string   `json:"used"`
	More     []string `json:"more"`
	Repeat   bool     `json:"repeat"`
	Replaces bool     `json:"replaces"`
	Change   uint64   `json:"change"`
}

// chargeOf makes the request for a grant, whose record rec is without its verdict.
func chargeOf(id session.ID, g *session.Grant, rec *audit.Record) (*request, error) {
	r := &request{Session: string(id), Nonce: strconv.FormatUint(g.Nonce, 10), Digest: hex.EncodeToString(g.Digest[:]),
		Charges: [][]string{}}
	for _, c := range g.Charges {
		text, err := (policy.Charges{c}).AppendJSON(nil)
		if err != nil {
			return nil, err
		}
		amount := c.Amount.Int()
		before := strings.TrimSuffix(strings.TrimPrefix(string(text), "["), amount.Dec()+`"}]`)
		limit := c.Limit.Int()
		r.Charges = append(r.Charges, []string{trackerHex(c.Tracker), amount.Dec(), limit.Dec(), before})
	}
	if g.Denied != nil {
		r.Denied = 1
	}
	now := g.At.Unix()
	for i := range g.Counters {
		c := &g.Counters[i]
		begins, part := session.CounterWindow(c, now)
		r.Counters = append(r.Counters, []any{session.CounterKey(c), begins, part, now, c.Amount.Dec(), c.Limit.Dec()})
	}
	if g.Rules != "" {
		text, err := json.Marshal(g.Rules)
		if err != nil {
			return nil, err
		}
		r.Rules = string(text)
	}
	var err error
	r.Before, r.After, err = rec.Halves()
	return r, err
}

// refusal is the error that v stands for; nil: granted. It has the very words of a ledger that decides in memory.
func refusal(v *verdict, sess *session.Session, g *session.Grant) error {
	used := new(uint256.Int)
	if v.Used != "" {
		if err := used.SetFromDecimal(v.Used); err != nil {
			return fmt.Errorf("the database's verdict: used %q: %w", v.Used, err)
		}
	}
	switch {
	case v.V == "ok":
		return nil
	case v.V == "locked":
		return session.ErrLocked
	case v.V == "state":
		if sess != nil && sess.Signs() { // the database is ahead of what this agent has read
			return policy.SessionNotActive(fmt.Sprintf("session %s was stopped by another agent", sess.ID))
		}
		return session.NotActive(sess)
	case v.V == "hold":
		return policy.SessionNotActive("the session is on hold: after a failover, signatures may be missing in its totals; " +
			"the operator ends that once they are accounted for")
	case v.V == "denied" && g.Denied != nil:
		return g.Denied
	case v.V == "limit" && v.Index < len(g.Charges):
		_, err := g.Charges[v.Index].Apply(*used)
		if err == nil {
			return fmt.Errorf("the database refuses charge %d with %s used, and that is within its limit", v.Index, v.Used)
		}
		return sess.Spec.Locate(err)
	case v.V == "rule" && v.Index < len(g.Counters):
		return session.CounterDenial(&g.Counters[v.Index], *used)
	}
	return fmt.Errorf("the database's verdict %q is unknown", v.V)
}

// counted is what v has added, and makes rec the record that the database has written.
func counted(v *verdict, g *session.Grant, rec *audit.Record) ([]policy.Charge, error) {
	var all []policy.Charge
	for i, more := range v.More {
		amount := new(uint256.Int)
		if err := amount.SetFromDecimal(more); err != nil || i >= len(g.Charges) {
			return nil, fmt.Errorf("the database's verdict: charge %d of %q: %w", i, more, err)
		}
		if !amount.IsZero() {
			c := g.Charges[i]
			all = append(all, policy.Charge{Tracker: c.Tracker, Limit: c.Limit, Amount: policy.Decimal(*amount)})
		}
	}
	rec.Verdict = &audit.Verdict{Allow: true, Charges: policy.Charges(all), Replaces: v.Replaces, Repeat: v.Repeat,
		Rules: g.Rules}
	return all, nil
}

// trackerHex is the database's name of a tracker: kind and allowance, target, selector, position, period; numbers
// big-endian. The first 58 digits name the limit.
func trackerHex(t policy.Tracker) string {
	kind := byte(t.Kind) << 1
	if t.Allowance {
		kind |= 1
	}
	b := append([]byte{kind}, t.Target[:]...)
	b = binary.BigEndian.AppendUint32(append(b, t.Selector[:]...), t.Position)
	return hex.EncodeToString(binary.BigEndian.AppendUint64(b, t.PeriodID))
}

// parseTracker is the tracker of that name.
func parseTracker(name string) (t policy.Tracker, err error) {
	b, err := hex.DecodeString(name)
	if err != nil || len(b) != 37 {
		return t, fmt.Errorf("tracker %q of the database is not 37 bytes in hex", name)
	}
	t.Kind, t.Allowance = policy.TrackerKind(b[0]>>1), b[0]&1 == 1
	copy(t.Target[:], b[1:])
	copy(t.Selector[:], b[21:])
	t.Position, t.PeriodID = binary.BigEndian.Uint32(b[25:]), binary.BigEndian.Uint64(b[29:])
	return t, nil
}
