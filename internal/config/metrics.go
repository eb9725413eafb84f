package config

import (
	"errors"
	"io/fs"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Metrics is where the agent says how it is to a monitor, over HTTP: /metrics and /healthz.
type Metrics struct {
	Listen     []string    // each a path of a Unix socket, or a loopback address and a port; none: nowhere
	SocketMode fs.FileMode // of a Unix socket
}

func (m *Metrics) fields() []field {
	return []field{
		{key: "listen", dst: &m.Listen, single: true, doc: `for Prometheus: a Unix socket ("metrics.sock"), or a loopback address ("127.0.0.1:9464"), which gets no series of single sessions`},
		{key: "socket_mode", dst: &m.SocketMode, doc: "permissions of that Unix socket"},
	}
}

// MetricsAddress splits one of [Metrics.Listen]: the network is "unix" or "tcp". Only a path, with a slash or the
// ending .sock, and an IP address of the loopback interface with a port are accepted.
func MetricsAddress(listen string) (network, address string, err error) {
	if path, ok := strings.CutPrefix(listen, "unix:"); ok || strings.Contains(listen, "/") ||
		strings.HasSuffix(listen, ".sock") {
		if path == "" {
			return "", "", errors.New("the path of a Unix socket is missing")
		}
		return "unix", path, nil
	}
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		return "", "", errors.New(`want a Unix socket ("metrics.sock") or a loopback address and a port ("127.0.0.1:9464")`)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return "", "", errors.New("want a port from 1 to 65535")
	}
	if host == "localhost" {
		host = "127.0.0.1"
	}
	ip, err := netip.ParseAddr(host)
	if err != nil || !ip.IsLoopback() {
		return "", "", errors.New("only loopback addresses, such as 127.0.0.1 and [::1]: metrics are not encrypted, and " +
			"anyone who connects may read them")
	}
	return "tcp", net.JoinHostPort(host, port), nil
}

func (d *document) validateMetrics(m *Metrics) error {
	p := path{"metrics", "listen"}
	for i, listen := range m.Listen {
		if _, _, err := MetricsAddress(listen); err != nil {
			return d.errorf(p, "listen: %q: %v", listen, err)
		}
		if slices.Contains(m.Listen[:i], listen) {
			return d.errorf(p, "listen: %q is given twice", listen)
		}
	}
	return nil
}
