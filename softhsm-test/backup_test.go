package softhsmtest

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keyward/keyward/socket/client"
)

// The agent is backed up three times under load, and signs more after each. Then its state is damaged or lost, and a
// backup is restored, with each of the words for the time since. By the trail the limits count exactly what clients
// received; counted as spent, nothing more is signed.
func TestBackupUnderLoad(t *testing.T) {
	const limit = 1_000_000
	a := NewPlainAgent(t, t.TempDir())
	sess := a.ActiveSession(transferSpec(limit), userAccount)
	backups := t.TempDir()
	var received atomic.Int64
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for w := range uint64(4) {
		wg.Go(func() {
			c := a.Client()
			for nonce := w << 24; ; nonce++ {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := c.SignTransaction(t.Context(), transferTx(sess.ID, nonce)); err != nil {
					return // the limit
				}
				received.Add(1)
			}
		})
	}
	var at []int64 // signatures that were there before each backup
	for _, name := range []string{"1", "2", "3"} {
		for start := time.Now(); received.Load() < int64(len(at)+1)*20 && time.Since(start) < time.Minute; {
			time.Sleep(10 * time.Millisecond)
		}
		at = append(at, received.Load())
		a.Keyward("backup", "--out", filepath.Join(backups, name))
	}
	close(stop)
	wg.Wait()
	signed := int(received.Load())
	a.Kill()
	if signed < 60 || signed >= limit {
		t.Fatalf("%d signatures arrived, want at least 60 and less than the limit of %d", signed, limit)
	}
	state := filepath.Join(a.Dir, "state")
	lost := filepath.Join(t.TempDir(), "state")
	if err := os.CopyFS(lost, os.DirFS(state)); err != nil {
		t.Fatal(err)
	}
	a.replaceState(lost)
	if err := os.RemoveAll(filepath.Join(state, "ledger")); err != nil { // the trail is left
		t.Fatal(err)
	}
	first, second, third := filepath.Join(backups, "1"), filepath.Join(backups, "2"), filepath.Join(backups, "3")
	a.refuses("may lack the newest", "restore", first)
	a.Keyward("restore", first, "--since", "trail")
	a.checkRestored(sess.ID, "by the trail", signed, limit)

	a.replaceState("") // nothing is left
	a.refuses("not known what was signed since", "restore", second)
	a.refuses("not known what was signed since", "restore", second, "--since", "trail")
	a.Keyward("restore", second, "--since", "spent")
	a.checkRestored(sess.ID, "counted as spent", limit, limit)

	a.replaceState("")
	a.Keyward("restore", third, "--since", "nothing") // a wrong word, perhaps: it is in the trail
	if used := a.usedAfterRestore(sess.ID); used < int(at[2]) || used > signed {
		t.Errorf("the third backup counts %d; %d signatures had arrived before it, %d in all", used, at[2], signed)
	}
	if out := a.Keyward("audit", "tail", "--json", "--event", "state.restored"); !strings.Contains(out,
		`"since":"nothing"`) {
		t.Errorf("the trail does not have the operator's word: %s", out)
	}
	t.Logf("%d signatures; backups after %v", signed, at)
}

// refuses runs a command that has to fail with that text.
func (a *Agent) refuses(text string, args ...string) {
	a.t.Helper()
	if _, err := a.try(args...); err == nil || !strings.Contains(err.Error(), text) {
		a.t.Fatalf("%v = %v, want a refusal with %q", args, err, text)
	}
}

// replaceState replaces the agent's state by a copy of dir; "" leaves nothing.
func (a *Agent) replaceState(dir string) {
	a.t.Helper()
	state := filepath.Join(a.Dir, "state")
	if err := os.RemoveAll(state); err != nil {
		a.t.Fatal(err)
	}
	if dir == "" {
		return
	}
	if err := os.CopyFS(state, os.DirFS(dir)); err != nil {
		a.t.Fatal(err)
	}
}

// usedAfterRestore starts the agent, which is locked, unlocks it, verifies the trail and returns what the session's
// limit counts.
func (a *Agent) usedAfterRestore(session string) int {
	a.t.Helper()
	a.Start()
	a.Keyward("audit", "verify")
	a.Keyward("unlock")
	return a.transferred(session)
}

// checkRestored checks what the restored agent counts, that it signs what the limit has room for, and nothing beyond.
// It leaves no agent.
func (a *Agent) checkRestored(session, how string, counted, limit int) {
	a.t.Helper()
	defer a.Kill()
	used := a.usedAfterRestore(session)
	if used != counted && (used < limit || counted < limit) { // used up is used up, by however much
		a.t.Errorf("restored %s: the limit counts %d, want %d", how, used, counted)
	}
	c, err := client.Dial(a.t.Context(), a.Socket())
	if err != nil {
		a.t.Fatal(err)
	}
	defer c.Close()
	room := min(limit-counted, 3)
	for i := range uint64(3) {
		_, err := c.SignTransaction(a.t.Context(), transferTx(session, 1<<30+i))
		if granted := err == nil; granted != (int(i) < room) {
			a.t.Errorf("restored %s, signature %d: %v, and the limit has room for %d", how, i+1, err, room)
		}
	}
	if after := a.transferred(session); after != used+room {
		a.t.Errorf("restored %s: the limit counts %d after %d signatures, want %d", how, after, room, used+room)
	}
}
