package command

import (
	"net"
	"os"
	"path/filepath"
	"testing"
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
