package command

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/keyward/keyward/audit"
)

// filterFlags choose records of the audit trail.
func filterFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "session", Usage: "only of the session whose id or signer begins with `ID`"},
		&cli.StringFlag{Name: "client", Usage: "only of the `CLIENT`: uid:N, gid:N or a user's name"},
		&cli.StringFlag{Name: "event", Usage: "only of this `EVENT`, such as sign.denied; a group is \"sign.\""},
		&cli.StringFlag{Name: "reason", Usage: "only refusals for this `REASON`, such as callNotAllowed"},
		&cli.StringFlag{Name: "since", Usage: "only from this `TIME` on: 2h (ago), 2026-11-28, or 2026-11-28T15:04:05Z"},
		&cli.StringFlag{Name: "until", Usage: "only before this `TIME`"},
	}
}

// recordFilter chooses records. What is "" or zero lets every record through.
type recordFilter struct {
	session, client, event, reason string
	since, until                   time.Time
}

// readFilter reads filterFlags.
func readFilter(c *cli.Context) (f *recordFilter, err error) {
	f = &recordFilter{session: strings.ToLower(c.String("session")), event: c.String("event"), reason: c.String("reason")}
	if f.since, err = momentFlag(c, "since"); err != nil {
		return nil, err
	}
	if f.until, err = momentFlag(c, "until"); err != nil {
		return nil, err
	}
	if c.IsSet("client") {
		f.client, err = parseClient(c.String("client"))
	}
	return f, err
}

// momentFlag reads a point in time: a duration before now, a day or a time.
func momentFlag(c *cli.Context, name string) (time.Time, error) {
	text := c.String(name)
	if text == "" {
		return time.Time{}, nil
	}
	if ago, err := time.ParseDuration(text); err == nil && ago >= 0 {
		return time.Now().Add(-ago), nil
	}
	if days, ok := strings.CutSuffix(text, "d"); ok {
		if n, err := strconv.ParseUint(days, 10, 16); err == nil {
			return time.Now().AddDate(0, 0, -int(n)), nil
		}
	}
	for _, layout := range []string{time.RFC3339, "2006-01-02T15:04:05", time.DateTime, "2006-01-02T15:04",
		time.DateOnly} {
		if at, err := time.ParseInLocation(layout, text, time.Local); err == nil {
			return at, nil
		}
	}
	return time.Time{}, usageError("--%s %q: want a duration such as 2h or 3d, a day such as 2026-11-28, or a time "+
		"such as 2026-11-28T15:04:05Z", name, text)
}

// any reports whether the filter lets every record through.
func (f *recordFilter) any() bool { return *f == recordFilter{} }

// lets reports whether the record on line is wanted. A line that is no record is: printing it says what is wrong.
func (f *recordFilter) lets(line []byte) bool {
	if f.any() {
		return true
	}
	var r struct {
		audit.Record
		Detail json.RawMessage `json:"detail"`
	}
	if json.Unmarshal(line, &r) != nil {
		return true
	}
	switch {
	case f.session != "" && !strings.HasPrefix(r.Session, f.session) &&
		!strings.HasPrefix(strings.ToLower(r.Signer), f.session):
		return false
	case f.client != "" && !isClient(r.Peer, f.client):
		return false
	case f.event != "" && string(r.Event) != f.event &&
		!(strings.HasSuffix(f.event, ".") && strings.HasPrefix(string(r.Event), f.event)):
		return false
	case f.reason != "" && !hasReason(&r.Record, r.Detail, f.reason):
		return false
	case !f.since.IsZero() && r.Time.Before(f.since), !f.until.IsZero() && !r.Time.Before(f.until):
		return false
	}
	return true
}

func isClient(p *audit.Peer, client string) bool {
	return p != nil && (client == fmt.Sprintf("uid:%d", p.UID) || client == fmt.Sprintf("gid:%d", p.GID))
}

// hasReason also finds a reason that a summary counts.
func hasReason(r *audit.Record, detail json.RawMessage, reason string) bool {
	if r.Event == audit.RefusalsSummary {
		var counts map[string]uint64
		return json.Unmarshal(detail, &counts) == nil && counts[reason] > 0
	}
	return r.Verdict != nil && r.Verdict.Reason == reason
}

// selection prints the last n of the lines that its filter lets through, and then each.
type selection struct {
	filter *recordFilter
	n      int
	print  func(line []byte) error
	kept   [][]byte
	live   bool // the last ones are printed
}

func (s *selection) line(line []byte) error {
	switch {
	case !s.filter.lets(line):
		return nil
	case s.live:
		return s.print(line)
	case s.n == 0:
		return nil
	case len(s.kept) == s.n:
		s.kept = s.kept[1:]
	}
	s.kept = append(s.kept, bytes.Clone(line))
	return nil
}

// flush prints the lines that are kept.
func (s *selection) flush() error {
	s.live = true
	for _, line := range s.kept {
		if err := s.print(line); err != nil {
			return err
		}
	}
	s.kept = nil
	return nil
}

// atEnd calls do when its reader is at its end for the first time.
type atEnd struct {
	io.Reader
	do   func() error
	done bool
}

func (a *atEnd) Read(b []byte) (int, error) {
	n, err := a.Reader.Read(b)
	if err == io.EOF && !a.done {
		a.done = true
		if err := a.do(); err != nil {
			return n, err
		}
	}
	return n, err
}
