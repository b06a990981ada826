// SPDX-License-Identifier: Apache-2.0

package migrate

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
)

// Security is how agents know each other. Files are read for each connection, so that they can be replaced.
type Security struct {
	CA, Cert, Key string // files
	Plaintext     bool   // for labs: who has the address is who he says
}

// Check reads the files once.
func (s *Security) Check() error {
	if s.Plaintext {
		if s.CA+s.Cert+s.Key != "" {
			return errors.New("--peer-plaintext and certificates exclude each other")
		}
		return nil
	}
	if s.CA == "" || s.Cert == "" || s.Key == "" {
		return errors.New("--peer-ca, --peer-cert and --peer-key are all required: agents know each other by their certificates")
	}
	_, err := s.config()
	return err
}

func (s *Security) config() (*tls.Config, error) {
	cert, err := tls.LoadX509KeyPair(s.Cert, s.Key)
	if err != nil {
		return nil, fmt.Errorf("read --peer-cert and --peer-key: %w", err)
	}
	text, err := os.ReadFile(s.CA)
	if err != nil {
		return nil, fmt.Errorf("read --peer-ca: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("read --peer-ca: %s holds no certificate", s.CA)
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert},
		RootCAs: pool, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert,
	}, nil
}

func (s *Security) dial(ctx context.Context, addr netip.AddrPort, host string) (net.Conn, error) {
	var d net.Dialer
	if s.Plaintext {
		return d.DialContext(ctx, "tcp", addr.String())
	}
	config, err := s.config()
	if err != nil {
		return nil, err
	}
	config.ServerName = host
	return (&tls.Dialer{NetDialer: &d, Config: config}).DialContext(ctx, "tcp", addr.String())
}

// identity is who is at the other end of a connection.
type identity struct {
	cert *x509.Certificate // nil = nobody has proven anything
	addr netip.Addr
}

// is tells whether it is that host.
func (id identity) is(host string, addresses []netip.Addr) error {
	if id.cert != nil {
		if err := id.cert.VerifyHostname(host); err != nil {
			return fmt.Errorf("the certificate is not that of %s: %w", host, err)
		}
		return nil
	}
	if !slices.Contains(addresses, id.addr) {
		return fmt.Errorf("%s is not an address of %s", id.addr, host)
	}
	return nil
}

func (s *Security) accept(ctx context.Context, raw net.Conn) (net.Conn, identity, error) {
	from, err := netip.ParseAddrPort(raw.RemoteAddr().String())
	if err != nil {
		return nil, identity{}, fmt.Errorf("accept: %w", err)
	}
	id := identity{addr: from.Addr().Unmap()}
	if s.Plaintext {
		return raw, id, nil
	}
	config, err := s.config()
	if err != nil {
		return nil, id, err
	}
	conn := tls.Server(raw, config)
	if err := conn.HandshakeContext(ctx); err != nil {
		return nil, id, fmt.Errorf("accept: %w", err)
	}
	id.cert = conn.ConnectionState().PeerCertificates[0]
	return conn, id, nil
}
