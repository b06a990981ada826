// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"time"
)

// certificateLife is longer than any lab lives.
const certificateLife = 365 * 24 * time.Hour

func (l *Lab) certificate(name string) string { return filepath.Join(l.dir, "certificates", name) }

// peerFlags let the agent of a host talk to the others, if the feed says where.
func (l *Lab) peerFlags(host string) []string {
	h := l.Plan.Host(host)
	if h == nil || !h.Peer.IsValid() {
		return nil
	}
	return []string{
		"--peer-listen", h.Peer.String(), "--peer-ca", l.certificate("ca.pem"),
		"--peer-cert", l.certificate(host + ".pem"), "--peer-key", l.certificate(host + ".key"),
	}
}

// makeCertificates makes an authority and a certificate for each host, whose key is thrown away.
func (l *Lab) makeCertificates() error {
	if err := os.MkdirAll(l.certificate(""), 0o700); err != nil {
		return fmt.Errorf("make directory: %w", err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("make the key of the authority: %w", err)
	}
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "lab " + l.Plan.Lab},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(certificateLife),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, ca, ca, &key.PublicKey, key)
	if err != nil {
		return fmt.Errorf("make the certificate of the authority: %w", err)
	}
	if err := writePEM(l.certificate("ca.pem"), "CERTIFICATE", der); err != nil {
		return err
	}
	for i, h := range l.Plan.Hosts {
		if err := l.makeCertificate(h.Name, int64(i+2), ca, key); err != nil {
			return fmt.Errorf("make the certificate of %s: %w", h.Name, err)
		}
	}
	return nil
}

func (l *Lab) makeCertificate(host string, serial int64, ca *x509.Certificate, signer *ecdsa.PrivateKey) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: host}, DNSNames: []string{host},
		NotBefore: ca.NotBefore, NotAfter: ca.NotAfter, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, leaf, ca, &key.PublicKey, signer)
	if err != nil {
		return err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	if err := writePEM(l.certificate(host+".pem"), "CERTIFICATE", der); err != nil {
		return err
	}
	return writePEM(l.certificate(host+".key"), "PRIVATE KEY", private)
}

func writePEM(path, kind string, der []byte) error {
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		return fmt.Errorf("write certificate: %w", err)
	}
	return nil
}
