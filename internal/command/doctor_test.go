package command

import (
	"errors"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/keyward/keyward/backends/pkcs11"
	"github.com/keyward/keyward/internal/config"
)

// judged is what judge added to an examination, as "verdict check".
func judged(judge func(x *examination)) string {
	x := &examination{place: &place{conf: config.Defaults()}}
	judge(x)
	var all []string
	for _, f := range x.findings {
		all = append(all, string(f.Verdict)+" "+f.Check)
		if f.Verdict == wrong && f.Do == "" {
			all = append(all, "(nothing to do)")
		}
	}
	return strings.Join(all, ", ")
}

// What a test can't provoke on this machine is judged from what the system would say.
func TestDoctorJudges(t *testing.T) {
	disk := func(free, total uint64, took time.Duration, err error) func(x *examination) {
		return func(x *examination) {
			x.judgeDisk("/d", &unix.Statfs_t{Bsize: 1 << 20, Bavail: free, Blocks: total, Files: 9, Ffree: 9}, took, err)
		}
	}
	clock := func(offset time.Duration) func(x *examination) {
		return func(x *examination) { x.judgeClock("c", offset) }
	}
	tries := func(flag string) func(x *examination) {
		return func(x *examination) {
			x.judgeTries("token of c", "c", pkcs11.Token{Flags: []string{"initialized", flag}})
		}
	}
	unit := func(shown string) func(x *examination) { return func(x *examination) { x.judgeUnit("u", shown) } }
	const good = "LoadState=loaded\nActiveState=active\nUnitFileState=enabled\nNeedDaemonReload=no\n"
	for _, tt := range []struct {
		name  string
		judge func(x *examination)
		want  string
	}{
		{"a disk with room", disk(5000, 10000, time.Millisecond, nil), "ok disk"},
		{"a full disk", disk(0, 10000, 0, unix.ENOSPC), "wrong disk"},
		{"a disk that is short of room", disk(900, 10000, time.Millisecond, nil), "warning disk"},
		{"a disk without inodes", func(x *examination) {
			x.judgeDisk("/d", &unix.Statfs_t{Bsize: 1 << 20, Bavail: 5000, Blocks: 9000, Files: 9}, 0, nil)
		}, "wrong disk"},
		{"a read-only disk", disk(5000, 10000, 0, unix.EROFS), "wrong disk"},
		{"a slow disk", disk(5000, 10000, time.Second, nil), "warning disk"},
		{"a disk that was not written to", disk(5000, 10000, 0, errors.New("no rights")), "ok disk"},
		{"a clock that is right", clock(time.Second), "ok clock of c"},
		{"a clock an hour slow", clock(-time.Hour), "wrong clock of c"},
		{"a clock an hour fast", clock(time.Hour), "warning clock of c"},
		{"a token", tries("PIN set"), "ok token of c"},
		{"a token with few tries", tries(pkcs11.PINCountLow), "wrong token of c"},
		{"a token with one try", tries(pkcs11.PINFinalTry), "wrong token of c"},
		{"a token that is locked", tries(pkcs11.PINLocked), "wrong token of c"},
		{"a unit", unit(good), "ok unit u"},
		{"a unit that is not there", unit("LoadState=not-found\nActiveState=inactive\n"), "wrong unit u"},
		{"a unit that failed", unit(strings.Replace(good, "active\n", "failed\n", 1)), "wrong unit u"},
		{"a unit that is not enabled", unit(strings.Replace(good, "enabled", "disabled", 1)), "warning unit u"},
		{"a unit that was edited", unit(strings.Replace(good, "Reload=no", "Reload=yes", 1)), "warning unit u"},
	} {
		if got := judged(tt.judge); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
		}
	}
}
