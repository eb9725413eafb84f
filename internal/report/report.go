// Package report sums up a period of the audit trail: what sessions spent, what was refused and why, how long requests
// took, and what became of sessions and of the agent. It writes that as one HTML page that needs nothing else, as CSV
// or as JSON.
package report

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"math/big"
	"slices"
	"strings"
	"time"

	"github.com/keyward/keyward/audit"
)

// Report is a period of the trail.
type Report struct {
	From    time.Time `json:"from"`  // of the period
	Until   time.Time `json:"until"` // not in it any more
	Records uint64    `json:"records"`
	First   uint64    `json:"firstRecord"` // its number; 0: there is no record
	Last    uint64    `json:"lastRecord"`

	Granted  uint64 `json:"granted"`  // signatures, also of digests that were signed before
	Refused  uint64 `json:"refused"`  // requests, also those that are only counted
	Failed   uint64 `json:"failed"`   // a device made no good signature, and the charge stays
	Reverted uint64 `json:"reverted"` // certainly not signed, and the charge was taken back

	Sessions  []Session `json:"sessions"` // those that signed most first
	Refusals  []Reason  `json:"refusals"` // the most frequent first
	Latency   []Latency `json:"latency"`
	Lifecycle []Step    `json:"lifecycle"`
	Steps     []Bin     `json:"activity"` // equal parts of the period
}

// Session is what one session did in the period.
type Session struct {
	ID       string  `json:"id"`
	Signer   string  `json:"signer,omitempty"`
	Granted  uint64  `json:"granted"`
	Refused  uint64  `json:"refused"` // with a record of their own
	Failed   uint64  `json:"failed"`
	Reverted uint64  `json:"reverted"`
	Spent    []Spent `json:"spent"`
}

// Spent is what a session's requests counted by one limit, less what was taken back. Amounts are wei, but of
// "callParam".
type Spent struct {
	Limit  string `json:"limit"`  // "fee", "transferValue:0x…": policy.Tracker without its period
	Amount string `json:"amount"` // decimal; less than 0 if more was taken back than charged in the period
}

// Reason is how often requests were refused for it.
type Reason struct {
	Reason string `json:"reason"`
	Count  uint64 `json:"count"`
}

// Latency is how long the requests of some minutes took, in milliseconds.
type Latency struct {
	At       time.Time `json:"at"` // their end
	Requests int       `json:"requests"`
	P50      float64   `json:"p50"`
	P99      float64   `json:"p99"`
}

// Step is something that was done to a session, a key, a backend or the agent.
type Step struct {
	Record  uint64    `json:"record"`
	At      time.Time `json:"at"`
	Event   string    `json:"event"`
	Session string    `json:"session,omitempty"`
	By      string    `json:"by"` // "uid 0", or "the agent"
}

// Bin is a part of the period.
type Bin struct {
	At      time.Time `json:"at"` // its beginning
	Granted uint64    `json:"granted"`
	Refused uint64    `json:"refused"`
}

// bins is how many parts the period has.
const bins = 60

// maxSteps bounds the steps of a report: the newest are kept.
const maxSteps = 5000

// Builder makes a report of lines.
type Builder struct {
	r        Report
	sessions map[string]*Session
	spent    map[string]map[string]*big.Int // by session and limit
	reasons  map[string]uint64
}

// NewBuilder begins a report of the period from from until until.
func NewBuilder(from, until time.Time) *Builder {
	b := &Builder{sessions: map[string]*Session{}, spent: map[string]map[string]*big.Int{}, reasons: map[string]uint64{}}
	b.r.From, b.r.Until = from.UTC(), until.UTC()
	b.r.Steps = make([]Bin, bins)
	for i := range b.r.Steps {
		b.r.Steps[i].At = b.r.From.Add(until.Sub(from) * time.Duration(i) / bins)
	}
	return b
}

// record is a line, as far as it is summed up.
type record struct {
	Seq uint64 `json:"seq"`
	audit.Record
	audit.Personal
	Verdict *struct {
		Reason  string
		Charges []charge
	} `json:"verdict"`
	Detail json.RawMessage `json:"detail"`
}

type charge struct {
	Tracker string `json:"tracker"`
	Amount  string `json:"amount"`
}

