package command

import (
	"context"
	"net"
	"os"
	"strconv"
	"time"

	"github.com/keyward/keyward/socket/client"
)

// watchdog has systemd restart an agent that hangs (systemd.service(5), WatchdogSec=). Its sign of life means that the
// main loop runs, that the store makes a write durable, and that the operator's socket answers a request. A device has
// no part in it.
type watchdog struct {
	interval time.Duration // between signs of life; 0: systemd wants none
	alive    chan struct{} // gets a value each time all is well
}

// newWatchdog reads what systemd wants (sd_watchdog_enabled(3)), and takes it out of the environment.
func newWatchdog() *watchdog {
	usec, pid := os.Getenv("WATCHDOG_USEC"), os.Getenv("WATCHDOG_PID")
	_, _ = os.Unsetenv("WATCHDOG_USEC"), os.Unsetenv("WATCHDOG_PID")
	w := &watchdog{alive: make(chan struct{})}
	n, err := strconv.ParseInt(usec, 10, 64)
	if err != nil || n <= 0 || pid != "" && pid != strconv.Itoa(os.Getpid()) {
		return w
	}
	w.interval = time.Duration(n) * time.Microsecond / 3 // two may be late
	return w
}

// run finds out again and again how the agent is, until ctx ends. Each time all is well it tells the main loop, which
// tells systemd.
func (w *watchdog) run(ctx context.Context, p *process) {
	if w.interval == 0 {
		return
	}
	tick := time.NewTicker(w.interval)
	defer tick.Stop()
	for {
		if err := p.checkAlive(ctx, w.interval); err == nil {
			select {
			case w.alive <- struct{}{}:
			case <-ctx.Done():
			}
		} else if ctx.Err() == nil {
			p.log.Error("the agent makes no progress; systemd starts it again if this lasts", "error", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// checkAlive returns nil if the store and the sockets work within limit.
func (p *process) checkAlive(ctx context.Context, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	if err := p.newest.Load().sessions.Alive(ctx); err != nil {
		return err
	}
	return answers(ctx, p.admin)
}

// answers returns nil once the server behind l has answered a request that no device has a part in.
func answers(ctx context.Context, l net.Listener) error {
	cl, err := client.Dial(ctx, l.Addr().String())
	if err != nil {
		return err
	}
	defer cl.Close()
	var modules map[string]string
	return cl.Call(ctx, &modules, "rpc_modules")
}
