package secret

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// FromPinentry has a program ask for the PIN, on the terminal or the display: pinentry, or another that
// speaks its protocol (Assuan, over stdin and stdout, as gpg-agent does). description is
// what the person reads. The error of one that failed for want of both is [ErrNoTerminal].
func FromPinentry(program, description string) Source {
	return func(ctx context.Context) (*Buffer, error) {
		pin, err := runPinentry(ctx, program, description)
		if err != nil {
			return nil, fmt.Errorf("PIN prompt by %q: %w", program, err)
		}
		return pin, nil
	}
}

// pinentryGrace is how long the program may take to end when it has nothing left to do.
const pinentryGrace = time.Second

// runPinentry returns once the program is gone and the terminal as it was.
func runPinentry(ctx context.Context, program, description string) (pin *Buffer, err error) {
	ctx, ignore := signal.NotifyContext(ctx, endSignals...)
	defer ignore()
	var terminal string
	tty, noTerminal := openTerminal(ttyPath)
	if noTerminal == nil {
		defer tty.Close()
		_, restore, modesErr := modesOf(tty)
		if modesErr != nil {
			return nil, modesErr
		}
		// A program that has to be killed leaves echo off. From the background, where the program asks on
		// a display, the terminal is another's: setting its modes would stop this process (SIGTTOU).
		if inForeground(tty) {
			defer func() { pin, err = restored(pin, err, restore) }()
		}
		terminal = ttyPath
	}
	running, kill := context.WithCancel(ctx)
	defer kill()
	cmd := exec.CommandContext(running, program)
	cmd.Cancel = func() error { return cmd.Process.Signal(unix.SIGTERM) } // pinentry puts the terminal in order
	cmd.WaitDelay = pinentryGrace
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	// Reading ends then, even if a process that the program started keeps the pipe open.
	stop := context.AfterFunc(ctx, func() { _ = out.Close() })
	defer stop()
	pin, err = getPIN(in, out, terminal, description)
	_, _ = in.Close(), out.Close()
	time.AfterFunc(pinentryGrace, kill)
	_ = cmd.Wait() // what it answered counts
	switch {
	case err == nil:
		return pin, nil
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case errors.Is(err, io.EOF), errors.Is(err, unix.EPIPE):
		err = fmt.Errorf("it ended without giving a PIN (%s)", cmd.ProcessState)
	}
	if noTerminal != nil && os.Getenv("DISPLAY") == "" { // some say that it was cancelled then
		err = fmt.Errorf("%w, and %w", err, noTerminal)
	}
	return nil, err
}

// getPIN holds the conversation: "The Assuan Protocol" in libassuan's manual, and "Pinentry's Assuan
// Protocol" in pinentry's.
func getPIN(in io.Writer, out io.Reader, terminal, description string) (pin *Buffer, err error) {
	line, err := New(maxAssuanLine)
	if err != nil {
		return nil, err
	}
	defer line.Close()
	a := &assuan{in: in, out: out, line: line.data}
	if err := a.answer(nil); err != nil { // the greeting
		return nil, err
	}
	for _, o := range []struct{ name, value string }{
		{"ttyname", terminal},
		{"ttytype", os.Getenv("TERM")},
		{"lc-ctype", cmp.Or(os.Getenv("LC_ALL"), os.Getenv("LC_CTYPE"), os.Getenv("LANG"))},
		{"display", os.Getenv("DISPLAY")},
	} {
		var refused *assuanError
		if o.value == "" {
			continue
		}
		// Not every program has every option.
		if err := a.command("OPTION "+o.name+"=", o.value, nil); err != nil && !errors.As(err, &refused) {
			return nil, err
		}
	}
	for _, c := range []struct{ name, text string }{
		{"SETTITLE ", "Keyward"}, {"SETDESC ", description}, {"SETPROMPT ", "PIN:"},
	} {
		if err := a.command(c.name, c.text, nil); err != nil {
			return nil, err
		}
	}
	b, err := New(maxPIN + 1)
	if err != nil {
		return nil, err
	}
	got := &filling{b: b}
	if err := a.command("GETPIN", "", got); err != nil {
		return nil, errors.Join(err, b.Close())
	}
	_, _ = io.WriteString(in, "BYE\n") // not answered by all
	return trimmed(b, got.n, maxPIN, "the entry")
}

// filling is a PIN that comes in parts.
type filling struct {
	b *Buffer
	n int
}

// maxAssuanLine is the longest line, with its newline. libassuan's manual, "Client requests".
const maxAssuanLine = 1000 + len("\r\n")

