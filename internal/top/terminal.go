package top

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// ErrNoTerminal: the output is no terminal.
var ErrNoTerminal = errors.New("this needs a terminal")

// step is the time between two snapshots.
const step = time.Second

// Run shows snapshots on the terminal tty until the person leaves, ctx is done or a signal ends the process. look takes
// a snapshot, with the records of the session that is shown alone; it must return when its context is done.
func Run(ctx context.Context, tty *os.File, look func(ctx context.Context, alone string) Snapshot) (err error) {
	before, err := unix.IoctlGetTermios(int(tty.Fd()), unix.TCGETS)
	if err != nil {
		return ErrNoTerminal
	}
	ctx, stop := signal.NotifyContext(ctx, unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	defer stop()
	restore, err := enter(tty, before)
	defer func() { err = errors.Join(err, restore()) }()
	if err != nil {
		return err
	}
	resized := make(chan os.Signal, 1)
	signal.Notify(resized, unix.SIGWINCH)
	defer signal.Stop(resized)
	keys := make(chan Key)
	go readKeys(ctx, tty, keys)

	s := &Screen{Color: os.Getenv("NO_COLOR") == "", Location: time.Local}
	snapshots, ask := make(chan Snapshot), make(chan string, 1)
	go func() {
		for alone := range ask {
			snapshots <- look(ctx, alone)
		}
	}()
	defer close(ask)
	ask <- ""
	asking, again := true, time.NewTimer(step)
	defer again.Stop()
	for {
		if err := draw(tty, s); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			if asking {
				<-snapshots
			}
			return nil
		case snap := <-snapshots:
			asking = false
			again.Reset(step)
			s.Feed(snap)
			continue
		case k := <-keys:
			if s.Press(k) {
				if asking {
					stop() // look returns
					<-snapshots
				}
				return nil
			}
			if s.Alone() == "" || asking {
				continue
			}
		case <-resized:
			continue
		case <-again.C:
			if asking {
				continue
			}
		}
		asking = true
		ask <- s.Alone()
	}
}

// enter takes the terminal: no echo, keys as they come, and a screen of its own. restore gives it back as it was.
func enter(tty *os.File, before *unix.Termios) (restore func() error, err error) {
	restore = func() error {
		// the cursor is shown, and the screen before is back (xterm's private modes)
		_, err := tty.WriteString("\x1b[?25h\x1b[?1049l")
		return errors.Join(err, unix.IoctlSetTermios(int(tty.Fd()), unix.TCSETS, before))
	}
	raw := *before
	raw.Lflag &^= unix.ECHO | unix.ICANON
	raw.Cc[unix.VMIN], raw.Cc[unix.VTIME] = 1, 0
	if err := unix.IoctlSetTermios(int(tty.Fd()), unix.TCSETS, &raw); err != nil {
		return restore, fmt.Errorf("preparing the terminal: %w", err)
	}
	_, err = tty.WriteString("\x1b[?1049h\x1b[?25l")
	return restore, err
}

// draw writes the whole screen with one write, so that it does not flicker.
func draw(tty *os.File, s *Screen) error {
	size, err := unix.IoctlGetWinsize(int(tty.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return fmt.Errorf("size of the terminal: %w", err)
	}
	s.Width, s.Height = max(20, int(size.Col)), max(3, int(size.Row))
	var b strings.Builder
	b.WriteString("\x1b[H") // the cursor is at the beginning
	lines := s.Lines()
	for i, line := range lines {
		b.WriteString(line + "\x1b[K") // what stood behind it is erased
		if i < len(lines)-1 {
			b.WriteString("\r\n")
		}
	}
	b.WriteString("\x1b[J")
	_, err = tty.WriteString(b.String())
	return err
}

// escapes are what a terminal sends for the keys that have no character, after ESC [ or ESC O.
var escapes = map[byte]Key{'A': Up, 'B': Down, 'C': Right, 'D': Left}

// readKeys reads keys until reading fails, which it does at the latest when the process ends.
func readKeys(ctx context.Context, tty *os.File, keys chan<- Key) {
	r := bufio.NewReader(tty)
	for {
		c, err := r.ReadByte()
		if err != nil {
			return
		}
		k := Other
		switch c {
		case 'q', 'Q', 3: // ^C, if the terminal makes no signal of it
			k = Quit
		case '\r', '\n':
			k = Enter
		case 'k':
			k = Up
		case 'j':
			k = Down
		case 27:
			if r.Buffered() == 0 { // the Escape key itself: a sequence comes with one read
				k = Left
				break
			}
			if next, err := r.ReadByte(); err == nil && (next == '[' || next == 'O') {
				if last, err := r.ReadByte(); err == nil {
					k = escapes[last]
				}
			}
		}
		select {
		case keys <- k:
		case <-ctx.Done():
			return
		}
	}
}
