package command

import (
	"context"
	"fmt"
	"net"

	"github.com/keyward/keyward/internal/config"
	"github.com/keyward/keyward/internal/metrics"
	"github.com/keyward/keyward/socket"
)

// listenMetrics opens what the configuration says under [metrics].
func (a *agent) listenMetrics() error {
	for _, listen := range a.conf.Metrics.Listen {
		l, err := a.listenMetricsOn(listen)
		if err != nil {
			return fmt.Errorf("listening for metrics: %w", err)
		}
		a.monitors = append(a.monitors, l)
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

// serveMetrics serves them until ctx is done. The agent goes on signing without them.
func (a *agent) serveMetrics(ctx context.Context) {
	watched := metrics.Agent{Server: a.server, Ledger: a.dirs.Ledger(), Trail: a.dirs.AuditTrail()}
	if err := a.metrics.Serve(ctx, watched, a.log, a.monitors); err != nil {
		a.log.Error("metrics are not served any more", "error", err)
	}
}
