// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"github.com/eniplane/eniplane/pkg/dataplane"
	"github.com/eniplane/eniplane/pkg/lab"
)

// TestEIP: in and out, on both hosts, both families, every protocol.
func TestEIP(t *testing.T) {
	l := common(t)
	for _, f := range []lab.Family{lab.IPv4, lab.IPv6} {
		for _, eni := range []string{"a1", "b1"} {
			for _, p := range []probe{
				{protocol: "icmp"}, {protocol: "tcp", port: 443}, {protocol: "udp", port: 53},
			} {
				p.family = f
				p.from, p.to = internetNode, eni
				allowed(t, l, p)
				p.from, p.to = eni, internetNode
				allowed(t, l, p)
			}
			sourceIsEIP(t, l, eni, f)
			denied(t, l, probe{from: internetNode, to: eni, protocol: "tcp", port: 23, family: f}, eni, dataplane.In, dataplane.ReasonNACLDenied)
		}
	}
}

// sourceIsEIP wants the internet to see an ENI as its EIP.
func sourceIsEIP(t *testing.T, l *lab.Lab, eni string, f lab.Family) {
	t.Helper()
	from, to, err := l.Spots(eni, internetNode, f)
	if err != nil {
		t.Fatal(err)
	}
	if from.Addr == from.Local {
		t.Fatalf("%s has no EIP of %s", eni, f)
	}
	server, err := l.ListenUDP(to, 7070)
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	client, err := l.ListenUDP(from, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if _, err := client.WriteToUDPAddrPort([]byte("who am I"), netip.AddrPortFrom(to.Addr, 7070)); err != nil {
		t.Fatal(err)
	}
	seen := receiveUDP(t, server, []byte("who am I"), "out")
	if seen.Addr().Unmap() != from.Addr {
		t.Errorf("the internet sees %s as %s, want %s", eni, seen.Addr(), from.Addr)
	}
	if port := uint16(client.LocalAddr().(*net.UDPAddr).Port); seen.Port() != port {
		t.Errorf("the internet sees port %d, want %d: the translation is 1:1", seen.Port(), port)
	}
}

// TestHairpin: from one EIP to another, on the same host and across hosts.
func TestHairpin(t *testing.T) {
	l := common(t)
	for _, f := range []lab.Family{lab.IPv4, lab.IPv6} {
		for _, to := range []string{"a2", "b1"} {
			from, _, err := l.Spots("a1", internetNode, f)
			if err != nil {
				t.Fatal(err)
			}
			_, public, err := l.Spots(internetNode, to, f)
			if err != nil {
				t.Fatal(err)
			}
			for _, protocol := range []string{"icmp", "tcp", "udp"} {
				q := lab.Probe{From: from, To: public, Protocol: protocol, Port: 8080, Wait: answerWait}
				answer, err := l.Probe(context.Background(), q)
				if err != nil {
					t.Fatal(err)
				}
				if !answer.Allowed {
					t.Errorf("%s from a1 to %s: %v", protocol, public, answer.Why)
				}
			}
		}
	}
}

// TestForgedSource: nobody on the internet is taken for a member of the VPC or for a host.
func TestForgedSource(t *testing.T) {
	l := common(t)
	rows := []struct{ eip, source string }{
		{"203.0.113.10", "10.0.1.20"},
		{"203.0.113.10", "10.0.77.77"},
		{"203.0.113.10", "192.168.100.2"},
		{"2001:db8:113::10", "fd00:1:0:1::20"},
	}
	for _, r := range rows {
		t.Run(r.source+" to "+r.eip, func(t *testing.T) {
			eip, source := netip.MustParseAddr(r.eip), netip.MustParseAddr(r.source)
			guest := sniff(t, l, "vm-a1", guestDevice)
			for _, transport := range []gopacket.SerializableLayer{
				&layers.TCP{SrcPort: 40000, DstPort: 443, SYN: true, Window: 64000},
				&layers.UDP{SrcPort: 40000, DstPort: 53},
			} {
				before := counters(t, l)
				frame, err := l.FrameFromInternet(context.Background(), eip, network(source, eip, transport), transport, gopacket.Payload(marker))
				if err != nil {
					t.Fatal(err)
				}
				if err := l.SendFrame(internetNode, internetDev, frame); err != nil {
					t.Fatal(err)
				}
				if !waitCounted(t, l, before, "a1", dataplane.In, dataplane.ReasonEIPSource, answerWait) {
					t.Errorf("EIP_SOURCE is not counted; dropped: %v", lab.Drops(counters(t, l).Since(before)))
				}
			}
			time.Sleep(silence)
			if n := guest.seen(); n != 0 {
				t.Errorf("the guest got %d forged packets", n)
			}
		})
	}
}

// network is an IP header for a transport header.
func network(src, dst netip.Addr, transport gopacket.SerializableLayer) gopacket.NetworkLayer {
	protocol := layers.IPProtocolTCP
	if _, ok := transport.(*layers.UDP); ok {
		protocol = layers.IPProtocolUDP
	}
	if src.Is4() {
		return &layers.IPv4{Version: 4, TTL: 64, Protocol: protocol, SrcIP: src.AsSlice(), DstIP: dst.AsSlice()}
	}
	return &layers.IPv6{Version: 6, HopLimit: 64, NextHeader: protocol, SrcIP: src.AsSlice(), DstIP: dst.AsSlice()}
}
