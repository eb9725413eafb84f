package metrics

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/net/netutil"

	"github.com/keyward/keyward/socket/api"
)

// maxConnections bounds the connections of one listener. Anyone on this host can connect to a loopback address.
const maxConnections = 16

// Watched is an agent whose metrics are read.
type Watched struct{ watcher }

// Watch makes what [Watched.Serve] serves.
func (m *Metrics) Watch(a Agent) *Watched { return &Watched{watcher{Agent: a, metrics: m}} }

// Serve answers on a listener until ctx is done, and closes it. The error says that it failed. It may serve several
// listeners concurrently, which share what devices say of themselves.
func (w *Watched) Serve(ctx context.Context, log *slog.Logger, l net.Listener) error {
	server := &http.Server{
		Handler:           w.handler(l.Addr().Network() == "unix"),
		ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 5 * time.Second, WriteTimeout: 30 * time.Second,
		IdleTimeout:    2 * time.Minute,
		MaxHeaderBytes: 16 << 10,
		ErrorLog:       slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.Serve(netutil.LimitListener(l, maxConnections)); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func (w *watcher) handler(single bool) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(w.metrics.registry(w, single),
		promhttp.HandlerOpts{MaxRequestsInFlight: 4, DisableCompression: true}))
	mux.HandleFunc("GET /healthz", func(rw http.ResponseWriter, r *http.Request) { w.health(rw, r, single) })
	return mux
}

// Health is what /healthz answers, with status 200 if the agent signs and 503 if not.
type Health struct {
	State  string `json:"state"` // as [api.Status] has it
	Signs  bool   `json:"signs"`
	Detail string `json:"detail,omitempty"` // on a Unix socket only
}

func (w *watcher) health(rw http.ResponseWriter, r *http.Request, detail bool) {
	st := w.look(r.Context()).status
	h := Health{State: st.State, Signs: st.Signs}
	if detail {
		h.Detail = st.Detail
	}
	rw.Header().Set("Content-Type", "application/json")
	rw.Header().Set("Cache-Control", "no-store")
	if !st.Signs || st.State == api.StateHalted {
		rw.WriteHeader(http.StatusServiceUnavailable)
	}
	_ = json.NewEncoder(rw).Encode(h) // the client may be gone
}
