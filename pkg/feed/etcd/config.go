// SPDX-License-Identifier: Apache-2.0

package etcd

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"
)

// Files are the paths of what authenticates a client. They are read again when a connection is made, so
// that they may be renewed at any time.
type Files struct {
	CA   string // certificates of the authorities that sign the members'; "" = those of the system
	Cert string // the client's own certificate and Key; both or none
	Key  string
	User string // a file that holds one line, USER:PASSWORD; "" = none
}

// Config says where a feed is.
type Config struct {
	Endpoints []string // http(s)://HOST:PORT
	Prefix    string
	Files     Files
}

// ParseSource reads the source http(s)://HOST:PORT[,..]/PREFIX. The scheme counts for all members and
// may be repeated.
func ParseSource(source string) (*Config, error) {
	scheme, rest, ok := strings.Cut(source, "://")
	if !ok || scheme != "http" && scheme != "https" {
		return nil, fmt.Errorf("feed etcd:%s: it has no http:// or https:// (write etcd:https://HOST:PORT[,HOST:PORT]/PREFIX)", source)
	}
	rest = strings.ReplaceAll(rest, ","+scheme+"://", ",")
	hosts, prefix, _ := strings.Cut(rest, "/")
	c := &Config{Prefix: cleanPrefix(prefix)}
	if c.Prefix == "" {
		return nil, fmt.Errorf("feed etcd:%s: it names no prefix (write etcd:%s://%s/PREFIX)", source, scheme, hosts)
	}
	for _, host := range strings.Split(hosts, ",") {
		if _, port, err := net.SplitHostPort(host); err != nil || port == "" {
			return nil, fmt.Errorf("feed etcd:%s: %q is not HOST:PORT", source, host)
		}
		u := url.URL{Scheme: scheme, Host: host}
		c.Endpoints = append(c.Endpoints, u.String())
	}
	return c, nil
}

// secure tells whether connections are encrypted.
func (c *Config) secure() bool { return strings.HasPrefix(c.Endpoints[0], "https:") }

// Check finds mistakes that no later connection can mend: it reads the files once.
func (c *Config) Check() error {
	if !c.secure() && (c.Files.CA != "" || c.Files.Cert != "" || c.Files.Key != "") {
		return errors.New("certificates are given for a feed over http (write https)")
	}
	if (c.Files.Cert == "") != (c.Files.Key == "") {
		return errors.New("a certificate and its key belong together (give both or none)")
	}
	if _, err := c.Files.tls(); err != nil {
		return err
	}
	_, _, err := c.Files.user()
	return err
}

// user reads the user's name and password.
func (f Files) user() (name, password string, err error) {
	if f.User == "" {
		return "", "", nil
	}
	text, err := os.ReadFile(f.User)
	if err != nil {
		return "", "", fmt.Errorf("read the user of the feed: %w", err)
	}
	name, password, ok := strings.Cut(strings.TrimRight(string(text), "\r\n"), ":")
	if !ok || name == "" || strings.ContainsAny(password, "\r\n") {
		return "", "", fmt.Errorf("read the user of the feed: %s does not hold one line USER:PASSWORD", f.User)
	}
	return name, password, nil
}

// tls returns a configuration with the authorities that the file holds now; the client's certificate is
// read again at each handshake. Whoever fails to connect makes a new client, so new authorities count too.
func (f Files) tls() (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	if f.CA != "" {
		roots, err := f.roots()
		if err != nil {
			return nil, err
		}
		c.RootCAs = roots
	}
	if f.Cert != "" {
		if _, err := f.certificate(nil); err != nil {
			return nil, err
		}
		c.GetClientCertificate = f.certificate
	}
	return c, nil
}

func (f Files) roots() (*x509.CertPool, error) {
	text, err := os.ReadFile(f.CA)
	if err != nil {
		return nil, fmt.Errorf("read the authorities of the feed: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("read the authorities of the feed: %s holds no PEM certificate", f.CA)
	}
	return pool, nil
}

func (f Files) certificate(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
	pair, err := tls.LoadX509KeyPair(f.Cert, f.Key)
	if err != nil {
		return nil, fmt.Errorf("read the certificate for the feed: %w", err)
	}
	return &pair, nil
}
