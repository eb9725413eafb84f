package repair

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/keyward/keyward/audit"
	"github.com/keyward/keyward/internal/backup"
	"github.com/keyward/keyward/internal/config"
	"github.com/keyward/keyward/session"
)

// newState makes a state with n records.
func newState(t *testing.T, n int) config.Dirs {
	t.Helper()
	dirs, err := config.OneDir(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(dirs.State, 0o700); err != nil {
		t.Fatal(err)
	}
	addRecords(t, dirs, n)
	return dirs
}

func addRecords(t *testing.T, dirs config.Dirs, n int) {
	t.Helper()
	for range n {
		if err := open(dirs, &audit.Record{Event: audit.AgentStarted}); err != nil {
			t.Fatal(err)
		}
	}
}

// backUp makes a backup of the state.
func backUp(t *testing.T, dirs config.Dirs) string {
	t.Helper()
	ledger := filepath.Join(t.TempDir(), "ledger")
	if err := session.CopyStopped(dirs.Ledger(), ledger); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "backup")
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := backup.Write(f, dirs, ledger, "test", time.Now()); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return file
}

func edit(t *testing.T, path, old, replacement string) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	edited := bytes.Replace(data, []byte(old), []byte(replacement), 1)
	if bytes.Equal(edited, data) {
		t.Fatalf("%s has no %q", path, old)
	}
	if err := os.WriteFile(path, edited, 0o600); err != nil {
		t.Fatal(err)
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// damages are what a start names, and the ways to repair each.
var damages = []struct {
	name   string
	damage func(t *testing.T, dirs config.Dirs)
	want   error
	text   string // in the start's error
	ways   []string
	all    bool // the backup has all records; else the last one is only in the trail
}{
	{"ledger gone", func(t *testing.T, d config.Dirs) { check(t, os.RemoveAll(d.Ledger())) }, session.ErrDamaged,
		"is missing, but its audit trail",
		[]string{"restore", "abandon"}, false},
	{"ledger's files gone", func(t *testing.T, d config.Dirs) {
		tables, err := filepath.Glob(filepath.Join(d.Ledger(), "MANIFEST-*"))
		check(t, err)
		for _, f := range tables {
			check(t, os.Remove(f))
		}
	}, session.ErrDamaged, "the ledger is damaged", []string{"restore", "abandon"}, false},
	{"ledger's log overwritten", func(t *testing.T, d config.Dirs) {
		manifests, err := filepath.Glob(filepath.Join(d.Ledger(), "MANIFEST-*"))
		check(t, err)
		for _, f := range manifests {
			check(t, os.WriteFile(f, []byte("nothing of the kind, but long enough to be read as a block"), 0o600))
		}
	}, session.ErrDamaged, "the ledger is damaged", []string{"restore", "abandon"}, false},
	{"ledger and trail gone", func(t *testing.T, d config.Dirs) {
		check(t, os.RemoveAll(d.Ledger()))
		check(t, os.Remove(d.Ledger()+".db"))
		check(t, os.Remove(d.AuditTrail()))
	}, session.ErrDamaged, "are gone from", []string{"restore", "abandon"}, false},
	{"two ledgers", func(t *testing.T, d config.Dirs) {
		check(t, os.Remove(d.Ledger()+".db"))
		db, err := bolt.Open(d.Ledger()+".db", 0o600, nil)
		check(t, err)
		check(t, db.Update(func(tx *bolt.Tx) error {
			meta, err := tx.CreateBucket([]byte("meta"))
			if err != nil {
				return err
			}
			return meta.Put([]byte("version"), []byte("2"))
		}))
		check(t, db.Close())
	}, session.ErrTwoLedgers, "there are two", []string{"keep-new"}, false},
	{"trail gone", func(t *testing.T, d config.Dirs) { check(t, os.Remove(d.AuditTrail())) }, audit.ErrDamaged, "is gone",
		[]string{"mend", "new-segment"}, true},
	{"trail cut", func(t *testing.T, d config.Dirs) { check(t, os.Truncate(d.AuditTrail(), 100)) }, audit.ErrDamaged,
		"are missing before record",
		[]string{"mend", "new-segment"}, true},
	{"record in the middle edited", func(t *testing.T, d config.Dirs) {
		edit(t, d.AuditTrail(), `"seq":3,`, `"seq":9,`)
		// record 9 may be one that the ledger does not know
	}, audit.ErrDamaged, "record 3 was expected here", []string{"restore"}, false},
	{"link in the middle edited", func(t *testing.T, d config.Dirs) {
		edit(t, d.AuditTrail(), `{"seq":3,"prev":"`, `{"seq":3,"prev":"x`)
		edit(t, d.AuditTrail(), `"event":"agent.started"`, `"event":"agent.starte"`)
	}, audit.ErrDamaged, "record 1 was edited", []string{"mend", "new-segment"}, false},
	{"bytes inserted", func(t *testing.T, d config.Dirs) {
		edit(t, d.AuditTrail(), `"seq":3,`, `"seq":3 ,`)
	}, audit.ErrAhead, "the ledger was replaced by an old copy", []string{"mend", "new-segment"}, false},
	{"first record edited", func(t *testing.T, d config.Dirs) {
		edit(t, d.AuditTrail(), "agent.started", "agent.stopped")
	}, audit.ErrDamaged, "record 1 was edited", []string{"mend", "new-segment"}, false},
	{"end of the trail edited", func(t *testing.T, d config.Dirs) {
		data, err := os.ReadFile(d.AuditTrail())
		check(t, err)
		data[len(data)-4] ^= 1
		check(t, os.WriteFile(d.AuditTrail(), data, 0o600))
	}, audit.ErrDamaged, "is not the one that was written", []string{"new-segment"}, false},
	{"ledger is an old copy", func(t *testing.T, d config.Dirs) {
		old := filepath.Join(t.TempDir(), "ledger")
		check(t, session.CopyStopped(d.Ledger(), old))
		addRecords(t, d, 2)
		check(t, os.RemoveAll(d.Ledger()))
		check(t, os.CopyFS(d.Ledger(), os.DirFS(old)))
	}, audit.ErrAhead, "the ledger was replaced by an old copy", []string{"trail", "spent"}, false},
}

// Each damage that a start names has repairs. None of them is done without a word; each leaves a state that opens, a
// trail that verifies, and a record of what was done.
func TestRepairs(t *testing.T) {
	for _, d := range damages {
		for _, way := range d.ways {
			t.Run(d.name+"/"+way, func(t *testing.T) {
				dirs := newState(t, 5)
				file := backUp(t, dirs)
				addRecords(t, dirs, 1)
				if d.all {
					file = backUp(t, dirs)
				}
				d.damage(t, dirs)
				if err := start(dirs); !errors.Is(err, d.want) || !strings.Contains(err.Error(), d.text) {
					t.Fatalf("the start says %v, want %v with %q", err, d.want, d.text)
				}
				before := contents(t, dirs.State)
				f := Find(dirs)
				if f == nil || !errors.Is(f.Damage, d.want) {
					t.Fatalf("Find = %+v, want %v", f, d.want)
				}
				if !slices.ContainsFunc(f.Choices, func(c Choice) bool { return c.Name == way }) {
					t.Fatalf("Find offers %v, want %s", f.Choices, way)
				}
				if _, err := Do(f, dirs, "anything", "", time.Now()); err == nil {
					t.Fatal("a repair that was not offered was done")
				}
				repairIt(t, f, dirs, way, file)
				if err := start(dirs); err != nil {
					t.Fatalf("after the repair the start says %v", err)
				}
				if f := Find(dirs); f != nil {
					t.Fatalf("after the repair: %v", f.Damage)
				}
				trail, err := os.ReadFile(dirs.AuditTrail())
				check(t, err)
				if !bytes.Contains(trail, []byte(`"event":"state.re`)) {
					t.Error("the trail does not say what was done")
				}
				nothingLost(t, before, dirs.State, way)
			})
		}
	}
}

// start is what a start of the agent does to its state.
func start(dirs config.Dirs) error {
	if err := session.CheckLost(dirs.Ledger(), dirs.AuditTrail()); err != nil {
		return err
	}
	return open(dirs, nil)
}

func repairIt(t *testing.T, f *Finding, dirs config.Dirs, way, file string) {
	t.Helper()
	if way == "restore" {
		if _, err := backup.Restore(file, dirs, "", time.Now()); !errors.Is(err, session.ErrSince) {
			t.Fatalf("Restore without a word = %v, want ErrSince", err)
		}
		if _, err := backup.Restore(file, dirs, session.SinceSpent, time.Now()); err != nil {
			t.Fatal(err)
		}
		return
	}
	if way == "mend" {
		if _, err := Do(f, dirs, way, "", time.Now()); err == nil {
			t.Fatal("mended without a backup")
		}
	}
	if _, err := Do(f, dirs, way, file, time.Now()); err != nil {
		t.Fatal(err)
	}
}

// contents are the trail's files below dir.
func contents(t *testing.T, dir string) map[string][]byte {
	t.Helper()
	all := map[string][]byte{}
	check(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || filepath.Ext(path) != ".jsonl" {
			return err
		}
		all[path], err = os.ReadFile(path)
		return err
	}))
	return all
}

