package softhsmtest

import (
	"context"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/backends/openpgp"
	"github.com/keyward/keyward/internal/cardsim"
	"github.com/keyward/keyward/internal/secret"
)

// TestForeignSignatures: a program that has a card and its PIN signs with a session's key. Within a minute, status,
// log, trail and metrics say so, also after a restart. What the agent itself signed, over restarts, a kill, a backup
// and a card that fails, says nothing.
func TestForeignSignatures(t *testing.T) {
	const userPIN, adminPIN = "472911", "83920175"
	credentials := t.TempDir()
	t.Setenv("CREDENTIALS_DIRECTORY", credentials)
	writePIN(t, filepath.Join(credentials, "yubi-admin-pin"), adminPIN)
	a, _, card := agentWithCard(t, cardsim.StartPCSCD(t), userPIN, adminPIN, `admin_pin_credential = "yubi-admin-pin"`)
	a.Stop()
	a.configureIn("metrics", `listen = "metrics.sock"`)
	a.Start()
	sess := a.activeSessionOn("yubi", transferSpec(1_000_000))
	nonce := uint64(0)
	sign := func() error {
		nonce++
		_, err := a.Client().SignTransaction(t.Context(), transferTx(sess.ID, nonce))
		return err
	}
	restart := func() { a.Stop(); a.Start() } // after which the counter is read
	foreign := func() uint64 { return a.backendStatus("yubi").Foreign }

	a.must(sign())
	restart()
	await(t, "the first reading", func() bool {
		return strings.Contains(a.Keyward("audit", "tail", "-n", "50"),
			"device.counted")
	})
	a.must(sign())
	card.Fail(cardsim.Fault{INS: 0x2A, Do: cardsim.Garbage})
	if err := sign(); err == nil {
		t.Error("a signature by a card that answers garbage")
	}
	card.Heal()
	a.Kill()
	a.Start()
	a.signsWithin(t, "after a kill", time.Minute, sign)
	a.Keyward("backup", "--out", filepath.Join(t.TempDir(), "backup.tar.gz"))
	restart()
	a.signsWithin(t, "after a restart", time.Minute, sign)
	restart()
	if n := foreign(); n != 0 || strings.Contains(a.log.String(), "ALARM") {
		t.Fatalf("%d foreign signatures before there is one\n%s", n, a.log)
	}

	signElsewhere(t, userPIN, sess.KeyURI, 2)
	began := time.Now()
	for foreign() != 2 {
		if time.Since(began) > time.Minute {
			t.Fatalf("status says nothing after a minute: %+v\n%s", a.backendStatus("yubi"), a.log)
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Logf("known after %v", time.Since(began).Round(time.Second))
	for what, text := range map[string]string{"status": a.Status(), "trail": a.Keyward("audit", "tail", "-n", "5"),
		"metrics": scrape(t, filepath.Join(a.Dir, "metrics.sock")), "log": a.log.String()} {
		want := map[string]string{
			"status": "has made 2 signatures that this agent did not ask for", "trail": "device.externalUsage",
			"metrics": `keyward_foreign_signatures{backend="yubi"} 2`,
			"log":     "ALARM: a device has made signatures that this agent did not ask for",
		}[what]
		if !strings.Contains(text, want) {
			t.Errorf("%s does not say %q:\n%s", what, want, text)
		}
	}
	restart()
	if n := foreign(); n != 2 {
		t.Errorf("after a restart %d foreign signatures are known, want 2", n)
	}
}

// signElsewhere signs with a card's key as another program, which has the card's PIN.
func signElsewhere(t *testing.T, pin, uri string, n int) {
	t.Helper()
	b, err := openpgp.Open(openpgp.Config{
		Name: "elsewhere", Serial: "5555555", PIN: secret.NewKeeper(func(context.Context) (*secret.Buffer,
			error) {
			return secret.Take([]byte(pin))
		}, 0),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	var k backends.Key
	for range n {
		await(t, "the card signs elsewhere", func() bool { // the agent may have it
			if k == nil {
				if k, err = b.Key(t.Context(), uri); err != nil {
					k = nil
					return false
				}
			}
			_, err := k.SignDigest(t.Context(), [32]byte{1})
			return err == nil
		})
	}
}

// scrape reads the metrics on a Unix socket.
func scrape(t *testing.T, path string) string {
	t.Helper()
	c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", path)
		}}}
	answer, err := c.Get("http://metrics/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
