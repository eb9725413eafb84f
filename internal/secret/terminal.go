package secret

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"time"

	"golang.org/x/sys/unix"
)

// ErrNoTerminal: no terminal controls the process, so that nobody can be asked there.
var ErrNoTerminal = errors.New("there is no terminal to ask on")

// ttyPath is the terminal that controls the process, whichever it is.
const ttyPath = "/dev/tty"

// endSignals ask a process to end. While one prompts it has to end orderly, or the terminal is left
// without echo.
var endSignals = []os.Signal{unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT}

// FromTerminal asks for the PIN on the terminal that controls the process, with
// echo off. It asks anew each time, and gives up when ctx is done or a signal asks
// the process to end.
func FromTerminal(prompt string) Source {
	return func(ctx context.Context) (*Buffer, error) { return ask(ctx, ttyPath, nil, prompt) }
}

// NewPINFromTerminal is FromTerminal for a PIN that a device is to be given: it asks
// twice, and refuses two that differ, since a mistyped one would be known to nobody. What
// check refuses need not be typed again.
func NewPINFromTerminal(prompt string, check func(*Buffer) error) Source {
	return func(ctx context.Context) (*Buffer, error) {
		return ask(ctx, ttyPath, check, prompt, "The same once more: ")
	}
}

// Slip is an error of an entry that can't be meant. Nothing was done with it, so whoever typed it may be asked again.
type Slip struct{ Err error }

func (s *Slip) Error() string { return s.Err.Error() }
func (s *Slip) Unwrap() error { return s.Err }

// ask shows each prompt on the terminal at path, and returns what all were answered with. check, if it is not nil,
// judges the first answer.
func ask(ctx context.Context, path string, check func(*Buffer) error, prompts ...string) (pin *Buffer, err error) {
	tty, err := openTerminal(path)
	if err != nil {
		return nil, fmt.Errorf("PIN prompt: %w", err)
	}
	defer tty.Close()
	ctx, ignore := signal.NotifyContext(ctx, endSignals...)
	defer ignore()
	restore, err := echoOff(tty) // also between two prompts
	if err != nil {
		return nil, fmt.Errorf("PIN prompt: %w", err)
	}
	defer func() { pin, err = restored(pin, err, restore) }()
	stop := context.AfterFunc(ctx, func() { _ = tty.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	for _, prompt := range prompts {
		entry, err := askOnce(ctx, tty, prompt)
		switch {
		case err != nil:
			return nil, errors.Join(err, pin.Close())
		case pin == nil:
			if pin = entry; check == nil {
				continue
			}
			if err := check(pin); err != nil {
				return nil, errors.Join(&Slip{err}, pin.Close())
			}
			continue
		}
		same := pin.Equal(entry)
		if err := entry.Close(); err != nil || !same {
			return nil, errors.Join(&Slip{errors.New("the two entries differ")}, err, pin.Close())
		}
	}
	return pin, nil
}

// askOnce shows one prompt. Echo is off.
func askOnce(ctx context.Context, tty *os.File, prompt string) (*Buffer, error) {
	if _, err := tty.WriteString(prompt); err != nil {
		return nil, fmt.Errorf("PIN prompt: %w", err)
	}
	b, err := New(maxPIN + 1)
	if err != nil {
		return nil, err
	}
	n, err := readLine(tty, b.data)
	if err != nil {
		_, _ = tty.WriteString("\n") // what follows is not to stand behind the prompt
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, errors.Join(fmt.Errorf("PIN prompt: %w", err), b.Close())
	}
	_, _ = tty.WriteString("\n") // the one that was typed was not echoed
	if b, err = trimmed(b, n, maxPIN, "the entry"); err != nil {
		return nil, &Slip{err}
	}
	return b, nil
}

// readLine reads into line until a newline, which it includes, or until line is full.
func readLine(tty *os.File, line []byte) (n int, err error) {
	for n < len(line) && (n == 0 || line[n-1] != '\n') {
		m, err := tty.Read(line[n:])
		if err != nil {
			return n, err
		}
		n += m
	}
	return n, nil
}

// openTerminal opens it so that reads obey a deadline.
func openTerminal(path string) (*os.File, error) {
	tty, err := os.OpenFile(path, os.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoTerminal, err)
	}
	return tty, nil
}

// echoOff stops tty from showing what is typed; restore undoes that.
func echoOff(tty *os.File) (restore func(flush bool) error, err error) {
	quiet, restore, err := modesOf(tty)
	if err != nil {
		return nil, err
	}
	quiet.Lflag &^= unix.ECHO
	quiet.Lflag |= unix.ICANON | unix.ISIG
	quiet.Iflag |= unix.ICRNL
	if _, err := termios(tty, ioctlSetTermios, &quiet); err != nil {
		return nil, fmt.Errorf("turning echo off: %w", err)
	}
	return restore, nil
}

// modesOf returns the modes of tty, and what sets them again. If flush, that drops what was typed
// and not read: of half a PIN, the shell would be the next reader.
func modesOf(tty *os.File) (modes unix.Termios, restore func(flush bool) error, err error) {
	old, err := termios(tty, ioctlSetTermios, nil)
	if err != nil {
		return unix.Termios{}, nil, fmt.Errorf("%s is not a terminal: %w", tty.Name(), err)
	}
	return *old, func(flush bool) error {
		how := uint(ioctlSetTermios)
		if flush {
			how = ioctlSetTermiosFlush
		}
		_, err := termios(tty, how, old)
		return err
	}, nil
}

// restored returns pin and err, or if restore fails no PIN.
func restored(pin *Buffer, err error, restore func(flush bool) error) (*Buffer, error) {
	failed := restore(err != nil)
	if failed == nil {
		return pin, err
	}
	return nil, errors.Join(err, failed, pin.Close())
}

// inForeground reports whether the terminal's modes are this process's to set; see tcsetpgrp(3).
func inForeground(tty *os.File) bool {
	conn, err := tty.SyscallConn()
	if err != nil {
		return false
	}
	var group int
	ctlErr := conn.Control(func(fd uintptr) { group, err = unix.IoctlGetInt(int(fd), unix.TIOCGPGRP) })
	return ctlErr == nil && err == nil && group == unix.Getpgrp()
}

// termios sets the terminal's modes with the ioctl how, if set is not nil, and returns what they are.
func termios(tty *os.File, how uint, set *unix.Termios) (got *unix.Termios, err error) {
	conn, err := tty.SyscallConn() // not Fd, which would make reads deaf to the deadline
	if err != nil {
		return nil, err
	}
	ctlErr := conn.Control(func(fd uintptr) {
		if set != nil {
			err = unix.IoctlSetTermios(int(fd), how, set)
		}
		if err == nil {
			got, err = unix.IoctlGetTermios(int(fd), ioctlGetTermios)
		}
	})
	return got, errors.Join(ctlErr, err)
}
