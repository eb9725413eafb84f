// Package top shows a running agent on a terminal: what each session has left, what is signed and refused, and how the
// devices are.
//
// A [Screen] is fed with snapshots and keys and draws lines; it does no I/O. [Run] connects it to a terminal. What
// others wrote, as a device's error or a denial, reaches the terminal as printable ASCII only, so that it can't send
// the terminal commands.
package top

import (
	"slices"
	"strings"
	"time"

	"github.com/keyward/keyward/socket/api"
)

// Snapshot is what an agent says of itself at one moment.
type Snapshot struct {
	At       time.Time
	Status   *api.Status
	Sessions []*api.Session // first those that have not ended; of these the first [MostWhole] with their limits
	Records  []string       // about the session that the screen shows alone, the oldest first, for a person
	Err      error          // why there is nothing else; the screen goes on showing the snapshot before
}

// MostWhole is how many sessions are asked for their limits.
const MostWhole = 50

// Key is a key that was pressed.
type Key int

// Keys that a [Screen] knows.
const (
	Other Key = iota
	Up
	Down
	Left
	Right
	Enter
	Quit
)

// Screen is what is shown. It is not safe for concurrent use.
type Screen struct {
	Width, Height int  // of the terminal, in characters
	Color         bool // the terminal has colors
	Location      *time.Location

	last     Snapshot
	err      error
	signed   []float64 // a second, the newest last
	refused  float64   // a second, lately
	failed   float64
	selected string // a session's id
	alone    bool   // only the selected session is shown
	scroll   int    // lines, of the session that is shown alone
}

// history is how many seconds of signatures are shown.
const history = 60

// Alone returns the id of the session that is shown alone; "": the list is shown.
func (s *Screen) Alone() string {
	if s.alone {
		return s.selected
	}
	return ""
}

// Feed takes a snapshot.
func (s *Screen) Feed(next Snapshot) {
	s.err = next.Err
	if next.Err != nil {
		return
	}
	if before := s.last.Status; before != nil && before.PID == next.Status.PID && next.At.After(s.last.At) {
		seconds := next.At.Sub(s.last.At).Seconds()
		rate := func(now, then uint64) float64 { return float64(now-min(now, then)) / seconds }
		s.signed = append(s.signed, rate(next.Status.Granted, before.Granted))
		s.signed = s.signed[max(0, len(s.signed)-history):]
		s.refused, s.failed = rate(next.Status.Denied, before.Denied), rate(next.Status.Failed, before.Failed)
	}
	s.last = next
	if s.index() < 0 && !s.alone {
		s.selected = ""
		if len(next.Sessions) > 0 {
			s.selected = next.Sessions[0].ID
		}
	}
}

// index is where the selected session is in the list; -1: nowhere.
func (s *Screen) index() int {
	return slices.IndexFunc(s.last.Sessions, func(sess *api.Session) bool { return sess.ID == s.selected })
}

// Press takes a key. It reports whether the person wants to leave.
func (s *Screen) Press(k Key) (leave bool) {
	switch {
	case k == Quit && !s.alone:
		return true
	case k == Quit || k == Left:
		s.alone, s.scroll = false, 0
	case k == Enter || k == Right:
		s.alone = s.selected != ""
	case s.alone && k == Down:
		s.scroll++
	case s.alone && k == Up:
		s.scroll = max(0, s.scroll-1)
	case k == Down:
		s.move(1)
	case k == Up:
		s.move(-1)
	}
	return false
}

func (s *Screen) move(by int) {
	if n := len(s.last.Sessions); n > 0 {
		s.selected = s.last.Sessions[min(max(s.index()+by, 0), n-1)].ID
	}
}

// Lines draws the screen: at most Height lines of at most Width characters, besides their colors.
func (s *Screen) Lines() []string {
	if s.last.Status == nil {
		text := "waiting for the agent"
		if s.err != nil {
			text = s.err.Error()
		}
		return []string{fit(text, s.Width)}
	}
	head, body := s.head(), []string(nil)
	room := max(1, s.Height-len(head)-2) // a blank line, and the keys
	var keys string
	if sess := s.index(); s.alone {
		body, keys = s.session(sess), "up, down: scroll   left: back to the list   q: back"
		s.scroll = max(0, min(s.scroll, len(body)-room))
		body = body[s.scroll:]
	} else {
		body, keys = s.list(room), "up, down: choose   right: look into a session   q: leave"
	}
	lines := append(head, body[:min(len(body), room)]...)
	for len(lines) < s.Height-1 {
		lines = append(lines, "")
	}
	return append(lines, s.paint(dim, fit(keys, s.Width)))[:s.Height]
}

// clean is text of others as a terminal may have it.
func clean(text string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, text)
}
