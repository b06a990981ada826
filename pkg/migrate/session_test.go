// SPDX-License-Identifier: Apache-2.0

package migrate

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"encoding/pem"
	"log/slog"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/eniplane/eniplane/pkg/dataplane"
)

// taker is a flow table that takes all but what goes to port 1.
type taker struct {
	mu    sync.Mutex
	flows []dataplane.ImportedFlow
}

func (k *taker) Import(flows []dataplane.ImportedFlow) ([]dataplane.Reason, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	var results []dataplane.Reason
	for _, f := range flows {
		if f.RemotePort == 1 {
			results = append(results, dataplane.ReasonFlowQuota)
			continue
		}
		k.flows = append(k.flows, f)
		results = append(results, dataplane.ReasonContinue)
	}
	return results, nil
}

// incoming is the view of host-b to which web-0 moves from host-a.
func incoming() *View {
	return &View{
		Host: "host-b", Incoming: map[string]Incoming{"web-0": {
			UID: "u-0", From: "host-a", Epoch: 5, Index: 3, Incarnation: 9, VNI: 7,
			IPs: map[netip.Addr]bool{netip.MustParseAddr("10.0.1.10"): true},
		}},
		hopOf:   map[Peer]uint32{{ENI: "web-1", UID: "u-1"}: 12, {Internet: true}: 1},
		ruleOf:  map[string]uint32{"SecurityGroup/web ingress http": 44},
		address: map[string][]netip.Addr{"host-a": {netip.MustParseAddr("127.0.0.1")}, "host-c": {netip.MustParseAddr("127.0.0.2")}},
	}
}

// serve starts a target and returns its address.
func serve(t *testing.T, security *Security, k *taker) (*Manager, netip.AddrPort) {
	t.Helper()
	m := New(Options{Host: "host-b", Security: security, Importer: k, Log: slog.New(slog.DiscardHandler)})
	m.Update(t.Context(), incoming())
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- m.Serve(ctx, ln) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return m, netip.MustParseAddrPort(ln.Addr().String())
}

var good = hello{Version: version, From: "host-a", To: "host-b", ENI: "web-0", UID: "u-0", Epoch: 4}

// greet says hello and returns the answer.
func greet(t *testing.T, security *Security, addr netip.AddrPort, h hello) (net.Conn, *bufio.Reader, welcome, error) {
	t.Helper()
	conn, err := security.dial(t.Context(), addr, "host-b")
	if err != nil {
		return nil, nil, welcome{}, err
	}
	t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if err := writeJSON(conn, frameHello, h); err != nil {
		return nil, nil, welcome{}, err
	}
	r, w := bufio.NewReader(conn), welcome{}
	return conn, r, w, readJSON(r, frameWelcome, &w)
}

// TestTargetTakes: flows get the numbers of the target, what it cannot take is told by reason.
func TestTargetTakes(t *testing.T) {
	k, plain := &taker{}, &Security{Plaintext: true}
	_, addr := serve(t, plain, k)
	conn, r, w, err := greet(t, plain, addr, good)
	if err != nil || w.Refused != "" {
		t.Fatal(err, w.Refused)
	}
	flows := sample()
	unknown := flows[0]
	unknown.Peer.UID, unknown.Rule, unknown.LocalPort = "u-2", "gone", 444
	if err := writeFrame(conn, frameFlows, encodeFlows(append(flows, unknown))); err != nil {
		t.Fatal(err)
	}
	full := flows[0]
	full.RemotePort = 1
	if err := writeFrame(conn, frameFlows, encodeFlows([]Flow{full})); err != nil {
		t.Fatal(err)
	}
	if err := writeFrame(conn, frameRound, binary.BigEndian.AppendUint32(nil, 1)); err != nil {
		t.Fatal(err)
	}
	var d done
	if err := readJSON(r, frameDone, &d); err != nil {
		t.Fatal(err)
	}
	want := done{Round: 1, Stored: 2, Refused: map[string]int{"not an address of the ENI": 1, dataplane.ReasonFlowQuota.String(): 1}}
	if diff := cmp.Diff(want, d); diff != "" {
		t.Errorf("answer (-want +got):\n%s", diff)
	}
	known := dataplane.ImportedFlow{MovedFlow: flows[0].MovedFlow, ENI: 3, Incarnation: 9, VNI: 7, NextHop: 12, Rule: 44}
	stranger := dataplane.ImportedFlow{MovedFlow: unknown.MovedFlow, ENI: 3, Incarnation: 9, VNI: 7}
	if diff := cmp.Diff([]dataplane.ImportedFlow{known, stranger}, k.flows, sameAddr); diff != "" {
		t.Errorf("stored (-want +got):\n%s", diff)
	}
}

