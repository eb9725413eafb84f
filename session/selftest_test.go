package session

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/keyward/keyward/audit"
	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/backends/soft"
)

func steps(test *SelfTest) (names []string) {
	for _, s := range test.Steps {
		name := s.Name
		if s.Error != "" {
			name += " failed"
		}
		names = append(names, name)
	}
	return names
}

// TestSelfTest: whatever fails, no key is left, and what was done is in the audit trail.
func TestSelfTest(t *testing.T) {
	for _, tt := range []struct {
		name string
		sign func(context.Context, [32]byte) (*backends.Signature, error)
		want []string
	}{
		{"good", nil, []string{"generate", "find", "sign", "destroy"}},
		{"no signature", func(context.Context, [32]byte) (*backends.Signature, error) {
			return nil, errors.New("out of order")
		}, []string{"generate", "find", "sign failed", "destroy"}},
		{"a bad signature", func(context.Context, [32]byte) (*backends.Signature, error) {
			return &backends.Signature{31: 1, 63: 1}, nil
		}, []string{"generate", "find", "sign failed", "destroy"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := newAgent(t)
			a.soft.OnSign = tt.sign
			name := "soft"
			for n := range a.Sessions.cfg.Backends {
				name = n
			}
			test, err := a.SelfTest(t.Context(), operator, name)
			if err != nil {
				t.Fatal(err)
			}
			if got := steps(test); !slices.Equal(got, tt.want) || test.OK() != (tt.sign == nil) {
				t.Errorf("steps %v, OK %v, want %v", got, test.OK(), tt.want)
			}
			if keys, err := a.soft.Keys(t.Context(), ""); err != nil || len(keys) != 0 {
				t.Errorf("keys %v, %v are left", keys, err)
			}
			if intents := a.intents(); len(intents) != 0 {
				t.Errorf("intents %v are left", intents)
			}
			if got := a.lastEvent(t); got != string(audit.BackendChecked) {
				t.Errorf("last event %q", got)
			}
		})
	}
}

// TestSelfTestWithoutDevice: a key that may have been made stays on the list of those to look for.
func TestSelfTestWithoutDevice(t *testing.T) {
	a := newAgent(t)
	if _, err := a.SelfTest(t.Context(), operator, "none"); !errors.Is(err, ErrInvalid) ||
		!strings.Contains(err.Error(), `"none"`) {
		t.Errorf("of no backend: %v", err)
	}
	a.soft.Close()
	for name := range a.Sessions.cfg.Backends {
		test, err := a.SelfTest(t.Context(), operator, name)
		if err != nil || !slices.Equal(steps(test), []string{"generate failed"}) {
			t.Errorf("SelfTest = %+v, %v", test, err)
		}
	}
	if intents := a.intents(); len(intents) != 1 {
		t.Errorf("intents %v, want the one that Run looks after", intents)
	}
}

// faulty is a backend that does not find or destroy its keys.
type faulty struct {
	*soft.Backend
	find, destroy error
	another       bool // Key returns a key that was not asked for
}

func (f *faulty) Key(ctx context.Context, uri string) (backends.Key, error) {
	switch {
	case f.find != nil:
		return nil, f.find
	case f.another:
		return new(soft.Backend).Generate(ctx, backends.KeyAttributes{Label: "another"})
	}
	return f.Backend.Key(ctx, uri)
}

func (f *faulty) Destroy(ctx context.Context, uri string) error {
	if f.destroy != nil {
		return f.destroy
	}
	return f.Backend.Destroy(ctx, uri)
}

// TestSelfTestCleansUp: a key that the test can't destroy is destroyed by Run, once the device lets it.
func TestSelfTestCleansUp(t *testing.T) {
	fault := errors.New("out of order")
	for _, tt := range []struct {
		name string
		b    faulty
		want []string
		left int
	}{
		{"not found", faulty{find: fault}, []string{"generate", "find failed", "destroy"}, 0},
		{"another found", faulty{another: true}, []string{"generate", "find failed", "destroy"}, 0},
		{"not destroyed", faulty{destroy: fault}, []string{"generate", "find", "sign", "destroy failed"}, 1},
		{"neither", faulty{find: fault, destroy: fault}, []string{"generate", "find failed", "destroy failed"}, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := newAgent(t)
			tt.b.Backend = a.soft
			a.Sessions.cfg.Backends["soft"] = &tt.b
			test, err := a.SelfTest(t.Context(), operator, "soft")
			if err != nil || !slices.Equal(steps(test), tt.want) || test.OK() {
				t.Errorf("SelfTest = %+v, %v, want %v", test, err, tt.want)
			}
			a.wantLeft(t, tt.left)
			tt.b.destroy = nil
			a.sweep(t.Context(), map[ID]bool{})
			a.wantLeft(t, 0)
		})
	}
}

// TestSelfTestGivenUp: the caller goes while the device signs, and the key goes all the same.
func TestSelfTestGivenUp(t *testing.T) {
	a := newAgent(t)
	ctx, giveUp := context.WithCancel(t.Context())
	a.soft.OnSign = func(ctx context.Context, _ [32]byte) (*backends.Signature, error) {
		a.sweep(t.Context(), map[ID]bool{}) // leaves it alone meanwhile
		a.wantLeft(t, 1)
		giveUp()
		<-ctx.Done()
		return nil, ctx.Err()
	}
	test, err := a.SelfTest(ctx, operator, "soft")
	if want := []string{"generate", "find", "sign failed", "destroy"}; err != nil || !slices.Equal(steps(test), want) {
		t.Errorf("SelfTest = %+v, %v, want %v", test, err, want)
	}
	a.wantLeft(t, 0)
	if got := a.lastEvent(t); got != string(audit.BackendChecked) {
		t.Errorf("last event %q", got)
	}
}

// TestSelfTestCutShort: the state ends while the key signs, as in a crash; the next start destroys the key.
func TestSelfTestCutShort(t *testing.T) {
	a := newAgent(t)
	dead := &faulty{Backend: a.soft, destroy: errors.New("the process is dead")}
	a.Sessions.cfg.Backends["soft"] = dead
	a.soft.OnSign = func(context.Context, [32]byte) (*backends.Signature, error) {
		if err := a.Close(); err != nil {
			t.Error(err)
		}
		return nil, nil
	}
	if _, err := a.SelfTest(t.Context(), operator, "soft"); err == nil {
		t.Error("SelfTest of a state that is closed gave no error")
	}
	a.start(t)
	a.wantLeft(t, 1)
	a.sweep(t.Context(), map[ID]bool{})
	a.wantLeft(t, 0)
}

// wantLeft holds the device and the list of keys to look for to n.
func (a *agent) wantLeft(t *testing.T, n int) {
	t.Helper()
	if keys, err := a.soft.Keys(t.Context(), KeyLabelPrefix); err != nil || len(keys) != n {
		t.Errorf("keys %v, %v are left, want %d", keys, err, n)
	}
	if intents := a.intents(); len(intents) != n {
		t.Errorf("intents %v are left, want %d", intents, n)
	}
}
