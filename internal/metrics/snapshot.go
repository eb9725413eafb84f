package metrics

import (
	"cmp"
	"context"
	"math"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/holiman/uint256"
	"golang.org/x/sys/unix"

	"github.com/keyward/keyward/audit"
	"github.com/keyward/keyward/session"
	"github.com/keyward/keyward/socket"
	"github.com/keyward/keyward/socket/api"
)

// Agent is the agent that is watched.
type Agent struct {
	Server *socket.Server
	Ledger string // its directory
	Trail  string // the path of its newest segment
}

// fresh is how long a snapshot serves: however many ask, the devices are asked this often.
const fresh = 5 * time.Second

// watcher takes snapshots of an agent.
type watcher struct {
	Agent
	metrics *Metrics

	mu   sync.Mutex // held while a snapshot is taken, so that all who ask meanwhile get it
	last *snapshot
	at   time.Time
}

// snapshot is what an agent says of itself.
type snapshot struct {
	status      *api.Status
	queues      map[string]session.QueueState
	head        audit.Head
	trailLag    int64
	trailBytes  int64
	segments    int
	ledgerBytes int64
	diskFree    uint64
	sessions    []use // at most maxSessions
}

// use is what is left of a session.
type use struct {
	id      session.ID
	expires time.Duration // until it signs no more
	limits  []left
}

// left is what is left of a limit.
type left struct {
	name  string
	ratio float64 // 0 to 1
}

// look returns a snapshot that is fresh.
func (w *watcher) look(ctx context.Context) *snapshot {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.last != nil && time.Since(w.at) < fresh {
		return w.last
	}
	server := w.Server.Now()
	sessions := server.Signer.Sessions
	s := &snapshot{
		status: server.Status(ctx), queues: sessions.Queues(), head: sessions.AuditHead(), trailLag: sessions.TrailLag(),
		ledgerBytes: sizeOf(w.Ledger), sessions: w.uses(),
	}
	if paths, err := audit.Segments(w.Trail); err == nil {
		s.segments = len(paths)
		for _, path := range paths {
			s.trailBytes += sizeOf(path)
		}
	}
	var st unix.Statfs_t
	if unix.Statfs(filepath.Dir(w.Trail), &st) == nil {
		s.diskFree = st.Bavail * uint64(st.Bsize)
	}
	w.last, w.at = s, time.Now()
	return s
}

// sizeOf is the size of a file, or of the files in a directory, in bytes. What can't be looked at counts as empty.
func sizeOf(path string) (size int64) {
	_ = filepath.WalkDir(path, func(_ string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return nil // the store removes files while it works
		}
		if info, err := entry.Info(); err == nil {
			size += info.Size()
		}
		return nil
	})
	return size
}

// uses looks at the active sessions that signed lately, and then at those that end soonest.
func (w *watcher) uses() (all []use) {
	sessions := w.Server.Now().Signer.Sessions
	w.metrics.mu.Lock()
	recent := make(map[session.ID]time.Time, len(w.metrics.recent))
	for id, at := range w.metrics.recent {
		recent[id] = at
	}
	w.metrics.mu.Unlock()
	active := slices.DeleteFunc(sessions.List(), func(s *session.Session) bool { return s.Status != session.Active })
	slices.SortFunc(active, func(a, b *session.Session) int {
		return cmp.Or(recent[b.ID].Compare(recent[a.ID]), sessions.SignsUntil(a).Compare(sessions.SignsUntil(b)),
			cmp.Compare(a.ID, b.ID))
	})
	for _, sess := range active[:min(len(active), maxSessions)] {
		u := use{id: sess.ID, expires: time.Until(sessions.SignsUntil(sess))}
		limits, err := sessions.Usage(sess.ID)
		if err != nil {
			continue
		}
		for _, l := range limits {
			name, err := l.Tracker.MarshalText()
			if err != nil {
				continue
			}
			u.limits = append(u.limits, left{string(name), ratio(l)})
		}
		all = append(all, u)
	}
	return all
}

// ratio is how much of a limit is left, 0 to 1. Nothing is left of a limit of 0.
func ratio(u session.Usage) float64 {
	limit, remaining := uint256.Int(u.Limit), uint256.Int(u.Remaining)
	if limit.IsZero() {
		return 0
	}
	r := remaining.Float64() / limit.Float64()
	if math.IsNaN(r) {
		return 0
	}
	return r
}
