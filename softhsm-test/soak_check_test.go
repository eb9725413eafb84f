//go:build soak || lossy

package softhsmtest

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/keyward/keyward/policy"
	"github.com/keyward/keyward/socket/api"
	"github.com/keyward/keyward/socket/client"
)

// gauges are what an agent holds, with the processes of its devices.
type gauges struct {
	goroutines, agentFiles, files int // files: of all processes
	agentRSS, rss                 int // KB; rss: of all processes
	p11Sessions                   int // of the device without faults
	processes                     int
}

func (g *gauges) String() string {
	return fmt.Sprintf("%d goroutines, %d+%d descriptors, %d+%d MB, %d processes, %d PKCS#11 sessions",
		g.goroutines, g.agentFiles, g.files-g.agentFiles, g.agentRSS>>10, (g.rss-g.agentRSS)>>10, g.processes, g.p11Sessions)
}

func (s *soak) gauges() *gauges {
	s.t.Helper()
	g := &gauges{goroutines: s.a.metric(s.t.Context(), "go_goroutines"), p11Sessions: int(s.steady.Sessions.Load())}
	agent := fmt.Sprint(s.a.cmd.Process.Pid)
	for _, pid := range append(s.a.children(), agent) {
		files, err := os.ReadDir(filepath.Join("/proc", pid, "fd"))
		s.a.must(err)
		kb, err := strconv.Atoi(strings.Fields(afterLine(procFile(s.t, pid, "status"), "VmRSS:"))[0])
		s.a.must(err)
		g.files, g.rss, g.processes = g.files+len(files), g.rss+kb, g.processes+1
		if pid == agent {
			g.agentFiles, g.agentRSS = len(files), kb
		}
	}
	return g
}

// metric reads one of the agent's metrics, a whole number.
func (a *Agent) metric(ctx context.Context, name string) int {
	a.t.Helper()
	web := &http.Client{Transport: &http.Transport{DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", filepath.Join(a.Dir, "metrics.sock"))
		}}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://agent/metrics", nil)
	a.must(err)
	resp, err := web.Do(req)
	a.must(err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	a.must(err)
	n, err := strconv.Atoi(strings.TrimSpace(afterLine(string(text), "\n"+name+" ")))
	a.must(err)
	return n
}

// checkGrowth compares what the last process holds with what it held when it was warm.
func (s *soak) checkGrowth(now *gauges) {
	s.t.Helper()
	s.t.Logf("%s growth of one process: from %v\nto %v", s.clock(), s.base, now)
	for _, g := range []struct {
		what              string
		before, now, room int
	}{
		{"goroutines", s.base.goroutines, now.goroutines, 8},
		{"descriptors", s.base.files, now.files, 8},
		{"processes", s.base.processes, now.processes, 0},
		{"PKCS#11 sessions", s.base.p11Sessions, now.p11Sessions, 0},
		{"KB of memory", s.base.rss, now.rss, s.base.rss/4 + 32<<10},
	} {
		if g.now > g.before+g.room {
			s.t.Errorf("%d %s at the end, %d when the process was warm", g.now, g.what, g.before)
		}
	}
}

// sums are what the audit trail says of a session.
type sums struct {
	granted map[string]bool // digests, without those whose charge was taken back
	charged int             // wei
}

func (of *sums) add(t *testing.T, rec *auditRecord) {
	switch rec.Event {
	case "sign.granted":
		of.granted[rec.Digest] = true
		for _, c := range rec.Verdict.Charges {
			if c.Tracker != "fee" {
				of.charged += wei(t, c.Amount)
			}
		}
	case "sign.reverted":
		var detail struct{ Returned map[string]string }
		if err := json.Unmarshal(rec.Detail, &detail); err != nil {
			t.Fatal(err)
		}
		delete(of.granted, rec.Digest)
		for tracker, amount := range detail.Returned {
			if tracker != "fee" {
				of.charged -= wei(t, amount)
			}
		}
	}
}

func wei(t *testing.T, amount string) int {
	t.Helper()
	n, err := strconv.Atoi(amount)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// checkSums compares what arrived with the ledger and the audit trail, session by session.
func (s *soak) checkSums() {
	s.t.Helper()
	trail := map[string]*sums{}
	for _, rec := range s.a.trail() {
		of := trail[rec.Session]
		if of == nil {
			of = &sums{granted: map[string]bool{}}
			trail[rec.Session] = of
		}
		of.add(s.t, &rec)
	}
	used := s.a.allUsed()
	for _, a := range s.all() {
		if trail[a.session.ID] == nil {
			trail[a.session.ID] = &sums{}
		}
		of, used := trail[a.session.ID], used[a.session.ID]
		s.t.Logf("%s session on %s: %d signatures received, %d in the audit trail, %d wei charged there and %d in the "+
			"ledger; %d beyond the limit; asked again after %v",
			s.clock(), a.session.Backend, len(a.received), len(of.granted), of.charged, used, a.denied, a.errors)
		if len(of.granted) != len(a.received) || of.charged != len(a.received) || used != len(a.received) {
			s.t.Errorf("session on %s: the four numbers differ", a.session.Backend)
		}
		for digest := range a.received {
			if !of.granted[digest.String()] {
				s.t.Errorf("the signature of %v arrived and is not in the audit trail", digest)
			}
		}
		if used > a.limit || a.limit == soakLimit && used != a.limit {
			s.t.Errorf("session on %s: %d wei are used of %d", a.session.Backend, used, a.limit)
		}
	}
}

// sessions are all sessions, as the operator sees them.
func (a *Agent) sessions() []*api.Session {
	a.t.Helper()
	admin, err := client.Dial(a.t.Context(), filepath.Join(a.Dir, "admin.sock"))
	a.must(err)
	defer admin.Close()
	sessions, err := admin.AllSessions(a.t.Context())
	a.must(err)
	return sessions
}

// allUsed is what the transfers of each session have counted.
func (a *Agent) allUsed() map[string]int {
	a.t.Helper()
	admin, err := client.Dial(a.t.Context(), filepath.Join(a.Dir, "admin.sock"))
	a.must(err)
	defer admin.Close()
	used := map[string]int{}
	for _, listed := range a.sessions() {
		sess, err := admin.Session(a.t.Context(), listed.ID) // a list has no limits
		a.must(err)
		for _, l := range sess.Limits {
			if n := l.Used.Int(); l.Tracker.Kind == policy.TransferValueTracker {
				used[sess.ID] += int(n.Uint64())
			}
		}
	}
	return used
}
