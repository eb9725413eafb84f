package metrics

import (
	"context"
	"math"
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/keyward/keyward/socket/api"
)

// collector shows a snapshot.
type collector struct {
	*watcher
	single bool // the series of single sessions too
}

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("keyward_"+name, help, labels, nil)
}

var (
	buildInfo    = desc("build_info", "1, with the agent's version.", "version", "goversion")
	startedAt    = desc("start_time_seconds", "When the agent started, in Unix seconds.")
	state        = desc("state", "1 for the state that the agent is in: ready, degraded, locked or halted.", "state")
	signs        = desc("signs", "1 if a signature can be made, with one backend at least.")
	backendState = desc("backend_state", "1 for the state that a backend is in.", "backend", "type", "state")
	signatures   = desc("signatures_total", "Signatures that were granted and made.")
	denials      = desc("denials_total", "Requests for a signature that the policy, a limit or the session's state denied.")
	failures     = desc("signing_failures_total", "Granted requests for which the device made no good signature. Their "+
		"charges stay.")
	sessions     = desc("sessions", "Sessions, by status.", "status")
	connections  = desc("connections", "Open connections on agent.sock.")
	inFlight     = desc("requests_in_flight", "Requests on agent.sock that are being worked on.")
	queueSlots   = desc("queue_slots", "Requests that a device works on at a time.", "backend")
	queueBusy    = desc("queue_busy", "Requests that a device works on now.", "backend")
	queueWaiting = desc("queue_waiting", "Requests that wait for a device.", "backend")
	trailRecords = desc("trail_records_total", "Records in the audit trail, since its beginning.")
	trailBytes   = desc("trail_bytes", "Size of the audit trail's segments that are here.")
	trailFiles   = desc("trail_segments", "Segments of the audit trail that are here.")
	trailLag     = desc("trail_lag_bytes", "Bytes of the audit trail that are on disk in the ledger, and not yet in "+
		"the trail's own file.")
	ledgerBytes = desc("ledger_bytes", "Size of the ledger's files.")
	diskFree    = desc("state_disk_free_bytes", "Free space on the disk of the audit trail.")
	chainState  = desc("chain_state", "1 for the state that a chain is in: ready, unavailable, clock (nothing is "+
		"signed) or new.", "chain", "state")
	chainBlock = desc("chain_block", "The newest block that was seen.", "chain")
	chainRead  = desc("chain_read_timestamp_seconds", "When the chain was last read, in Unix seconds; 0: never.",
		"chain")
	registryRead = desc("registry_read_timestamp_seconds",
		"When the chain's policy registry was last asked, in Unix seconds; 0: never.", "chain")
	blocked = desc("registry_blocked_sessions", "Sessions that the policy registry stops.", "chain")
	exposed = desc("external_usage_sessions", "Live sessions of which the chain has counted what the agent did not "+
		"sign.", "chain")
	foreign = desc("foreign_signatures", "Signatures that the backend's device has counted and the agent did not "+
		"ask for, of keys that are still there.", "backend")
	inspected = desc("sessions_inspected", "Active sessions whose limits the next two look at: all, up to 200.")
	leastLeft = desc("least_limit_left_ratio", "The smallest part that is left of any limit of an active session; 1 "+
		"without one.")
	soonestEnd = desc("soonest_expiry_seconds", "Time until the next active session signs no more; +Inf without one.")
	limitLeft  = desc("session_limit_left_ratio", "What is left of a session's limit, 0 to 1.", "session", "limit")
	sessionEnd = desc("session_expiry_seconds", "Time until a session signs no more.", "session")
)

// Describe is prometheus.Collector's. It describes nothing, which makes the collector an unchecked one: what it has
// depends on the configuration.
func (c *collector) Describe(chan<- *prometheus.Desc) {}

// Collect is prometheus.Collector's.
func (c *collector) Collect(out chan<- prometheus.Metric) {
	s := c.look(context.Background())
	emit := func(kind prometheus.ValueType, d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, kind, v, labels...)
	}
	gauge := func(d *prometheus.Desc, v float64, labels ...string) { emit(prometheus.GaugeValue, d, v, labels...) }
	counter := func(d *prometheus.Desc, v float64) { emit(prometheus.CounterValue, d, v) }

	st := s.status
	gauge(buildInfo, 1, st.Version, runtime.Version())
	gauge(startedAt, float64(st.StartedAt.UnixMilli())/1000)
	oneOf(gauge, state, st.State, nil, api.StateReady, api.StateDegraded, api.StateLocked, api.StateHalted)
	gauge(signs, truth(st.Signs))
	counter(signatures, float64(st.Granted))
	counter(denials, float64(st.Denied))
	counter(failures, float64(st.Failed))
	gauge(connections, float64(st.Connections))
	gauge(inFlight, float64(st.InFlight))
	for _, status := range []string{"pending", "active", "expired", "revoked", "closed"} {
		gauge(sessions, float64(st.Sessions[status]), status)
	}
	for _, b := range st.Backends {
		oneOf(gauge, backendState, b.State, []string{b.Name, b.Type}, api.StateReady, api.StateLocked, "unavailable")
		gauge(foreign, float64(b.Foreign), b.Name)
	}
	for name, q := range s.queues {
		gauge(queueSlots, float64(q.Slots), name)
		gauge(queueBusy, float64(q.Busy), name)
		gauge(queueWaiting, float64(q.Waiting), name)
	}
	counter(trailRecords, float64(s.head.Seq))
	gauge(trailBytes, float64(s.trailBytes))
	gauge(trailFiles, float64(s.segments))
	gauge(trailLag, float64(s.trailLag))
	gauge(ledgerBytes, float64(s.ledgerBytes))
	gauge(diskFree, float64(s.diskFree))
	for _, ch := range st.Chains {
		oneOf(gauge, chainState, ch.State, []string{ch.Name}, "ready", "unavailable", "clock", "new")
		gauge(chainBlock, float64(ch.Block), ch.Name)
		gauge(chainRead, unixTime(ch.ReadAt), ch.Name)
		gauge(registryRead, unixTime(ch.RegistryAt), ch.Name)
		gauge(blocked, float64(ch.Blocked), ch.Name)
		gauge(exposed, float64(ch.Exposed), ch.Name)
	}
	c.left(s, gauge)
}

// left shows what is left of the sessions: the least of all, and if wanted, of each.
func (c *collector) left(s *snapshot, gauge func(*prometheus.Desc, float64, ...string)) {
	least, soonest := 1.0, math.Inf(1)
	for _, u := range s.sessions {
		soonest = min(soonest, u.expires.Seconds())
		if c.single {
			gauge(sessionEnd, u.expires.Seconds(), string(u.id))
		}
		for _, l := range u.limits {
			least = min(least, l.ratio)
			if c.single {
				gauge(limitLeft, l.ratio, string(u.id), l.name)
			}
		}
	}
	gauge(inspected, float64(len(s.sessions)))
	gauge(leastLeft, least)
	gauge(soonestEnd, soonest)
}

// oneOf shows a series for each value, of which the one that holds is 1.
func oneOf(gauge func(*prometheus.Desc, float64, ...string), d *prometheus.Desc, holds string, labels []string,
	values ...string) {
	for _, v := range values {
		gauge(d, truth(v == holds), append(labels[:len(labels):len(labels)], v)...)
	}
}

func truth(is bool) float64 {
	if is {
		return 1
	}
	return 0
}

func unixTime(at *time.Time) float64 {
	if at == nil {
		return 0
	}
	return float64(at.Unix())
}
