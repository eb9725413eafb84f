package socket

import (
	"context"
	"encoding/pem"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/backends/soft"
	goclient "github.com/keyward/keyward/socket/client"
)

// attesting is a backend that makes statements on its keys.
type attesting struct{ *soft.Backend }

func (attesting) Attest(_ context.Context, uri string) (*backends.Attestation, error) {
	return &backends.Attestation{Chain: [][]byte{{1, 2}, {3}}, Verified: true, Detail: "made " + uri}, nil
}

// refusesToAttest wants Attest(key) to be a wrong parameter, for that reason.
func (a *agent) refusesToAttest(key, want string) {
	a.t.Helper()
	_, err := a.operator.Attest(a.t.Context(), key)
	if reply := goclient.Details(err); reply == nil || reply.Code != -32602 || !strings.Contains(reply.Message, want) {
		a.t.Errorf("Attest(%q): %v, want -32602 and %q", key, err, want)
	}
}

// TestAttest asks for a session's attestation by each of its names.
func TestAttest(t *testing.T) {
	a := startAgent(t)
	a.Backends["memory"] = Backend{Backend: attesting{a.device}, Type: "soft"}
	sess := a.session("agw", testSpec)
	for _, name := range []string{sess.ID, sess.KeyURI, sess.Signer.String(), strings.ToLower(sess.Signer.String())} {
		at, err := a.operator.Attest(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		if at.Session != sess.ID || at.KeyURI != sess.KeyURI || at.Protection != "resident" || !at.Verified ||
			at.Detail != "made "+sess.KeyURI {
			t.Errorf("Attest(%q) = %+v", name, at)
		}
		first, rest := pem.Decode([]byte(at.Chain))
		second, rest := pem.Decode(rest)
		if len(rest) != 0 || fmt.Sprint(first.Bytes, second.Bytes) != "[1 2] [3]" {
			t.Errorf("chain %q", at.Chain)
		}
	}
	for _, name := range []string{"", "0123456789abcdef", "soft:99"} {
		a.refusesToAttest(name, "no session has")
	}
}

// The session of a key that is destroyed keeps its URI. Nothing can be said of the key any more.
func TestAttestDestroyedKey(t *testing.T) {
	a := startAgent(t)
	a.Backends["memory"] = Backend{Backend: attesting{a.device}, Type: "soft"}
	sess := a.session("agw", testSpec)
	if _, err := a.operator.CloseSession(t.Context(), sess.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := a.operator.Attest(t.Context(), sess.ID); err != nil {
		t.Errorf("Attest of a closed session, which has its key: %v", err)
	}
	a.ahead.Store(int64(time.Hour))
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { a.Signer.Sessions.Run(ctx); close(ended) }()
	defer func() { cancel(); <-ended }()
	waitFor(t, "the end of the key", func() bool {
		now, err := a.operator.AllSessions(t.Context())
		return err == nil && now[0].KeyDestroyedAt != nil
	})
	for _, name := range []string{sess.ID, sess.KeyURI, sess.Signer.String()} {
		a.refusesToAttest(name, "no session has")
	}
}

func TestAttestWithout(t *testing.T) {
	a := startAgent(t)
	a.refusesToAttest(a.session("agw", testSpec).ID, "makes no statements")
	b := startAgent(t)
	delete(b.Backends, "memory")
	b.refusesToAttest(b.session("agw", testSpec).ID, "not in the configuration")
}
