package sealed

import (
	"bytes"
	"crypto/ecdsa"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/crypto"
	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/internal/durable"
)

// magic is a key file's first line. The number is the format's.
const magic = "keyward sealed key 1"

const (
	maxFile = 32 << 10 // bytes; the parts are bounded by Wrapped and checkSize
	suffix  = ".key"
)

// file is a key file: lines of a name, a space and a value, in this order. All but the last
// are the additional data that the last one is encrypted with.
type file struct {
	label   string // quoted as Go does
	account string // quoted
	chainID uint64
	point   []byte  // "public": 65 bytes in hex
	wrapped Wrapped // "wrapper", quoted, and "wrapped" in base64: the file key
	sealed  []byte  // "sealed" in base64: the signing key, by AES-256-GCM

	public *ecdsa.PublicKey // of point
}

func (f *file) signer() common.Address { return crypto.PubkeyToAddress(*f.public) }

func (f *file) binding() Binding {
	return Binding{Label: f.label, Signer: f.signer(), Account: f.account, ChainID: f.chainID}
}

// header is all of the file that is not encrypted.
func (f *file) header() []byte {
	return fmt.Appendf(nil, "%s\nlabel %q\naccount %q\nchain %d\npublic %x\nwrapper %q\nwrapped %s\n",
		magic, f.label, f.account, f.chainID, f.point, f.wrapped.Key, base64.StdEncoding.EncodeToString(f.wrapped.Blob))
}

func (f *file) marshal() []byte {
	return fmt.Appendf(f.header(), "sealed %s\n", base64.StdEncoding.EncodeToString(f.sealed))
}

// parse reads a key file. What it accepts, marshal returns byte for byte.
func parse(data []byte) (*file, error) {
	lines := strings.Split(string(data), "\n")
	if len(lines) != 9 || lines[0] != magic {
		return nil, fmt.Errorf("%w: it is no key file of a version that is known here", ErrDamaged)
	}
	f := &file{}
	var err error
	for i, field := range []struct {
		name string
		set  func(string) error
	}{
		{"label", unquote(&f.label)},
		{"account", unquote(&f.account)},
		{"chain", func(v string) (err error) { f.chainID, err = strconv.ParseUint(v, 10, 64); return }},
		{"public", func(v string) (err error) { f.point, err = hex.DecodeString(v); return }},
		{"wrapper", unquote(&f.wrapped.Key)},
		{"wrapped", unbase64(&f.wrapped.Blob)},
		{"sealed", unbase64(&f.sealed)},
	} {
		value, ok := strings.CutPrefix(lines[i+1], field.name+" ")
		if !ok || field.set(value) != nil {
			return nil, fmt.Errorf("%w: line %d is not a %q line", ErrDamaged, i+2, field.name)
		}
	}
	if f.public, err = backends.ParsePublicKey(f.point); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if !bytes.Equal(f.marshal(), data) {
		return nil, fmt.Errorf("%w: it is not written as keyward writes it", ErrDamaged)
	}
	return f, nil
}

func unquote(dst *string) func(string) error {
	return func(v string) (err error) { *dst, err = strconv.Unquote(v); return }
}

func unbase64(dst *[]byte) func(string) error {
	return func(v string) (err error) { *dst, err = base64.StdEncoding.Strict().DecodeString(v); return }
}

// uriOf names a key. The form is that of RFC 7512, with one attribute.
func uriOf(signer common.Address) string { return "sealed:signer=" + lower(signer) }

// lower is an address in lower case, as in URIs and file names.
func lower(a common.Address) string { return "0x" + hex.EncodeToString(a[:]) }

// parseURI reads what uriOf writes, and nothing else.
func parseURI(uri string) (common.Address, error) {
	value, ok := strings.CutPrefix(uri, "sealed:signer=")
	signer, valid := parseLower(value)
	if !ok || !valid {
		return common.Address{}, fmt.Errorf("key URI %q is not of the form sealed:signer=0x…, with 40 lower-case hex digits", uri)
	}
	return signer, nil
}

func parseLower(s string) (a common.Address, ok bool) {
	raw, err := hex.DecodeString(strings.TrimPrefix(s, "0x"))
	if err != nil || len(raw) != len(a) {
		return a, false
	}
	a = common.Address(raw)
	return a, lower(a) == s
}

func (b *Backend) path(signer common.Address) string {
	return filepath.Join(b.cfg.Dir, lower(signer)+suffix)
}

// read reads a key's file, whose public key has to be the one that it is named after.
func (b *Backend) read(signer common.Address) (*file, error) {
	path := b.path(signer)
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: there is no %s", backends.ErrKeyNotFound, path)
	}
	if err != nil {
		return nil, err
	}
	if len(data) > maxFile {
		return nil, fmt.Errorf("%w: %s: it is longer than %d bytes", ErrDamaged, path, maxFile)
	}
	f, err := parse(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if f.signer() != signer {
		return nil, fmt.Errorf("%s: %w: it is the key of %s", path, ErrDamaged, f.signer())
	}
	return f, nil
}

// write makes f's file, durably, or leaves none.
func (b *Backend) write(f *file) error {
	err := durable.WriteFile(b.path(f.signer()), f.marshal(), 0o600)
	if err == nil {
		return nil
	}
	if left := b.remove(f.signer()); !errors.Is(left, backends.ErrKeyNotFound) {
		err = errors.Join(err, left)
	}
	return err
}

// signers are the addresses that the directory has files of, sorted.
func (b *Backend) signers() ([]common.Address, error) {
	entries, err := os.ReadDir(b.cfg.Dir)
	if err != nil {
		return nil, err
	}
	var all []common.Address
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), suffix)
		signer, valid := parseLower(name)
		if ok && valid {
			all = append(all, signer)
		}
	}
	return all, nil
}

// remove overwrites a key's file and removes it, durably.
func (b *Backend) remove(signer common.Address) error {
	path := b.path(signer)
	err := wipe(path)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: there is no %s", backends.ErrKeyNotFound, path)
	}
	return err
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
func (b *Backend) sweep() error {
	entries, err := os.ReadDir(b.cfg.Dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		path := filepath.Join(b.cfg.Dir, e.Name())
		if !strings.HasPrefix(e.Name(), ".0x") && !overwritten(path) {
			continue
		}
		b.log.Warn("removing what is left of a key that was being made or destroyed", "file", path)
		if err := wipe(path); err != nil {
			return err
		}
	}
	return nil
}

// overwritten reports whether a key file has nothing but zero bytes.
func overwritten(path string) bool {
	data, err := os.ReadFile(path)
	return err == nil && strings.HasSuffix(path, suffix) && len(bytes.Trim(data, "\x00")) == 0
}
