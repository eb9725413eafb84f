package openpgp

import (
	"bytes"
	"crypto/ecdsa"
	"fmt"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/crypto"
	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/internal/pcsc"
)

// slot is a key of the card that can sign what it is given. The tags are those of the
// OpenPGP card specification 3.4, 4.4.1.
type slot struct {
	name        string // in URIs and configuration
	what        string // for people, as gpg calls it
	crt         byte   // control reference template in GENERATE, 7.2.14
	attributes  uint16 // DO of the algorithm attributes
	fingerprint uint16
	generated   uint16 // DO of the time of generation
	uif         uint16 // DO of the touch policy
	number      byte   // in the key information DO, and in C5 counted from 1
	password    byte   // P2 of VERIFY
}

var slots = []*slot{
	{"sig", "signature key", 0xB6, 0xC1, 0xC7, 0xCE, 0xD6, 1, pwSign},
	{"aut", "authentication key", 0xA4, 0xC3, 0xC9, 0xD0, 0xD8, 3, pwOther},
}

// slotNamed finds a slot; nil: there is none of that name.
func slotNamed(name string) *slot {
	for _, sl := range slots {
		if sl.name == name {
			return sl
		}
	}
	return nil
}

// Algorithm attributes: ECDSA and the curve's OID (4.4.3.10).
var (
	secp256k1 = []byte{0x13, 0x2B, 0x81, 0x04, 0x00, 0x0A}
	nistP256  = []byte{0x13, 0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x03, 0x01, 0x07}
)

// usage says whose the key in a slot is.
type usage int

const (
	empty   usage = iota // no key
	free                 // a key that Keyward gave up, or did not finish
	ours                 // a key that Keyward generated
	foreign              // any other key: it is not touched
)

// A slot's fingerprint DO, which gpg needs for the keys that it knows, is how we tell whose a
// key is. Ours has the signer's address there, which is made of the key's own public key, so it can't
// be taken for another's: a key that replaces it, and brings its own fingerprint or none,
// is not ours any more.
//
// freeMark stands there while a slot's key is worth nothing: from before a key is generated until
// it is complete, and from when one is destroyed. So a crash in between leaves a slot that
// can be used again, and no key of ours.
var (
	freeMark      = [20]byte([]byte("keyward: slot free. "))
	noFingerprint [20]byte
)

// slotState is what is in a slot.
type slotState struct {
	usage       usage
	pub         *ecdsa.PublicKey // nil unless ours
	signer      common.Address   // of pub
	fingerprint [20]byte
}

// inspect finds out what is in a slot.
func (s *session) inspect(sl *slot) (*slotState, error) {
	st := &slotState{fingerprint: s.data.fingerprints[sl.number-1]}
	origin := s.data.origin(sl)
	if origin == keyAbsent {
		return st, nil
	}
	point, sw, err := s.readPoint(sl)
	switch {
	case err != nil:
		return nil, err
	case sw == swNotFound && origin == keyUnknown:
		return st, nil
	case st.fingerprint == freeMark:
		st.usage = free
		return st, nil
	}
	st.usage = foreign
	if sw != pcsc.OK || origin == keyImported || !bytes.Equal(s.data.attributes[sl.number], secp256k1) {
		return st, nil
	}
	pub, err := backends.ParsePublicKey(point)
	if err != nil {
		return nil, fmt.Errorf("%w: the %s: %w", pcsc.ErrGarbled, sl.what, err)
	}
	if signer := crypto.PubkeyToAddress(*pub); [20]byte(signer) == st.fingerprint {
		st.usage, st.pub, st.signer = ours, pub, signer
	}
	return st, nil
}

// readPoint reads a public key: of elliptic curves the point, of others nothing.
func (s *session) readPoint(sl *slot) ([]byte, pcsc.Status, error) {
	data, sw, err := s.do(pcsc.Command{INS: insGenerate, P1: 0x81, Data: []byte{sl.crt, 0}})
	if err != nil || sw != pcsc.OK {
		return nil, sw, err
	}
	point, err := parsePublic(data)
	return point, sw, err
}

// parsePublic reads the answer of GENERATE ASYMMETRIC KEY PAIR (7.2.14).
func parsePublic(data []byte) ([]byte, error) {
	outer, err := parseTLV(data)
	if err != nil {
		return nil, fmt.Errorf("%w: public key: %w", pcsc.ErrGarbled, err)
	}
	inner, err := parseTLV(child(outer, 0x7F49))
	if err != nil {
		return nil, fmt.Errorf("%w: public key: %w", pcsc.ErrGarbled, err)
	}
	return child(inner, 0x86), nil
}