// nothingLost checks that each file of before is still there, perhaps elsewhere or with more at its end.
func nothingLost(t *testing.T, before map[string][]byte, dir, way string) {
	t.Helper()
	after := contents(t, dir)
	for path, data := range before {
		found := false
		for _, have := range after {
			found = found || bytes.HasPrefix(have, data)
		}
		if !found {
			t.Errorf("after %s, what was in %s is nowhere", way, path)
		}
	}
}

// Damage in a sealed segment is not looked for at a start. Find reads all of the trail.
func TestFindReadsAll(t *testing.T) {
	dirs := newState(t, 3)
	if f := Find(dirs); f != nil {
		t.Fatalf("Find of a whole state: %v", f.Damage)
	}
	if _, err := Do(&Finding{}, dirs, "abandon", "", time.Now()); err == nil {
		t.Error("a whole state was abandoned")
	}
}

// A backup is refused if a byte of it is another, or its end is missing.
func TestDamagedBackup(t *testing.T) {
	dirs := newState(t, 3)
	file := backUp(t, dirs)
	data, err := os.ReadFile(file)
	check(t, err)
	if _, err := backup.Check(file); err != nil {
		t.Fatal(err)
	}
	// gzip's header has bytes without a meaning
	for at := 10; at < len(data); at += len(data) / 60 {
		bad := bytes.Clone(data)
		bad[at] ^= 0x10
		check(t, os.WriteFile(file, bad, 0o600))
		if _, err := backup.Check(file); err == nil {
			t.Errorf("a backup with another byte at %d of %d was taken", at, len(data))
		}
		check(t, os.WriteFile(file, data[:at], 0o600))
		if _, err := backup.Restore(file, dirs, session.SinceSpent, time.Now()); !errors.Is(err, backup.ErrDamaged) {
			t.Errorf("a backup of %d of %d bytes: %v, want ErrDamaged", at, len(data), err)
		}
	}
	if f := Find(dirs); f != nil {
		t.Errorf("damaged backups changed the state: %v", f.Damage)
	}
}
