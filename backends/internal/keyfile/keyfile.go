// Package keyfile keeps the files of keys that a device encrypts: one for each key, named after the signer's address,
// in a directory that only the agent writes to. What is in a file is its backend's affair.
package keyfile

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/ethereum/go-ethereum/common"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/internal/durable"
)

const (
	// Max is the longest file that Read reads, in bytes.
	Max    = 32 << 10
	suffix = ".key"
)

// Dir is a directory of key files. One process uses it at a time. It is safe for concurrent use.
type Dir struct {
	path    string
	changes sync.Mutex // held while a file is removed, or replaced by another
}

// Open makes the directory if need be, and removes what a crash left there. It logs each removal.
func Open(path string, log *slog.Logger) (*Dir, error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, err
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Mode().Perm()&0o022 != 0 {
		return nil, fmt.Errorf("others may write to %s (mode %04o); run chmod 700 on it", path, info.Mode().Perm())
	}
	d := &Dir{path: path}
	return d, d.sweep(log)
}

// Path is the file of a signer's key.
func (d *Dir) Path(signer common.Address) string {
	return filepath.Join(d.path, Lower(signer)+suffix)
}

// Has reports whether there is a file of the signer's key, or whether that can't be told.
func (d *Dir) Has(signer common.Address) bool {
	_, err := os.Lstat(d.Path(signer))
	return !errors.Is(err, fs.ErrNotExist)
}

// Read reads a file. Errors wrap [backends.ErrKeyNotFound] or [backends.ErrKeyDamaged].
func (d *Dir) Read(signer common.Address) ([]byte, error) {
	path := d.Path(signer)
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: there is no %s", backends.ErrKeyNotFound, path)
	}
	if err == nil && len(data) > Max {
		return nil, fmt.Errorf("%w: %s: it is longer than %d bytes", backends.ErrKeyDamaged, path, Max)
	}
	return data, err
}

// Write makes the file of a new key, durably, or leaves none.
func (d *Dir) Write(signer common.Address, data []byte) error {
	err := durable.WriteFile(d.Path(signer), data, 0o600)
	if err == nil {
		return nil
	}
	if left := d.Remove(signer); !errors.Is(left, backends.ErrKeyNotFound) {
		err = errors.Join(err, left)
	}
	return err
}

// Replace puts another file in place of the one that is there, durably. A file that was removed meanwhile does not
// come back: that is [backends.ErrKeyNotFound].
func (d *Dir) Replace(signer common.Address, data []byte) error {
	d.changes.Lock()
	defer d.changes.Unlock()
	if !d.Has(signer) {
		return fmt.Errorf("%w: it was destroyed meanwhile", backends.ErrKeyNotFound)
	}
	if err := durable.WriteFile(d.Path(signer), data, 0o600); err != nil {
		return fmt.Errorf("the key is there, encrypted as before or again: %w", err)
	}
	return nil
}

// Remove overwrites a file and removes it, durably.
func (d *Dir) Remove(signer common.Address) error {
	d.changes.Lock()
	defer d.changes.Unlock()
	path := d.Path(signer)
	err := wipe(path)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: there is no %s", backends.ErrKeyNotFound, path)
	}
	return err
}

// Signers are the addresses that there are files of, sorted.
func (d *Dir) Signers() ([]common.Address, error) {
	entries, err := os.ReadDir(d.path)
	if err != nil {
		return nil, err
	}
	var all []common.Address
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), suffix)
		signer, valid := ParseLower(name)
		if ok && valid {
			all = append(all, signer)
		}
	}
	return all, nil
}

// wipe overwrites a file, removes it, and syncs its directory.
func wipe(path string) error {
	if err := overwrite(path); err != nil {
		return err
	}
	if err := os.Remove(path); err != nil {
		return err
	}
	return durable.SyncDir(filepath.Dir(path))
}

func overwrite(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close() // a second Close is harmless
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if _, err := f.Write(make([]byte, info.Size())); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	return f.Close()
}

// sweep removes what a crash left: files that were not renamed to their key's name, whose key
// was never handed out, and files that were overwritten and not removed.
func (d *Dir) sweep(log *slog.Logger) error {
	entries, err := os.ReadDir(d.path)
	if err != nil {
		return err
	}
	for _, e := range entries {
		path := filepath.Join(d.path, e.Name())
		if !strings.HasPrefix(e.Name(), ".0x") && !overwritten(path) {
			continue
		}
		log.Warn("removing what is left of a key that was being made or destroyed", "file", path)
		if err := wipe(path); err != nil {
			return err
		}
	}
	return nil
}

// overwritten reports whether a key file has nothing but zero bytes.
func overwritten(path string) bool {
	if !strings.HasSuffix(path, suffix) {
		return false
	}
	data, err := os.ReadFile(path)
	return err == nil && len(bytes.Trim(data, "\x00")) == 0
}

// Lower is an address in lower case, as in URIs and file names.
func Lower(a common.Address) string { return "0x" + hex.EncodeToString(a[:]) }

// ParseLower reads what Lower writes, and nothing else.
func ParseLower(s string) (a common.Address, ok bool) {
	raw, err := hex.DecodeString(strings.TrimPrefix(s, "0x"))
	if err != nil || len(raw) != len(a) {
		return a, false
	}
	a = common.Address(raw)
	return a, Lower(a) == s
}

// URI names a signer's key. The form is that of RFC 7512, with one attribute. scheme ends with a colon.
func URI(scheme string, signer common.Address) string { return scheme + "signer=" + Lower(signer) }

// ParseURI reads what URI writes, and nothing else.
func ParseURI(scheme, uri string) (common.Address, error) {
	value, ok := strings.CutPrefix(uri, scheme+"signer=")
	signer, valid := ParseLower(value)
	if !ok || !valid {
		return common.Address{}, fmt.Errorf("key URI %q is not of the form %ssigner=0x…, with 40 lower-case hex digits", uri,
			scheme)
	}
	return signer, nil
}
