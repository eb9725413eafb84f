package top

import (
	"fmt"
	"strings"
	"time"

	"github.com/holiman/uint256"

	"github.com/keyward/keyward/policy"
	"github.com/keyward/keyward/socket/api"
)

// list draws the sessions around the selected one, in so many lines.
func (s *Screen) list(room int) []string {
	if len(s.last.Sessions) == 0 {
		return []string{"no sessions: keyward session create"}
	}
	var lines []string
	first, last := 0, 0 // lines of the selected session
	for i, sess := range s.last.Sessions {
		block := s.entry(sess)
		if i == s.index() {
			first, last = len(lines), len(lines)+len(block)
		}
		lines = append(lines, block...)
	}
	from := max(0, min(first, last-room))
	if last <= room {
		from = 0
	}
	return lines[from:min(len(lines), from+room)]
}

// entry is a session in the list: a line of its own, and one for each limit.
func (s *Screen) entry(sess *api.Session) []string {
	mark, selected := "  ", sess.ID == s.selected
	if selected {
		mark = "> "
	}
	text := mark + pad(clean(sess.ID), 17) + pad(clean(sess.Status), 9) + s.owner(sess)
	end := s.ends(sess)
	line := pad(text, max(0, s.Width-len([]rune(end.text)))) // the time that is left stands at the right
	if selected {
		line = s.paint(bold, line)
	}
	lines := []string{line + s.paint(end.color, end.text)}
	for i := range sess.Limits {
		lines = append(lines, s.limit(&sess.Limits[i]))
	}
	return lines
}

// owner is whose session it is, as far as there is room.
func (s *Screen) owner(sess *api.Session) string {
	text := short(sess.Account) + " on " + fmt.Sprint(sess.ChainID)
	if s.Width >= 120 {
		text = fmt.Sprintf("%s on %d  %s", sess.Account, sess.ChainID, clean(strings.Join(sess.Clients, ", ")))
	}
	if sess.Outstanding != nil && *sess.Outstanding > 0 {
		text += fmt.Sprintf("  %d out", *sess.Outstanding)
	}
	return text
}

// colored is text and its color.
type colored struct{ text, color string }

// ends is what is left of the session's time, as a bar and in words.
func (s *Screen) ends(sess *api.Session) colored {
	width := 10
	if s.Width >= 120 {
		width = 20
	}
	if sess.EndedAt != nil {
		return colored{" " + pad("ended "+span(s.last.At.Sub(*sess.EndedAt))+" ago", width+10), dim}
	}
	left, all := sess.SignsUntil.Sub(s.last.At), sess.SignsUntil.Sub(sess.CreatedAt)
	part := 0.0
	if all > 0 {
		part = left.Seconds() / all.Seconds()
	}
	color := green
	switch {
	case left < time.Hour:
		color = red
	case left < 24*time.Hour:
		color = yellow
	}
	return colored{" " + bar(part, width) + " " + pad(span(left), 9), color}
}

// limit is a line for one limit: its name, a bar and what is left.
func (s *Screen) limit(l *api.Limit) string {
	name, width := min(35, s.Width/2-4), min(11, s.Width/6)
	if s.Width >= 120 {
		name, width = 68, 40
	}
	part := ratio(l)
	remaining, of := left(l)
	text := fmt.Sprintf("%4d%% %s", int(part*100), remaining)
	if l.RunsOut == nil || s.Width >= 120 {
		text += " of " + of
	}
	if l.RunsOut != nil {
		text += ", gone in " + span(l.RunsOut.Sub(s.last.At))
	}
	return "    " + pad(limitName(&l.Tracker, s.Width >= 120), name-1) + " " + s.paint(leftColor(part), bar(part, width)) +
		fit(text, max(0, s.Width-4-name-width))
}

// ratio is how much of a limit is left, 0 to 1. Nothing is left of a limit of 0.
func ratio(l *api.Limit) float64 {
	of, remaining := l.Limit.Int(), l.Remaining.Int()
	if of.IsZero() {
		return 0
	}
	return remaining.Float64() / of.Float64()
}

// left says how much of a limit is left, and how much it was.
func left(l *api.Limit) (remaining, of string) {
	if l.Tracker.Kind == policy.CallParamTracker {
		return count(l.Remaining.Int()), count(l.Limit.Int())
	}
	return ether(l.Remaining.Int()), ether(l.Limit.Int())
}

// count is a number with at most four digits, if it is large as a power of ten.
func count(n uint256.Int) string {
	if text := n.Dec(); len(text) <= 9 {
		return text
	}
	return fmt.Sprintf("%.3g", n.Float64())
}

// ether is an amount of wei. What is less than a millionth ether is shown in wei.
func ether(wei uint256.Int) string {
	if len(wei.Dec()) <= 12 {
		return count(wei) + " wei"
	}
	return fmt.Sprintf("%.4g ETH", wei.Float64()/1e18)
}

// limitName says what a limit counts.
func limitName(t *policy.Tracker, long bool) string {
	target := short(t.Target)
	if long {
		target = t.Target.String()
	}
	name := "fees"
	switch t.Kind {
	case policy.TransferValueTracker:
		name = "value to " + target
	case policy.CallValueTracker:
		name = fmt.Sprintf("%v value on %s", t.Selector, target)
	case policy.CallParamTracker:
		name = fmt.Sprintf("%v [%d] on %s", t.Selector, t.Position, target)
	}
	if t.Allowance {
		name += ", period"
	}
	return name
}

func short(a policy.Address) string {
	text := a.String()
	return text[:6] + "…" + text[len(text)-4:]
}

// session draws one session alone, which is at that index of the list.
func (s *Screen) session(at int) []string {
	if at < 0 {
		return []string{"session " + clean(s.selected) + " is not there any more"}
	}
	sess := s.last.Sessions[at]
	lines := s.entry(sess)
	lines = append(lines, "", s.paint(bold, "What it may do"))
	for _, rule := range sess.Session.Describe() {
		lines = append(lines, wrap("- "+clean(rule), s.Width, "  ")...)
	}
	if sess.Blocked != "" {
		lines = append(lines, wrap("The registry stops it: "+clean(sess.Blocked), s.Width, "  ")...)
	}
	lines = append(lines, "", fit("signer  "+sess.Signer.String(), s.Width),
		fit("account "+sess.Account.String(), s.Width),
		fit("clients "+clean(strings.Join(sess.Clients, ", ")), s.Width),
		fit(fmt.Sprintf("key     %s, in backend %s", clean(sess.Protection), clean(sess.Backend)), s.Width),
		"", s.paint(bold, "Last requests"))
	if len(s.last.Records) == 0 {
		lines = append(lines, "none lately")
	}
	for i := len(s.last.Records) - 1; i >= 0; i-- { // the newest first
		lines = append(lines, wrap(clean(strings.TrimSpace(s.last.Records[i])), s.Width, "        ")...)
	}
	return lines
}
