// Package backup writes an agent's state into one file, checks such files and restores them.
//
// A backup is a gzipped tar of the configuration and the state: a copy of the ledger as it was at one moment, the audit
// trail up to the ledger's last record, sealed keys, notes of PIN attempts, the operator's lock and the key of
// checkpoints. Its last entry is a manifest with the SHA-256 of each other entry. It has no PIN and no key of a device.
package backup

import (
	"archive/tar"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/keyward/keyward/audit"
	"github.com/keyward/keyward/internal/config"
	"github.com/keyward/keyward/session"
)

// ErrDamaged: the file is not what [Write] wrote.
var ErrDamaged = errors.New("the backup is damaged")

const (
	manifestName = "manifest.json"
	configName   = "config.toml"
	stateName    = "state"
	format       = 1
)

// Manifest says what is in a backup.
type Manifest struct {
	Format  int       `json:"format"`
	Created time.Time `json:"created"`
	Version string    `json:"version"` // of the program
	Records uint64    `json:"records"` // of the trail
	Hash    string    `json:"hash"`    // of the last one's line, SHA-256, 0x-hex
	Files   []File    `json:"files"`
}

// File is an entry of a backup.
type File struct {
	Name   string `json:"name"`
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"` // hex
}

// writer writes entries and keeps their hashes.
type writer struct {
	tar *tar.Writer
	m   Manifest
}

// Write writes the backup of the agent in dirs. ledger is a copy of its ledger that does not change.
func Write(w io.Writer, dirs config.Dirs, ledger, version string, now time.Time) (*Manifest, error) {
	head, _, err := session.ReadTrail(ledger)
	if err != nil {
		return nil, err
	}
	gz := gzip.NewWriter(w)
	b := &writer{tar: tar.NewWriter(gz)}
	b.m = Manifest{Format: format, Created: now.UTC().Truncate(time.Second), Version: version, Records: head.Seq,
		Hash: fmt.Sprintf("0x%x", head.Hash)}
	for _, step := range []func() error{
		func() error { return b.optional(configName, dirs.ConfigFile()) },
		func() error {
			return b.tree(stateName+"/ledger", ledger, func(name string) bool { return name != "LOCK" })
		},
		func() error { return b.trail(dirs.AuditTrail(), head) },
		func() error { return b.tree(stateName, dirs.State, kept) },
	} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	manifest, err := json.MarshalIndent(b.m, "", "  ")
	if err != nil {
		return nil, err
	}
	err = b.tar.WriteHeader(&tar.Header{Name: manifestName, Mode: 0o600, Size: int64(len(manifest)), ModTime: b.m.Created})
	if err == nil {
		_, err = b.tar.Write(manifest)
	}
	return &b.m, errors.Join(err, b.tar.Close(), gz.Close())
}

// kept reports whether the file with that name in the state's directory is one that a backup has, apart from ledger and
// trail.
func kept(name string) bool {
	top, _, nested := strings.Cut(name, "/")
	switch top {
	case "keys", "pin-tries":
		return true
	case "locked", "checkpoint.key":
		return !nested
	}
	return false
}

// tree adds the regular files below dir that want lets through.
func (b *writer) tree(name, dir string, want func(name string) bool) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		rel, _ := filepath.Rel(dir, path) // it is below dir
		switch {
		case err != nil && (rel == "." || want(rel)) && !errors.Is(err, fs.ErrNotExist):
			return err
		case err != nil || !d.Type().IsRegular() || !want(rel) || strings.HasPrefix(d.Name(), "."): // or being written
			return nil
		}
		return b.optional(name+"/"+rel, path)
	})
}

// trail adds the segments up to head. The newest one, which may have been sealed since, is cut off there.
func (b *writer) trail(path string, head audit.Head) error {
	all, err := audit.Segments(path)
	if err != nil {
		return err
	}
	for _, file := range all {
		if file < audit.SegmentPath(path, head.Sealed+1) && file != path {
			if err := b.optional(stateName+"/"+filepath.Base(file), file); err != nil {
				return err
			}
		}
	}
	newest, err := openNewest(path, head)
	if err != nil {
		return err
	}
	defer newest.Close()
	fi, err := newest.Stat()
	if err != nil {
		return err
	}
	return b.add(stateName+"/"+filepath.Base(path), newest, min(fi.Size(), head.Size))
}

// openNewest opens the segment that begins after record head.Sealed, whichever name it has by now.
func openNewest(path string, head audit.Head) (*os.File, error) {
	sealed := audit.SegmentPath(path, head.Sealed+1)
	f, err := os.Open(sealed)
	if !errors.Is(err, fs.ErrNotExist) {
		return f, err
	}
	f, err = os.Open(path)
	if err != nil {
		return nil, err
	}
	if again, err := os.Open(sealed); err == nil { // it was sealed in between, and f may be the one after it
		return again, f.Close()
	}
	return f, nil
}

// optional adds the file at path, unless it is gone.
func (b *writer) optional(name, path string) error {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	return b.add(name, f, fi.Size())
}

// add adds the first size bytes of r.
func (b *writer) add(name string, r io.Reader, size int64) error {
	if err := b.tar.WriteHeader(&tar.Header{Name: name, Mode: 0o600, Size: size, ModTime: b.m.Created}); err != nil {
		return err
	}
	sum := sha256.New()
	if _, err := io.CopyN(io.MultiWriter(b.tar, sum), r, size); err != nil {
		return fmt.Errorf("adding %s: %w", name, err)
	}
	b.m.Files = append(b.m.Files, File{name, size, hex.EncodeToString(sum.Sum(nil))})
	return nil
}
