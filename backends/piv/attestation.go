package piv

import (
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/go-piv/piv-go/v2/piv"
)

// Slot is a key slot: 9d (key management), or 82 to 95 (retired key management).
type Slot byte

// ParseSlot parses a slot as it is usually written: "9d".
func ParseSlot(s string) (Slot, error) {
	n, err := strconv.ParseUint(s, 16, 8)
	slot := Slot(n)
	if err != nil || slot.String() != s || !slot.valid() {
		return 0, fmt.Errorf("slot %q: want 9d, or 82 to 95", s)
	}
	return slot, nil
}

func (s Slot) valid() bool    { return s == 0x9d || s >= 0x82 && s <= 0x95 }
func (s Slot) String() string { return fmt.Sprintf("%02x", byte(s)) }

// MarshalText makes it "9d" in JSON, and "" if it is zero.
func (s Slot) MarshalText() ([]byte, error) {
	if s == 0 {
		return nil, nil
	}
	return []byte(s.String()), nil
}

// UnmarshalText takes what [ParseSlot] takes, and "".
func (s *Slot) UnmarshalText(text []byte) (err error) {
	if *s = 0; len(text) > 0 {
		*s, err = ParseSlot(string(text))
	}
	return err
}

// PINPolicy says when the card wants a PIN for the key. It is set when the key is generated, for good.
type PINPolicy string

const (
	PINNever  PINPolicy = "never"
	PINOnce   PINPolicy = "once"   // since the card was opened
	PINAlways PINPolicy = "always" // for each use
)

// TouchPolicy says when the card wants to be touched. It is set when the key is generated, for good.
type TouchPolicy string

const (
	TouchNever  TouchPolicy = "never"
	TouchAlways TouchPolicy = "always"
	TouchCached TouchPolicy = "cached" // one touch is good for 15 seconds
)

var (
	pinPolicies = map[PINPolicy]piv.PINPolicy{
		PINNever: piv.PINPolicyNever, PINOnce: piv.PINPolicyOnce, PINAlways: piv.PINPolicyAlways,
	}
	touchPolicies = map[TouchPolicy]piv.TouchPolicy{
		TouchNever: piv.TouchPolicyNever, TouchAlways: piv.TouchPolicyAlways, TouchCached: piv.TouchPolicyCached,
	}
)

// CheckPolicies refuses policies that there are none of.
func CheckPolicies(pin PINPolicy, touch TouchPolicy) error {
	if _, ok := pinPolicies[pin]; !ok {
		return fmt.Errorf("PIN policy %q: want never, once or always", pin)
	}
	if _, ok := touchPolicies[touch]; !ok {
		return fmt.Errorf("touch policy %q: want never, always or cached", touch)
	}
	return nil
}

// AttestedKey is a key of which the card has stated that it was generated in it.
type AttestedKey struct {
	Serial      uint32
	Slot        Slot
	Firmware    string // "5.4.3"
	PINPolicy   PINPolicy
	TouchPolicy TouchPolicy
	Public      *ecdh.PublicKey // P-256

	chain [][]byte // DER: the statement, the card's attestation certificate
}

func (k *AttestedKey) String() string {
	return fmt.Sprintf("a P-256 key generated in slot %v of YubiKey %d (firmware %s), PIN policy %s, touch policy %s",
		k.Slot, k.Serial, k.Firmware, k.PINPolicy, k.TouchPolicy)
}

// name names the key for good.
func (k *AttestedKey) name() string {
	sum := sha256.Sum256(k.Public.Bytes())
	return fmt.Sprintf("yubikey:%d:%v:%x", k.Serial, k.Slot, sum[:16])
}

// MarshalPEM is what [ParseAttestation] parses.
func (k *AttestedKey) MarshalPEM() []byte {
	var out []byte
	for _, der := range k.chain {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	return out
}

// ParseAttestation checks an attestation: two certificates in PEM, the statement on the key and
// the card's own, which has to lead to one in roots (PEM), or to Yubico's if roots is nil.
// https://developers.yubico.com/PIV/Introduction/PIV_attestation.html
func ParseAttestation(attestation, roots []byte) (*AttestedKey, error) {
	certs, err := parsePEM(attestation)
	if err != nil {
		return nil, fmt.Errorf("attestation: %w", err)
	}
	if len(certs) != 2 {
		return nil, fmt.Errorf("attestation: %d certificates, want 2: the statement and the card's own", len(certs))
	}
	pool, err := rootPool(roots)
	if err != nil {
		return nil, err
	}
	return checkAttestation(certs[0], certs[1], pool)
}

// rootPool is nil, which stands for Yubico's, if roots is nil.
func rootPool(roots []byte) (*x509.CertPool, error) {
	if roots == nil {
		return nil, nil
	}
	certs, err := parsePEM(roots)
	if err != nil {
		return nil, fmt.Errorf("attestation roots: %w", err)
	}
	if len(certs) == 0 {
		return nil, errors.New("attestation roots: no certificate in there")
	}
	pool := x509.NewCertPool()
	for _, c := range certs {
		pool.AddCert(c)
	}
	return pool, nil
}

func checkAttestation(statement, card *x509.Certificate, roots *x509.CertPool) (*AttestedKey, error) {
	v := piv.Verifier{Roots: roots}
	a, err := v.Verify(card, statement)
	if err != nil {
		return nil, fmt.Errorf("attestation is not to be trusted: %w", err)
	}
	k := &AttestedKey{
		Serial:   a.Serial,
		Slot:     Slot(a.Slot.Key),
		Firmware: fmt.Sprintf("%d.%d.%d", a.Version.Major, a.Version.Minor, a.Version.Patch),
		chain:    [][]byte{statement.Raw, card.Raw},
	}
	for p, is := range pinPolicies {
		if is == a.PINPolicy {
			k.PINPolicy = p
		}
	}
	for p, is := range touchPolicies {
		if is == a.TouchPolicy {
			k.TouchPolicy = p
		}
	}
	public, ok := statement.PublicKey.(*ecdsa.PublicKey)
	if !ok {
		return nil, fmt.Errorf("attestation is of a %T, want a P-256 key", statement.PublicKey)
	}
	if k.Public, err = public.ECDH(); err != nil || k.Public.Curve() != ecdh.P256() {
		return nil, fmt.Errorf("attestation is of a key on another curve than P-256")
	}
	if k.Serial == 0 || a.Slot.Key > 0xff || !k.Slot.valid() || k.PINPolicy == "" || k.TouchPolicy == "" {
		return nil, fmt.Errorf("attestation lacks the serial number, a slot of 9d or 82 to 95, or the policies: %+v", a)
	}
	return k, nil
}

// checkIssuer checks that a card's attestation certificate leads to the roots. piv-go, which has Yubico's, checks
// a pair: of this certificate with itself only the second half, what the card attests, is missing. [ErrNotTrusted]: it
// does not.
func checkIssuer(card *x509.Certificate, roots *x509.CertPool) error {
	_, err := (&piv.Verifier{Roots: roots}).Verify(card, card)
	if err != nil && strings.Contains(err.Error(), "error verifying attestation certificate") {
		return fmt.Errorf("%w: %w", ErrNotTrusted, err)
	}
	return nil
}

func parsePEM(data []byte) (certs []*x509.Certificate, err error) {
	for {
		var block *pem.Block
		if block, data = pem.Decode(data); block == nil {
			return certs, nil
		}
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("PEM block %q, want CERTIFICATE", block.Type)
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		certs = append(certs, c)
	}
}
