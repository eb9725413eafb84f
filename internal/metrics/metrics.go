// Package metrics shows how an agent is, to Prometheus (/metrics) and to anything that asks for one word (/healthz).
//
// The number of series is bounded, whatever clients do: labels have values from fixed sets, names from the
// configuration, or at most [maxClients] users and [maxSessions] sessions. Series of single sessions, which name
// accounts' contracts, are on Unix sockets only.
package metrics

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/keyward/keyward/session"
	"github.com/keyward/keyward/socket"
)

const (
	maxClients  = 100 // users with a label of their own; the others share "other"
	maxReasons  = 100 // refusals' reasons, of which there are fewer
	maxSessions = 200 // whose limits are looked at: first those that signed lately, then those that end soonest
	overflow    = "other"
)

// buckets are the upper bounds of histograms, in seconds: from 100 µs to the 60 s that a request may take.
var buckets = []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60}

// Metrics counts what happens. Methods are safe for concurrent use.
type Metrics struct {
	requests *prometheus.CounterVec
	stages   *prometheus.HistogramVec
	syncs    *prometheus.HistogramVec

	mu      sync.Mutex
	clients map[uint32]bool
	reasons map[string]bool
	recent  map[session.ID]time.Time // of the last signature
}

// New makes metrics that have counted nothing.
func New() *Metrics {
	return &Metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "keyward_requests_total", Help: "Requests that were answered.",
		}, []string{"socket", "method", "client", "verdict", "reason"}),
		stages: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "keyward_request_stage_seconds", Buckets: buckets,
			Help: "Time of the stages of requests for a signature. The ledger works beside the device.",
		}, []string{"stage"}),
		syncs: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "keyward_sync_seconds", Buckets: buckets,
			Help: "Time of one synced write: a commit of the ledger, or a sync of the audit trail's file.",
		}, []string{"file"}),
		clients: map[uint32]bool{}, reasons: map[string]bool{}, recent: map[session.ID]time.Time{},
	}
}

// Request is a [socket.Config.Observe].
func (m *Metrics) Request(r *socket.Request) {
	name := "agent"
	if r.Admin {
		name = "admin"
	}
	client, reason := m.labels(r)
	m.requests.WithLabelValues(name, r.Method, client, string(r.Verdict), reason).Inc()
	if r.Signs {
		m.stages.WithLabelValues("total").Observe(r.Took.Seconds())
	}
	if r.Decode > 0 {
		m.stages.WithLabelValues("decode").Observe(r.Decode.Seconds())
	}
}

// labels bounds what a request adds to the labels, and notes its session.
func (m *Metrics) labels(r *socket.Request) (client, reason string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	client, reason = overflow, r.Reason
	if r.Known && (m.clients[r.UID] || len(m.clients) < maxClients) {
		m.clients[r.UID] = true
		client = session.Client{ID: r.UID}.String()
	}
	if reason != "" && !m.reasons[reason] {
		if len(m.reasons) >= maxReasons {
			return client, overflow
		}
		m.reasons[reason] = true
	}
	if r.Session != "" {
		m.recent[r.Session] = time.Now()
		if len(m.recent) > 2*maxSessions {
			m.forgetLocked()
		}
	}
	return client, reason
}

// forgetLocked forgets the sessions that signed longest ago.
func (m *Metrics) forgetLocked() {
	for len(m.recent) > maxSessions {
		oldest, at := session.ID(""), time.Now()
		for id, t := range m.recent {
			if !t.After(at) {
				oldest, at = id, t
			}
		}
		delete(m.recent, oldest)
	}
}

// Stage is a [session.Config.Observe].
func (m *Metrics) Stage(stage session.Stage, took time.Duration) {
	switch stage {
	case session.StageCommit:
		m.syncs.WithLabelValues("ledger").Observe(took.Seconds())
	case session.StageSync:
		m.syncs.WithLabelValues("trail").Observe(took.Seconds())
	default:
		m.stages.WithLabelValues(string(stage)).Observe(took.Seconds())
	}
}

// registry has everything there is to show, and if single says so, the series of single sessions.
func (m *Metrics) registry(w *watcher, single bool) *prometheus.Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(m.requests, m.stages, m.syncs, &collector{w, single},
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return r
}
