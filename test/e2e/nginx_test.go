// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/eniplane/eniplane/pkg/lab"
)

const sites = 5

// site is one of several HTTPS sites of one instance: a certificate of its own, a private IP and an EIP per family.
type site struct {
	name        string
	cert, key   string // files
	fingerprint [sha256.Size]byte
	ips, eips   map[lab.Family]netip.Addr
}

// httpsSites: nginx with five certificates on five private IPs of one ENI, reached by five EIPs. Which site answers,
// with which certificate, is decided by the address alone; and it sees who asks.
func httpsSites(t *testing.T, l *lab.Lab, all []site) {
	for _, f := range []lab.Family{lab.IPv4, lab.IPv6} {
		client, _ := spots(t, l, internetNode, "site", f)
		for i, s := range all {
			t.Run(fmt.Sprintf("%s/%s", s.name, f), func(t *testing.T) {
				out := succeeds(t, l, internetNode, curl(s, s.eips[f], client.Addr)...)
				answer, chain, _ := strings.Cut(out, "\n")
				if want := fmt.Sprintf("%s %s %s", s.name, s.ips[f], client.Addr); answer != want {
					t.Errorf("nginx says %q, want %q", answer, want)
				}
				block, _ := pem.Decode([]byte(chain[max(0, strings.Index(chain, "-----BEGIN")):]))
				if block == nil || sha256.Sum256(block.Bytes) != s.fingerprint {
					t.Errorf("the certificate is another one: %s", chain)
				}
				// The next site's address has another certificate, which this name's is not.
				other := all[(i+1)%sites]
				if out, _, code := execute(t, l, internetNode, curl(s, other.eips[f], client.Addr)...); code != 60 {
					t.Errorf("%s at the address of %s: curl ends with %d, want 60: %s", s.name, other.name, code, out)
				}
			})
		}
	}
}

// curl asks for a site at an address from another, and prints what it is told and the certificates.
func curl(s site, at, from netip.Addr) []string {
	host := at.String()
	if at.Is6() {
		host = "[" + host + "]"
	}
	return []string{
		"curl", "-sS", "--max-time", "20", "--noproxy", "*", "--interface", from.String(), "--resolve", fmt.Sprintf("%s:443:%s", s.name, host),
		"--cacert", s.cert, "-w", "%{certs}", "https://" + s.name + "/",
	}
}

// makeSites makes a self-signed certificate per site with openssl.
func makeSites(t *testing.T) []site {
	t.Helper()
	dir := t.TempDir()
	var all []site
	for i := range sites {
		s := site{
			name: fmt.Sprintf("site%d.example", i), cert: filepath.Join(dir, fmt.Sprintf("%d.crt", i)), key: filepath.Join(dir, fmt.Sprintf("%d.key", i)),
			ips: map[lab.Family]netip.Addr{
				lab.IPv4: netip.MustParseAddr(fmt.Sprintf("10.0.1.%d", 10+i)), lab.IPv6: netip.MustParseAddr(fmt.Sprintf("fd00:1:0:1::%d", 10+i)),
			},
			eips: map[lab.Family]netip.Addr{
				lab.IPv4: netip.MustParseAddr(fmt.Sprintf("203.0.113.%d", 50+i)), lab.IPv6: netip.MustParseAddr(fmt.Sprintf("2001:db8:113::%d", 50+i)),
			},
		}
		if out, err := exec.Command("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
			"-subj", "/CN="+s.name, "-addext", "subjectAltName=DNS:"+s.name, "-keyout", s.key, "-out", s.cert).CombinedOutput(); err != nil {
			t.Fatalf("openssl: %v (deploy/install-deps.sh e2e installs it)\n%s", err, out)
		}
		text, err := os.ReadFile(s.cert)
		if err != nil {
			t.Fatal(err)
		}
		block, _ := pem.Decode(text)
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		s.fingerprint = sha256.Sum256(c.Raw)
		all = append(all, s)
	}
	return all
}

// startNginx serves the sites in vm-site until the test ends. Each listens on its own addresses only.
func startNginx(t *testing.T, l *lab.Lab, all []site) {
	t.Helper()
	dir := t.TempDir()
	var conf strings.Builder
	fmt.Fprintf(&conf, "daemon off; master_process off; pid %[1]s/pid; error_log stderr warn;\nevents {}\nhttp {\n\taccess_log off;\n", dir)
	for _, kind := range []string{"client_body", "proxy", "fastcgi", "uwsgi", "scgi"} {
		fmt.Fprintf(&conf, "\t%s_temp_path %s/%s;\n", kind, dir, kind)
	}
	for _, s := range all {
		fmt.Fprintf(&conf, "\tserver {\n\t\tlisten %s:443 ssl;\n\t\tlisten [%s]:443 ssl;\n\t\tssl_certificate %s;\n\t\tssl_certificate_key %s;\n"+
			"\t\tlocation / { default_type text/plain; return 200 \"%s $server_addr $remote_addr\\n\"; }\n\t}\n", s.ips[lab.IPv4], s.ips[lab.IPv6], s.cert, s.key, s.name)
	}
	conf.WriteString("}\n")
	path := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(path, []byte(conf.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	background(t, l, "vm-site", "nginx", "-c", path, "-e", "stderr", "-p", dir)
	from, to := spots(t, l, "site", "site", lab.IPv4)
	waitListens(t, l, from, to, 443)
}

// background runs a program in a node until the test ends.
func background(t *testing.T, l *lab.Lab, node string, command ...string) {
	t.Helper()
	interruptible(t, l, node, command...)
}

// interruptible runs a program in a node until the test ends or the function is called.
func interruptible(t *testing.T, l *lab.Lab, node string, command ...string) (stop func()) {
	t.Helper()
	if _, err := exec.LookPath(command[0]); err != nil {
		t.Fatalf("%v (deploy/install-deps.sh e2e installs it)", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var out bytes.Buffer
	done := make(chan error, 1)
	go func() { done <- l.Exec(ctx, node, command, nil, &out, &out) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; t.Failed() {
			t.Logf("%s in %s: %v\n%s", command[0], node, err, out.String())
		}
	})
	t.Cleanup(stop)
	return stop
}

// waitListens waits until somebody accepts connections.
func waitListens(t *testing.T, l *lab.Lab, from, to lab.Spot, port uint16) {
	t.Helper()
	for end := time.Now().Add(commandWait); ; time.Sleep(20 * time.Millisecond) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		c, err := l.Dial(ctx, from, to, port)
		cancel()
		if err == nil {
			_ = c.Close()
			return
		}
		if time.Now().After(end) {
			t.Fatalf("nobody listens on %s: %v", netip.AddrPortFrom(to.Addr, port), err)
		}
	}
}
