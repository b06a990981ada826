// SPDX-License-Identifier: Apache-2.0

package frames

import (
	"net/netip"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/vishvananda/netlink"

	"github.com/eniplane/eniplane/pkg/testroot"
)

// pair makes a cable inside a namespace and returns the indexes of its ends.
func pair(t *testing.T, ns *testroot.Namespace) (a, b int) {
	t.Helper()
	if err := ns.Do(func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "a"
		if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "b"}); err != nil {
			return err
		}
		for name, index := range map[string]*int{"a": &a, "b": &b} {
			l, err := netlink.LinkByName(name)
			if err != nil {
				return err
			}
			*index = l.Attrs().Index
			if err := netlink.LinkSetUp(l); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return a, b
}

func testFlows(eni, peer string, protocol uint8, overlay bool) Flows {
	f := Flows{
		Count: 256, ENIs: 4, Peers: 8, Protocol: protocol, Port: 9000, PeerPort: 1024, Flags: SYN, Seq: 1, Gateway: [6]byte{2, 0, 0, 0, 0, 1},
		ENI:  End{netip.MustParseAddr(eni), [6]byte{2, 0, 10, 0, 0, 16}},
		Peer: End{netip.MustParseAddr(peer), [6]byte{2, 0, 11, 0, 0, 16}},
	}
	if overlay {
		f.PeerMACs = true
		f.Overlay = &Overlay{VNI: 7, Src: netip.MustParseAddr("192.0.2.2"), Dst: netip.MustParseAddr("192.0.2.1")}
	}
	return f
}

// Each flow of a set is sent once before one comes again, with valid checksums and the addresses that Tuple says.
func TestGenerator(t *testing.T) {
	testroot.Require(t)
	rows := []struct {
		name  string
		flows Flows
	}{
		{"IPv4 UDP", testFlows("10.0.0.16", "198.18.0.0", UDP, false)},
		{"IPv4 TCP", testFlows("10.0.0.16", "198.18.0.0", TCP, false)},
		{"IPv6 UDP", testFlows("fd00::10", "2001:db8::1:0", UDP, false)},
		{"IPv6 TCP", testFlows("fd00::10", "2001:db8::1:0", TCP, false)},
		{"VXLAN IPv4", testFlows("10.0.0.16", "10.0.1.16", UDP, true)},
		{"VXLAN IPv6", testFlows("fd00::10", "fd00::1:10", UDP, true)},
	}
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) {
			ns := testroot.Netns(t)
			a, b := pair(t, ns)
			port := uint16(9000)
			if r.flows.Overlay != nil {
				port = 4789
			}
			var sink *Sink
			var g *Generator
			if err := ns.Do(func() (err error) {
				if sink, err = NewSink(port, []int{b}); err == nil {
					g, err = NewGenerator(r.flows, []int{a})
				}
				return err
			}); err != nil {
				t.Fatal(err)
			}
			defer sink.Close() //nolint:errcheck // the namespace goes
			defer g.Close()    //nolint:errcheck // it frees a program
			seen := map[Tuple]int{}
			for range 16 {
				tuple, ok := oneOf(t, ns, g, sink, r.flows.Overlay != nil)
				if !ok {
					return
				}
				seen[tuple]++
			}
			for n := range 16 {
				if seen[r.flows.Tuple(n)] != 1 {
					t.Errorf("flow %d, %v, came %d times in a pass", n, r.flows.Tuple(n), seen[r.flows.Tuple(n)])
				}
			}
			if err := ns.Do(func() error {
				s, err := g.Send(Batch{Flows: 256, Packets: 1000, Seed: 5})
				if err == nil && s.Packets != 1000 {
					t.Errorf("sent %d packets, want 1000", s.Packets)
				}
				return err
			}); err != nil {
				t.Fatal(err)
			}
			if got, err := sink.Seen(); err != nil || got.Measured != 1000+16 {
				t.Errorf("%d packets arrived, want 1016 (%v)", got.Measured, err)
			}
		})
	}
}

