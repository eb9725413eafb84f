package socket

import (
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
)

// httpClient sends every request to the socket.
func httpClient(path string) *http.Client {
	return &http.Client{Timeout: patience, Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", path)
		},
	}}
}

func TestHTTP(t *testing.T) {
	h := startServer(t, Limits{MaxMessage: 4 << 10}, fakeMethods(nil, nil))
	web := httpClient(h.path)
	defer web.CloseIdleConnections()
	for _, tt := range []struct {
		name, method, path, body string
		header                   [2]string
		status                   int
		want                     string // the answer's id and code, or its beginning
	}{
		{"as curl -d sends it", "POST", "/", echo, [2]string{"Content-Type", "application/x-www-form-urlencoded"}, 200,
			"1 0"},
		{"without a type", "POST", "/any/path?x=1", echo, [2]string{}, 200, "1 0"},
		{"denied", "POST", "/", `{"jsonrpc":"2.0","id":2,"method":"test_deny"}`, [2]string{}, 200, "2 4001"},
		{"batch", "POST", "/", "[" + echo + "]", [2]string{}, 200, `[{"jsonrpc":"2.0","id":1,"result":[]}]`},
		{"not JSON", "POST", "/", "hello", [2]string{}, 200, "null -32700"},
		{"cut short", "POST", "/", `{"jsonrpc":"2.0","id":3,`, [2]string{}, 200, "3 -32700"},
		{"two messages", "POST", "/", echo + echo, [2]string{}, 200, "1 -32600"},
		{"empty", "POST", "/", "", [2]string{}, 200, "null -32600"},
		{"too long", "POST", "/", `{"jsonrpc":"2.0","id":9,"method":"test_echo","params":["` + strings.Repeat("x", 4<<10) +
			`"]}`, [2]string{}, 200, "9 -32600"},
		{"notification", "POST", "/", `{"jsonrpc":"2.0","method":"test_echo"}`, [2]string{}, 204, ""},
		{"GET", "GET", "/", "", [2]string{}, 405, "null -32600"},
		{"from a web page", "POST", "/", echo, [2]string{"Origin", "https://example.org"}, 403, "null -32600"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			req, err := http.NewRequest(tt.method, "http://keyward"+tt.path, strings.NewReader(tt.body))
			if err != nil {
				t.Fatal(err)
			}
			if tt.header[0] != "" {
				req.Header.Set(tt.header[0], tt.header[1])
			}
			resp, err := web.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			body, err := io.ReadAll(resp.Body)
			if err != nil || resp.StatusCode != tt.status {
				t.Errorf("status %d, %v, want %d", resp.StatusCode, err, tt.status)
			}
			got := strings.TrimSpace(string(body))
			if got != "" && got[0] != '[' {
				got = idAndCode(t, got)
			}
			if got != tt.want {
				t.Errorf("answer %s, want %s", body, tt.want)
			}
		})
	}
}

// Requests over one kept-alive connection are one connection, and count in the same limits.
func TestHTTPKeepAlive(t *testing.T) {
	h := startServer(t, Limits{}, fakeMethods(nil, nil))
	web := httpClient(h.path)
	for range 5 {
		resp, err := web.Post("http://keyward/", "application/json", strings.NewReader(echo))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, resp.Body); err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
	}
	if n := h.agent.quota.inUse(connections); n != 1 {
		t.Errorf("5 requests hold %d connections, want 1", n)
	}
	web.CloseIdleConnections()
	waitFor(t, "the connection to be given up", func() bool { return h.agent.quota.inUse(connections) == 0 })
}

func TestHTTPShutdown(t *testing.T) {
	block, started := make(chan struct{}), make(chan struct{}, 1)
	h := startServer(t, Limits{}, fakeMethods(block, started))
	answered := make(chan string, 1)
	go func() {
		resp, err := httpClient(h.path).Post("http://keyward/", "",
			strings.NewReader(`{"jsonrpc":"2.0","id":1,"method":"test_wait"}`))
		if err != nil {
			answered <- err.Error()
			return
		}
		defer resp.Body.Close()
		body, _ := io.ReadAll(resp.Body)
		answered <- string(body)
	}()
	<-started
	done := make(chan error, 1)
	go func() { done <- h.Shutdown(context.Background()) }()
	waitFor(t, "Shutdown to begin", h.calls.Closed)
	close(block)
	if got, want := <-answered, `{"jsonrpc":"2.0","id":1,"result":"waited"}`+"\n"; got != want {
		t.Errorf("in flight: %s, want %s", got, want)
	}
	if err := <-done; err != nil {
		t.Errorf("Shutdown: %v", err)
	}
}
