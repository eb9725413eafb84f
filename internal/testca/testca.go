// Package testca is a certificate authority for tests, so that clients meet real TLS on loopback.
package testca

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// CA is a certificate authority.
type CA struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// New makes a CA.
func New() (*CA, error) {
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Keyward test CA"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	ca := &CA{cert: template}
	cert, key, err := ca.sign(template)
	if err != nil {
		return nil, fmt.Errorf("making a test CA: %w", err)
	}
	ca.key = key
	ca.cert, err = x509.ParseCertificate(cert)
	return ca, err
}

// sign makes a certificate of template, by the CA or, as long as that has no key, by itself.
func (ca *CA) sign(template *x509.Certificate) ([]byte, *ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	signer := ca.key
	if signer == nil {
		signer = key
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, ca.cert, &key.PublicKey, signer)
	return cert, key, err
}

// WriteFile writes the CA's certificate where SSL_CERT_FILE can name it. Go reads that
// once in a process.
func (ca *CA) WriteFile(path string) error {
	return os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.cert.Raw}), 0o600)
}

// NewTrusted makes a CA that this process trusts, if it is called before the first TLS client is made:
// Go reads SSL_CERT_FILE once. remove deletes its file.
func NewTrusted() (ca *CA, remove func(), err error) {
	if ca, err = New(); err != nil {
		return nil, nil, err
	}
	dir, err := os.MkdirTemp("", "testca")
	if err != nil {
		return nil, nil, err
	}
	remove = func() { os.RemoveAll(dir) }
	file := filepath.Join(dir, "ca.pem")
	if err := ca.WriteFile(file); err != nil {
		remove()
		return nil, nil, err
	}
	return ca, remove, os.Setenv("SSL_CERT_FILE", file)
}

// Server returns what a server for hosts, names or addresses, needs.
func (ca *CA) Server(hosts ...string) (*tls.Config, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 100))
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: hosts[0]},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, h)
		}
	}
	cert, key, err := ca.sign(template)
	if err != nil {
		return nil, fmt.Errorf("making a test certificate: %w", err)
	}
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{cert}, PrivateKey: key}}}, nil
}