// steps counts the packets of oneOf: each call sends the next flow of the same pass.
func oneOf(t *testing.T, ns *testroot.Namespace, g *Generator, sink *Sink, overlay bool) (tuple Tuple, ok bool) {
	t.Helper()
	seen, err := sink.Seen()
	if err != nil {
		t.Fatal(err)
	}
	if err := sink.WantSample(); err != nil {
		t.Fatal(err)
	}
	if err := ns.Do(func() error {
		_, err := g.Send(Batch{First: int(seen.Measured), Flows: 1})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	frame, err := sink.Sample()
	if err != nil || frame == nil {
		t.Fatalf("no frame arrived (%v)", err)
	}
	p := gopacket.NewPacket(frame, layers.LayerTypeEthernet, gopacket.Default)
	if overlay {
		vx, _ := p.Layer(layers.LayerTypeVXLAN).(*layers.VXLAN)
		if vx == nil || vx.VNI != 7 {
			t.Fatalf("no VXLAN of VNI 7: %v", p)
		}
		p = gopacket.NewPacket(vx.Payload, layers.LayerTypeEthernet, gopacket.Default)
	}
	if l, ok := p.TransportLayer().(interface {
		SetNetworkLayerForChecksum(gopacket.NetworkLayer) error
	}); !ok || l.SetNetworkLayerForChecksum(p.NetworkLayer()) != nil {
		t.Fatalf("no transport in %v", p)
	}
	if err, wrong := p.VerifyChecksums(); err != nil || len(wrong) > 0 {
		t.Errorf("checksums of %v: %v %v", p, err, wrong)
		return tuple, false
	}
	ip, l4 := p.NetworkLayer().NetworkFlow(), p.TransportLayer().TransportFlow()
	tuple.Peer, _ = netip.AddrFromSlice(ip.Src().Raw())
	tuple.ENI, _ = netip.AddrFromSlice(ip.Dst().Raw())
	tuple.PeerPort = uint16(l4.Src().Raw()[0])<<8 | uint16(l4.Src().Raw()[1])
	tuple.ENIPort = uint16(l4.Dst().Raw()[0])<<8 | uint16(l4.Dst().Raw()[1])
	return tuple, true
}

// The order is a bijection for every size: no flow is left out of a pass.
func TestOrder(t *testing.T) {
	testroot.Require(t)
	for _, flows := range []int{1, 2, 4, 8, 64, 1 << 12} {
		ns := testroot.Netns(t)
		a, b := pair(t, ns)
		f := testFlows("10.0.0.16", "198.18.0.0", UDP, false)
		f.Count, f.ENIs, f.Peers = 1<<12, 1, 1<<12
		if err := ns.Do(func() error {
			d, err := newTally(b)
			if err != nil {
				return err
			}
			defer d.Close() //nolint:errcheck // the namespace goes
			g, err := NewGenerator(f, []int{a})
			if err != nil {
				return err
			}
			defer g.Close() //nolint:errcheck // it frees a program
			if _, err := g.Send(Batch{Flows: flows, Packets: uint64(2 * flows), Seed: 3}); err != nil {
				return err
			}
			twice, err := d.addresses(low32(f.Peer.Addr), flows)
			if twice != flows {
				t.Errorf("%d flows, two passes: %d of them came twice", flows, twice)
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
}

// A paced generator keeps its rate from above, and sends what it was asked for.
func TestPace(t *testing.T) {
	testroot.Require(t)
	ns := testroot.Netns(t)
	a, b := pair(t, ns)
	if err := ns.Do(func() error {
		sink, err := NewSink(9000, []int{b})
		if err != nil {
			return err
		}
		defer sink.Close() //nolint:errcheck // the namespace goes
		g, err := NewGenerator(testFlows("10.0.0.16", "198.18.0.0", UDP, false), []int{a})
		if err != nil {
			return err
		}
		defer g.Close() //nolint:errcheck // it frees a program
		s, err := g.Send(Batch{Flows: 64, Packets: 2000, Rate: 50_000})
		if rate := float64(s.Packets) / s.Took.Seconds(); err == nil && (s.Packets != 2000 || rate > 51_000) {
			t.Errorf("%d packets, %.0f per second; want 2000, at most 50000 per second", s.Packets, rate)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
}

// What cannot be built is refused with a reason.
func TestRefused(t *testing.T) {
	good := testFlows("10.0.0.16", "198.18.0.0", UDP, false)
	rows := map[string]func(*Flows){
		"no power of two": func(f *Flows) { f.Count = 100 },
		"too few ports":   func(f *Flows) { f.ENIs, f.Peers, f.Count = 1, 1, 1<<17 },
		"two families":    func(f *Flows) { f.Peer.Addr = netip.MustParseAddr("::1") },
		"protocol":        func(f *Flows) { f.Protocol = 1 },
		"too large":       func(f *Flows) { f.Size = 4000 },
		"outer from ENI":  func(f *Flows) { f.FromENI, f.Overlay = true, &Overlay{} },
	}
	if _, _, err := good.build(); err != nil {
		t.Error(err)
	}
	for name, spoil := range rows {
		f := good
		spoil(&f)
		if _, _, err := f.build(); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
