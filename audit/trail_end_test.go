package audit

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// openWithin opens a trail without a journal. It must not take long, whatever is in the file.
func openWithin(t *testing.T, path string, head Head) error {
	t.Helper()
	opened := make(chan error, 1)
	go func() {
		tr, _, err := OpenTrail(vfs.Default, path, head, nil)
		if err == nil {
			tr.Close()
		}
		opened <- err
	}()
	select {
	case err := <-opened:
		return err
	case <-time.After(30 * time.Second):
		t.Fatal("OpenTrail goes on for ever")
		return nil
	}
}

// The last record may be of any length. Without its newline it is damaged.
func TestOpenByTheLastRecord(t *testing.T) {
	for _, size := range []int{1, 3000, 4096, 5000, 20_000, 70_000} {
		path := filepath.Join(t.TempDir(), "audit.jsonl")
		lines, head := writeTrail(t, path, 3)
		long, head, err := head.Seal(nil, &Record{Event: SignGranted, Session: strings.Repeat("s", size)})
		if err != nil {
			t.Fatal(err)
		}
		whole := append(bytes.Join(lines, nil), long...)
		if err := os.WriteFile(path, whole, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := openWithin(t, path, head); err != nil {
			t.Errorf("a last record of %d bytes: %v", len(long), err)
		}
		whole[len(whole)-1] = '}'
		if err := os.WriteFile(path, whole, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := openWithin(t, path, head); !errors.Is(err, ErrDamaged) {
			t.Errorf("a last record of %d bytes without its newline: %v, want ErrDamaged", len(long), err)
		}
	}
}

// A record that is chained well and is no JSON is none.
func TestRecordsAreJSON(t *testing.T) {
	line := `{"seq":1,"prev":"` + strings.Repeat("0", 64) + `",`
	if _, err := (Head{}).follows([]byte(line + `"event":"x"}`)); err != nil {
		t.Errorf("a record: %v", err)
	}
	if _, err := (Head{}).follows([]byte(line + `"event":"x"`)); err == nil {
		t.Error("a record without its end was taken")
	}
}

// After a power cut the file may have holes where pages did not reach the disk. The journal fills them; anything else
// in their place is damage.
func TestOpenFillsHoles(t *testing.T) {
	whole := filepath.Join(t.TempDir(), "audit.jsonl")
	lines, head := writeTrail(t, whole, 5)
	all, journal := bytes.Join(lines, nil), bytes.Join(lines[2:], nil)
	base := len(all) - len(journal)
	for _, tc := range []struct {
		name     string
		from, to int
		with     byte
		want     error
	}{
		{"a hole in the journal's part", base + 10, base + 50, 0, nil},
		{"all of the journal's part", base, len(all), 0, nil},
		{"something else there", base + 10, base + 50, 'x', ErrDamaged},
		{"a hole before it", base - 40, base - 10, 0, ErrDamaged},
	} {
		path := filepath.Join(t.TempDir(), "audit.jsonl")
		data := bytes.Clone(all)
		for i := tc.from; i < tc.to; i++ {
			data[i] = tc.with
		}
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		tr, _, err := OpenTrail(vfs.Default, path, head, journal)
		if !errors.Is(err, tc.want) {
			t.Errorf("%s: OpenTrail = %v, want %v", tc.name, err, tc.want)
		}
		if err != nil {
			continue
		}
		tr.Close()
		if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, all) {
			t.Errorf("%s: the file is not whole again, %v", tc.name, err)
		}
	}
}
