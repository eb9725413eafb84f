package cardsim

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"math/big"
	"sync"
	"time"
)

// What an attestation tells: https://developers.yubico.com/PIV/Introduction/PIV_attestation.html
var (
	extFirmware   = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 41482, 3, 3}
	extSerial     = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 41482, 3, 7}
	extPolicy     = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 41482, 3, 8}
	extFormFactor = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 41482, 3, 9}
)

// formFactor of all simulated keys: USB-A keychain.
const formFactor = 1

// The certificates are valid for this time, whatever the clock says.
var notBefore, notAfter = time.Date(2016, 3, 14, 0, 0, 0, 0, time.UTC), time.Date(2052, 4, 17, 0, 0, 0, 0, time.UTC)

type authority struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

// root stands where Yubico's root is. It is another one in each process, so nothing real can trust it.
var root = sync.OnceValue(func() authority {
	key := newECKey()
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: "Keyward simulated PIV root CA"},
		NotBefore:             notBefore,
		NotAfter:              notAfter,
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign,
	}
	return authority{key, signCert(template, template, &key.PublicKey, key)}
})

// AttestationRoot is the certificate that all attestations by cards of this process lead to.
func AttestationRoot() *x509.Certificate { return root().cert }

func newECKey() *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err) // there is no such error
	}
	return key
}

// signCert panics on an error: what is signed is made here.
func signCert(template, parent *x509.Certificate, public any, key *ecdsa.PrivateKey) *x509.Certificate {
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, key)
	if err != nil {
		panic(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		panic(err)
	}
	return cert
}

// newAttestationKey makes what a factory puts into slot f9, and the object with its certificate.
func newAttestationKey(firmware Firmware, serial uint32) (*pivKey, []byte) {
	key := newECKey()
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(int64(serial)),
		Subject:               pkix.Name{CommonName: "Yubico PIV Attestation"},
		NotBefore:             notBefore,
		NotAfter:              notAfter,
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLenZero:        true,
		KeyUsage:              x509.KeyUsageCertSign,
		ExtraExtensions:       []pkix.Extension{{Id: extFirmware, Value: firmware[:]}},
	}
	cert := signCert(template, root().cert, &key.PublicKey, root().key)
	k := &pivKey{private: &ecKey{algP256, key}, pin: policyNever, touch: policyNever, origin: originGenerated}
	return k, certificateObject(cert.Raw)
}

// certificateObject is a certificate as PUT DATA stores it: SP 800-73-4, part 1, 3.
func certificateObject(der []byte) []byte {
	object := appendTLV(nil, 0x70, der)
	return appendTLV(appendTLV(object, 0x71, []byte{0}), 0xfe, nil)
}

// attest answers with a certificate of the key in slot P1, if it was generated on this card.
func (p *PIV) attest(cmd *Command) ([]byte, uint16) {
	k, issuer := p.keys[cmd.P1], p.keys[slotAttestation]
	switch {
	case k == nil || k.origin != originGenerated || cmd.P1 == slotAttestation:
		return nil, SWWrongData
	case issuer == nil:
		return nil, SWReferenceNotFound
	}
	issuerKey, ok := issuer.private.(*ecKey)
	if !ok {
		return nil, SWConditions // somebody imported an RSA key; the simulator signs with EC only
	}
	// The issuer's name is read from its certificate, which somebody may have replaced.
	parent := &x509.Certificate{Subject: pkix.Name{CommonName: "Yubico PIV Attestation"}}
	object, err := parseTLVs(p.objects[objectAttestation])
	if err != nil {
		return nil, SWConditions
	}
	if cert, err := x509.ParseCertificate(value(object, 0x70)); err == nil {
		parent = cert
	}
	der, err := x509.CreateCertificate(rand.Reader, p.attestation(cmd.P1, k), parent, k.private.publicKey(), issuerKey.key)
	if err != nil {
		return nil, SWInternal
	}
	return der, SWOK
}

func (p *PIV) attestation(slot byte, k *pivKey) *x509.Certificate {
	serial, err := asn1.Marshal(int64(p.serial))
	if err != nil {
		panic(err) // a number can be encoded
	}
	return &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes(random(16)),
		Subject:      pkix.Name{CommonName: fmt.Sprintf("YubiKey PIV Attestation %x", slot)},
		NotBefore:    notBefore,
		NotAfter:     notAfter,
		ExtraExtensions: []pkix.Extension{
			{Id: extFirmware, Value: p.firmware[:]},
			{Id: extSerial, Value: serial},
			{Id: extPolicy, Value: []byte{k.pin, k.touch}},
			{Id: extFormFactor, Value: []byte{formFactor}},
		},
	}
}
