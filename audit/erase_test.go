package audit

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// personalTrail makes a trail of n records of clients in turn, whose segments have 4 records each.
func personalTrail(t *testing.T, n int) (path string, head Head) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "audit.jsonl")
	tr, head, err := OpenTrail(vfs.Default, path, head, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer tr.Close()
	for i := range n {
		rec := &Record{Time: time.Unix(int64(i), 0).UTC(), Event: SignGranted, Session: "s",
			Peer:        &Peer{UID: uint32(1000 + i%2)},
			Transaction: map[string]int{"nonce": i}, Verdict: &Verdict{Allow: true}}
		line, next, err := head.Seal(nil, rec)
		if err = errors.Join(err, tr.Append(line)); err != nil {
			t.Fatal(err)
		}
		if head = next; i%4 == 3 {
			if head, err = tr.Rotate(head); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := tr.Sync(); err != nil {
		t.Fatal(err)
	}
	return path, head
}

func ofClient(uid string) func([]byte) bool {
	return func(line []byte) bool { return bytes.Contains(line, []byte(`"peer":{"uid":`+uid)) }
}

// Personal data of chosen records is erased from sealed and archived segments. The chain, its tree and the others' data
// stay.
func TestErase(t *testing.T) {
	path, head := personalTrail(t, 18)
	before, err := OpenTree(filepath.Join(t.TempDir(), "tree"))
	if err != nil {
		t.Fatal(err)
	}
	defer before.Close()
	if err := before.Extend(path, 18); err != nil {
		t.Fatal(err)
	}
	to := t.TempDir()
	head, _ = archiveFirst(t, path, head, 1, to, true)
	files, err := Segments(path)
	if err != nil {
		t.Fatal(err)
	}
	files = append(files[:len(files)-1], filepath.Join(to, "audit-00000000000000000001.jsonl.gz"))
	for _, file := range files {
		if done, err := Erase(file, ofClient("1000")); err != nil || done != (Erasure{Erased: 2}) {
			t.Errorf("Erase(%s) = %+v, %v, want 2 records", file, done, err)
		}
		if done, err := Erase(file, ofClient("1000")); err != nil || done != (Erasure{}) {
			t.Errorf("Erase(%s) again = %+v, %v, want nothing", file, done, err)
		}
	}
	if rep, err := Verify(path, head, nil, false); err != nil || rep.Head.Seq != 19 {
		t.Errorf("Verify = %+v, %v", rep, err)
	}
	if missing, err := VerifyArchive(to, path); err != nil || missing > 0 {
		t.Errorf("VerifyArchive = %d, %v", missing, err)
	}
	after, err := OpenTree(filepath.Join(t.TempDir(), "tree"))
	if err != nil {
		t.Fatal(err)
	}
	defer after.Close()
	if err := after.Extend(path, 18); err != nil {
		t.Fatal(err)
	}
	want, err := before.Root(18)
	if got, gotErr := after.Root(18); err != nil || gotErr != nil || got != want {
		t.Errorf("the tree's root is %v, %v after erasure, want %v", got, gotErr, want)
	}
	erased, kept := 0, 0
	if _, err := ReadAfter(path, Head{Seq: 4, Hash: mustBegin(t, path).Hash}, func(line []byte) error {
		var rec Personal
		if err := json.Unmarshal(line, &rec); err != nil {
			return err
		}
		switch {
		case rec.Erased():
			erased++
			if bytes.Contains(line, []byte("1000")) || bytes.Contains(line, []byte("nonce")) ||
				bytes.Contains(line, []byte("salt")) {
				t.Errorf("an erased line still has %s", line)
			}
		case bytes.Contains(line, []byte(`"peer":{"uid":1001`)):
			kept++
		}
		return nil
	}); err != nil || erased != 6 || kept != 7 {
		t.Errorf("%d records are erased and %d kept, %v, want 6 and 7", erased, kept, err)
	}
}

func mustBegin(t *testing.T, path string) Head {
	t.Helper()
	head, err := Beginning(path)
	if err != nil {
		t.Fatal(err)
	}
	return head
}

// Personal data can be deleted, and in no other way changed: neither its values, its salt, its hash, nor by adding to
// it.
func TestPersonalDataIsChained(t *testing.T) {
	path, head := personalTrail(t, 3)
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, change := range []struct{ name, old, new string }{
		{"another user", `"uid":1001`, `"uid":1000`},
		{"another salt", `"salt":"`, `"salt":"0`},
		{"a member more", `"nonce":1}}`, `"nonce":1},"verdict":{"allow":false}}`},
		{"no salt", `"salt":`, `"pepper":`},
		{"the hash of something else", `"personal":"`, `"personal":"0`},
		{"a member in the chained part", `"session":"s"`, `"session":"s","detail":1`},
	} {
		bad := bytes.Replace(good, []byte(change.old), []byte(change.new), 1)
		if err := os.WriteFile(path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Verify(path, head, nil, false); bytes.Equal(bad, good) || !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: %v, want ErrDamaged", change.name, err)
		}
	}
}

// A line of an older version, without the hash, is hashed as it is: nothing can be added to it, and nothing erased.
func TestOlderLines(t *testing.T) {
	line := []byte(`{"seq":1,"prev":"` + strings.Repeat("0", 64) +
		`","time":"2026-11-28T09:00:00Z","event":"sign.granted","peer":{"uid":1000,"gid":1,"pid":2}}`)
	head, err := Head{}.follows(line)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	for _, tt := range []struct {
		name, line string
		good       bool
	}{
		{"as it was", string(line), true},
		{"with a hash", strings.TrimSuffix(string(line), "}") + `,"personal":"` + strings.Repeat("0", 64) + `"}`, false},
		{"with a hash and values", strings.TrimSuffix(string(line), "}") + `,"personal":"` + strings.Repeat("0", 64) +
			`","salt":"00"}`, false},
	} {
		if err := os.WriteFile(path, []byte(tt.line+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Verify(path, head, nil, false); tt.good != (err == nil) {
			t.Errorf("%s: Verify = %v", tt.name, err)
		}
	}
	if err := os.WriteFile(path, append(line, '\n'), 0o600); err != nil {
		t.Fatal(err)
	}
	if done, err := Erase(path, ofClient("1000")); err != nil || done != (Erasure{Older: 1}) {
		t.Errorf("Erase = %+v, %v, want one older record", done, err)
	}
}
