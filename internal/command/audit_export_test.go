package command

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/keyward/keyward/audit"
	"github.com/keyward/keyward/session"
)

// siem is a receiver that breaks connections: each takes only so many records.
type siem struct {
	l    net.Listener
	acks bool

	mu    sync.Mutex
	takes int // records of the next connection; 0: all
	seqs  []uint64
}

func startSIEM(t *testing.T, acks bool, takes int) *siem {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "siem"))
	if err != nil {
		t.Fatal(err)
	}
	s := &siem{l: l, acks: acks, takes: takes}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			s.receive(conn)
		}
	}()
	return s
}

func (s *siem) receive(conn net.Conn) {
	defer conn.Close()
	s.mu.Lock()
	takes := s.takes
	s.mu.Unlock()
	lines := bufio.NewScanner(conn)
	for n := 1; lines.Scan(); n++ {
		var rec struct {
			Seq  uint64
			Prev string
		}
		if json.Unmarshal(lines.Bytes(), &rec) != nil || len(rec.Prev) != 64 {
			return
		}
		s.mu.Lock()
		s.seqs = append(s.seqs, rec.Seq)
		s.mu.Unlock()
		if s.acks {
			fmt.Fprintln(conn, rec.Seq)
		}
		if n == takes {
			return
		}
	}
}

// missing returns the first record up to last that has not arrived; 0: none.
func (s *siem) missing(last uint64) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	have := map[uint64]bool{}
	for _, seq := range s.seqs {
		have[seq] = true
	}
	for seq := uint64(1); seq <= last; seq++ {
		if !have[seq] {
			return seq
		}
	}
	return 0
}

// A receiver that breaks its connections gets every record at least once, whether it acknowledges or not, and the
// position outlasts the process. Meanwhile the agent records without waiting.
func TestExportIsAtLeastOnce(t *testing.T) {
	for _, acks := range []bool{false, true} {
		t.Run(fmt.Sprintf("acks %v", acks), func(t *testing.T) {
			dir := t.TempDir()
			cfg := session.Config{LedgerPath: filepath.Join(dir, "ledger"), AuditPath: filepath.Join(dir, "audit.jsonl")}
			s, err := session.Open(cfg)
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			takes := 0
			if acks { // without it, a receiver that reads records and drops them has had them
				takes = 3
			}
			receiver := startSIEM(t, acks, takes)
			var notes bytes.Buffer
			x := &export{
				tool: &tool{stderr: &notes}, trail: cfg.AuditPath, file: filepath.Join(t.TempDir(), "position"), acks: acks,
				once: true, patience: 10 * time.Second,
				dial: func(ctx context.Context) (net.Conn, error) { return net.Dial("unix", receiver.l.Addr().String()) },
			}
			for round := range 4 {
				for range 5 {
					if err := s.Record(t.Context(), audit.Record{Event: audit.AgentStarted}); err != nil {
						t.Fatal(err)
					}
				}
				err := x.connected(t.Context())
				if round < 3 { // five records at a time, and the receiver took three
					if acks != (err != nil) {
						t.Fatalf("round %d: %v; a receiver that acknowledges 3 of 5 records has not had all, one that reads all has",
							round, err)
					}
					continue
				}
				receiver.mu.Lock()
				receiver.takes = 0
				receiver.mu.Unlock()
				again := *x // another process
				again.sent = position{}
				if err := errors.Join(again.begin(), again.connected(t.Context())); err != nil {
					t.Fatal(err)
				}
			}
			for end := time.Now().Add(10 * time.Second); receiver.missing(20) > 0 &&
				time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
			}
			if seq := receiver.missing(20); seq > 0 {
				t.Errorf("record %d has not arrived", seq)
			}
		})
	}
}

// A receiver that takes nothing does not hold up the agent, and the position stays where it is.
func TestExportToADeafReceiver(t *testing.T) {
	dir := t.TempDir()
	cfg := session.Config{LedgerPath: filepath.Join(dir, "ledger"), AuditPath: filepath.Join(dir, "audit.jsonl")}
	s, err := session.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.Record(t.Context(), audit.Record{Event: audit.AgentStarted}); err != nil {
		t.Fatal(err)
	}
	ours, theirs := socketPair(t)
	defer theirs.Close()
	x := &export{tool: &tool{stderr: io.Discard}, trail: cfg.AuditPath, file: filepath.Join(t.TempDir(), "position"),
		once: true, patience: 200 * time.Millisecond,
		dial: func(context.Context) (net.Conn, error) { return ours, nil }}
	if err := x.connected(t.Context()); err == nil || x.sent.Seq != 0 {
		t.Errorf("a receiver that reads nothing: %v, position %d, want an error and 0", err, x.sent.Seq)
	}
	if err := s.Record(t.Context(), audit.Record{Event: audit.AgentStopped}); err != nil {
		t.Error(err)
	}
}

// socketPair returns the two ends of a Unix connection.
func socketPair(t *testing.T) (ours, theirs net.Conn) {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if ours, err = net.Dial("unix", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if theirs, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	return ours, theirs
}

// A position that the trail does not have, since it was set back, is an error and no reason to begin again.
func TestExportOfATrailThatWasSetBack(t *testing.T) {
	dir := t.TempDir()
	cfg := session.Config{LedgerPath: filepath.Join(dir, "ledger"), AuditPath: filepath.Join(dir, "audit.jsonl")}
	s, err := session.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.Record(t.Context(), audit.Record{Event: audit.AgentStarted}); err != nil {
		t.Fatal(err)
	}
	x := &export{tool: &tool{stderr: io.Discard}, trail: cfg.AuditPath, sent: position{Seq: 1}}
	if err := x.run(t.Context()); !errors.Is(err, audit.ErrDamaged) {
		t.Errorf("another record 1: %v, want audit.ErrDamaged", err)
	}
	x.sent.Seq = 7
	if err := x.run(t.Context()); !errors.Is(err, audit.ErrDamaged) {
		t.Errorf("a record that is not there: %v, want audit.ErrDamaged", err)
	}
}
