package transitfake

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
)

// Key is a transit key. Its fields are those of Vault's description of a key.
type Key struct {
	Type                 string // "aes256-gcm96", or a type that encrypts nothing
	Derived              bool
	Exportable           bool
	AllowPlaintextBackup bool
	MinDecryptionVersion int

	versions [][]byte // the first is version 1
}

// SetKey makes or changes a transit key. A new one has one version.
func (s *Server) SetKey(name string, change func(*Key)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.keys == nil {
		s.keys = map[string]*Key{}
	}
	k := s.keys[name]
	if k == nil {
		k = &Key{Type: "aes256-gcm96", Derived: true, MinDecryptionVersion: 1}
		k.rotate()
		s.keys[name] = k
	}
	if change != nil {
		change(k)
	}
}

// Rotate gives a transit key a new version.
func (s *Server) Rotate(name string) { s.SetKey(name, (*Key).rotate) }

// DeleteKey deletes a transit key.
func (s *Server) DeleteKey(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.keys, name)
}

func (k *Key) rotate() {
	version := make([]byte, 32)
	rand.Read(version)
	k.versions = append(k.versions, version)
}

// aead is the cipher of a version for a context. Without derivation Vault ignores the context.
func (k *Key) aead(version int, context []byte) (cipher.AEAD, error) {
	if version < 1 || version > len(k.versions) {
		return nil, errors.New("invalid ciphertext: version is too new")
	}
	secret := k.versions[version-1]
	if k.Derived {
		if len(context) == 0 {
			return nil, errors.New("missing 'context' for key derivation; the key was created using a derived key, which " +
				"means additional, " +
				"per-request information must be included in order to perform operations with the key")
		}
		var err error
		if secret, err = hkdf.Key(sha256.New, secret, nil, string(context), 32); err != nil {
			return nil, err
		}
	}
	block, err := aes.NewCipher(secret)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}

func (k *Key) encrypt(plain, context []byte) (string, error) {
	if k.Type != "aes256-gcm96" {
		return "", fmt.Errorf("message encryption not supported for key type %s", k.Type)
	}
	aead, err := k.aead(len(k.versions), context)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("vault:v%d:%s", len(k.versions),
		base64.StdEncoding.EncodeToString(aead.Seal(nil, nil, plain, nil))), nil
}

func (k *Key) decrypt(ciphertext string, context []byte) ([]byte, error) {
	rest, ok := strings.CutPrefix(ciphertext, "vault:v")
	if !ok {
		return nil, errors.New("invalid ciphertext: no prefix")
	}
	number, content, ok := strings.Cut(rest, ":")
	if !ok {
		return nil, errors.New("invalid ciphertext: wrong number of fields")
	}
	version, err := strconv.Atoi(number)
	if err != nil {
		return nil, errors.New("invalid ciphertext: version number could not be decoded")
	}
	if version < k.MinDecryptionVersion {
		return nil, errors.New("ciphertext or signature version is disallowed by policy (too old)")
	}
	aead, err := k.aead(version, context)
	if err != nil {
		return nil, err
	}
	sealed, err := base64.StdEncoding.DecodeString(content)
	if err != nil {
		return nil, errors.New("invalid ciphertext: could not decode base64")
	}
	if len(sealed) < aead.Overhead() {
		return nil, errors.New("invalid ciphertext length")
	}
	return aead.Open(nil, nil, sealed, nil) // its error is Vault's
}

// describe is the answer to a reading of a key.
func (k *Key) describe(name string) map[string]any {
	encrypts := k.Type == "aes256-gcm96"
	versions := map[string]int64{}
	for i := range k.versions {
		versions[strconv.Itoa(i+1)] = 1700000000
	}
	return map[string]any{
		"name": name, "type": k.Type, "derived": k.Derived, "exportable": k.Exportable,
		"allow_plaintext_backup": k.AllowPlaintextBackup,
		"deletion_allowed":       false, "latest_version": len(k.versions), "min_available_version": 0,
		"min_decryption_version": k.MinDecryptionVersion,
		"min_encryption_version": 0, "supports_encryption": encrypts, "supports_decryption": encrypts,
		"supports_derivation": encrypts,
		"supports_signing":    !encrypts, "imported_key": false, "keys": versions,
	}
}

// transit serves the transit engine.
func (s *Server) transit(w http.ResponseWriter, r *request, what, name string) {
	k := s.keys[name]
	switch {
	case what == "keys" && r.method == http.MethodGet:
		if k == nil {
			fail(w, http.StatusNotFound)
			return
		}
		answer(w, map[string]any{"data": k.describe(name)})
		return
	case r.method != http.MethodPost:
		fail(w, http.StatusMethodNotAllowed, "unsupported operation")
		return
	case what == "keys" && strings.HasSuffix(name, "/rotate"):
		if k = s.keys[strings.TrimSuffix(name, "/rotate")]; k != nil {
			k.rotate()
		}
		w.WriteHeader(http.StatusNoContent)
		return
	case k == nil:
		fail(w, http.StatusBadRequest, "encryption key not found")
		return
	}
	var in struct {
		Plaintext  []byte `json:"plaintext"`
		Ciphertext string `json:"ciphertext"`
		Context    []byte `json:"context"`
	}
	if err := r.decode(&in); err != nil {
		fail(w, http.StatusBadRequest, "failed to parse JSON input")
		return
	}
	plain, err := in.Plaintext, error(nil)
	out := map[string]any{}
	if what == "decrypt" || what == "rewrap" {
		plain, err = k.decrypt(in.Ciphertext, in.Context)
		out["plaintext"] = plain
	}
	if err == nil && (what == "encrypt" || what == "rewrap") {
		out = map[string]any{"key_version": len(k.versions)}
		out["ciphertext"], err = k.encrypt(plain, in.Context)
	}
	if err != nil {
		fail(w, http.StatusBadRequest, err.Error())
		return
	}
	answer(w, map[string]any{"data": out})
}
