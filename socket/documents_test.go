package socket

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keyward/keyward/audit"
)

// document is the text of a document, with its lines joined.
func document(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return spaces.ReplaceAllString(string(text), " ")
}

// Both sockets speak both framings.
func TestFramingsOfBothSockets(t *testing.T) {
	a := startAgent(t)
	for name, method := range map[string]string{"agent.sock": "eth_accounts", "admin.sock": "admin_status"} {
		path := filepath.Join(filepath.Dir(a.appPath), name)
		request := fmt.Sprintf(`{"jsonrpc":"2.0","id":1,"method":%q}`, method)
		web := httpClient(path)
		resp, err := web.Post("http://keyward/x", "text/plain", strings.NewReader(request))
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		web.CloseIdleConnections()
		if err != nil || resp.StatusCode != http.StatusOK || code(t, string(body)) != 0 {
			t.Errorf("%s over HTTP: %s, %s, %v", name, resp.Status, body, err)
		}
		if got := dial(t, path).ask(request); code(t, got) != 0 {
			t.Errorf("%s over the stream: %s", name, got)
		}
	}
}

// No time-out ends a connection that has nothing to do.
func TestIdleConnectionStays(t *testing.T) {
	const short = 20 * time.Millisecond
	h := startServer(t, Limits{MessagePatience: short, WriteTimeout: short, RequestTimeout: short,
		refusedConnectionFor: short}, fakeMethods(nil, nil))
	fresh, used := dial(t, h.path), dial(t, h.path)
	used.ask(echo)
	time.Sleep(10 * short)
	for name, c := range map[string]*peerConn{"that sent nothing yet": fresh, "that has had an answer": used} {
		if got := c.ask(echo); code(t, got) != 0 {
			t.Errorf("a connection %s: %s", name, got)
		}
	}
}

// The bounds that docs/protocol.md names are the agent's defaults.
func TestDocumentedBounds(t *testing.T) {
	text := document(t, "../docs/protocol.md")
	l := Limits{}.withDefaults()
	q := newQuota(l, func(audit.Peer) bool { return true })
	for _, words := range []string{
		fmt.Sprintf("a message of %d MiB, %d levels deep, a batch of %d, %d calls in flight of a connection and %d of "+
			"all, %d connections,",
			l.MaxMessage>>20, l.MaxDepth, l.MaxBatch, l.MaxInFlightPerConn, l.MaxInFlight, l.MaxConnections),
		fmt.Sprintf("%d MiB of requests larger than %d KiB", l.MaxInFlightBytes>>20, freeBuffer>>10),
		fmt.Sprintf("%d MiB of answers that a user does not fetch", l.MaxPendingOutput>>20),
		fmt.Sprintf("does not take its answer for %.0f s is cut off", l.WriteTimeout.Seconds()),
		fmt.Sprintf("%d connections, %d calls, %d MiB of large requests", q.assured[connections], q.assured[callsInFlight],
			q.assured[bytesInFlight]>>20),
		fmt.Sprintf("%.0f s from its first byte, and %.0f s for each 64 KiB", l.patienceFor(0).Seconds(),
			(l.patienceFor(64<<10) - l.patienceFor(0)).Seconds()),
	} {
		if !strings.Contains(text, words) {
			t.Errorf("docs/protocol.md does not say %q", words)
		}
	}
	if q.share[connections]*4 != l.MaxConnections*3 {
		t.Errorf("a user gets %d of %d connections, docs/protocol.md says three quarters", q.share[connections],
			l.MaxConnections)
	}
	if strangersShare != 10 || clientShare != 4 {
		t.Errorf("strangers get 1/%d of a processor and refused requests 1/%d, docs/protocol.md says a tenth and a quarter",
			strangersShare, clientShare)
	}
}

// A client that gives up does not cancel what it asked for. The same request again has the same signature, and is
// counted once.
func TestGivenUpRequestIsSigned(t *testing.T) {
	a, d, sess := touchableAgent(t)
	gone := dial(t, a.appPath)
	request := requestLine(t, "1", "eth_signTransaction", tx(nil))
	gone.send(request)
	<-d.waits
	gone.Close()
	d.touch()
	first := dial(t, a.appPath).ask(request)
	if again := dial(t, a.appPath).ask(request); code(t, first) != 0 || again != first {
		t.Errorf("%s, and again %s", first, again)
	}
	shown, err := a.app.Session(t.Context(), sess.ID)
	if err != nil || *shown.Outstanding != 1 {
		t.Fatalf("%+v, %v, want one nonce", shown, err)
	}
	for _, l := range shown.Limits {
		if l.Tracker.String() == "fee" && l.Used.String() != "200000" {
			t.Errorf("fee %s, want it counted once", l.Used)
		}
	}
}

// The notifications that docs/protocol.md shows are what a client gets, byte for byte.
func TestDocumentedNotifications(t *testing.T) {
	text, err := os.ReadFile("../docs/protocol.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile("(?s)```json\n(.*?)```").FindAllStringSubmatch(string(text), -1)
	if len(blocks) != 1 {
		t.Fatalf("docs/protocol.md has %d blocks of JSON, want 1: give each one a test", len(blocks))
	}
	want := strings.Split(strings.TrimSpace(blocks[0][1]), "\n")
	says := regexp.MustCompile(`"for":"([^"]+)"`).FindStringSubmatch(want[0])
	if len(want) != 2 || says == nil {
		t.Fatalf("the block is %q, want a notification that says what to do, and one that ends it", want)
	}
	a, d, _ := touchableAgent(t)
	d.says = says[1]
	c := dial(t, a.appPath)
	c.send(requestLine(t, "1", "rpc_notifyWaiting") + requestLine(t, "7", "eth_signTransaction", tx(nil)))
	<-d.waits
	got := []string{c.line(), c.line()}[1:]
	d.touch()
	if got = append(got, c.line()); !slices.Equal(got, want) {
		t.Errorf("a client gets\n%s\ndocs/protocol.md has\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// No parameter of a method on agent.sock is a digest to sign.
func TestNoMethodTakesADigest(t *testing.T) {
	signs := 0
	for _, m := range Methods() {
		if m.Admin || !m.signs || strings.HasPrefix(m.Summary, "Refused: ") {
			continue
		}
		signs++
		for _, p := range m.Params {
			if !slices.Contains([]string{"Address", "TypedData", "SignData", "Transaction", "String"}, p.Schema) {
				t.Errorf("%s takes %s, of type %s", m.Name, p.Name, p.Schema)
			}
		}
	}
	if signs < 6 {
		t.Errorf("%d methods sign, want 6 at least", signs)
	}
	a := startAgent(t)
	sess := a.session("agw", testSpec)
	digest := "0x" + strings.Repeat("ab", 32)
	for name, got := range map[string]string{
		"eth_sign":             a.ask("eth_sign", sess.Signer, digest),
		"personal_sign":        a.ask("personal_sign", digest, sess.Signer),
		"account_signData":     a.ask("account_signData", "application/octet-stream", sess.Signer, digest),
		"eth_signTypedData_v4": a.ask("eth_signTypedData_v4", sess.Signer, digest),
	} {
		if strings.HasPrefix(got, `"`) {
			t.Errorf("%s signs a digest: %s", name, got)
		}
	}
}
