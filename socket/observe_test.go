package socket

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"testing"

	"github.com/keyward/keyward/internal/syncbuf"
	"github.com/keyward/keyward/socket/api"
)

// loggedRequest is a line of the log about a request.
type loggedRequest struct {
	Level, Msg, Method, Verdict, Reason, Session string
	UID                                          int
	Record                                       uint64
	Skipped                                      int `json:"more_like_it_before"`
}

// loggedRequests are the lines about requests in a log.
func loggedRequests(t *testing.T, log string) (lines []loggedRequest) {
	t.Helper()
	for text := range strings.Lines(log) {
		var line loggedRequest
		if err := json.Unmarshal([]byte(text), &line); err != nil {
			t.Fatalf("line %q: %v", text, err)
		}
		if line.Msg == "refused" || line.Msg == "request" {
			lines = append(lines, line)
		}
	}
	return lines
}

func TestRequestLines(t *testing.T) {
	var log syncbuf.Buffer
	a := startLoggingAgent(t, Limits{}, slog.New(slog.NewJSONHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})))
	sess := a.session("agw", testSpec)
	const calldata = "40c10f19000000000000000000000000a16081f360e3847006db660bae1c6d1b2e17ec2a"
	before := len(log.String())
	request := tx(map[string]any{"data": "0x" + calldata + strings.Repeat("00", 32)})
	if got := a.ask("session_signTransaction", request); !strings.HasPrefix(got, "{") {
		t.Fatalf("signing: %s", got)
	}
	request["to"], request["nonce"] = testOther, 2
	if got, want := a.ask("session_signTransaction", request), "4001 callNotAllowed"; got != want {
		t.Fatalf("signing a call to another contract: %s, want %s", got, want)
	}
	a.ask("personal_sign", "0x5ec2e75ec2e75ec2e7", sess.Signer)
	var done api.Done
	_ = a.operator.Call(t.Context(), &done, "admin_unlock", map[string]string{"backend": "memory", "pin": "sesame-4711"})
	lines := loggedRequests(t, log.String()[before:])
	head, err := a.operator.AuditHead(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	uid := os.Getuid()
	want := []loggedRequest{
		{"DEBUG", "request", "session_signTransaction", "ok", "", sess.ID, uid, head.Seq - 2, 0},
		{"INFO", "refused", "session_signTransaction", "denied", "callNotAllowed", "", uid, head.Seq - 1, 0},
		{"INFO", "refused", "personal_sign", "denied", "messageNotAllowed", "", uid, head.Seq, 0},
		{"DEBUG", "request", "admin_unlock", "malformed", "invalidParams", "", uid, 0, 0},
	}
	if fmt.Sprint(lines) != fmt.Sprint(want) {
		t.Errorf("the log has\n%v, want\n%v", lines, want)
	}
	for _, secret := range []string{calldata[8:], "a16081f3", "5ec2e7", "sesame", "4711", strings.ToLower(testOther[2:])} {
		if strings.Contains(strings.ToLower(log.String()), secret) {
			t.Errorf("the log has %q of a request:\n%s", secret, &log)
		}
	}
}

// However many requests are refused, the log stays short, and says how many lines it lacks.
func TestRequestLinesAreBounded(t *testing.T) {
	var log syncbuf.Buffer
	a := startLoggingAgent(t, Limits{}, slog.New(slog.NewJSONHandler(&log, nil)))
	a.session("agw", testSpec)
	const requests = 2 * linesBurst
	for range requests {
		a.ask("session_signTransaction", tx(map[string]any{"to": testOther}))
	}
	lines := loggedRequests(t, log.String())
	skipped := 0
	for _, l := range lines {
		skipped += l.Skipped
	}
	if len(lines) >= requests || len(lines) < linesBurst || len(lines)+skipped > requests {
		t.Errorf("%d refusals make %d lines and count %d", requests, len(lines), skipped)
	}
}
