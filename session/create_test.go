package session

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/backends/soft"
)

func TestErrorsNameTheBackends(t *testing.T) {
	a := newAgent(t)
	a.cfg.Backends["yubikey"] = &soft.Backend{}
	for _, tt := range []struct{ name, want string }{
		{"yubiky", `there is no backend "yubiky" in the configuration; did you mean "yubikey"?`},
		{"other", `there is no backend "other" in the configuration; known are soft, yubikey`},
		{"", "2 backends are configured, soft and yubikey: say which one is to hold the key (--backend NAME)"},
	} {
		req := a.createRequest()
		req.Backend = tt.name
		if _, err := a.Create(t.Context(), operator, req); err == nil || !strings.HasSuffix(err.Error(), tt.want) {
			t.Errorf("Create with backend %q = %v, want %s", tt.name, err, tt.want)
		}
		if tt.name == "" {
			continue
		}
		if _, err := a.SelfTest(t.Context(), operator, tt.name); err == nil || !strings.HasSuffix(err.Error(), tt.want) {
			t.Errorf("SelfTest of backend %q = %v, want %s", tt.name, err, tt.want)
		}
	}
}

// TestFullDevice: a device that has no room may have some soon, and only the agent knows when.
func TestFullDevice(t *testing.T) {
	a := newAgent(t)
	a.cfg.Backends["other"] = &soft.Backend{}
	// of which nothing is told, the one since it goes on, the other since it is elsewhere
	for _, name := range []string{"soft", "other"} {
		req := a.createRequest()
		req.Backend = name
		sess, err := a.Create(t.Context(), operator, req)
		if err != nil {
			t.Fatal(err)
		}
		if name == "other" {
			a.end(t, sess)
		}
	}
	req := a.createRequest()
	req.Backend = "soft"
	sess, err := a.Create(t.Context(), operator, req)
	if err != nil {
		t.Fatal(err)
	}
	problem := fmt.Errorf("%w: both slots are taken", backends.ErrFull)
	a.cfg.Backends["soft"] = &failing{Backend: a.soft, generate: func() error { return problem }}
	fails := func(when, want string) {
		t.Helper()
		if _, err := a.Create(t.Context(), operator, req); err == nil || !strings.HasSuffix(err.Error(), want) {
			t.Errorf("Create %s = %v, want it to end in %q", when, err, want)
		}
	}
	fails("while the session goes on", "both slots are taken")
	a.end(t, sess)
	due := a.clock().Add(time.Hour).UTC().Format(time.RFC3339)
	fails("within the grace", "both slots are taken; the key of session "+string(sess.ID)+
		", which has ended, is still there and is destroyed at "+due)
	a.pass(time.Hour)
	fails("after it", "is still there and is to be destroyed; the log says what hinders it")
	problem = backends.ErrUnavailable
	fails("with the device gone", "device unavailable")
	problem = backends.ErrRefused
	fails("with a permission missing", "device refused")
	problem = backends.ErrFull
	a.cfg.Backends["soft"] = a.soft
	a.sweep(t.Context(), map[ID]bool{})
	a.cfg.Backends["soft"] = &failing{Backend: a.soft, generate: func() error { return problem }}
	fails("once the key is destroyed", "it is full")
}

func (a *agent) end(t *testing.T, sess *Session) {
	t.Helper()
	if _, err := a.Revoke(t.Context(), operator, sess.ID); err != nil {
		t.Fatal(err)
	}
}
