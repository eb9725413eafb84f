package pkcs11

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
)

// wrappedMagic is the first line of a wrapped key's file. The number is the format's.
const wrappedMagic = "keyward wrapped key 1"

// wrappedFile is a key that a token encrypted: lines of a name, a space and a value, in this order.
type wrappedFile struct {
	label     string // quoted as Go does
	account   string // quoted
	chainID   uint64
	point     []byte // "public": 65 bytes in hex
	serial    string // "token": of the token, quoted
	kekID     string // "kek": CKA_ID of the key-encryption key, in hex
	mechanism string // as in wrapMechanisms
	blob      []byte // "wrapped": base64

	public *ecdsa.PublicKey // of point
}

func (f *wrappedFile) signer() common.Address { return crypto.PubkeyToAddress(*f.public) }

func (f *wrappedFile) marshal() []byte {
	return fmt.Appendf(nil, "%s\nlabel %q\naccount %q\nchain %d\npublic %x\ntoken %q\nkek %x\nmechanism %s\nwrapped %s\n",
		wrappedMagic, f.label, f.account, f.chainID, f.point, f.serial, f.kekID, f.mechanism,
		base64.StdEncoding.EncodeToString(f.blob))
}

// parseWrapped reads a wrapped key's file. What it accepts, marshal returns byte for byte. Errors are
// [backends.ErrKeyDamaged].
func parseWrapped(data []byte) (*wrappedFile, error) {
	lines := strings.Split(string(data), "\n")
	if len(lines) != 10 || lines[0] != wrappedMagic {
		return nil, fmt.Errorf("%w: it is no file of a wrapped key of a version that is known here", backends.ErrKeyDamaged)
	}
	f := &wrappedFile{}
	quoted := func(dst *string) func(string) error {
		return func(v string) (err error) { *dst, err = strconv.Unquote(v); return }
	}
	for i, field := range []struct {
		name string
		set  func(string) error
	}{
		{"label", quoted(&f.label)},
		{"account", quoted(&f.account)},
		{"chain", func(v string) (err error) { f.chainID, err = strconv.ParseUint(v, 10, 64); return }},
		{"public", func(v string) (err error) { f.point, err = hex.DecodeString(v); return }},
		{"token", quoted(&f.serial)},
		{"kek", func(v string) error { id, err := hex.DecodeString(v); f.kekID = string(id); return err }},
		{"mechanism", func(v string) (err error) { f.mechanism = v; _, err = wrapMechanism(v); return }},
		{"wrapped", func(v string) (err error) { f.blob, err = base64.StdEncoding.Strict().DecodeString(v); return }},
	} {
		value, ok := strings.CutPrefix(lines[i+1], field.name+" ")
		if !ok || field.set(value) != nil {
			return nil, fmt.Errorf("%w: line %d is not a %q line", backends.ErrKeyDamaged, i+2, field.name)
		}
	}
	var err error
	if f.public, err = backends.ParsePublicKey(f.point); err != nil {
		return nil, fmt.Errorf("%w: %w", backends.ErrKeyDamaged, err)
	}
	if !bytes.Equal(f.marshal(), data) {
		return nil, fmt.Errorf("%w: it is not written as keyward writes it", backends.ErrKeyDamaged)
	}
	return f, nil
}

// readWrapped reads a key's file, whose public key has to be the one that it is named after.
func (w *Wrapped) readWrapped(signer common.Address) (*wrappedFile, error) {
	data, err := w.dir.Read(signer)
	if err != nil {
		return nil, err
	}
	f, err := parseWrapped(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", w.dir.Path(signer), err)
	}
	if f.signer() != signer {
		return nil, fmt.Errorf("%s: %w: it is the key of %s", w.dir.Path(signer), backends.ErrKeyDamaged, f.signer())
	}
	return f, nil
}
