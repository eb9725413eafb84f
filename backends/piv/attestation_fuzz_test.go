package piv

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"testing"
)

// Whatever is in its certificates, no attestation holds without Yubico's signature.
func FuzzParseAttestation(f *testing.F) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), BasicConstraintsValid: true, IsCA: true}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(cert, cert)
	f.Add(cert, []byte{0x30, 0x80})
	f.Add([]byte{}, cert[:40])
	f.Fuzz(func(t *testing.T, statement, card []byte) {
		var text []byte
		for _, der := range [][]byte{statement, card} {
			text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
		}
		if got, err := ParseAttestation(text, nil); err == nil {
			t.Errorf("ParseAttestation(%s) = %+v", text, got)
		}
		if got, err := ParseAttestation(append(statement, card...), card); err == nil {
			t.Errorf("ParseAttestation(%q) = %+v", statement, got)
		}
	})
}
