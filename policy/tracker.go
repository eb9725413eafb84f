package policy

import (
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// TrackerKind says what a [Tracker] counts.
type TrackerKind uint8

const (
	FeeTracker           TrackerKind = iota // fees of the session
	CallValueTracker                        // value sent, per target and selector
	TransferValueTracker                    // value sent, per target
	CallParamTracker                        // a calldata word, per target, selector and constraint position
)

// Tracker names one counter of a session (SessionLib.UsageTracker). It is
// comparable and has a stable text form, e.g. "fee", "callValue:0xTARGET:0xSELECTOR",
// "transferValue:0xTARGET@PERIODID", "callParam:0xTARGET:0xSELECTOR:2@PERIODID".
type Tracker struct {
	Kind     TrackerKind
	Target   Address
	Selector Selector
	Position uint32 // of the constraint in its list
	// Allowance trackers count per period, lifetime trackers do not.
	Allowance bool
	PeriodID  uint64
}

// trackerKinds are the words of the text form, by kind.
var trackerKinds = [...]string{
	FeeTracker:           "fee",
	CallValueTracker:     "callValue",
	TransferValueTracker: "transferValue",
	CallParamTracker:     "callParam",
}

var errTracker = errors.New("not the text form of a usage tracker")

// String returns the text form of t; see [Tracker.MarshalText].
func (t Tracker) String() string {
	var room [96]byte
	text, err := t.AppendText(room[:0])
	if err != nil {
		return fmt.Sprintf("tracker of unknown kind %d", t.Kind)
	}
	return string(text)
}

// MarshalText returns the one text form of t: the kind and what it counts for,
// separated by colons, hex in lower case, and @ and the period id where t is an
// allowance's. An unknown kind is an error.
func (t Tracker) MarshalText() ([]byte, error) { return t.AppendText(make([]byte, 0, 96)) }

// AppendText appends what MarshalText returns to b.
func (t Tracker) AppendText(b []byte) ([]byte, error) {
	if int(t.Kind) >= len(trackerKinds) {
		return nil, fmt.Errorf("unknown kind %d of usage tracker", t.Kind)
	}
	b = append(b, trackerKinds[t.Kind]...)
	if t.Kind != FeeTracker {
		b = append(b, ':')
		// Lower case, not EIP-55: this text is a key on disk.
		b = hex.AppendEncode(append(b, "0x"...), t.Target[:])
	}
	if t.Kind == CallValueTracker || t.Kind == CallParamTracker {
		b = append(b, ':')
		b = hex.AppendEncode(append(b, "0x"...), t.Selector[:])
	}
	if t.Kind == CallParamTracker {
		b = append(b, ':')
		b = strconv.AppendUint(b, uint64(t.Position), 10)
	}
	if t.Allowance {
		b = append(b, '@')
		b = strconv.AppendUint(b, t.PeriodID, 10)
	}
	return b, nil
}

// UnmarshalText reads what MarshalText writes, and nothing else.
func (t *Tracker) UnmarshalText(text []byte) error {
	var parsed Tracker
	name, period, allowance := strings.Cut(string(text), "@")
	if allowance {
		id, err := strconv.ParseUint(period, 10, 64)
		if err != nil {
			return errTracker
		}
		parsed.Allowance, parsed.PeriodID = true, id
	}
	if err := parsed.parseName(strings.Split(name, ":")); err != nil {
		return err
	}
	// One counter, one key: what is not written exactly as MarshalText does is refused.
	if parsed.String() != string(text) {
		return errTracker
	}
	*t = parsed
	return nil
}

// parseName reads the parts of the text form before the period id.
func (t *Tracker) parseName(parts []string) error {
	kind := -1
	for k, word := range trackerKinds {
		if word == parts[0] {
			kind = k
		}
	}
	if kind < 0 {
		return errTracker
	}
	t.Kind = TrackerKind(kind)
	if len(parts) > 1 && t.Target.UnmarshalText([]byte(parts[1])) != nil {
		return errTracker
	}
	if len(parts) > 2 && t.Selector.UnmarshalText([]byte(parts[2])) != nil {
		return errTracker
	}
	if len(parts) > 3 {
		position, err := strconv.ParseUint(parts[3], 10, 32)
		if err != nil {
			return errTracker
		}
		t.Position = uint32(position)
	}
	return nil
}

// noun names the limit that t is held to, for a denial's detail.
func (t Tracker) noun() string {
	switch t.Kind {
	case FeeTracker:
		return "fee limit"
	case CallValueTracker:
		return fmt.Sprintf("value limit of calls of %v on %v", t.Selector, t.Target)
	case TransferValueTracker:
		return fmt.Sprintf("value limit of transfers to %v", t.Target)
	default:
		return fmt.Sprintf("limit of constraint %d on calls of %v on %v", t.Position, t.Selector, t.Target)
	}
}
