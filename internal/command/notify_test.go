package command

import (
	"net"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"
)

func TestNotify(t *testing.T) {
	path := filepath.Join(t.TempDir(), "n")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	t.Setenv("NOTIFY_SOCKET", path)
	n := newNotifier()
	if v, ok := os.LookupEnv("NOTIFY_SOCKET"); ok {
		t.Errorf("NOTIFY_SOCKET is still %q", v)
	}
	n.send("READY=1")
	buf := make([]byte, 64)
	size, err := l.Read(buf)
	if err != nil || string(buf[:size]) != "READY=1" {
		t.Errorf("received %q, %v", buf[:size], err)
	}
	newNotifier().send("READY=1") // without systemd, nothing happens
}

func TestWatchdogIsForThisProcess(t *testing.T) {
	for _, tt := range []struct {
		usec, pid string
		want      time.Duration
	}{
		{"", "", 0},
		{"60000000", "", 20 * time.Second},
		{"60000000", strconv.Itoa(os.Getpid()), 20 * time.Second},
		{"60000000", "1", 0},
		{"0", "", 0},
		{"soon", "", 0},
	} {
		t.Setenv("WATCHDOG_USEC", tt.usec)
		t.Setenv("WATCHDOG_PID", tt.pid)
		if got := newWatchdog().interval; got != tt.want {
			t.Errorf("WATCHDOG_USEC=%q WATCHDOG_PID=%q: every %v, want %v", tt.usec, tt.pid, got, tt.want)
		}
		if v, ok := os.LookupEnv("WATCHDOG_USEC"); ok {
			t.Errorf("WATCHDOG_USEC is still %q", v)
		}
	}
}
