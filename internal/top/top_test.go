package top

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/keyward/keyward/socket/api"
)

var at = time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)

// session is one with n limits, of which a part, 0 to 100, is left.
func session(t *testing.T, id string, limits int, part int) *api.Session {
	t.Helper()
	list := make([]string, limits)
	for i := range list {
		list[i] = fmt.Sprintf(`{"tracker":"transferValue:0x%040x","limit":"100","used":"%d","remaining":"%d"}`, i+1, 100-part,
			part)
	}
	text := fmt.Sprintf(`{"id":%q,"status":"active","chainId":11124,"account":"0x1111111111111111111111111111111111111111","clients":["uid:1000"],
"createdAt":"2026-11-27T12:00:00Z","signsUntil":"2026-11-29T12:00:00Z","outstanding":3,"limits":[%s],
"session":{"signer":"0x1111111111111111111111111111111111111111","expiresAt":"1764417600","feeLimit":{"limitType":"Lifetime","limit":"1","period":"0"},"callPolicies":[],"transferPolicies":[]}}`,
		id, strings.Join(list, ","))
	sess := new(api.Session)
	if err := json.Unmarshal([]byte(text), sess); err != nil {
		t.Fatal(err)
	}
	return sess
}

func snapshot(seconds int, granted uint64, sessions ...*api.Session) Snapshot {
	return Snapshot{At: at.Add(time.Duration(seconds) * time.Second), Sessions: sessions, Status: &api.Status{
		Version: "1.2.3", PID: 7, StartedAt: at.Add(-time.Hour), State: api.StateReady, Granted: granted,
		Denied:   granted / 10,
		Sessions: map[string]int{"active": len(sessions)}, Recent: api.Recent{Requests: 3, P50: 1.5, P99: 20},
		Backends: []api.Backend{{Name: "hsm", State: "ready", Queue: &api.Queue{Slots: 8, Busy: 2, Waiting: 1}}},
	}}
}

func screen(width, height int) *Screen {
	return &Screen{Width: width, Height: height, Location: time.UTC}
}

// check finds lines that do not fit the screen.
func check(t *testing.T, s *Screen) []string {
	t.Helper()
	lines := s.Lines()
	if len(lines) > s.Height {
		t.Errorf("%d lines on a screen of %d", len(lines), s.Height)
	}
	for _, line := range lines {
		if n := utf8.RuneCountInString(line); n > s.Width {
			t.Errorf("%d characters on a screen of %d: %q", n, s.Width, line)
		}
	}
	return lines
}

func TestRates(t *testing.T) {
	s := screen(100, 30)
	s.Feed(snapshot(0, 1000, session(t, "a", 1, 50)))
	s.Feed(snapshot(2, 1100, session(t, "a", 1, 50)))
	text := strings.Join(check(t, s), "\n")
	for _, want := range []string{"signed   50.0/s", "refused 5.0/s", "p50 1.50ms", "p99 20ms", "outstanding 3",
		"2 of 8 busy, 1 waiting", "50% 50 wei of 100 wei", " 23h 59m", "12:00:02 UTC"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is missing in\n%s", want, text)
		}
	}
	next := snapshot(3, 10, session(t, "a", 1, 50)) // the agent was started again: its counts begin from 0
	next.Status.PID = 8
	s.Feed(next)
	if text := strings.Join(check(t, s), "\n"); strings.Contains(text, "signed  -") || strings.Contains(text, "e+") {
		t.Errorf("after a restart:\n%s", text)
	}
}

// Whatever there is to show, in whatever size, it fits, and the selected session is on the screen.
func TestFits(t *testing.T) {
	var many []*api.Session
	for i := range 30 {
		many = append(many, session(t, fmt.Sprintf("session%02d", i), i%5, i*3))
	}
	for _, width := range []int{40, 80, 120, 160, 300} {
		for _, height := range []int{8, 24, 60} {
			s := screen(width, height)
			snap := snapshot(0, 5, many...)
			snap.Status.State, snap.Status.Detail = api.StateDegraded, strings.Repeat("something long is wrong ", 9)
			s.Feed(snap)
			for i := range many {
				lines := check(t, s)
				if height >= 24 && width >= 80 && !strings.Contains(strings.Join(lines, "\n"), "> "+many[i].ID) {
					t.Errorf("%d×%d: session %d is selected and not on the screen\n%s", width, height, i, strings.Join(lines, "\n"))
				}
				s.Press(Down)
			}
			s.Press(Enter)
			for range 40 {
				check(t, s)
				s.Press(Down)
			}
		}
	}
}

// What others wrote can't reach the terminal as a command.
func TestEscapes(t *testing.T) {
	s := screen(160, 50)
	sess := session(t, "a", 1, 1)
	sess.Blocked, sess.Clients = "\x1b]0;owned\x07", []string{"\u202euid:1"}
	snap := snapshot(0, 1, sess)
	snap.Status.State, snap.Status.Detail = api.StateDegraded, "\x1b[2J\u009b31m"
	snap.Status.Backends[0].Detail = "\r\nfake line\x1b[8m"
	snap.Status.Chains = []api.Chain{{Name: "c", State: "unavailable", Detail: "\x1b[5m"}}
	snap.Records = []string{"1 \x1b[31mrecord"}
	s.Feed(snap)
	s.Press(Enter)
	for _, line := range append(check(t, s), s.list(99)...) {
		if i := strings.IndexFunc(line, func(r rune) bool {
			return r < ' ' || r > '~' && !strings.ContainsRune("█▏▎▍▌▋▊▉░…▁▂▃▄▅▆▇", r)
		}); i >= 0 {
			t.Errorf("a line has %q", line[i:])
		}
	}
}

func TestKeys(t *testing.T) {
	s := screen(80, 24)
	s.Feed(snapshot(0, 1, session(t, "a", 1, 1), session(t, "b", 1, 1)))
	for _, step := range []struct {
		key      Key
		alone    string
		selected string
		leave    bool
	}{
		{Up, "", "a", false}, {Down, "", "b", false}, {Down, "", "b", false}, {Enter, "b", "b", false},
		{Down, "b", "b", false},
		{Quit, "", "b", false}, {Right, "b", "b", false}, {Left, "", "b", false}, {Other, "", "b", false},
		{Quit, "", "b", true},
	} {
		if leave := s.Press(step.key); leave != step.leave || s.Alone() != step.alone || s.selected != step.selected {
			t.Errorf("after key %d: alone %q, selected %q, leave %v; want %+v", step.key, s.Alone(), s.selected, leave, step)
		}
	}
	s.Feed(Snapshot{Err: errors.New("gone")})
	if lines := check(t, s); !strings.Contains(lines[0], "no answer: gone") ||
		!strings.Contains(strings.Join(lines, "\n"), "> b") {
		t.Errorf("after an error:\n%s", strings.Join(lines, "\n"))
	}
}
