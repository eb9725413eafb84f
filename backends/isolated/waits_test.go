package isolated

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/backends/backendtest"
)

// listener is a call's side of what it is told.
type listener chan string

func newListener() listener { return make(listener, 16) }

func (l listener) on(ctx context.Context) context.Context {
	return backends.WithWaiting(ctx, func(what string) { l <- what })
}

// all is what was told so far.
func (l listener) all() (told []string) {
	for {
		select {
		case what := <-l:
			told = append(told, what)
		default:
			return told
		}
	}
}

// TestWaitingCallsAreTold: the call that has the device wait for a person, and one that is queued behind it. Each
// hears of the end before it returns, and those that do not wait hear nothing.
func TestWaitingCallsAreTold(t *testing.T) {
	const what = "touch the card now"
	once := filepath.Join(t.TempDir(), "once")
	b := open(t, Config{Type: "soft", Settings: softSettings{once, "touch"}})
	k := backendtest.Generate(t, b, "x")
	touch := func() {
		if err := os.WriteFile(once, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	done := make(chan error, 2)
	sign := func(l listener) { _, err := k.SignDigest(l.on(t.Context()), [32]byte{1}); done <- err }
	first, queued, after := newListener(), newListener(), newListener()
	touch() // this one makes it wait
	go sign(first)
	if got := <-first; got != what {
		t.Fatalf("told %q, want %q", got, what)
	}
	go sign(queued)
	if got := <-queued; got != what {
		t.Fatalf("the queued call is told %q, want %q", got, what)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	late := newListener()
	_, err := k.SignDigest(late.on(ctx), [32]byte{1})
	if !errors.Is(err, backends.ErrNotTouched) || !errors.Is(err, context.DeadlineExceeded) ||
		!strings.Contains(err.Error(), what) {
		t.Errorf("out of time: %v, want ErrNotTouched, DeadlineExceeded and what is waited for", err)
	}
	if diff := cmp.Diff([]string{what, ""}, late.all()); diff != "" {
		t.Errorf("the call that is out of time was told (-want +got):\n%s", diff)
	}
	touch()
	for range 2 {
		if err := <-done; err != nil {
			t.Errorf("after the touch: %v", err)
		}
	}
	sign(after)
	for name, tt := range map[string]struct {
		l    listener
		want []string
	}{"first": {first, []string{""}}, "queued": {queued, []string{""}}, "after": {after, nil}} {
		if diff := cmp.Diff(tt.want, tt.l.all()); diff != "" {
			t.Errorf("%s: told since (-want +got):\n%s", name, diff)
		}
	}
}

// TestWaitingEndsWithTheChild: a child that dies while it waits can't say that it does not any more.
func TestWaitingEndsWithTheChild(t *testing.T) {
	once := filepath.Join(t.TempDir(), "once")
	b := open(t, Config{Type: "soft", Settings: softSettings{once, "touch"}})
	k := backendtest.Generate(t, b, "x")
	if err := os.WriteFile(once, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	l, done := newListener(), make(chan error, 1)
	go func() { _, err := k.SignDigest(l.on(t.Context()), [32]byte{1}); done <- err }()
	<-l
	unix.Kill(base(b).pid(), unix.SIGKILL)
	if err := <-done; !errors.Is(err, backends.ErrUnavailable) || errors.Is(err, backends.ErrNotTouched) {
		t.Errorf("SignDigest = %v, want ErrUnavailable and not ErrNotTouched", err)
	}
	if diff := cmp.Diff([]string{""}, l.all()); diff != "" {
		t.Errorf("told since (-want +got):\n%s", diff)
	}
}

// TestWaits: a call hears news alone, and nothing once it has ended.
func TestWaits(t *testing.T) {
	var w waits
	var told []string
	stop := w.follow(func(what string) { told = append(told, what) })
	for _, tt := range []struct {
		what string
		news bool
	}{{"", false}, {"touch", true}, {"touch", false}, {"", true}, {"", false}, {"PIN", true}} {
		if got := w.set(tt.what); got != tt.news {
			t.Errorf("set(%q) = %v, want %v", tt.what, got, tt.news)
		}
	}
	if what := stop(); what != "PIN" {
		t.Errorf("stop() = %q, want PIN", what)
	}
	w.set("touch")
	if diff := cmp.Diff([]string{"touch", "", "PIN", ""}, told); diff != "" {
		t.Errorf("told (-want +got):\n%s", diff)
	}
}
