package command

import (
	"context"
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"

	"github.com/keyward/keyward/audit"
)

// notifier tells systemd how the agent is: sd_notify(3). Without systemd it does nothing.
type notifier struct{ addr string }

// newNotifier takes the socket's name out of the environment, so that nobody else uses it.
func newNotifier() *notifier {
	n := &notifier{os.Getenv("NOTIFY_SOCKET")}
	_ = os.Unsetenv("NOTIFY_SOCKET")
	return n
}

// send sends one message. Nothing depends on its arrival.
func (n *notifier) send(state string) {
	if n.addr == "" {
		return
	}
	conn, err := net.Dial("unixgram", n.addr) // a leading @ means the abstract namespace, here too
	if err != nil {
		return
	}
	defer conn.Close()
	_, _ = conn.Write([]byte(state))
}

// reloadOnSignal is reload, as systemctl reload asks for it (Type=notify-reload).
func (a *agent) reloadOnSignal(ctx context.Context) {
	var now unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &now) // fails for unknown clocks only
	a.notify.send(fmt.Sprintf("RELOADING=1\nMONOTONIC_USEC=%d", now.Nano()/1000))
	defer a.notify.send("READY=1")
	if _, err := a.reload(ctx); err != nil {
		a.log.Error("configuration not reloaded", "error", err)
		return
	}
	if err := a.record(ctx, audit.AgentReloaded); err != nil {
		a.log.Error("configuration reloaded, but not recorded", "error", err)
		return
	}
	a.log.Info("configuration reloaded")
}
