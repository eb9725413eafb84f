package confine

import (
	"os"
	"path/filepath"
	"testing"
)

func TestLacks(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	at := func(name string) string { return filepath.Join(dir, name) }
	for _, name := range []string{"read", "write", "other"} {
		if err := os.Mkdir(at(name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for link, to := range map[string]string{"read/out": "other", "in": "read"} {
		if err := os.Symlink(at(to), at(link)); err != nil {
			t.Fatal(err)
		}
	}
	has := (&Rules{Read: []string{at("read"), at("missing")}, Write: []string{at("write")},
		Sockets: []string{at("read")}}).Existing()
	if len(has.Read) != 1 {
		t.Errorf("Existing has %q", has.Read)
	}
	for _, tt := range []struct {
		want  Rules
		lacks string
	}{
		{Rules{}, ""},
		{Rules{Read: []string{at("read"), at("read/x/y"), at("write/x"), at("in/x")}}, ""},
		{Rules{Read: []string{at("reader")}}, at("reader")}, // not below read
		{Rules{Read: []string{at("read/out/x")}}, at("read/out/x")},
		{Rules{Read: []string{at("missing")}}, at("missing")},
		{Rules{Write: []string{at("write/a")}}, ""},
		{Rules{Write: []string{at("read/a")}}, at("read/a")},
		{Rules{Sockets: []string{at("read"), at("write")}}, ""},
		{Rules{Sockets: []string{at("other")}}, at("other")},
		{Rules{Devices: []string{"/dev/null"}}, "/dev/null"},
		{Rules{Execute: []string{at("read/program")}}, at("read/program")},
	} {
		if got := has.Lacks(&tt.want); got != tt.lacks {
			t.Errorf("%+v lacks %q, want %q", tt.want, got, tt.lacks)
		}
	}
}