// TestTargetRefuses: flows only of an ENI that moves here, from where it moves.
func TestTargetRefuses(t *testing.T) {
	plain := &Security{Plaintext: true}
	_, addr := serve(t, plain, &taker{})
	for name, tt := range map[string]struct {
		change func(*hello)
		want   string
	}{
		"another version":      {func(h *hello) { h.Version++ }, "version"},
		"another target":       {func(h *hello) { h.To = "host-c" }, "this is host-b"},
		"another ENI":          {func(h *hello) { h.ENI = "db-0" }, "does not move"},
		"another UID":          {func(h *hello) { h.UID = "u-9" }, "does not move"},
		"another source":       {func(h *hello) { h.From = "host-c" }, "moves from host-a"},
		"an attachment as new": {func(h *hello) { h.Epoch = 5 }, "not older"},
	} {
		h := good
		tt.change(&h)
		_, _, w, err := greet(t, plain, addr, h)
		if err != nil || !strings.Contains(w.Refused, tt.want) {
			t.Errorf("%s: %q, %v, want %q", name, w.Refused, err, tt.want)
		}
	}
}

// TestTargetForgets: what does not move here any more is not taken, whoever was welcome before.
func TestTargetForgets(t *testing.T) {
	k, plain := &taker{}, &Security{Plaintext: true}
	m, addr := serve(t, plain, k)
	conn, r, w, err := greet(t, plain, addr, good)
	if err != nil || w.Refused != "" {
		t.Fatal(err, w.Refused)
	}
	m.Update(t.Context(), &View{Host: "host-b"})
	if err := writeFrame(conn, frameFlows, encodeFlows(sample()[:1])); err != nil {
		t.Fatal(err)
	}
	if kind, _, err := readFrame(r); err == nil {
		t.Errorf("the session goes on with a frame of type %d", kind)
	}
	if len(k.flows) != 0 {
		t.Errorf("stored %+v", k.flows)
	}
}

// authority signs certificates in a directory.
type authority struct {
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	a := &authority{dir: t.TempDir()}
	a.cert, a.key = a.sign(t, "ca", nil)
	return a
}

