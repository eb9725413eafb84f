package approve

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/holiman/uint256"

	"github.com/keyward/keyward/audit"
	"github.com/keyward/keyward/internal/secret"
	"github.com/keyward/keyward/internal/zktx"
	"github.com/keyward/keyward/policy"
	"github.com/keyward/keyward/rules"
	"github.com/keyward/keyward/session"
)

var asked = &session.Approval{
	ID: "00112233445566778899aabbccddeeff", Session: "s1", Peer: audit.Peer{UID: 7, GID: 8, PID: 9},
	Method: "eth_signTransaction",
	Tx:     &zktx.Transaction{From: policy.Address{1}, To: policy.Address{2}, ChainID: 1, Value: *uint256.NewInt(5)},
	Needs:  []rules.Need{{Rule: "large"}}, Until: time.Unix(1_900_000_000, 0).UTC(),
}

func TestHook(t *testing.T) {
	dir := t.TempDir()
	for _, tc := range []struct {
		name, script string
		mode         os.FileMode
		yes          bool
		err          string
	}{
		{"yes", "cat >" + dir + "/seen; exit 0", 0o700, true, ""},
		{"no", "exit 1", 0o700, false, ""},
		{"a mistake", "exit 2", 0o700, false, "exit status 2"},
		{"killed", "kill -9 $$", 0o700, false, "signal: killed"},
		{"not a program", "exit 0", 0o600, false, "permission denied"},
		{"others can change it", "exit 0", 0o722, false, "may be written to by others"},
		{"slow", "sleep 60", 0o700, false, "deadline"},
		{"leaves a child behind", "sleep 60 & exit 0", 0o700, true, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			path := filepath.Join(dir, "hook")
			if err := os.WriteFile(path, []byte("#!/bin/sh\n"+tc.script+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(path, tc.mode); err != nil {
				t.Fatal(err)
			}
			timeout := 30 * time.Second
			if tc.name == "slow" {
				timeout = 50 * time.Millisecond
			}
			ctx, cancel := context.WithTimeout(t.Context(), timeout)
			defer cancel()
			yes, err := Hook(path).Decide(ctx, asked)
			if yes != tc.yes || (err == nil) != (tc.err == "") || err != nil && !strings.Contains(err.Error(), tc.err) {
				t.Errorf("%v, %v; want %v, %q", yes, err, tc.yes, tc.err)
			}
		})
	}
	var seen Request
	text, err := os.ReadFile(filepath.Join(dir, "seen"))
	if err == nil {
		err = json.Unmarshal(text, &seen)
	}
	if err != nil || seen.ID != asked.ID || seen.UID != 7 || seen.Rules[0] != "large" ||
		!strings.Contains(string(seen.Transaction), `"value":"5"`) {
		t.Errorf("the hook saw %+v, %v", seen, err)
	}
}

const key = "0123456789abcdef0123456789abcdef"

func mac(key string, parts ...string) string {
	h := hmac.New(sha256.New, []byte(key))
	for _, part := range parts {
		h.Write([]byte(part))
	}
	return "sha256=" + hex.EncodeToString(h.Sum(nil))
}

// keySource gives the secret.
func keySource(context.Context) (*secret.Buffer, error) { return secret.Take([]byte(key)) }

// TestCallback has servers answer, of which some only sit on the port.
func TestCallback(t *testing.T) {
	const yes = `{"approve": true}`
	for _, tc := range []struct {
		name  string
		serve func(rw http.ResponseWriter, body string)
		yes   bool
		err   string
	}{
		{"yes", func(rw http.ResponseWriter, _ string) { answer(rw, mac(key, asked.ID, "\n", yes), yes) }, true, ""},
		{"no", func(rw http.ResponseWriter, _ string) {
			answer(rw, mac(key, asked.ID, "\n", `{"approve":false}`), `{"approve":false}`)
		}, false, ""},
		{"without a proof", func(rw http.ResponseWriter, _ string) { answer(rw, "", yes) }, false, "does not prove"},
		{"another secret", func(rw http.ResponseWriter, _ string) { answer(rw, mac("x", asked.ID, "\n", yes), yes) }, false,
			"does not prove"},
		{"an answer to another request", func(rw http.ResponseWriter, _ string) {
			answer(rw, mac(key, strings.Repeat("0", 32), "\n", yes), yes)
		}, false, "does not prove"},
		{"the request's own proof", func(rw http.ResponseWriter, body string) { answer(rw, mac(key, body), body) }, false,
			"does not prove"},
		{"a no turned into a yes", func(rw http.ResponseWriter, _ string) {
			answer(rw, mac(key, asked.ID, "\n", `{"approve":false}`), yes)
		}, false, "does not prove"},
		{"nothing in it", func(rw http.ResponseWriter, _ string) { answer(rw, mac(key, asked.ID, "\n", "{}"), "{}") }, false,
			"the answer is not"},
		{"an error", func(rw http.ResponseWriter, _ string) { rw.WriteHeader(500) }, false, "status 500"},
		{"sent elsewhere", func(rw http.ResponseWriter, _ string) {
			rw.Header().Set("Location", "http://127.0.0.1:1/")
			rw.WriteHeader(302)
		}, false, "not followed"},
		{"endless", func(rw http.ResponseWriter, _ string) { _, _ = io.WriteString(rw, strings.Repeat(" ", 5000)) }, false,
			"more than 4096 bytes"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
				body, err := io.ReadAll(r.Body)
				if err != nil || r.Header.Get(SignatureHeader) != mac(key, string(body)) {
					t.Errorf("the request proves nothing: %v", err)
				}
				tc.serve(rw, string(body))
			}))
			defer server.Close()
			got, err := Callback(server.URL, keySource).Decide(t.Context(), asked)
			if got != tc.yes || (err == nil) != (tc.err == "") || err != nil && !strings.Contains(err.Error(), tc.err) {
				t.Errorf("%v, %v; want %v, %q", got, err, tc.yes, tc.err)
			}
		})
	}
}

func answer(rw http.ResponseWriter, proof, body string) {
	rw.Header().Set(SignatureHeader, proof)
	_, _ = io.WriteString(rw, body)
}

func TestCallbackOverUnixSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o700); err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		answer(rw, "",
			`{"approve":true}`)
	})}
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	if yes, err := Callback("unix:"+path, nil).Decide(t.Context(), asked); !yes || err != nil {
		t.Errorf("%v, %v", yes, err)
	}
	if err := os.Chmod(path, 0o777); err != nil {
		t.Fatal(err)
	}
	if yes, err := Callback("unix:"+path, nil).Decide(t.Context(), asked); yes || err == nil ||
		!strings.Contains(err.Error(), "written to by others") {
		t.Errorf("a socket that others could replace: %v, %v", yes, err)
	}
	if err := server.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-served; !errors.Is(err, http.ErrServerClosed) {
		t.Error(err)
	}
}

// TestShortSecret has a secret that can be guessed.
func TestShortSecret(t *testing.T) {
	short := func(context.Context) (*secret.Buffer, error) { return secret.Take([]byte("guess me")) }
	if _, err := Callback("http://127.0.0.1:1/", short).Decide(t.Context(), asked); err == nil ||
		!strings.Contains(err.Error(), "want 16 or more") {
		t.Error(err)
	}
}