// assuan is the client's side of a conversation.
type assuan struct {
	in   io.Writer
	out  io.Reader
	line []byte // in locked memory; holds what was read and not used
	n    int    // bytes in it
}

// command sends one, and takes its answer. Data goes to pin; if that is nil, none is expected.
func (a *assuan) command(name, arg string, pin *filling) error {
	var text strings.Builder
	text.WriteString(name)
	for i := range len(arg) {
		if c := arg[i]; c == '%' || c < ' ' {
			fmt.Fprintf(&text, "%%%02X", c)
		} else {
			text.WriteByte(c)
		}
	}
	text.WriteByte('\n')
	if text.Len() > maxAssuanLine {
		return fmt.Errorf("%stakes no text of %d bytes", name, len(arg))
	}
	if _, err := io.WriteString(a.in, text.String()); err != nil {
		return err
	}
	return a.answer(pin)
}

// answer takes lines until the one that says how the command went. No other's text is in an
// error: it may be part of a PIN.
func (a *assuan) answer(pin *filling) error {
	for {
		line, length, err := a.next()
		if err != nil {
			return err
		}
		word, rest, _ := bytes.Cut(line, []byte(" "))
		done := false
		switch {
		case len(line) == 0, line[0] == '#', string(word) == "S":
		case string(word) == "OK":
			done = true
		case string(word) == "ERR":
			err = newAssuanError(string(rest))
		case string(word) == "D" && pin != nil:
			err = pin.add(rest)
		default:
			err = errors.New("it does not speak pinentry's protocol (Assuan)")
		}
		a.use(length)
		if done || err != nil {
			return err
		}
	}
}

// next returns the next line less its end, and its length with it. It is valid until use.
func (a *assuan) next() (line []byte, length int, err error) {
	for {
		if i := bytes.IndexByte(a.line[:a.n], '\n'); i >= 0 {
			return bytes.TrimSuffix(a.line[:i], []byte("\r")), i + 1, nil
		}
		if a.n == len(a.line) {
			return nil, 0, fmt.Errorf("it sent a line of more than %d bytes", a.n)
		}
		n, err := a.out.Read(a.line[a.n:])
		a.n += n
		if err != nil && n == 0 {
			return nil, 0, err
		}
	}
}

// use drops the first n bytes that were read.
func (a *assuan) use(n int) {
	left := copy(a.line, a.line[n:a.n])
	clear(a.line[left:a.n])
	a.n = left
}

// add takes part of a PIN, percent-escaped, which it decodes in place.
func (p *filling) add(part []byte) error {
	n := 0
	for i := 0; i < len(part); i++ {
		c := part[i]
		if c == '%' {
			hi, lo := nibble(part, i+1), nibble(part, i+2)
			if hi < 0 || lo < 0 {
				return errors.New("it sent a PIN that is not escaped as the protocol has it")
			}
			c, i = byte(hi<<4|lo), i+2
		}
		part[n] = c
		n++
	}
	if n > len(p.b.data)-p.n {
		return fmt.Errorf("the entry is longer than %d bytes", maxPIN)
	}
	p.n += copy(p.b.data[p.n:], part[:n])
	return nil
}

// nibble is the value of the hexadecimal digit at b[i], -1 if there is none.
func nibble(b []byte, i int) int {
	if i >= len(b) {
		return -1
	}
	switch c := b[i]; {
	case '0' <= c && c <= '9':
		return int(c - '0')
	case 'A' <= c && c <= 'F':
		return int(c-'A') + 10
	case 'a' <= c && c <= 'f':
		return int(c-'a') + 10
	}
	return -1
}

// assuanError is the program's refusal of a command.
type assuanError struct {
	code int    // libgpg-error's, with its source in the upper bits
	text string // as the program has it
}

// newAssuanError parses what follows ERR: a code and a text.
func newAssuanError(s string) *assuanError {
	code, text, _ := strings.Cut(s, " ")
	n, _ := strconv.Atoi(code)
	return &assuanError{n, text}
}

// What a person did instead of giving the PIN; err-codes.h of libgpg-error.
const (
	gpgErrTimeout       = 62
	gpgErrCanceled      = 99
	gpgErrFullyCanceled = 198
)

func (e *assuanError) Error() string {
	switch e.code & 0xffff {
	case gpgErrCanceled, gpgErrFullyCanceled:
		return "cancelled"
	case gpgErrTimeout:
		return "nobody answered in time"
	}
	return fmt.Sprintf("error %d %q", e.code, e.text)
}
