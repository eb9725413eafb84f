package secret

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestFromTerminal(t *testing.T) {
	master, path := openPTY(t)
	done := asking(t.Context(), path, "PIN: ")
	shown := readUntil(t, master, "PIN: ") // echo is off by now
	typed(t, master, "1234\n")
	if got := <-done; got.err != nil || got.pin != "1234" {
		t.Fatalf("ask = %q, %v", got.pin, got.err)
	}
	if shown += readUntil(t, master, "\n"); strings.Contains(shown, "12") {
		t.Errorf("the terminal showed %q", shown)
	}
	wantEcho(t, path)
}

// The Enter key sends a carriage return, which the terminal may have been told to leave as it is.
func TestFromTerminalEnter(t *testing.T) {
	master, path := openPTY(t)
	tty, err := openTerminal(path)
	if err != nil {
		t.Fatal(err)
	}
	defer tty.Close()
	modes, err := termios(tty, ioctlSetTermios, nil)
	if err != nil {
		t.Fatal(err)
	}
	modes.Iflag &^= unix.ICRNL
	if _, err := termios(tty, ioctlSetTermios, modes); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	done := asking(ctx, path, "PIN: ")
	readUntil(t, master, "PIN: ")
	typed(t, master, "1234\r")
	if got := <-done; got.err != nil || got.pin != "1234" {
		t.Errorf("ask = %q, %v", got.pin, got.err)
	}
	if modes, err = termios(tty, ioctlSetTermios, nil); err != nil || modes.Iflag&unix.ICRNL != 0 {
		t.Errorf("the terminal's modes are not as they were (%v)", err)
	}
}

// Both lines are typed at once, so that the second is there before its prompt.
func TestNewPINFromTerminal(t *testing.T) {
	for _, tt := range []struct{ second, wantErr string }{
		{"1234", ""}, {"1235", "differ"}, {"123", "differ"}, {"", "the entry is empty"},
	} {
		master, path := openPTY(t)
		done := asking(t.Context(), path, "New PIN: ", "Again: ")
		shown := readUntil(t, master, "New PIN: ")
		typed(t, master, "1234\n"+tt.second+"\n")
		got := <-done
		if tt.wantErr == "" && (got.err != nil || got.pin != "1234") {
			t.Errorf("ask = %q, %v, want 1234", got.pin, got.err)
		}
		if tt.wantErr != "" && (got.err == nil || !strings.Contains(got.err.Error(), tt.wantErr) ||
			strings.Contains(got.err.Error(), "123")) {
			t.Errorf("ask with %q second = %v, want an error with %q", tt.second, got.err, tt.wantErr)
		}
		var slip *Slip
		if errors.As(got.err, &slip) != (tt.wantErr != "") {
			t.Errorf("ask with %q second = %v, want a slip", tt.second, got.err)
		}
		if shown += readUntil(t, master, "Again: \r\n"); strings.Contains(shown, "12") {
			t.Errorf("the terminal showed %q", shown)
		}
		wantEcho(t, path)
	}
}

// What is wrong with the first entry is said before it has to be typed again; and what is no fault of who typed is no
// slip.
func TestNewPINFromTerminalChecked(t *testing.T) {
	master, path := openPTY(t)
	tooShort := errors.New("too short")
	check := func(pin *Buffer) error {
		return pin.Use(func(b []byte) error {
			if len(b) < 4 {
				return tooShort
			}
			return nil
		})
	}
	for first, want := range map[string]error{"123": tooShort, "1234": nil} {
		done := askingChecked(t.Context(), path, check, "New PIN: ", "Again: ")
		readUntil(t, master, "New PIN: ")
		typed(t, master, first+"\n")
		if want == nil {
			readUntil(t, master, "Again: ")
			typed(t, master, first+"\n")
		}
		got := <-done
		var slip *Slip
		if !errors.Is(got.err, want) || errors.As(got.err, &slip) != (want != nil) {
			t.Errorf("ask with %q = %v, want %v and a slip", first, got.err, want)
		}
		if shown := readUntil(t, master, "\n"); want != nil && strings.Contains(shown, "Again") {
			t.Errorf("%q is asked for again: %q", first, shown)
		}
		wantEcho(t, path)
	}
	var slip *Slip
	if _, err := ask(t.Context(), path+"-absent", check, "PIN: "); errors.As(err, &slip) {
		t.Errorf("ask without a terminal = %v, a slip", err)
	}
}

