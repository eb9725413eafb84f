// Package cloudtrail compares what AWS CloudTrail says of KMS keys with an agent's audit trail: a signature, or a
// decryption of a sealed key, that the agent did not ask for was asked for by somebody else.
//
// CloudTrail counts calls and has no digests, so calls are matched with the agent's records by key and time.
package cloudtrail

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/keyward/keyward/audit"
)

// Event is a call that KMS answered.
type Event struct {
	Time     time.Time `json:"time"` // in whole seconds
	Name     string    `json:"name"` // "Sign" or "Decrypt"
	ID       string    `json:"id"`   // CloudTrail's
	Key      string    `json:"key"`  // the key's ARN
	Session  string    `json:"session,omitempty"`
	Identity string    `json:"identity"` // ARN of who called
	Source   string    `json:"source"`   // IP address

	signer string // in the encryption context of Decrypt, lower case
}

// record is what CloudTrail writes, as far as it is of use: CloudTrail record contents, AWS CloudTrail user guide.
type record struct {
	EventTime    time.Time
	EventSource  string
	EventName    string
	EventID      string
	ErrorCode    string
	SourceIP     string `json:"sourceIPAddress"`
	UserIdentity struct {
		ARN         string `json:"arn"`
		PrincipalID string `json:"principalId"`
	}
	RequestParameters struct {
		KeyID   string            `json:"keyId"`
		Context map[string]string `json:"encryptionContext"`
	}
	Resources []struct{ ARN string }
}

// Trail is an agent's audit trail, as far as KMS keys are concerned. Its zero value is empty.
type Trail struct {
	From, Until time.Time // of its records; zero: it has none

	signed map[string][]time.Time // by ARN: each may have led to one signature
	opened map[string][]time.Time // by signer, lower case: each may have led to decryptions
	named  map[string]string      // session by ARN and by signer
}

// Add adds a record of the trail, in its order.
func (t *Trail) Add(line []byte) error {
	var rec struct {
		Time                    time.Time
		Event                   audit.Event
		Session, Signer, KeyURI string
	}
	if err := json.Unmarshal(line, &rec); err != nil {
		return fmt.Errorf("%w: %w", audit.ErrDamaged, err)
	}
	if t.From.IsZero() {
		t.From, t.signed, t.opened, t.named = rec.Time, map[string][]time.Time{}, map[string][]time.Time{},
			map[string]string{}
	}
	if rec.Time.After(t.Until) {
		t.Until = rec.Time
	}
	signer := strings.ToLower(rec.Signer)
	arn, resident := strings.CutPrefix(rec.KeyURI, "awskms:")
	if resident {
		t.named[arn] = rec.Session
	}
	if signer != "" {
		t.named[signer] = cmp.Or(rec.Session, t.named[signer])
	}
	if resident && (rec.Event == audit.SignGranted || rec.Event == audit.BackendChecked) {
		t.signed[arn] = append(t.signed[arn], rec.Time)
	}
	if signer != "" && !resident {
		t.opened[signer] = append(t.opened[signer], rec.Time)
	}
	return nil
}

// Read reads a file of CloudTrail, {"Records": [...]}, and returns the calls of Sign and Decrypt that succeeded.
func Read(r io.Reader) ([]Event, error) {
	var file struct{ Records []record }
	d := json.NewDecoder(r)
	if err := d.Decode(&file); err != nil {
		return nil, fmt.Errorf("no CloudTrail file: %w", err)
	}
	if file.Records == nil {
		return nil, errors.New(`no CloudTrail file: it has no "Records"`)
	}
	var events []Event
	for _, rec := range file.Records {
		if rec.EventSource != "kms.amazonaws.com" || rec.ErrorCode != "" || rec.EventName != "Sign" &&
			rec.EventName != "Decrypt" {
			continue
		}
		e := Event{
			Time: rec.EventTime, Name: rec.EventName, ID: rec.EventID, Key: rec.RequestParameters.KeyID, Source: rec.SourceIP,
			Identity: cmp.Or(rec.UserIdentity.ARN, rec.UserIdentity.PrincipalID, "unknown"),
			signer:   strings.ToLower(rec.RequestParameters.Context["keyward:signer"]),
		}
		for _, res := range rec.Resources {
			if strings.Contains(res.ARN, ":key/") {
				e.Key = res.ARN
			}
		}
		if e.Time.IsZero() {
			return nil, fmt.Errorf("event %q has no eventTime", e.ID)
		}
		events = append(events, e)
	}
	return events, nil
}

// Result is what a comparison found.
type Result struct {
	Compared int     `json:"compared"` // calls for keys that are in the trail
	Foreign  []Event `json:"foreign"`  // that no record explains
	// Repeats are calls that no record explains, right beside one that a record does, from the same place: a call of the
	// agent's own whose answer was lost, and which it made again, looks so.
	Repeats []Event `json:"repeats"`
	Outside int     `json:"outside"` // calls for keys that are in the trail, before its first record or after its last
	Others  int     `json:"others"`  // calls for keys that are not in the trail
}

// repeatWithin is how far a repeated call may be from the first: the agent's longest time for a request.
const repeatWithin = 30 * time.Second

// Compare compares events with a trail. A call and its record are at most window apart, which has to cover the
// difference of the clocks.
func (t *Trail) Compare(events []Event, window time.Duration) *Result {
	r := &Result{Foreign: []Event{}, Repeats: []Event{}}
	events = slices.Clone(events)
	slices.SortStableFunc(events, func(a, b Event) int { return a.Time.Compare(b.Time) })
	// a file that was given twice
	events = slices.CompactFunc(events, func(a, b Event) bool { return a.ID != "" && a.ID == b.ID })
	left := map[string][]time.Time{}
	for key, times := range t.signed {
		left[key] = slices.SortedFunc(slices.Values(times), time.Time.Compare)
	}
	last := map[string]Event{} // explained, by key
	for _, e := range events {
		name := e.Key
		if e.Name == "Decrypt" {
			name = e.signer
		}
		session, known := t.named[name]
		e.Session = session
		switch {
		case !known || name == "":
			r.Others++
			continue
		case e.Time.Before(t.From.Add(-window)) || e.Time.After(t.Until.Add(window)):
			r.Outside++
			continue
		}
		r.Compared++
		before, seen := last[e.Key]
		switch {
		case e.Name == "Sign" && take(left, e.Key, e.Time, window), e.Name == "Decrypt" &&
			near(t.opened[e.signer], e.Time, window):
			last[e.Key] = e
		case e.Name == "Sign" && seen && e.Time.Sub(before.Time) <= repeatWithin && e.Identity == before.Identity &&
			e.Source == before.Source:
			r.Repeats = append(r.Repeats, e)
		default:
			r.Foreign = append(r.Foreign, e)
		}
	}
	return r
}

// take takes the earliest record that is near at, so that it explains no other call. The times are in order, and so are
// the calls.
func take(left map[string][]time.Time, key string, at time.Time, window time.Duration) bool {
	times := left[key]
	for len(times) > 0 && times[0].Before(at.Add(-window)) {
		times = times[1:]
	}
	ok := len(times) > 0 && !times[0].After(at.Add(window))
	if ok {
		times = times[1:]
	}
	left[key] = times
	return ok
}

func near(times []time.Time, at time.Time, window time.Duration) bool {
	return slices.ContainsFunc(times, func(t time.Time) bool { return t.Sub(at).Abs() <= window })
}
