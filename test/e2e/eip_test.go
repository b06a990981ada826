// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"context"
	"fmt"
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

// TestEIPProtocols: any protocol passes an EIP, with a payload, in and out.
func TestEIPProtocols(t *testing.T) {
	l := common(t)
	for _, f := range []lab.Family{lab.IPv4, lab.IPv6} {
		for _, eni := range []string{"a1", "b1"} {
			for _, protocol := range []int{47, 50, 132, 253} {
				t.Run(fmt.Sprintf("%s/%s/%d", eni, f, protocol), func(t *testing.T) {
					from, to := spots(t, l, internetNode, eni, f)
					outside, inside := listenIP(t, l, from, protocol), listenIP(t, l, to, protocol)
					data := bytesOf(t.Name(), 1100)
					sendIP(t, outside, inside, to.Addr, from.Addr, data)
					sendIP(t, inside, outside, from.Addr, to.Addr, data)
				})
			}
		}
	}
}

// listenIP opens a raw socket for a protocol.
func listenIP(t *testing.T, l *lab.Lab, at lab.Spot, protocol int) (c net.PacketConn) {
	t.Helper()
	network := fmt.Sprintf("ip4:%d", protocol)
	if at.Local.Is6() {
		network = fmt.Sprintf("ip6:%d", protocol)
	}
	if err := l.In(at.Node, func(*lab.Namespace) (err error) {
		c, err = net.ListenPacket(network, at.Local.String())
		return err
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// sendIP wants a packet to arrive whole, and from whom it seems to come.
func sendIP(t *testing.T, from, to net.PacketConn, dst, seen netip.Addr, data []byte) {
	t.Helper()
	if _, err := from.WriteTo(data, &net.IPAddr{IP: dst.AsSlice()}); err != nil {
		t.Fatal(err)
	}
	if err := to.SetReadDeadline(time.Now().Add(answerWait)); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 2048)
	n, by, err := to.ReadFrom(got)
	if err != nil || !bytes.Equal(got[:n], data) {
		t.Fatalf("to %s: %d bytes arrive (%v), want %d", dst, n, err, len(data))
	}
	if who := by.(*net.IPAddr).IP; !who.Equal(seen.AsSlice()) {
		t.Errorf("to %s: it comes from %s, want %s", dst, who, seen)
	}
}

// TestHostTraffic: what is the host's own passes its uplink as if nothing else were there, and is counted nowhere.
func TestHostTraffic(t *testing.T) {
	l := common(t)
	for _, f := range []lab.Family{lab.IPv4, lab.IPv6} {
		for _, ends := range [][2]string{{internetNode, "host-a"}, {"host-a", internetNode}, {"host-a", "host-b"}} {
			t.Run(ends[0]+" to "+ends[1]+"/"+f.String(), func(t *testing.T) {
				before := counters(t, l)
				for _, protocol := range []string{"icmp", "tcp", "udp"} {
					allowed(t, l, probe{from: ends[0], to: ends[1], protocol: protocol, port: 443, family: f})
				}
				src, dst := spots(t, l, ends[0], ends[1], f)
				x := call(t, l, src, dst, 8080)
				defer x.hangUp()
				if err := x.carries(megabytes); err != nil {
					t.Error(err)
				}
				for _, m := range counters(t, l).Since(before) {
					if m.ENI == "" && m.Reason != dataplane.ReasonAnswered && m.Reason != dataplane.ReasonContinue { // somebody may ask for an EIP
						t.Errorf("%d packets are counted as %s", m.Packets, m.CounterKey)
					}
				}
			})
		}
	}
}

// hairpin is the two ends of a conversation of an ENI with an EIP, its own or a neighbour's.
func hairpin(t *testing.T, l *lab.Lab, from, to string, f lab.Family) (src, dst lab.Spot) {
	t.Helper()
	src, _ = spots(t, l, from, internetNode, f)
	_, dst = spots(t, l, internetNode, to, f)
	return src, dst
}

// TestHairpin: from one EIP to another, to the own one, on the same host and across hosts: every protocol, megabytes
// each way, and each side sees the other one's EIP.
func TestHairpin(t *testing.T) {
	l := common(t)
	for _, f := range []lab.Family{lab.IPv4, lab.IPv6} {
		for _, to := range []string{"a1", "a2", "b1"} {
			t.Run(to+"/"+f.String(), func(t *testing.T) {
				from, public := hairpin(t, l, "a1", to, f)
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
				x := call(t, l, from, public, 8080)
				defer x.hangUp()
				if got := x.caller(); got != from.Addr {
					t.Errorf("%s sees a1 as %s, want its EIP %s", to, got, from.Addr)
				}
				if err := x.carries(megabytes); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

// TestHairpinWithoutEIP: who has no EIP reaches none, not even on the own host.
func TestHairpinWithoutEIP(t *testing.T) {
	l := common(t)
	for _, r := range []struct {
		from, local string // m has an EIP of IPv4 only, and a1 none for its second address
		f           lab.Family
	}{{"a1", "10.0.1.11", lab.IPv4}, {"m", "fd00:1:0:1::70", lab.IPv6}} {
		for _, to := range []string{"a2", "b1"} {
			for _, protocol := range []string{"icmp", "tcp", "udp"} {
				t.Run(fmt.Sprintf("%s to %s/%s/%s", r.from, to, r.f, protocol), func(t *testing.T) {
					_, public := spots(t, l, internetNode, to, r.f)
					before := counters(t, l)
					local := netip.MustParseAddr(r.local)
					q := lab.Probe{From: lab.Spot{Node: "vm-" + r.from, Addr: local, Local: local}, To: public, Protocol: protocol, Port: 8080, Wait: 10 * silence}
					if answer, err := l.Probe(t.Context(), q); err != nil || answer.Allowed {
						t.Errorf("it is answered (%v)", err)
					}
					if !waitCounted(t, l, before, r.from, dataplane.Out, dataplane.ReasonNoEIP, answerWait) {
						t.Errorf("NO_EIP is not counted; dropped: %v", lab.Drops(counters(t, l).Since(before)))
					}
				})
			}
		}
	}
}

// TestHairpinMTU: a neighbour's port carries less than its own. On the same host the gateway says so, of another host
// the EIP; TCP, whose both ends believe in more, arrives whole.
func TestHairpinMTU(t *testing.T) {
	l := common(t)
	setMTU(t, l, "host-a", "eni-a2", 1300)
	setMTU(t, l, "host-b", "eni-b1", 1300)
	gateways := map[lab.Family]string{lab.IPv4: "10.0.1.1", lab.IPv6: "fd00:1:0:1::1"}
	for _, f := range []lab.Family{lab.IPv4, lab.IPv6} {
		for _, to := range []string{"b1"} {
			t.Run(to+"/"+f.String(), func(t *testing.T) {
				from, public := hairpin(t, l, "a1", to, f)
				by := netip.MustParseAddr(gateways[f])
				if to == "b1" {
					by = public.Addr
				}
				tellsMTUBetween(t, l, from, public, by, 1300)
			})
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
