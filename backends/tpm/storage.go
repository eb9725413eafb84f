package tpm

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/google/go-tpm/tpm2"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/internal/secret"
)

// Key names a storage key: where a TPM has it, and which one it is.
type Key struct {
	Handle uint32 // persistent
	Name   []byte // 34 bytes, a hash of the public area: TPM 2.0 Library, part 1, 16
}

// ParseKey reads a handle such as "0x81004b57", and a name in hex as [Key.NameHex] writes it.
func ParseKey(handle, name string) (Key, error) {
	h, err := strconv.ParseUint(handle, 0, 32)
	if err != nil || uint32(h) < firstPersistent || uint32(h) > lastPersistent {
		return Key{}, fmt.Errorf("handle %q is not a persistent handle of the owner, 0x%08x to 0x%08x", handle,
			firstPersistent, lastPersistent)
	}
	n, err := hex.DecodeString(name)
	if err != nil || len(n) != 2+sha256.Size || !bytes.HasPrefix(n, []byte{0x00, 0x0b}) {
		return Key{}, fmt.Errorf("key %q is not the name of a TPM key, 000b and 64 hex digits", name)
	}
	return Key{Handle: uint32(h), Name: n}, nil
}

// HandleHex is the handle as [ParseKey] reads it.
func (k Key) HandleHex() string { return fmt.Sprintf("0x%08x", k.Handle) }

// NameHex is the name as [ParseKey] reads it.
func (k Key) NameHex() string { return hex.EncodeToString(k.Name) }

// The owner's persistent handles: Registry of Reserved TPM 2.0 Handles and Localities, 2.3.1. Others use the first ones
// by convention, so ours begin with "KW".
const (
	firstPersistent = 0x81000000
	lastPersistent  = 0x817fffff
	firstOurs       = 0x81004b57
)

// storage is a storage key in a TPM, found and checked.
type storage struct {
	handle tpm2.TPMHandle
	name   tpm2.TPM2BName
	public tpm2.TPMTPublic
}

// findStorage reads the key's public area, which has to have the key's name. A key that is gone does not come back, and
// what is sealed to it stays to be deleted, so it is an ErrRefused and not an ErrKeyNotFound.
func findStorage(c *conn, k Key) (*storage, error) {
	answer, err := tpm2.ReadPublic{ObjectHandle: tpm2.TPMHandle(k.Handle)}.Execute(c)
	if errors.Is(err, tpm2.TPMRCHandle) || errors.Is(err, tpm2.TPMRCValue) {
		return nil, fmt.Errorf("%w: the TPM has no key at %s: it was cleared or the key was deleted, or it is another "+
			"TPM; what is sealed to the key is lost with it",
			backends.ErrRefused, k.HandleHex())
	}
	if err != nil {
		return nil, explain("reading the storage key", err)
	}
	public, err := answer.OutPublic.Contents()
	if err != nil {
		return nil, explain("reading the storage key", err)
	}
	name, err := tpm2.ObjectName(public)
	if err != nil {
		return nil, explain("reading the storage key", err)
	}
	if !bytes.Equal(name.Buffer, k.Name) {
		return nil, fmt.Errorf("%w: the TPM has another key at %s than the configured one; what is sealed to that one is "+
			"lost with it", backends.ErrRefused, k.HandleHex())
	}
	return &storage{tpm2.TPMHandle(k.Handle), *name, *public}, nil
}

// needsPIN: the TPM counts wrong PINs of such a key.
func (s *storage) needsPIN() bool { return !s.public.ObjectAttributes.NoDA }

// salted makes a session that only the TPM with this key can follow, so that nobody on the bus between can read or
// change what is protected by it: TPM 2.0 Library, part 1, 19.6.8.
func (s *storage) salted(options ...tpm2.AuthOption) []tpm2.AuthOption {
	return append(options, tpm2.Salted(s.handle, s.public))
}

// authorized is the key, used with its auth value in a session that encrypts what goes in.
func (s *storage) authorized(auth []byte) tpm2.AuthHandle {
	session := tpm2.HMAC(tpm2.TPMAlgSHA256, 16, s.salted(tpm2.Auth(auth), tpm2.AESEncryption(128, tpm2.EncryptIn))...)
	return tpm2.AuthHandle{Handle: s.handle, Name: s.name, Auth: session}
}

// authValue makes an auth value of a secret, so that a secret of any length fits and the PIN itself stays in locked
// memory. It has no zero byte: the TPM ignores those at its end, and go-tpm cuts it at any.
func authValue(purpose string, secret []byte) []byte {
	h := sha256.New()
	h.Write([]byte("keyward tpm 1 " + purpose + "\n"))
	h.Write(secret)
	return []byte(base64.RawURLEncoding.EncodeToString(h.Sum(nil)[:24]))
}

// template is a storage key under the owner's primary. The TPM makes it from its own random numbers, so unlike a
// primary it can't be made again by a program that knows its template.
func template(withPIN bool) tpm2.TPMTPublic {
	t := tpm2.ECCSRKTemplate
	t.ObjectAttributes.NoDA = !withPIN
	t.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{})
	return t
}

// Setup makes storage keys.
type Setup struct {
	Device string         // as in [Config]
	PIN    *secret.Buffer // that the key is to have; nil: none
	Owner  *secret.Buffer // the password of the owner hierarchy; nil: it has none
}

