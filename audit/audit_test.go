package audit

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// writeTrail makes a trail of n records and returns its lines and head.
func writeTrail(t *testing.T, path string, n int) ([][]byte, Head) {
	t.Helper()
	tr, _, err := OpenTrail(vfs.Default, path, Head{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer tr.Close()
	var head Head
	var lines [][]byte
	for i := range n {
		var line []byte
		line, head, err = head.Seal(nil, &Record{Time: time.Unix(int64(i), 0).UTC(), Event: SignGranted,
			Session: fmt.Sprintf("s%d", i)})
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, line)
		if err := tr.Append(line); err != nil {
			t.Fatal(err)
		}
	}
	if err := tr.Sync(); err != nil {
		t.Fatal(err)
	}
	return lines, head
}

func TestVerifyFindsEveryTampering(t *testing.T) {
	join := func(lines ...[]byte) []byte { return bytes.Join(lines, nil) }
	for _, tc := range []struct {
		name   string
		tamper func(l [][]byte) []byte
		want   string // in the error; "" for none
	}{
		{"untouched", func(l [][]byte) []byte { return join(l...) }, ""},
		{"first edited", func(l [][]byte) []byte {
			l[0] = bytes.Replace(l[0], []byte("s0"), []byte("sX"), 1)
			return join(l...)
		}, "record 1 was edited"},
		{"middle edited", func(l [][]byte) []byte {
			l[2] = bytes.Replace(l[2], []byte("s2"), []byte("sX"), 1)
			return join(l...)
		}, "record 3 was edited"},
		{"last edited", func(l [][]byte) []byte {
			l[4] = bytes.Replace(l[4], []byte("s4"), []byte("sX"), 1)
			return join(l...)
		}, "record 5 is not the one"},
		{"link edited", func(l [][]byte) []byte {
			l[3] = bytes.Replace(l[3], []byte(`"prev":"`), []byte(`"prev":"0`), 1)
			return join(l...)
		}, "record 4"},
		{"first deleted", func(l [][]byte) []byte { return join(l[1:]...) }, "record 1 was expected here, found record 2"},
		{"middle deleted", func(l [][]byte) []byte { return join(append(l[:2:2], l[3:]...)...) },
			"record 3 was expected here, found record 4"},
		{"last deleted", func(l [][]byte) []byte { return join(l[:4]...) }, "records 5 to 5 are missing"},
		{"all deleted", func(l [][]byte) []byte { return nil }, "records 1 to 5 are missing"},
		{"swapped", func(l [][]byte) []byte { return join(l[0], l[2], l[1], l[3], l[4]) },
			"record 2 was expected here, found record 3"},
		{"repeated", func(l [][]byte) []byte { return join(l[0], l[1], l[1], l[2], l[3], l[4]) },
			"record 3 was expected here, found record 2"},
		{"garbage inserted", func(l [][]byte) []byte { return join(l[0], []byte("hello\n"), l[1]) },
			"found a line that is no record"},
		{"cut in a record", func(l [][]byte) []byte { b := join(l...); return b[:len(b)-7] }, "record 5 is cut short"},
		{"one appended", func(l [][]byte) []byte {
			all := join(l...)
			head := rehead(t, all)
			all, _, err := head.Seal(all, &Record{Event: SignGranted})
			if err != nil {
				t.Fatal(err)
			}
			return all
		}, "records 6 to 6 were added"},
		{"edited and every link made anew", func(l [][]byte) []byte {
			var out []byte
			var head Head
			for i, line := range l {
				var rec Record
				err := json.Unmarshal(line, &rec)
				if i == 1 {
					rec.Session = "sX"
				}
				if err == nil {
					out, head, err = head.Seal(out, &rec)
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			return out
		}, "record 5 is not the one that the ledger knows"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "audit.jsonl")
			lines, head := writeTrail(t, path, 5)
			if err := os.WriteFile(path, tc.tamper(lines), 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := Verify(path, head, nil, false)
			if tc.want == "" {
				if err != nil {
					t.Errorf("Verify = %v, want no error", err)
				}
				return
			}
			if !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("Verify = %v, want ErrDamaged with %q", err, tc.want)
			}
		})
	}
}

// rehead returns the head after the lines in b.
func rehead(t *testing.T, b []byte) (h Head) {
	t.Helper()
	for _, line := range bytes.Split(bytes.TrimSuffix(b, []byte("\n")), []byte("\n")) {
		next, err := h.follows(line)
		if err != nil {
			t.Fatal(err)
		}
		h = next
	}
	return h
}

func TestVerifyOfALiveTrailAllowsLaterRecords(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	lines, _ := writeTrail(t, path, 5)
	early := rehead(t, bytes.Join(lines[:3], nil))
	rep, err := Verify(path, early, nil, true)
	if err != nil || rep.After != 2 || rep.Head.Seq != 5 {
		t.Errorf("Verify = %+v, %v, want 5 records, 2 of them after the head", rep, err)
	}
	if _, err := Verify(path, early, nil, false); !errors.Is(err, ErrDamaged) {
		t.Errorf("Verify of a stopped trail with records after its head = %v, want ErrDamaged", err)
	}
}

// A power cut may take any part of the lines that were not synced: opening puts them back.
func TestOpenCompletesFromTheJournal(t *testing.T) {
	whole := filepath.Join(t.TempDir(), "audit.jsonl")
	lines, head := writeTrail(t, whole, 5)
	all, journal := bytes.Join(lines, nil), bytes.Join(lines[3:], nil)
	for lost := 0; lost <= len(journal); lost += 17 {
		path := filepath.Join(t.TempDir(), "audit.jsonl")
		if err := os.WriteFile(path, all[:len(all)-lost], 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Verify(path, head, journal, false); err != nil {
			t.Fatalf("%d bytes lost: Verify with the journal = %v", lost, err)
		}
		tr, _, err := OpenTrail(vfs.Default, path, head, journal)
		if err != nil {
			t.Fatalf("%d bytes lost: OpenTrail = %v", lost, err)
		}
		tr.Close()
		if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, all) {
			t.Fatalf("%d bytes lost: file is not whole again (%v)", lost, err)
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	whole := filepath.Join(t.TempDir(), "audit.jsonl")
	lines, head := writeTrail(t, whole, 5)
	all, journal := bytes.Join(lines, nil), bytes.Join(lines[3:], nil)
	edited := bytes.Clone(all)
	edited[len(edited)-3] ^= 1
	for _, tc := range []struct {
		name string
		file []byte // nil: none
		want error
	}{
		{"gone", nil, ErrDamaged},
		{"cut before the journal", all[:len(all)-len(journal)-1], ErrDamaged},
		{"ahead of the ledger", append(bytes.Clone(all), lines[0]...), ErrAhead},
		{"end edited", edited, ErrDamaged},
	} {
		t.Run(tc.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "audit.jsonl")
			if tc.file != nil {
				if err := os.WriteFile(path, tc.file, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if _, _, err := OpenTrail(vfs.Default, path, head, journal); !errors.Is(err, tc.want) {
				t.Errorf("OpenTrail = %v, want %v", err, tc.want)
			}
			// Without a journal the last record alone has to show it.
			if _, _, err := OpenTrail(vfs.Default, path, head, nil); !errors.Is(err, tc.want) {
				t.Errorf("OpenTrail without a journal = %v, want %v", err, tc.want)
			}
		})
	}
}

func TestSyncNoticesAReplacedFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	tr, _, err := OpenTrail(vfs.Default, path, Head{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer tr.Close()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := tr.Sync(); err == nil {
		t.Error("Sync of a removed file succeeded")
	}
}
