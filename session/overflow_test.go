package session

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keyward/keyward/audit"
)

func TestParseClientRefusesNobody(t *testing.T) {
	overflow := strings.TrimSpace(string(read(t, "/proc/sys/kernel/overflowuid")))
	for _, text := range []string{"uid:" + overflow, "gid:65534", "uid:4294967295", "gid:4294967295", "uid:-1",
		"uid:4294967296"} {
		if c, err := ParseClient(text); err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("ParseClient(%s) = %v, %v, want an error that names it", text, c, err)
		}
	}
	for _, text := range []string{"uid:0", "uid:65533", "gid:65535", "gid:4294967294"} {
		if _, err := ParseClient(text); err != nil {
			t.Errorf("ParseClient(%s): %v", text, err)
		}
	}
}

// A session that was stored when these ids were taken is read, and nobody is its client.
func TestNobodyIsNoClient(t *testing.T) {
	for _, text := range []string{"uid:65534", "gid:65534", "uid:4294967295", "gid:4294967295"} {
		var c Client
		if err := json.Unmarshal(fmt.Appendf(nil, "%q", text), &c); err != nil {
			t.Fatal(err)
		}
		peer := audit.Peer{UID: c.ID, GID: c.ID, Groups: []uint32{c.ID}}
		if c.Is(peer) {
			t.Errorf("%s is uid, gid and group %d", text, c.ID)
		}
		for is := range identities(peer) {
			t.Errorf("the peer of %s is %s", text, is)
		}
	}
	mixed := audit.Peer{UID: 65534, GID: 65534, Groups: []uint32{65534, 7}}
	for is := range identities(mixed) {
		if is != (Client{Group: true, ID: 7}) {
			t.Errorf("identities has %s, want gid:7 alone", is)
		}
	}
}

func TestUnmappedClients(t *testing.T) {
	a := newAgent(t)
	a.active(t) // for uid:1000
	path := filepath.Join(t.TempDir(), "uid_map")
	for _, tt := range []struct {
		lines string
		want  int
	}{
		{"         0          0 4294967295\n", 0},
		{"0 100000 1001\n", 0}, {"0 100000 1000\n", 1}, {"0 0 1\n1000 1 1\n", 0}, {"1001 0 5\n", 1}, {"", 1},
	} {
		if err := os.WriteFile(path, []byte(tt.lines), 0o600); err != nil {
			t.Fatal(err)
		}
		ids, err := readIDMap(path)
		if err != nil {
			t.Fatal(err)
		}
		if got := a.unmapped(ids, nil); len(got) != tt.want {
			t.Errorf("with the map %q %v are not mapped, want %d clients", tt.lines, got, tt.want)
		}
	}
	if got, err := a.UnmappedClients(); err != nil || len(got) != 0 && !strings.Contains(fmt.Sprint(got), "uid:1000") {
		t.Errorf("UnmappedClients = %v, %v", got, err)
	}
}
