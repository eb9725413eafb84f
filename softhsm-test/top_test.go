package softhsmtest

import (
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/keyward/keyward/internal/testbin"
)

// terminal is a pseudo-terminal with a program on it, and what its screen shows.
type terminal struct {
	t      *testing.T
	person *os.File // what is written here is typed

	mu       sync.Mutex
	cells    [][]rune
	row, col int
	unknown  string // the first sequence that a terminal would have had to know
	other    bool   // the screen of the program, not the shell's
}

// openTerminal makes one of that size, and the side that is for a program.
func openTerminal(t *testing.T, width, height int) (*terminal, *os.File) {
	t.Helper()
	person, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { person.Close() })
	fd := int(person.Fd())
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		err = unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Col: uint16(width), Row: uint16(height)})
	}
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	v := &terminal{t: t, person: person, cells: make([][]rune, height)}
	for i := range v.cells {
		v.cells[i] = []rune(strings.Repeat(" ", width))
	}
	go v.read()
	return v, program
}

var sequence = regexp.MustCompile(`^\x1b\[([?0-9;]*)([A-Za-z])`)

// read draws what the program writes, until it has ended.
func (v *terminal) read() {
	buf, pending := make([]byte, 64<<10), ""
	for {
		n, err := v.person.Read(buf)
		if err != nil {
			return
		}
		v.mu.Lock()
		pending = v.draw(pending + string(buf[:n]))
		v.mu.Unlock()
	}
}

// draw returns the beginning of a sequence that is not whole yet.
func (v *terminal) draw(text string) string {
	for text != "" {
		if text[0] == 0x1b {
			m := sequence.FindStringSubmatch(text)
			if m == nil {
				return text
			}
			v.control(m[1], m[2])
			text = text[len(m[0]):]
			continue
		}
		r, size := []rune(text)[0], len(string([]rune(text)[0]))
		if r == '\ufffd' && len(text) < 4 { // a character that is cut
			return text
		}
		text = text[size:]
		switch {
		case r == '\r':
			v.col = 0
		case r == '\n':
			v.row++
		case v.row >= len(v.cells) || v.col >= len(v.cells[0]):
			v.unknown = fmt.Sprintf("%q outside the screen", r)
		default:
			v.cells[v.row][v.col] = r
			v.col++
		}
	}
	return ""
}

func (v *terminal) control(params, final string) {
	clear := func(row, from int) {
		for col := from; row < len(v.cells) && col < len(v.cells[row]); col++ {
			v.cells[row][col] = ' '
		}
	}
	switch final + params {
	case "H":
		v.row, v.col = 0, 0
	case "K":
		clear(v.row, v.col)
	case "J":
		clear(v.row, v.col)
		for row := v.row + 1; row < len(v.cells); row++ {
			clear(row, 0)
		}
	case "h?1049", "l?1049":
		v.other = final == "h"
	case "h?25", "l?25":
	default:
		if final != "m" {
			v.unknown = params + final
		}
	}
}

// screen is what is shown.
func (v *terminal) screen() string {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.unknown != "" {
		v.t.Errorf("the terminal got %s", v.unknown)
	}
	var b strings.Builder
	for _, row := range v.cells {
		b.WriteString(strings.TrimRight(string(row), " ") + "\n")
	}
	return b.String()
}

// shows waits until the screen has all of these, regular expressions.
func (v *terminal) shows(what string, patterns ...string) {
	v.t.Helper()
	for _, pattern := range patterns {
		re := regexp.MustCompile(pattern)
		waitFor(v.t, fmt.Sprintf("%s to show %q; it shows\n%s", what, pattern, v.screen()),
			func() bool { return re.MatchString(v.screen()) })
	}
}

func (v *terminal) types(keys string) {
	v.t.Helper()
	if _, err := v.person.WriteString(keys); err != nil {
		v.t.Fatal(err)
	}
}

const (
	keyUp, keyDown, keyRight, keyLeft = "\x1b[A", "\x1b[B", "\x1b[C", "\x1b[D"
)

// keyward top on a terminal of 80 and of 160 characters: sessions and limits with bars, arrow keys into one session,
// its policy and its last requests, and the terminal as it was at the end.
func TestTopOnATerminal(t *testing.T) {
	a := NewPlainAgent(t, t.TempDir())
	first, second := a.ActiveSession(transferSpec(10), userAccount), a.ActiveSession(transferSpec(10), userAccount)
	c := a.Client()
	for nonce := range uint64(3) {
		if _, err := c.SignTransaction(t.Context(), transferTx(second.ID, nonce)); err != nil {
			t.Fatal(err)
		}
	}
	denied := transferTx(second.ID, 9)
	denied["value"] = "2"
	if _, err := c.SignTransaction(t.Context(), denied); err == nil {
		t.Fatal("a transfer of too much is signed")
	}
	for _, width := range []int{80, 160} {
		t.Run(strconv.Itoa(width), func(t *testing.T) {
			v, program := openTerminal(t, width, 30)
			before, err := unix.IoctlGetTermios(int(program.Fd()), unix.TCGETS)
			if err != nil {
				t.Fatal(err)
			}
			top := exec.Command(a.bin, "top", "--dir", a.Dir)
			top.Env = testbin.Env()
			top.Stdin, top.Stdout, top.Stderr = program, program, program
			top.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
			if err := top.Start(); err != nil {
				t.Fatal(err)
			}
			ended := make(chan error, 1)
			go func() { ended <- top.Wait() }()
			t.Cleanup(func() { top.Process.Kill() })

			v.shows("the list", `keyward .*: ready`, `backend softhsm +ready`, `sessions 2 active`, `p50 [0-9.]+ms`, first.ID+
				` active`, `value to 0x2222.* 70% 7 wei`, `[█▏▎▍▌▋▊▉]░`, `2[0-9]h \d+m`)
			selected := func(id string) { v.shows("the list", `(?m)^> `+id) }
			selected(first.ID)
			v.types(keyDown)
			selected(second.ID)
			v.types(keyUp + keyDown + keyRight)
			v.shows("the session", `What it may do`, `may transfer to 0x2222`, `Last requests`, `sign.denied`, `sign.granted`,
				`signer +`+second.Signer.String())
			if strings.Contains(v.screen(), first.ID) {
				t.Errorf("the other session is shown as well:\n%s", v.screen())
			}
			t.Logf("\n%s", v.screen())
			v.types(keyLeft)
			selected(second.ID)
			t.Logf("\n%s", v.screen())
			v.types("q")
			if err := <-ended; err != nil {
				t.Errorf("the end: %v", err)
			}
			after, err := unix.IoctlGetTermios(int(program.Fd()), unix.TCGETS)
			waitFor(t, "the screen before", func() bool { v.mu.Lock(); defer v.mu.Unlock(); return !v.other })
			if err != nil || *after != *before {
				t.Errorf("the terminal's modes are not as they were (%v)", err)
			}
			program.Close()
		})
	}
}
