package command

import (
	"context"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/keyward/keyward/internal/config"
	"github.com/keyward/keyward/internal/metrics"
	"github.com/keyward/keyward/socket"
)

// monitor is a place where metrics are served.
type monitor struct {
	net.Listener
	stop context.CancelFunc // nil: it is not served yet
	over chan struct{}
}

// close ends serving, and the listener.
func (m *monitor) close() {
	if m.stop != nil {
		m.stop()
		<-m.over
	}
	_ = m.Close() // it may be closed already
}

// listenMetrics opens what the configuration says under [metrics], and takes over what before has open.
func (a *agent) listenMetrics(before map[string]*monitor) error {
	a.monitors = map[string]*monitor{}
	for _, listen := range a.conf.Metrics.Listen {
		if m := before[listen]; m != nil {
			a.monitors[listen] = m
			continue
		}
		l, err := a.listenMetricsOn(listen)
		if err != nil {
			return a.placed(fmt.Errorf("listening for metrics: %w", err), "metrics", "listen")
		}
		a.monitors[listen] = &monitor{Listener: l}
	}
	return nil
}

func (a *agent) listenMetricsOn(listen string) (net.Listener, error) {
	network, address, err := config.MetricsAddress(listen)
	if err != nil {
		return nil, err
	}
	if network == "tcp" {
		return net.Listen(network, address)
	}
	path, err := a.dirs.Socket(address)
	if err != nil {
		return nil, err
	}
	return socket.Listen(path, a.conf.Metrics.SocketMode)
}

// serveMetrics begins to serve what is not served yet, until the monitor is closed or the agent ends. The agent goes on
// signing without them.
func (a *agent) serveMetrics() {
	for _, m := range a.monitors {
		if m.Addr().Network() == "unix" { // its mode may have changed
			if err := os.Chmod(m.Addr().String(), a.conf.Metrics.SocketMode); err != nil {
				a.log.Error("the metrics' socket keeps its mode", "error", err)
			}
		}
		if m.stop != nil {
			continue
		}
		var ctx context.Context
		ctx, m.stop = context.WithCancel(a.upkeep)
		m.over = make(chan struct{})
		go func() {
			defer close(m.over)
			if err := a.watched.Serve(ctx, a.log, m.Listener); err != nil {
				a.log.Error("metrics are not served any more", "address", m.Addr().String(), "error", err)
			}
		}()
	}
}

// watch makes what metrics are read from.
func (a *agent) watch() {
	a.watched = a.metrics.Watch(metrics.Agent{Server: a.server, Ledger: a.dirs.Ledger(), Trail: a.dirs.AuditTrail()})
}

// latencyStep is how often the audit trail gets a record of how long requests took.
const latencyStep = 5 * time.Minute

func (a *agent) recordLatency(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(latencyStep):
		}
		if err := a.server.RecordLatency(ctx); err != nil && ctx.Err() == nil {
			a.log.Warn("the trail lacks how long requests took", "error", err)
		}
	}
}
