package command

import (
	"net"
	"os"
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