func TestFromTerminalCancelled(t *testing.T) {
	master, path := openPTY(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := asking(ctx, path, "PIN: ")
	readUntil(t, master, "PIN: ")
	cancel()
	if got := <-done; !errors.Is(got.err, context.Canceled) {
		t.Errorf("ask = %v, want context.Canceled", got.err)
	}
	readUntil(t, master, "\n") // for the error to begin a line
	wantEcho(t, path)
}

// Half a PIN was typed when the signal came.
func TestPromptInterrupted(t *testing.T) {
	for _, asks := range []string{"terminal", "deaf pinentry"} {
		for _, tt := range []struct {
			name string
			end  func(t *testing.T, master *os.File, p *os.Process) error
		}{
			{"interrupt", func(t *testing.T, master *os.File, _ *os.Process) error {
				_, err := master.WriteString("\x03") // Ctrl-C
				return err
			}},
			{"terminated", func(_ *testing.T, _ *os.File, p *os.Process) error { return p.Signal(unix.SIGTERM) }},
		} {
			t.Run(asks+" "+tt.name, func(t *testing.T) {
				master, path := openPTY(t)
				tty, err := os.OpenFile(path, os.O_RDWR|unix.O_NOCTTY, 0)
				if err != nil {
					t.Fatal(err)
				}
				defer tty.Close()
				cmd := helper(t, asks)
				cmd.Stdin = tty
				cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
				var said strings.Builder
				cmd.Stdout = &said
				if err := cmd.Start(); err != nil {
					t.Fatal(err)
				}
				readUntil(t, master, "PIN: ")
				typed(t, master, "12")
				// the kernel takes it to the terminal's other end by and by; what comes later is not ours to drop
				time.Sleep(50 * time.Millisecond)
				if err := tt.end(t, master, cmd.Process); err != nil {
					t.Fatal(err)
				}
				if err := cmd.Wait(); err != nil || !strings.Contains(said.String(), tt.name+" signal received") {
					t.Errorf("the prompt said %q and ended with %v, want that a signal was received", said.String(), err)
				}
				wantEcho(t, path)
				typed(t, master, "ls\n")
				line := make([]byte, 16)
				n, err := tty.Read(line)
				if err != nil || string(line[:n]) != "ls\n" {
					t.Errorf("the shell reads %q, %v, want no part of a PIN", line[:n], err)
				}
			})
		}
	}
}

// A PIN that is returned with an error would be closed by nobody.
func TestNoPINFromATerminalThatStaysQuiet(t *testing.T) {
	hungUp := errors.New("hung up")
	given := take(t, []byte("1234"))
	pin, err := restored(given, nil, func(flush bool) error {
		if flush {
			t.Error("what was typed after the PIN is dropped")
		}
		return hungUp
	})
	if pin != nil || !errors.Is(err, hungUp) || given.Len() != 0 {
		t.Errorf("restored = %v, %v, and %d bytes of the PIN are left", pin, err, given.Len())
	}
}

func TestFromTerminalWithoutOne(t *testing.T) {
	path := writeFile(t, t.TempDir(), "tty", "1234\n", 0o600)
	if _, err := ask(t.Context(), path, nil, "PIN: "); err == nil || !strings.Contains(err.Error(), "not a terminal") {
		t.Errorf("ask on a file = %v", err)
	}
	if _, err := ask(t.Context(), path+"-absent", nil, "PIN: "); !errors.Is(err, ErrNoTerminal) {
		t.Errorf("ask on no terminal = %v, want ErrNoTerminal", err)
	}
}

// answer is what ask returned.
type answer struct {
	pin string
	err error
}

// asking calls ask meanwhile.
func asking(ctx context.Context, path string, prompts ...string) <-chan answer {
	return askingChecked(ctx, path, nil, prompts...)
}

func askingChecked(ctx context.Context, path string, check func(*Buffer) error, prompts ...string) <-chan answer {
	done := make(chan answer, 1)
	go func() {
		b, err := ask(ctx, path, check, prompts...)
		if err != nil {
			done <- answer{err: err}
			return
		}
		defer b.Close()
		done <- answer{pin: reveal(b)}
	}()
	return done
}

// typed types text at the terminal.
func typed(t *testing.T, master *os.File, text string) {
	t.Helper()
	if _, err := master.WriteString(text); err != nil {
		t.Fatal(err)
	}
}

// wantEcho wants the terminal to show what is typed.
func wantEcho(t *testing.T, path string) {
	t.Helper()
	tty, err := os.OpenFile(path, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer tty.Close()
	modes, err := termios(tty, ioctlSetTermios, nil)
	if err != nil || modes.Lflag&unix.ECHO == 0 {
		t.Errorf("echo is still off after the prompt (%v)", err)
	}
}

// openPTY makes a pseudo-terminal: the side that a person sits at, and the path
// of the side that a program opens.
func openPTY(t *testing.T) (master *os.File, path string) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { master.Close() })
	fd := int(master.Fd())
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	path = fmt.Sprintf("/dev/pts/%d", n)
	// Held open, so that the terminal's modes outlive the prompt.
	slave, err := os.OpenFile(path, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { slave.Close() })
	return master, path
}

// readUntil reads from f until what was read ends in end.
func readUntil(t *testing.T, f *os.File, end string) (got string) {
	t.Helper()
	for buf := make([]byte, 64); !strings.HasSuffix(got, end); {
		n, err := f.Read(buf)
		if err != nil {
			t.Fatalf("read %q, then %v", got, err)
		}
		got += string(buf[:n])
	}
	return got
}
