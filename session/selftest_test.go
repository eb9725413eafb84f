package session

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/keyward/keyward/audit"
	"github.com/keyward/keyward/backends"
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
			if intents, err := a.intents(); err != nil || len(intents) != 0 {
				t.Errorf("intents %v, %v are left", intents, err)
			}
			if got := a.lastEvent(t); got != string(audit.BackendTested) {
				t.Errorf("last event %q", got)
			}
		})
	}
}

// TestSelfTestWithoutDevice: a key that may have been made stays on the list of those to look for.
func TestSelfTestWithoutDevice(t *testing.T) {
	a := newAgent(t)
	if _, err := a.SelfTest(t.Context(), operator, "none"); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), `"none"`) {
		t.Errorf("of no backend: %v", err)
	}
	a.soft.Close()
	for name := range a.Sessions.cfg.Backends {
		test, err := a.SelfTest(t.Context(), operator, name)
		if err != nil || !slices.Equal(steps(test), []string{"generate failed"}) {
			t.Errorf("SelfTest = %+v, %v", test, err)
		}
	}
	if intents, err := a.intents(); err != nil || len(intents) != 1 {
		t.Errorf("intents %v, %v, want the one that Run looks after", intents, err)
	}
}
