// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"github.com/eniplane/eniplane/bench/peer"
	"github.com/eniplane/eniplane/bench/wire/frames"
	"github.com/eniplane/eniplane/pkg/testroot"
)

// testPlan is a small site.
var testPlan = plan{enis: 4, flows: 64, rules: 10}

// workers are all who do the job on one host, by EIP or by the overlay.
func workers(overlay bool) []peer.Subject {
	if overlay {
		return []peer.Subject{Ours{}, peer.Bridge{Filter: true}, peer.OVS{}}
	}
	return []peer.Subject{Ours{}, peer.NFTables{}, peer.IPTables{}, peer.IPTables{Eager: true}, peer.OVS{}}
}

// siteOf builds a site for a test.
func siteOf(t *testing.T, p plan, subject peer.Subject) *site {
	t.Helper()
	s, err := newSite(t.Context(), p, subject)
	var unable *peer.Unable
	if errors.As(err, &unable) && os.Getenv(testroot.EnvRequired) != "1" {
		t.Skip(unable.Reason)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// with runs a test with traffic on a site.
func with(t *testing.T, s *site, k kind, test func(*traffic)) {
	t.Helper()
	tr, err := newTraffic(s, k, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := tr.Close(); err != nil {
			t.Error(err)
		}
	}()
	test(tr)
}

// Everybody delivers what is allowed with the right addresses and an untouched payload, in both directions, and drops
// what is not: nobody wins by doing less.
func TestEverybodyDoesTheJob(t *testing.T) {
	testroot.Require(t)
	for _, overlay := range []bool{false, true} {
		for _, subject := range workers(overlay) {
			t.Run(fmt.Sprintf("%s/overlay=%t", subject.Name(), overlay), func(t *testing.T) {
				p := testPlan
				if overlay {
					p.remotes = 16
				}
				site := siteOf(t, p, subject)
				for _, f := range []peer.Family{peer.V4, peer.V6} {
					with(t, site, kind{family: f, overlay: overlay, protocol: frames.UDP}, func(tr *traffic) { wholeJob(t, tr) })
				}
			})
		}
	}
}

// wholeJob is what everybody must do of one family.
func wholeJob(t *testing.T, tr *traffic) {
	t.Helper()
	denied := tr.kind
	denied.port = deniedPort
	repels(t, tr, denied)
	if err := tr.establish(t.Context()); err != nil {
		t.Fatal(err)
	}
	repels(t, tr, denied)
	delivers(t, tr, in)
	delivers(t, tr, out)
	spoofs(t, tr)
}

// repels sends packets to a port that nobody may reach.
func repels(t *testing.T, tr *traffic, k kind) {
	t.Helper()
	g, err := tr.extra(k, in)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tr.repel(t.Context(), g, frames.Batch{Flows: 64}); err != nil {
		t.Error(err)
	}
}

// spoofs sends packets of an address that is not the ENI's. Nobody forwards them.
func spoofs(t *testing.T, tr *traffic) {
	t.Helper()
	if _, eager := tr.running.(*ours); !eager {
		return // iptables, as most people write it, does not ask
	}
	flows := tr.flowsOf(tr.kind, out)
	flows.ENI.Addr = flows.ENI.Plus(len(tr.job.ENIs)).Addr
	var g *frames.Generator
	if err := tr.guest.Do(func() (err error) {
		g, err = frames.NewGenerator(flows, tr.guests)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer g.Close() //nolint:errcheck // it only frees a program
	s, err := tr.fire(t.Context(), g, out, frames.Batch{Flows: 64}, nil)
	if err != nil || s.received != 0 {
		t.Errorf("%d of %d packets of a foreign address left the host (%v)", s.received, s.sent, err)
	}
}

// delivers sends one flow and looks at the packet that arrives.
func delivers(t *testing.T, tr *traffic, d direction) {
	t.Helper()
	sink := tr.inside
	if d == out {
		sink = tr.beyond
	}
	const number = 37
	if err := sink.WantSample(); err != nil {
		t.Fatal(err)
	}
	if err := tr.reach(t.Context(), d, frames.Batch{First: number, Flows: 1}); err != nil {
		t.Fatalf("%s: %v", d, err)
	}
	frame, err := sink.Sample()
	if err != nil || frame == nil {
		t.Fatalf("%s: no sample (%v)", d, err)
	}
	got, checksums := tupleOf(t, frame, tr.kind.overlay && d == out)
	if diff := cmp.Diff(tr.wanted(number, d), got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Errorf("%s, IPv%d (-want +got):\n%s", d, tr.kind.family, diff)
	}
	if !checksums {
		t.Errorf("%s, IPv%d: a checksum is wrong:\n% x", d, tr.kind.family, frame)
	}
}

// carried is what a packet says at the end of its path.
type carried struct {
	Src, Dst         netip.Addr
	SrcPort, DstPort uint16
	Payload          string
}

// wanted is flow number n as it must arrive: by private addresses at ENIs, by EIPs outside.
func (t *traffic) wanted(n int, d direction) carried {
	flows := t.flowsOf(t.kind, d)
	tuple := flows.Tuple(n)
	v := map[peer.Family]int{peer.V4: 0, peer.V6: 1}[t.kind.family]
	e := t.job.ENIs[n%t.enis]
	if d == in {
		return carried{tuple.Peer, e.IPs[v], tuple.PeerPort, tuple.ENIPort, frames.Payload}
	}
	src := e.EIPs[v]
	if t.kind.overlay {
		src = e.IPs[v]
	}
	return carried{src, tuple.Peer, tuple.ENIPort, tuple.PeerPort, frames.Payload}
}

// tupleOf reads a frame, inside of VXLAN if it is packed, and checks the checksums on the way.
func tupleOf(t *testing.T, frame []byte, packed bool) (c carried, checksums bool) {
	t.Helper()
	const outer = 14 + 20 + 8 + 8
	if packed {
		if len(frame) < outer || !bytes.Equal(frame[36:38], []byte{0x12, 0xb5}) {
			t.Fatalf("not a VXLAN packet: % x", frame)
		}
		frame = frame[outer:]
	}
	p := gopacket.NewPacket(frame, layers.LayerTypeEthernet, gopacket.Default)
	udp, _ := p.Layer(layers.LayerTypeUDP).(*layers.UDP)
	if udp == nil {
		t.Fatalf("not UDP: % x", frame)
	}
	ip := p.NetworkLayer()
	c.Src, _ = netip.AddrFromSlice(ip.NetworkFlow().Src().Raw())
	c.Dst, _ = netip.AddrFromSlice(ip.NetworkFlow().Dst().Raw())
	c.SrcPort, c.DstPort = uint16(udp.SrcPort), uint16(udp.DstPort)
	c.Payload = string(udp.Payload[:min(len(udp.Payload), len(frames.Payload))])
	if err := udp.SetNetworkLayerForChecksum(ip); err != nil {
		t.Fatal(err)
	}
	err, mismatches := p.VerifyChecksums()
	return c, err == nil && len(mismatches) == 0
}

// Every packet that was sent is either at the sink or in a counter of a reason: nothing is invented, nothing lost.
func TestAccounting(t *testing.T) {
	testroot.Require(t)
	site := siteOf(t, testPlan, Ours{})
	for _, f := range []peer.Family{peer.V4, peer.V6} {
		with(t, site, kind{family: f, protocol: frames.UDP}, func(tr *traffic) { balances(t, tr) })
	}
}

// balances sends packets of several fates and compares the sinks with the counters.
func balances(t *testing.T, tr *traffic) {
	t.Helper()
	const packets, denials = 5000, 3000
	if err := tr.establish(t.Context()); err != nil {
		t.Fatal(err)
	}
	before := count(t, tr)
	s, err := tr.send(t.Context(), in, frames.Batch{Flows: 64, Packets: packets, Seed: 7}, nil)
	if err != nil || s.sent != packets || s.received != packets {
		t.Errorf("%d packets: %d sent, %d arrived (%v)", packets, s.sent, s.received, err)
	}
	denied := tr.kind
	denied.port = deniedPort
	g, err := tr.extra(denied, in)
	if err != nil {
		t.Fatal(err)
	}
	if s, err = tr.repel(t.Context(), g, frames.Batch{Flows: 64, Packets: denials}); err != nil || s.received != denials {
		t.Errorf("%d packets: %d sent, %d reached the host (%v)", denials, s.sent, s.received, err)
	}
	if s, err = tr.send(t.Context(), out, frames.Batch{Flows: 64, Packets: packets}, nil); err != nil || s.received != packets {
		t.Errorf("%d packets: %d sent, %d left (%v)", packets, s.sent, s.received, err)
	}
	after := count(t, tr)
	for reason := range before {
		after[reason] -= before[reason]
		if after[reason] == 0 {
			delete(after, reason)
		}
	}
	want := map[string]uint64{
		"in CONTINUE": packets + denials, "in DELIVERED": packets, "in SG_DENIED": denials,
		"out CONTINUE": packets, "out DELIVERED": packets,
	}
	if diff := cmp.Diff(want, after); diff != "" {
		t.Errorf("IPv%d, counters (-want +got):\n%s", tr.kind.family, diff)
	}
}

func count(t *testing.T, tr *traffic) map[string]uint64 {
	t.Helper()
	reasons, err := tr.running.(*ours).reasons()
	if err != nil {
		t.Fatal(err)
	}
	return reasons
}