// MinPIN is how long a PIN has to be, in bytes.
const MinPIN = 4

// Create makes a storage key in the TPM, persistent and with a handle that was free. Errors are those of package
// backends.
func (s Setup) Create(ctx context.Context) (Key, error) {
	if s.PIN != nil && s.PIN.Len() < MinPIN {
		return Key{}, fmt.Errorf("%w: the PIN has %d bytes, want at least %d", backends.ErrRefused, s.PIN.Len(), MinPIN)
	}
	var key Key
	err := s.as(ctx, func(c *conn, owner tpm2.AuthHandle) (err error) {
		key, err = s.create(c, owner)
		return err
	})
	return key, err
}

// as calls f with the TPM, opened, and the owner's authorization.
func (s Setup) as(ctx context.Context, f func(c *conn, owner tpm2.AuthHandle) error) error {
	c, err := dial(ctx, s.Device)
	if err != nil {
		return err
	}
	defer c.close()
	var password []byte
	if s.Owner != nil {
		_ = s.Owner.Use(func(p []byte) error { password = bytes.Clone(p); return nil })
		defer clear(password)
	}
	again := func() error { return f(c, tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(password)}) }
	return c.withRoom(again)
}

func (s Setup) create(c *conn, owner tpm2.AuthHandle) (_ Key, err error) {
	handle, err := freeHandle(c)
	if err != nil {
		return Key{}, err
	}
	primary, err := tpm2.CreatePrimary{PrimaryHandle: owner, InPublic: tpm2.New2B(tpm2.ECCSRKTemplate)}.Execute(c)
	if errors.Is(err, tpm2.TPMRCBadAuth) || errors.Is(err, tpm2.TPMRCAuthFail) {
		return Key{}, fmt.Errorf("%w: the TPM's owner hierarchy has another password: give it with --owner-auth-file",
			backends.ErrRefused)
	}
	if err != nil {
		return Key{}, explain("making the primary key", err)
	}
	defer func() { err = errors.Join(err, flush(c, primary.ObjectHandle)) }()
	public, err := primary.OutPublic.Contents()
	if err != nil {
		return Key{}, explain("making the primary key", err)
	}
	parent := &storage{primary.ObjectHandle, primary.Name, *public}
	made, err := s.createUnder(c, parent)
	if err != nil {
		return Key{}, explain("making the storage key", err)
	}
	loaded, err := tpm2.Load{ParentHandle: parent.authorized(nil), InPrivate: made.OutPrivate,
		InPublic: made.OutPublic}.Execute(c)
	if err != nil {
		return Key{}, explain("loading the storage key", err)
	}
	defer func() { err = errors.Join(err, flush(c, loaded.ObjectHandle)) }()
	_, err = tpm2.EvictControl{
		Auth: owner, ObjectHandle: tpm2.NamedHandle{Handle: loaded.ObjectHandle, Name: loaded.Name}, PersistentHandle: handle,
	}.Execute(c)
	if errors.Is(err, tpm2.TPMRCNVSpace) {
		return Key{}, fmt.Errorf("%w: the TPM has no room for another persistent key: %w", backends.ErrFull, err)
	}
	if err != nil {
		return Key{}, explain("making the storage key persistent", err)
	}
	key := Key{Handle: uint32(handle), Name: loaded.Name.Buffer}
	_, err = findStorage(c, key)
	return key, err
}

func (s Setup) createUnder(c *conn, parent *storage) (*tpm2.CreateResponse, error) {
	create := tpm2.Create{ParentHandle: parent.authorized(nil), InPublic: tpm2.New2B(template(s.PIN != nil))}
	sensitive := &tpm2.TPMSSensitiveCreate{}
	if s.PIN != nil {
		_ = s.PIN.Use(func(pin []byte) error { sensitive.UserAuth.Buffer = authValue("PIN", pin); return nil })
		defer clear(sensitive.UserAuth.Buffer)
	}
	create.InSensitive = tpm2.TPM2BSensitiveCreate{Sensitive: sensitive}
	return create.Execute(c)
}

// Delete deletes a storage key that [Setup.Create] made, and so all that is sealed to it.
func (s Setup) Delete(ctx context.Context, k Key) error {
	return s.as(ctx, func(c *conn, owner tpm2.AuthHandle) error {
		found, err := findStorage(c, k)
		if err != nil {
			return err
		}
		_, err = tpm2.EvictControl{
			Auth: owner, ObjectHandle: tpm2.NamedHandle{Handle: found.handle, Name: found.name}, PersistentHandle: found.handle,
		}.Execute(c)
		return explain("deleting the storage key", err)
	})
}

// freeHandle is the first of our persistent handles that is not in use.
func freeHandle(c *conn) (tpm2.TPMHandle, error) {
	used, err := listHandles(c, firstOurs)
	if err != nil {
		return 0, explain("listing keys", err)
	}
	for h := tpm2.TPMHandle(firstOurs); h <= lastPersistent; h++ {
		if !slices.Contains(used, h) {
			return h, nil
		}
	}
	return 0, fmt.Errorf("%w: no persistent handle is free", backends.ErrFull)
}

func flush(c *conn, handle tpm2.TPMHandle) error {
	_, err := tpm2.FlushContext{FlushHandle: handle}.Execute(c)
	return explain("flushing "+strings.ToLower(fmt.Sprintf("0x%08X", uint32(handle))), err)
}
