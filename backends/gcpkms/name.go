package gcpkms

import (
	"crypto/rand"
	"encoding/base32"
	"encoding/hex"
	"fmt"
	"regexp"
	"strings"

	"github.com/keyward/keyward/backends"
)

// scheme is that of keys' URIs; the rest is the version's resource name.
const scheme = "gcpkms:"

// Resource names (https://cloud.google.com/kms/docs/resource-hierarchy). A project's may
// have a domain in front, "example.com:name".
var (
	keyRingRE = regexp.MustCompile(`^projects/[a-z0-9.:-]+/locations/[a-z0-9-]+/keyRings/[a-zA-Z0-9_-]{1,63}$`)
	versionRE = regexp.MustCompile(`^/cryptoKeys/[a-zA-Z0-9_-]{1,63}/cryptoKeyVersions/[1-9][0-9]*$`)
)

// parseKeyRing checks a key ring's resource name and returns its location.
func parseKeyRing(name string) (location string, err error) {
	if !keyRingRE.MatchString(name) {
		return "", fmt.Errorf("%q is no key ring; want projects/PROJECT/locations/LOCATION/keyRings/KEYRING", name)
	}
	return strings.Split(name, "/")[3], nil
}

// parseURI returns the resource name of a key version in the configured key ring. A key
// elsewhere is none of this backend's, whatever its credentials would let it do.
func (b *Backend) parseURI(uri string) (string, error) {
	name, ok := strings.CutPrefix(uri, scheme)
	if !ok {
		return "", fmt.Errorf("gcpkms %s: %q is no URI of a key in Google Cloud KMS; want %s and a key version's resource "+
			"name", b.cfg.Name, uri, scheme)
	}
	inRing, ok := strings.CutPrefix(name, b.cfg.KeyRing)
	if !ok || !versionRE.MatchString(inRing) {
		return "", fmt.Errorf("gcpkms %s: %w: %q names no key version in %s", b.cfg.Name, backends.ErrKeyNotFound, uri,
			b.cfg.KeyRing)
	}
	return name, nil
}

// version is the resource name of a CryptoKey's version. The first is made with the key, and
// is number 1; we make no other.
func (b *Backend) version(keyID string) string {
	return b.cfg.KeyRing + "/cryptoKeys/" + keyID + "/cryptoKeyVersions/1"
}

// sameVersion reports whether two resource names are one key version's. A project has two
// names, its ID and its number, and the service may answer with the other one.
func sameVersion(a, b string) bool {
	_, a, okA := strings.Cut(a, "/locations/")
	_, b, okB := strings.Cut(b, "/locations/")
	return okA && okB && a == b
}

// keyID makes the ID of a CryptoKey: the label as far as it fits, and what makes it unique, since
// an ID can't be used again, not even that of a destroyed key.
func keyID(label string) string {
	fits := strings.Map(func(r rune) rune {
		if r < 128 && idRE.MatchString(string(r)) {
			return r
		}
		return '_'
	}, label)
	var b [8]byte
	rand.Read(b[:]) // never fails (crypto/rand)
	return fits[:min(len(fits), 63-1-2*len(b))] + "-" + hex.EncodeToString(b[:])
}

var idRE = regexp.MustCompile(`^[a-zA-Z0-9_-]$`)

// A label of a CryptoKey is at most 63 lowercase letters, digits, "_" and "-"
// (https://cloud.google.com/kms/docs/labeling-keys). Ours, which says what the key is for, stands there
// as it is or, if it doesn't fit, in base32 behind "b32-".
const (
	labelSession = "keyward-session"
	labelAccount = "keyward-account"
	labelChain   = "keyward-chain"

	encodedPrefix = "b32-"
)

var (
	labelRE       = regexp.MustCompile(`^[a-z0-9_-]{1,63}$`)
	labelEncoding = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)
)

// labels are those of a key that is made for attrs.
func labels(attrs backends.KeyAttributes) (map[string]string, error) {
	session := attrs.Label
	if !labelRE.MatchString(session) || strings.HasPrefix(session, encodedPrefix) {
		session = encodedPrefix + labelEncoding.EncodeToString([]byte(session))
	}
	all := map[string]string{labelSession: session, labelChain: fmt.Sprint(attrs.ChainID)}
	if attrs.Account != "" {
		all[labelAccount] = strings.ToLower(attrs.Account)
	}
	for k, v := range all {
		if !labelRE.MatchString(v) {
			return nil, fmt.Errorf("label %q does not fit into Google's %s", attrs.Label, k)
		}
	}
	return all, nil
}

// sessionLabel is the label that a key was made for. It reports false for a key that is not ours.
func sessionLabel(labels map[string]string) (string, bool) {
	label, ok := labels[labelSession]
	encoded, isEncoded := strings.CutPrefix(label, encodedPrefix)
	if !isEncoded {
		return label, ok
	}
	plain, err := labelEncoding.DecodeString(encoded)
	return string(plain), err == nil
}
