package secret

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// fake makes FromPinentry with this program run a fake one, which answers GETPIN so.
func fake(t *testing.T, answer string) (notes string) {
	t.Helper()
	notes = filepath.Join(t.TempDir(), "notes")
	t.Setenv(helperVar, "pinentry")
	t.Setenv(answerVar, answer)
	t.Setenv(notesVar, notes)
	return notes
}

func TestFromPinentry(t *testing.T) {
	long := strings.Repeat("7", 900)
	for _, tt := range []struct{ name, answer, want, wantErr string }{
		{"plain", "D 975310\nOK\n", "975310", ""},
		{"CR LF", "D 975310\r\nOK\r\n", "975310", ""},
		{"escaped", "D 97%25%0d%C3%a4\nOK\n", "97%\r\xc3\xa4", ""},
		{"spaces stay", "D  97 53 \nOK\n", " 97 53 ", ""},
		{"in parts", "D 975\nD 310\nOK\n", "975310", ""},
		{"status and comments", "S PASSWORD_FROM_CACHE\n# 97\n\nD 975310\nOK done\n", "975310", ""},
		{"longest", "D " + long + "\nD " + long[:maxPIN-900] + "\nOK\n", long + long[:maxPIN-900], ""},
		{"too long by one", "D " + long + "\nD " + long[:maxPIN-899] + "\nOK\n", "", "longer than 1024 bytes"},
		{"too long by far", "D " + long + "\nD " + long + "\nOK\n", "", "longer than 1024 bytes"},
		{"empty", "OK\n", "", "empty"},
		{"empty data", "D \nOK\n", "", "empty"},
		{"cancelled", "ERR 83886179 Operation cancelled <Pinentry>\n", "", ": cancelled"},
		{"cancelled after a part", "D 975310\nERR 83886278 Fully cancelled <Pinentry>\n", "", ": cancelled"},
		{"timed out", "ERR 83886142 Timeout <Pinentry>\n", "", "nobody answered in time"},
		{"refused", "ERR 83918950 Inappropriate ioctl for device <Pinentry>\n", "",
			`error 83918950 "Inappropriate ioctl for device <Pinentry>"`},
		{"half an escape", "D 975310%2\nOK\n", "", "not escaped"},
		{"no escape", "D 975310%zz\nOK\n", "", "not escaped"},
		{"garbage", "975310\n", "", "does not speak pinentry's protocol"},
		{"a question", "INQUIRE QUALITY 975310\n", "", "does not speak pinentry's protocol"},
		{"endless line", "endless", "", "a line of more than 1002 bytes"},
		{"early exit", "exit", "", "it ended without giving a PIN (exit status 7)"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			fake(t, tt.answer)
			b, err := FromPinentry(os.Args[0], "PIN of backend card")(t.Context())
			if tt.wantErr != "" {
				if err == nil || !strings.Contains(err.Error(), tt.wantErr) || strings.Contains(err.Error(), "975") {
					t.Fatalf("FromPinentry = %v, want an error with %q", err, tt.wantErr)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer b.Close()
			if got := reveal(b); got != tt.want {
				t.Errorf("PIN = %q, want %q", got, tt.want)
			}
		})
	}
}

func TestFromPinentryTellsTheProgram(t *testing.T) {
	notes := fake(t, "D 975310\nOK\n")
	t.Setenv("TERM", "vt100")
	t.Setenv("LC_ALL", "")
	t.Setenv("LC_CTYPE", "C.UTF-8")
	t.Setenv("LANG", "C")
	t.Setenv("DISPLAY", ":7")
	b, err := FromPinentry(os.Args[0], "PIN of backend 100%\nsure")(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	b.Close()
	told, err := os.ReadFile(notes)
	if err != nil {
		t.Fatal(err)
	}
	got := strings.TrimPrefix(string(told), "OPTION ttyname=/dev/tty\n") // if the test has one
	const want = `OPTION ttytype=vt100
OPTION lc-ctype=C.UTF-8
OPTION display=:7
SETTITLE Keyward
SETDESC PIN of backend 100%25%0Asure
SETPROMPT PIN:
GETPIN
BYE
`
	if got != want {
		t.Errorf("the program was told\n%s\nwant\n%s", got, want)
	}
	if _, err := FromPinentry(os.Args[0], strings.Repeat("x", maxAssuanLine))(t.Context()); err == nil ||
		!strings.Contains(err.Error(), "SETDESC") {
		t.Errorf("with a long description: %v", err)
	}
}

func TestAssuanWipesWhatItUsed(t *testing.T) {
	a := &assuan{in: io.Discard, out: strings.NewReader("D 975310\nOK\n"), line: make([]byte, maxAssuanLine)}
	if err := a.command("GETPIN", "", &filling{b: take(t, make([]byte, 8))}); err != nil {
		t.Fatal(err)
	}
	if line := bytes.Trim(a.line, "\x00"); len(line) != 0 {
		t.Errorf("what was read still holds %q", line)
	}
}

// Whatever a program answers, it is a PIN or an error, and a PIN that is escaped and sent again is the same.
func FuzzGetPIN(f *testing.F) {
	greeting := strings.Repeat("OK\n", 8) // to all up to GETPIN, whatever the environment
	for _, answer := range []string{"D 9%25\nOK\n", "D 9\nD 7\r\nOK\n", "S x\n#\n\nD 9\nOK", "ERR 83886179 no\n",
		"D %2\nOK\n", "D %zz\nOK\n"} {
		f.Add([]byte(answer))
	}
	ask := func(answer []byte) (*Buffer, error) {
		return getPIN(io.Discard, io.MultiReader(strings.NewReader(greeting), bytes.NewReader(answer)), ttyPath, "")
	}
	f.Setenv("TERM", "vt100")
	f.Setenv("LC_ALL", "C")
	f.Setenv("DISPLAY", ":0")
	f.Fuzz(func(t *testing.T, answer []byte) {
		b, err := ask(answer)
		if err != nil {
			return
		}
		defer b.Close()
		pin := reveal(b)
		if len(pin) == 0 || len(pin) > maxPIN {
			t.Fatalf("the PIN has %d bytes", len(pin))
		}
		var again bytes.Buffer
		for i := range len(pin) {
			fmt.Fprintf(&again, "D %%%02x\n", pin[i])
		}
		b2, err := ask(append(again.Bytes(), "OK\n"...))
		if strings.HasSuffix(pin, "\n") { // of which one goes
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		defer b2.Close()
		if got := reveal(b2); got != pin {
			t.Errorf("PIN %q, sent again %q", pin, got)
		}
	})
}

func TestFromPinentryGivesUp(t *testing.T) {
	fake(t, "hang")
	ctx, cancel := context.WithTimeoutCause(t.Context(), 100*time.Millisecond, errors.New("enough"))
	defer cancel()
	began := time.Now()
	_, err := FromPinentry(os.Args[0], "")(ctx)
	if err == nil || !strings.Contains(err.Error(), "enough") {
		t.Errorf("FromPinentry = %v, want that it took too long", err)
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("it took %v", took)
	}
	fake(t, "stay") // when it has given the PIN
	b, err := FromPinentry(os.Args[0], "")(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	b.Close()
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("it took %v", took)
	}
	if _, err := FromPinentry("/nonexistent/pinentry", "")(t.Context()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("FromPinentry of no program = %v", err)
	}
}

// In the background, no process may set the terminal's modes: it would be stopped.
func TestFromPinentryInTheBackground(t *testing.T) {
	fake(t, "D 975310\nOK\n")
	_, path := openPTY(t)
	tty, err := os.OpenFile(path, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer tty.Close()
	shell := helper(t, "shell")
	shell.Stdin = tty
	shell.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	said, err := shell.Output()
	if err != nil || string(said) != "stopped: false status: 0 <nil>\n" {
		t.Errorf("the job: %q, %v, want that it ended well", said, err)
	}
}

// A program that gave the PIN may hang, with echo off.
func TestFromPinentryRestoresTheTerminal(t *testing.T) {
	fake(t, "rude")
	_, path := openPTY(t)
	tty, err := os.OpenFile(path, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer tty.Close()
	cmd := helper(t, "asks pinentry")
	cmd.Stdin = tty
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	wantEcho(t, path)
}
