package kmscall

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"

	"github.com/keyward/keyward/backends"
)

// certain makes one request, and reports whether it is certain that nothing was signed.
func certain(t *testing.T, client *http.Client, url string, body io.Reader) bool {
	t.Helper()
	var s backends.Sending
	req, err := http.NewRequestWithContext(WithSending(t.Context(), &s), http.MethodPost, url, body)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := client.Do(req)
	if err == nil {
		answer.Body.Close()
		if answer.StatusCode == http.StatusForbidden {
			Refused(req.Context())
		}
	}
	return errors.Is(s.End(errors.New("it failed")), backends.ErrNotSigned)
}

func TestTransport(t *testing.T) {
	var status atomic.Int64
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		if status.Load() == 0 {
			panic(http.ErrAbortHandler) // cuts the connection
		}
		w.WriteHeader(int(status.Load()))
	})
	plain, secure := httptest.NewServer(handler), httptest.NewTLSServer(handler)
	defer plain.Close()
	defer secure.Close()
	client := &http.Client{Transport: Transport{&http.Transport{}}}
	defer client.CloseIdleConnections()
	digest := func() io.Reader { return bytes.NewReader(make([]byte, 32)) }
	for _, c := range []struct {
		name   string
		url    string
		status int64
		body   io.Reader
		want   bool
	}{
		{"refused", plain.URL, 403, digest(), true},
		{"not a refusal", plain.URL, 500, digest(), false},
		{"cut", plain.URL, 0, digest(), false},
		{"nothing to sign in it", plain.URL, 500, nil, true},
		{"no connection", "http://127.0.0.1:1", 403, digest(), true},
		{"certificate not trusted", secure.URL, 403, digest(), true},
		{"no such host", "http://host.invalid", 403, digest(), true},
	} {
		status.Store(c.status)
		if got := certain(t, client, c.url, c.body); got != c.want {
			t.Errorf("%s: certain %v, want %v", c.name, got, c.want)
		}
	}
}

// A request whose call has ended before it got its connection does not reach the service whole.
func TestTransportSendsNothingAfterTheCall(t *testing.T) {
	var whole atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if body, err := io.ReadAll(r.Body); err == nil && len(body) > 0 {
			whole.Add(1)
		}
	}))
	defer server.Close()
	var s backends.Sending
	client := &http.Client{Transport: Transport{&http.Transport{
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			if err := s.End(errors.New("left")); !errors.Is(err, backends.ErrNotSigned) {
				t.Error("it is in doubt before a byte was sent")
			}
			return new(net.Dialer).DialContext(ctx, network, addr)
		},
	}}}
	defer client.CloseIdleConnections()
	req, err := http.NewRequestWithContext(WithSending(t.Context(), &s), http.MethodPost, server.URL,
		bytes.NewReader(make([]byte, 32)))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.Do(req); !errors.Is(err, errAbandoned) || whole.Load() != 0 {
		t.Errorf("%v, %d requests reached the service, want errAbandoned and none", err, whole.Load())
	}
}
