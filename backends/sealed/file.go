package sealed

import (
	"bytes"
	"crypto/ecdsa"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/crypto"
	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/backends/internal/keyfile"
)

// magic is a key file's first line. The number is the format's.
const magic = "keyward sealed key 1"

const maxFile = keyfile.Max // bytes; the parts are bounded by Wrapped and checkSize

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

// scheme starts a key's URI.
const scheme = "sealed:"

func uriOf(signer common.Address) string { return keyfile.URI(scheme, signer) }

func parseURI(uri string) (common.Address, error) { return keyfile.ParseURI(scheme, uri) }

func (b *Backend) path(signer common.Address) string { return b.dir.Path(signer) }

// read reads a key's file, whose public key has to be the one that it is named after.
func (b *Backend) read(signer common.Address) (*file, error) {
	data, err := b.dir.Read(signer)
	if err != nil {
		return nil, err
	}
	f, err := parse(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", b.path(signer), err)
	}
	if f.signer() != signer {
		return nil, fmt.Errorf("%s: %w: it is the key of %s", b.path(signer), ErrDamaged, f.signer())
	}
	return f, nil
}
