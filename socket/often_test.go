package socket

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"
)

// Thousands of connections that are closed unread write a few lines.
func TestClosedConnectionsDontFillTheLog(t *testing.T) {
	var out bytes.Buffer
	o := newOftenLog(slog.New(slog.NewTextHandler(&out, nil)))
	for i := range 10000 {
		o.log(slog.LevelInfo, "connection ended", "uid", i)
	}
	o.since["connection ended"].last = time.Now().Add(-time.Minute)
	o.log(slog.LevelInfo, "connection ended", "uid", 1)
	if lines := strings.Count(out.String(), "\n"); lines > 10 || !strings.Contains(out.String(), "more_like_it_before=") {
		t.Errorf("%d lines:\n%s", lines, out.String())
	}
}

// A web page is refused however its origin is written.
func TestOriginIsRefused(t *testing.T) {
	h := startServer(t, Limits{}, fakeMethods(nil, nil))
	for _, origin := range []string{"Origin: https://x", "Origin:", "Origin:\r\nOrigin: https://x", "origin: null",
		"Origin: https://x\r\nOrigin:"} {
		c := dial(t, h.path)
		c.send(fmt.Sprintf("POST / HTTP/1.1\r\nHost: x\r\n%s\r\nContent-Length: %d\r\n\r\n%s", origin, len(echo), echo))
		resp, err := http.ReadResponse(c.r, nil)
		if err != nil {
			t.Fatal(err)
		}
		if body, _ := io.ReadAll(resp.Body); resp.StatusCode != http.StatusForbidden {
			t.Errorf("%q: status %d, %s", origin, resp.StatusCode, body)
		}
	}
}
