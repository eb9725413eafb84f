package backup

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/keyward/keyward/audit"
	"github.com/keyward/keyward/session"
)

// Extract unpacks the backup at path into dir, which it makes, and checks each file, the ledger and the trail. The
// error wraps [ErrDamaged] if the file is not what was written.
func Extract(path, dir string) (*Manifest, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	m, err := unpack(f, dir)
	if err == nil {
		err = m.verify(dir)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return m, nil
}

// Check is Extract into a directory beside the file that is deleted again.
func Check(path string) (_ *Manifest, err error) {
	dir, err := os.MkdirTemp(filepath.Dir(path), ".keyward-check-*")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	return Extract(path, dir)
}

const maxManifest = 64 << 20 // bytes

// unpack writes the entries below dir and compares them with the manifest.
func unpack(r io.Reader, dir string) (*Manifest, error) {
	gz, err := gzip.NewReader(r)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	var found []File
	for entries := tar.NewReader(gz); ; {
		h, err := entries.Next()
		if err != nil { // also at the end: the manifest comes before it
			return nil, fmt.Errorf("%w: no manifest: %w", ErrDamaged, err)
		}
		if h.Name == manifestName {
			data, err := io.ReadAll(io.LimitReader(entries, maxManifest))
			m := new(Manifest)
			if err = errors.Join(err, json.Unmarshal(data, m)); err != nil {
				return nil, fmt.Errorf("%w: its manifest: %w", ErrDamaged, err)
			}
			if err := readEnd(gz); err != nil {
				return nil, err
			}
			return m, m.compare(found)
		}
		if h.Typeflag != tar.TypeReg || !filepath.IsLocal(h.Name) {
			return nil, fmt.Errorf("%w: it has the entry %q", ErrDamaged, h.Name)
		}
		sum, err := unpackFile(entries, filepath.Join(dir, h.Name))
		if err != nil {
			return nil, err
		}
		found = append(found, File{h.Name, h.Size, sum})
	}
}

// readEnd reads what follows the manifest, the end of the archive. gzip's checksum, which is over all of it, is behind
// that.
func readEnd(gz io.Reader) error {
	const most = 64 << 10 // bytes; tar needs two blocks of 512
	rest, err := io.ReadAll(io.LimitReader(gz, most))
	switch {
	case err != nil:
		return fmt.Errorf("%w: its end: %w", ErrDamaged, err)
	case len(rest) == most || bytes.ContainsFunc(rest, func(r rune) bool { return r != 0 }):
		return fmt.Errorf("%w: something follows its manifest", ErrDamaged)
	}
	return nil
}

// unpackFile writes a new file and returns its SHA-256.
func unpackFile(r io.Reader, path string) (string, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return "", err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return "", err
	}
	sum := sha256.New()
	if _, err := io.Copy(io.MultiWriter(f, sum), r); err != nil {
		return "", errors.Join(fmt.Errorf("%w: %w", ErrDamaged, err), f.Close())
	}
	return hex.EncodeToString(sum.Sum(nil)), errors.Join(f.Sync(), f.Close())
}

// compare holds the entries that were found to the manifest.
func (m *Manifest) compare(found []File) error {
	if m.Format != format {
		return fmt.Errorf("it has the format %d, and this keyward reads %d: use the version that wrote it, %s", m.Format,
			format, m.Version)
	}
	if !slices.Equal(m.Files, found) {
		for i, f := range found {
			if i >= len(m.Files) || m.Files[i] != f {
				return fmt.Errorf("%w: %s is not what was written", ErrDamaged, f.Name)
			}
		}
		return fmt.Errorf("%w: %s is missing", ErrDamaged, m.Files[len(found)].Name)
	}
	return nil
}

// verify opens the ledger that was unpacked and verifies the trail with it.
func (m *Manifest) verify(dir string) error {
	head, journal, err := session.ReadTrail(filepath.Join(dir, stateName, "ledger"))
	if err != nil {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if head.Seq != m.Records || fmt.Sprintf("0x%x", head.Hash) != m.Hash {
		return fmt.Errorf("%w: its ledger ends with record %d, its manifest says %d", ErrDamaged, head.Seq, m.Records)
	}
	if _, err := audit.Verify(filepath.Join(dir, stateName, "audit.jsonl"), head, journal, false); err != nil {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return nil
}