// sign makes NAME.pem and NAME.key; without an issuer an authority.
func (a *authority) sign(t *testing.T, name string, issuer *authority) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	parent, signer := template, key
	if issuer != nil {
		parent, signer = issuer.cert, issuer.key
	} else {
		template.IsCA, template.BasicConstraintsValid, template.KeyUsage, template.ExtKeyUsage = true, true, x509.KeyUsageCertSign, nil
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{
		name + ".pem": {Type: "CERTIFICATE", Bytes: der}, name + ".key": {Type: "PRIVATE KEY", Bytes: secret},
	} {
		if err := os.WriteFile(filepath.Join(a.dir, file), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}

// of is the security of a host whose certificate has a name.
func (a *authority) of(t *testing.T, name string) *Security {
	t.Helper()
	a.sign(t, name, a)
	s := &Security{CA: filepath.Join(a.dir, "ca.pem"), Cert: filepath.Join(a.dir, name+".pem"), Key: filepath.Join(a.dir, name+".key")}
	if err := s.Check(); err != nil {
		t.Fatal(err)
	}
	return s
}

// TestCertificates: who is at the other end is what its certificate says, on both sides.
func TestCertificates(t *testing.T) {
	ours, others := newAuthority(t), newAuthority(t)
	_, addr := serve(t, ours.of(t, "host-b"), &taker{})
	if _, _, w, err := greet(t, ours.of(t, "host-a"), addr, good); err != nil || w.Refused != "" {
		t.Errorf("host-a: %v %s", err, w.Refused)
	}
	if _, _, w, err := greet(t, ours.of(t, "host-c"), addr, good); err != nil || !strings.Contains(w.Refused, "not that of host-a") {
		t.Errorf("host-c in the name of host-a: %v %q", err, w.Refused)
	}
	stranger := others.of(t, "host-a")
	stranger.CA = filepath.Join(ours.dir, "ca.pem")
	if _, _, w, err := greet(t, stranger, addr, good); err == nil {
		t.Errorf("the certificate of another authority is taken: %q", w.Refused)
	}
	if _, _, w, err := greet(t, &Security{Plaintext: true}, addr, good); err == nil {
		t.Errorf("who has no certificate is heard: %q", w.Refused)
	}
	_, wrong := serve(t, ours.of(t, "host-d"), &taker{})
	if _, _, _, err := greet(t, ours.of(t, "host-a"), wrong, good); err == nil {
		t.Error("host-d is taken for host-b")
	}
	if err := (&Security{CA: "x"}).Check(); err == nil {
		t.Error("a certificate without a key is enough")
	}
}

// TestTargetTellsArrival: the source learns in the next round that the ENI is there, by its epoch.
func TestTargetTellsArrival(t *testing.T) {
	plain := &Security{Plaintext: true}
	m, addr := serve(t, plain, &taker{})
	conn, r, w, err := greet(t, plain, addr, good)
	if err != nil || w.Refused != "" {
		t.Fatal(err, w.Refused)
	}
	for round, want := range []uint64{0, 5, 0} {
		v := incoming()
		in := v.Incoming["web-0"]
		in.Here = want != 0
		if round == 2 { // another one by now
			in.Here, in.Incarnation = true, in.Incarnation+1
		}
		v.Incoming["web-0"] = in
		m.Update(t.Context(), v)
		if err := writeFrame(conn, frameRound, binary.BigEndian.AppendUint32(nil, uint32(round))); err != nil {
			t.Fatal(err)
		}
		var d done
		if err := readJSON(r, frameDone, &d); err != nil {
			t.Fatal(err)
		}
		if d.Here != want {
			t.Errorf("round %d: arrived with epoch %d, want %d", round, d.Here, want)
		}
	}
	s := &source{m: m, out: Outgoing{ENI: "web-0", To: "host-b", Epoch: 4}}
	for _, epoch := range []uint64{0, 4, 5, 5} {
		s.depart(epoch)
	}
	if len(m.departures) != 1 || <-m.departures != (Departure{ENI: "web-0", To: "host-b", Epoch: 5}) {
		t.Error("that it has arrived is not told once")
	}
}

// TestServeAsTold: the agent listens where the feed says, and elsewhere when that changes.
func TestServeAsTold(t *testing.T) {
	plain := &Security{Plaintext: true}
	m := New(Options{Host: "host-b", Security: plain, Importer: &taker{}, Log: slog.New(slog.DiscardHandler)})
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); m.ServeAsTold(ctx) }()
	free := func() netip.AddrPort {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		return netip.MustParseAddrPort(ln.Addr().String())
	}
	reached := func(addr netip.AddrPort, want bool) {
		t.Helper()
		var err error
		for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
			var w welcome
			if _, _, w, err = greet(t, plain, addr, good); (err == nil && w.Refused == "") == want {
				return
			}
		}
		t.Fatalf("%s: %v, want it reached: %t", addr, err, want)
	}
	first, second := free(), free()
	for _, tt := range []struct{ now, last netip.AddrPort }{{first, netip.AddrPort{}}, {second, first}, {netip.AddrPort{}, second}} {
		v := incoming()
		v.Peer = tt.now
		m.Update(t.Context(), v)
		if tt.now.IsValid() {
			reached(tt.now, true)
		}
		if tt.last.IsValid() {
			reached(tt.last, false)
		}
	}
	stop()
	<-ended
}
