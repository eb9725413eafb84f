package top

import (
	"fmt"
	"math"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/keyward/keyward/socket/api"
)

// Colors, as SGR parameters (ECMA-48, 8.3.117).
const (
	bold   = "1"
	dim    = "2"
	invert = "7"
	red    = "31"
	green  = "32"
	yellow = "33"
)

// paint gives text a color.
func (s *Screen) paint(color, text string) string {
	if !s.Color || text == "" {
		return text
	}
	return "\x1b[" + color + "m" + text + "\x1b[m"
}

// fit cuts text, which has no colors, to so many characters.
func fit(text string, width int) string {
	if utf8.RuneCountInString(text) <= width {
		return text
	}
	return string([]rune(text)[:max(0, width-1)]) + "…"
}

// pad fits text, and fills it up with spaces.
func pad(text string, width int) string {
	text = fit(text, width)
	return text + strings.Repeat(" ", max(0, width-utf8.RuneCountInString(text)))
}

// bar is a bar of which part, 0 to 1, is full. Something is shown of each part that is not 0.
func bar(part float64, width int) string {
	eighths := int(math.Ceil(min(max(part, 0), 1) * float64(width) * 8))
	full := strings.Repeat("█", eighths/8)
	if rest := eighths % 8; rest > 0 {
		full += string([]rune("▏▎▍▌▋▊▉")[rest-1])
	}
	return full + strings.Repeat("░", width-utf8.RuneCountInString(full))
}

// leftColor is green, and yellow and red when little is left.
func leftColor(part float64) string {
	switch {
	case part < .1:
		return red
	case part < .25:
		return yellow
	}
	return green
}

// spark draws values as columns, the newest last.
func spark(values []float64, width int) string {
	values = values[max(0, len(values)-width):]
	highest := 0.0
	for _, v := range values {
		highest = max(highest, v)
	}
	var b strings.Builder
	for _, v := range values {
		level := 0
		if highest > 0 {
			level = int(math.Ceil(v / highest * 8))
		}
		b.WriteRune([]rune(" ▁▂▃▄▅▆▇█")[level])
	}
	return b.String()
}

// head is the upper part of each screen.
func (s *Screen) head() []string {
	st := s.last.Status
	color := map[string]string{api.StateReady: green, api.StateDegraded: yellow}[st.State]
	if color == "" {
		color = red
	}
	clock := s.last.At.In(s.Location).Format("15:04:05 MST")
	title := fmt.Sprintf("keyward %s, up %s: ", clean(st.Version), span(s.last.At.Sub(st.StartedAt)))
	room := max(0, s.Width-len(title)-len(clock)-1)
	state := clean(joined(st.State, st.Detail))
	if s.err != nil {
		color, state = red, clean("no answer: "+s.err.Error())
	}
	lines := []string{s.paint(bold, title) + s.paint(color, pad(state, room)) + " " + clock}
	if room < len(state) { // what is wrong has to be seen whole
		lines = append(lines, wrap(state, s.Width, "  ")...)
	}
	lines = append(lines, s.rates(), s.totals())
	for _, b := range st.Backends {
		lines = append(lines, s.backend(&b))
	}
	for _, c := range st.Chains {
		lines = append(lines, s.chain(&c))
	}
	return append(lines, "")
}

func (s *Screen) rates() string {
	now := 0.0
	if len(s.signed) > 0 {
		now = s.signed[len(s.signed)-1]
	}
	left := fmt.Sprintf("signed %6.1f/s ", now)
	right := fmt.Sprintf("  refused %.1f/s  failed %.1f/s  p50 %s  p99 %s", s.refused, s.failed,
		took(s.last.Status.Recent.P50), took(s.last.Status.Recent.P99))
	width := min(history, max(0, s.Width-len(left)-len(right)))
	return fit(left+pad(spark(s.signed, width), width)+right, s.Width)
}

// took is a time in milliseconds with three digits.
func took(ms float64) string {
	switch {
	case ms == 0:
		return "-"
	case ms < 10:
		return fmt.Sprintf("%.2fms", ms)
	case ms < 1000:
		return fmt.Sprintf("%.0fms", ms)
	}
	return fmt.Sprintf("%.1fs", ms/1000)
}

func (s *Screen) totals() string {
	st := s.last.Status
	outstanding := 0
	for _, sess := range s.last.Sessions {
		if sess.Outstanding != nil {
			outstanding += *sess.Outstanding
		}
	}
	return fit(fmt.Sprintf("sessions %d active, %d pending  outstanding %d  connected %d  in flight %d  trail %d",
		st.Sessions["active"], st.Sessions["pending"], outstanding, st.Connections, st.InFlight, st.AuditHead.Seq), s.Width)
}

func (s *Screen) backend(b *api.Backend) string {
	color := green
	if b.State != api.StateReady {
		color = red
	}
	name := pad("backend "+clean(b.Name), 20) + " "
	text := " " + clean(b.Detail)
	if q := b.Queue; q != nil {
		text = fmt.Sprintf(" %d of %d busy, %d waiting", q.Busy, q.Slots, q.Waiting) + strings.TrimRight("  "+text, " ")
	}
	state := pad(clean(b.State), 11)
	return name + s.paint(color, state) + fit(text, max(0, s.Width-len(name)-len(state)))
}

func (s *Screen) chain(c *api.Chain) string {
	color := green
	if c.State != "ready" {
		color = yellow
	}
	name := pad("chain "+clean(c.Name), 20) + " "
	text := fmt.Sprintf(" block %d", c.Block)
	if c.Blocked+c.Exposed > 0 {
		text += fmt.Sprintf(", %d stopped by the registry, %d used from elsewhere", c.Blocked, c.Exposed)
	}
	if c.Detail != "" {
		text += "  " + clean(c.Detail)
	}
	state := pad(clean(c.State), 11)
	return name + s.paint(color, state) + fit(text, max(0, s.Width-len(name)-len(state)))
}

func joined(word, detail string) string {
	if detail == "" {
		return word
	}
	return word + ": " + detail
}

// span is a time to come or gone by, in its two largest units.
func span(d time.Duration) string {
	d = max(d, 0).Round(time.Second)
	switch days := int(d / (24 * time.Hour)); {
	case days > 0:
		return fmt.Sprintf("%dd %dh", days, int(d.Hours())%24)
	case d >= time.Hour:
		return fmt.Sprintf("%dh %dm", int(d.Hours()), int(d.Minutes())%60)
	case d >= time.Minute:
		return fmt.Sprintf("%dm %ds", int(d.Minutes()), int(d.Seconds())%60)
	}
	return fmt.Sprintf("%ds", int(d.Seconds()))
}

// wrap breaks text between words into lines of at most width characters. All but the first begin with indent.
func wrap(text string, width int, indent string) (lines []string) {
	line, begun := "", false
	for _, word := range strings.Fields(text) {
		if begun && utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) > width {
			lines = append(lines, fit(line, width))
			line, begun = indent, false
		}
		if begun {
			line += " "
		}
		line, begun = line+word, true
	}
	return append(lines, fit(line, width))
}
