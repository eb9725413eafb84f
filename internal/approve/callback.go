package approve

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"

	"github.com/keyward/keyward/internal/owned"
	"github.com/keyward/keyward/internal/secret"
	"github.com/keyward/keyward/session"
)

// SignatureHeader proves who wrote a body: "sha256=" and the HMAC-SHA256 (RFC 2104) in hex, with the common secret as
// key. In a request it is over the body. In an answer it is over the request's id, a newline and the body, so that an
// answer is for one request only. The secret itself is never sent: at a loopback port anyone may listen.
const SignatureHeader = "Keyward-Signature"

// maxAnswer bounds an answer, in bytes.
const maxAnswer = 4096

// Callback is an HTTP server as a voter. It gets the request by POST, and answers with status 200 and {"approve": true}
// or {"approve": false}. All else is no vote. address is a URL, or "unix:" and the path of a Unix socket in a place
// that others can't change. key is the common secret; nil: there is none, which only a Unix socket may have.
func Callback(address string, key secret.Source) session.Decider {
	c := &callback{url: address, key: key, slots: newSlots()}
	transport := &http.Transport{Proxy: nil, DisableKeepAlives: true, ResponseHeaderTimeout: 0}
	if path, ok := strings.CutPrefix(address, "unix:"); ok {
		c.url, c.socket = "http://approve/", path
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", path)
		}
	}
	c.client = &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return errors.New("redirected, which is not followed") },
	}
	return session.Decider{Name: "callback", Decide: c.decide}
}

type callback struct {
	url    string
	socket string // path; "": a URL
	key    secret.Source
	client *http.Client
	slots  slots
}

func (c *callback) decide(ctx context.Context, a *session.Approval) (bool, error) {
	select {
	case c.slots <- struct{}{}:
		defer func() { <-c.slots }()
	case <-ctx.Done():
		return false, ctx.Err()
	}
	if c.socket != "" {
		if err := owned.Check(c.socket); err != nil {
			return false, err
		}
	}
	body, err := encode(a)
	if err != nil {
		return false, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.url, bytes.NewReader(body))
	if err != nil {
		return false, err
	}
	req.Header.Set("Content-Type", "application/json")
	var sign func(parts ...[]byte) (string, error)
	if c.key != nil {
		sign = func(parts ...[]byte) (string, error) { return c.sign(ctx, parts...) }
		mac, err := sign(body)
		if err != nil {
			return false, err
		}
		req.Header.Set(SignatureHeader, mac)
	}
	resp, err := c.client.Do(req)
	if err != nil {
		return false, fmt.Errorf("callback: %w", err)
	}
	defer resp.Body.Close()
	return readAnswer(resp, a.ID, sign)
}

// sign is the HMAC of parts.
func (c *callback) sign(ctx context.Context, parts ...[]byte) (mac string, err error) {
	key, err := c.key(ctx)
	if err != nil {
		return "", fmt.Errorf("callback: the secret: %w", err)
	}
	defer key.Close()
	err = key.Use(func(k []byte) error {
		if len(k) < 16 {
			return fmt.Errorf("callback: the secret has %d bytes, want 16 or more: make one with: openssl rand -hex 32", len(k))
		}
		h := hmac.New(sha256.New, k)
		for _, part := range parts {
			h.Write(part)
		}
		mac = "sha256=" + hex.EncodeToString(h.Sum(nil))
		return nil
	})
	return mac, err
}

// readAnswer reads the vote. If sign is not nil, it rejects an answer whose HMAC was not made with the secret.
func readAnswer(resp *http.Response, id string, sign func(parts ...[]byte) (string, error)) (bool, error) {
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	switch {
	case err != nil:
		return false, fmt.Errorf("callback: reading the answer: %w", err)
	case resp.StatusCode != http.StatusOK:
		return false, fmt.Errorf("callback: status %s, want 200", resp.Status)
	case len(body) > maxAnswer:
		return false, fmt.Errorf("callback: an answer of more than %d bytes", maxAnswer)
	}
	if sign != nil {
		want, err := sign([]byte(id+"\n"), body)
		if err != nil {
			return false, err
		}
		if !hmac.Equal([]byte(want), []byte(resp.Header.Get(SignatureHeader))) {
			return false, fmt.Errorf("callback: the header %s does not prove that the answer is from the server with the secret",
				SignatureHeader)
		}
	}
	var answer struct {
		Approve *bool `json:"approve"`
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(&answer); err != nil || answer.Approve == nil {
		return false, errors.New(`callback: the answer is not {"approve": true} or {"approve": false}`)
	}
	return *answer.Approve, nil
}