// Add takes a line of the trail. A line that is no record is an error, [audit.ErrDamaged].
func (b *Builder) Add(line []byte) error {
	var rec record
	if err := json.Unmarshal(line, &rec); err != nil {
		return fmt.Errorf("%w: a line is no record", audit.ErrDamaged)
	}
	if rec.Time.Before(b.r.From) || !rec.Time.Before(b.r.Until) {
		return nil
	}
	b.r.Records++
	b.r.First, b.r.Last = cmp.Or(b.r.First, rec.Seq), rec.Seq
	switch rec.Event {
	case audit.SignGranted:
		b.r.Granted++
		b.bin(rec.Time).Granted++
		s := b.session(&rec)
		s.Granted++
		if rec.Verdict != nil {
			for _, c := range rec.Verdict.Charges {
				b.spend(s.ID, c.Tracker, c.Amount, 1)
			}
		}
	case audit.SignDenied, audit.AccessRefused, audit.MessageRefused:
		b.refuse(&rec, reasonOf(&rec), 1)
	case audit.RefusalsSummary:
		var counts map[string]uint64
		if json.Unmarshal(rec.Detail, &counts) == nil {
			for reason, n := range counts {
				b.refuse(&rec, reason, n)
			}
		}
	case audit.SignFailed:
		b.r.Failed++
		b.session(&rec).Failed++
	case audit.SignReverted:
		b.takeBack(&rec)
	case audit.AgentLatency:
		l := Latency{At: rec.Time}
		if json.Unmarshal(rec.Detail, &l) == nil {
			b.r.Latency = append(b.r.Latency, l)
		}
	case audit.SessionReconciled:
	default:
		b.step(&rec)
	}
	return nil
}

func reasonOf(rec *record) string {
	switch {
	case rec.Verdict != nil && rec.Verdict.Reason != "":
		return rec.Verdict.Reason
	case rec.Event == audit.AccessRefused:
		return "unknownSigner"
	}
	return string(rec.Event)
}

// bin is the part of the period that a time is in.
func (b *Builder) bin(at time.Time) *Bin {
	i := int(at.Sub(b.r.From) * bins / max(1, b.r.Until.Sub(b.r.From)))
	return &b.r.Steps[min(max(i, 0), bins-1)]
}

func (b *Builder) session(rec *record) *Session {
	s := b.sessions[rec.Session]
	if s == nil {
		s = &Session{ID: rec.Session, Signer: rec.Signer}
		b.sessions[rec.Session] = s
	}
	return s
}

func (b *Builder) refuse(rec *record, reason string, n uint64) {
	b.r.Refused += n
	b.bin(rec.Time).Refused += n
	b.reasons[reason] += n
	// else the session is one that a stranger named
	if rec.Event == audit.SignDenied || rec.Event == audit.MessageRefused {
		b.session(rec).Refused++
	}
}

// takeBack counts a signature that was not made, and what its charge has lost.
func (b *Builder) takeBack(rec *record) {
	b.r.Reverted++
	s := b.session(rec)
	s.Reverted++
	var detail struct{ Returned map[string]string }
	if json.Unmarshal(rec.Detail, &detail) != nil {
		return
	}
	for limit, amount := range detail.Returned {
		b.spend(s.ID, limit, amount, -1)
	}
}

// spend adds to what a session has spent. An allowance's period is left out: the report has one of its own.
func (b *Builder) spend(session, limit, amount string, sign int64) {
	n, ok := new(big.Int).SetString(amount, 10)
	if !ok {
		return
	}
	limit, _, _ = strings.Cut(limit, "@")
	of := b.spent[session]
	if of == nil {
		of = map[string]*big.Int{}
		b.spent[session] = of
	}
	if of[limit] == nil {
		of[limit] = new(big.Int)
	}
	of[limit].Add(of[limit], n.Mul(n, big.NewInt(sign)))
}

func (b *Builder) step(rec *record) {
	by := "the agent"
	switch {
	case rec.Peer != nil:
		by = fmt.Sprintf("uid %d", rec.Peer.UID)
	case rec.Erased():
		by = "(erased)"
	}
	b.r.Lifecycle = append(b.r.Lifecycle, Step{rec.Seq, rec.Time, string(rec.Event), rec.Session, by})
	if len(b.r.Lifecycle) > 2*maxSteps {
		b.r.Lifecycle = slices.Clone(b.r.Lifecycle[maxSteps:])
	}
}

// Report is what the lines come to.
func (b *Builder) Report() *Report {
	r := b.r
	r.Sessions, r.Refusals = []Session{}, []Reason{}
	for _, s := range b.sessions {
		s.Spent = []Spent{}
		for _, limit := range slices.Sorted(maps.Keys(b.spent[s.ID])) {
			s.Spent = append(s.Spent, Spent{limit, b.spent[s.ID][limit].String()})
		}
		r.Sessions = append(r.Sessions, *s)
	}
	slices.SortFunc(r.Sessions, func(x, y Session) int {
		return cmp.Or(cmp.Compare(y.Granted, x.Granted),
			cmp.Compare(x.ID, y.ID))
	})
	for reason, n := range b.reasons {
		r.Refusals = append(r.Refusals, Reason{reason, n})
	}
	slices.SortFunc(r.Refusals, func(x, y Reason) int {
		return cmp.Or(cmp.Compare(y.Count, x.Count),
			cmp.Compare(x.Reason, y.Reason))
	})
	r.Latency = append([]Latency{}, r.Latency...)
	r.Lifecycle = append([]Step{}, r.Lifecycle[max(0, len(r.Lifecycle)-maxSteps):]...)
	return &r
}
