package bench

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/backends/soft"
)

func start(t *testing.T, device *Device) *Agent {
	t.Helper()
	a, err := Start(t.Context(), filepath.Join(t.TempDir(), "bench"), device, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// wantKeys checks how many keys there are in the device.
func wantKeys(t *testing.T, device *soft.Backend, want int) {
	t.Helper()
	if keys, err := device.Keys(context.Background(), ""); err != nil || len(keys) != want {
		t.Errorf("the device has %d keys (%v), want %d", len(keys), err, want)
	}
}

func TestRun(t *testing.T) {
	device := &soft.Backend{}
	a := start(t, &Device{Backend: device})
	wantKeys(t, device, 1)
	var told []string
	rep, err := a.Run(t.Context(), 40*time.Millisecond, func(what string) { told = append(told, what) })
	if err != nil {
		t.Fatal(err)
	}
	if len(rep.Device) != 3 || len(rep.Agent) != 3 || len(rep.Ledger) != 3 || len(rep.Stages) != 7 || len(told) != 7 {
		t.Errorf("report is %+v, progress %q", rep, told)
	}
	for i, r := range rep.Agent {
		if want := r.PerSecond / rep.Device[i].PerSecond; r.PerSecond <= 0 || r.P99 < r.P50 || r.P50 <= 0 || r.Ratio != want {
			t.Errorf("agent, %d callers: %+v, want a ratio of %v", r.Callers, r, want)
		}
	}
	for _, s := range rep.Stages {
		if s.Micros <= 0 || s.Share <= 0 {
			t.Errorf("stage %+v", s)
		}
	}
	socket := a.Socket
	if err := a.Close(t.Context()); err != nil {
		t.Error(err)
	}
	wantKeys(t, device, 0)
	if _, err := os.Stat(filepath.Dir(socket)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket's directory is still there: %v", err)
	}
}

// However a run ends, no key is left.
func TestNothingIsLeft(t *testing.T) {
	broken := errors.New("the device is broken")
	var cancel func() // of the run under way
	for name, tt := range map[string]struct {
		onSign func(context.Context, [32]byte) (*backends.Signature, error)
		want   error
	}{
		"the device fails": {func(context.Context, [32]byte) (*backends.Signature, error) { return nil, broken }, broken},
		"cancelled": {func(context.Context, [32]byte) (*backends.Signature, error) { cancel(); return nil, nil },
			context.Canceled},
	} {
		t.Run(name, func(t *testing.T) {
			device := &soft.Backend{}
			ctx, stop := context.WithCancel(t.Context())
			cancel = stop
			defer stop()
			a := start(t, &Device{Backend: device})
			device.OnSign = tt.onSign
			if _, err := a.Run(ctx, time.Minute, func(string) {}); !errors.Is(err, tt.want) {
				t.Errorf("Run = %v, want %v", err, tt.want)
			}
			if err := a.Close(ctx); err != nil {
				t.Error(err)
			}
			wantKeys(t, device, 0)
		})
	}
}

// A key that is borrowed is used and stays, in the next run too, which finds the session of one that was killed.
func TestBorrowedKeyStays(t *testing.T) {
	device := &soft.Backend{}
	key, err := device.Generate(t.Context(), backends.KeyAttributes{Label: "keyward-0123"})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	first, err := Start(t.Context(), dir, &Device{Backend: device, Borrow: key.URI()}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if got := first.Session.KeyURI; got != borrowed+key.URI() {
		t.Errorf("the session's key is %s", got)
	}
	caller, err := first.Caller()
	if err != nil {
		t.Fatal(err)
	}
	if err := caller.Sign(first.Nonce()); err != nil {
		t.Error(err)
	}
	// What a kill leaves: the session is not ended.
	if err := errors.Join(caller.Close(), first.server.Shutdown(t.Context()), first.Sessions.Close()); err != nil {
		t.Fatal(err)
	}
	second, err := Start(t.Context(), dir, &Device{Backend: device}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	wantKeys(t, device, 2)
	if err := second.Close(t.Context()); err != nil {
		t.Error(err)
	}
	wantKeys(t, device, 1)
	if _, err := device.Key(t.Context(), key.URI()); err != nil {
		t.Errorf("the borrowed key: %v", err)
	}
}

// A slow device is not asked by more callers than it answers in time.
func TestSlowDevice(t *testing.T) {
	var calls atomic.Int64
	device := &soft.Backend{OnSign: func(context.Context, [32]byte) (*backends.Signature, error) {
		calls.Add(1)
		time.Sleep(300 * time.Millisecond)
		return nil, nil
	}}
	a := start(t, &Device{Backend: device})
	rep, err := a.Run(t.Context(), 50*time.Millisecond, func(string) {})
	if err != nil || len(rep.Device) != 1 || rep.Device[0].P50 < 299_000 {
		t.Errorf("Run = %+v, %v, want one row of the device", rep, err)
	}
	if err := a.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

// A pause of what is measured is a latency of all operations that were due meanwhile, not of one alone.
func TestOpenHasNoCoordinatedOmission(t *testing.T) {
	var calls atomic.Int64
	do := func(int) error {
		if calls.Add(1) == 5 {
			time.Sleep(200 * time.Millisecond)
		}
		return nil
	}
	l := Open(t.Context(), 200, 1, time.Second/2, do) // 100 operations, of which 40 are due in the pause
	if l.Done != 100 || l.Failed != 0 {
		t.Fatalf("%d done, %d failed, want 100 and 0", l.Done, l.Failed)
	}
	if p75 := l.Quantile(75); p75 < 50*time.Millisecond {
		t.Errorf("a quarter took more than %v, want the pause to show", p75)
	}
	closed := Closed(t.Context(), 1, time.Millisecond, func(int) error { return errors.New("no") })
	if closed.Failed == 0 || closed.Done != 0 || closed.Err == nil {
		t.Errorf("Closed with failures = %+v", closed)
	}
}
