// SPDX-License-Identifier: Apache-2.0

package pkttest

import (
	"strings"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
)

var (
	macA = ParseMAC("02:00:00:00:00:0a")
	macB = ParseMAC("02:00:00:00:00:0b")
	a    = IP("10.0.0.1", "fd00::1")
	b    = IP("10.0.0.2", "fd00::2")
)

// What the builders make, another implementation decodes and makes again with lengths and checksums
// of its own: the bytes must be the same.
func TestBuildersAgreeWithGopacket(t *testing.T) {
	rows := map[string]Packet{
		"tcp":            Eth(macA, macB).IP(a, b).TCP(40000, 443, SYN).Payload(10),
		"tcp odd":        Eth(macA, macB).IP(a, b).TCP(40000, 443, PSH|ACK).Payload(11),
		"udp":            Eth(macA, macB).IP(a, b).UDP(40000, 40001).Payload(7),
		"echo":           Eth(macA, macB).IP(a, b).Echo(7),
		"options":        Eth(macA, macB).IP(a, b).Options4(7, 7, 4, 0, 0, 0, 0).TCP(1, 2, ACK),
		"arp request":    WhoHas(macA, IP("10.0.0.1"), IP("10.0.0.2")),
		"solicitation":   WhoHas(macA, a, b).Only(V6),
		"advertisement":  IsAt(macB, b, macA, a, Solicited|Override),
		"vxlan":          Eth(macA, macB).Underlay(a, b).VXLAN(1001).Inside(Eth(macB, macA).IP(b, a).UDP(1, 2).Payload(20)),
		"rewritten":      Eth(macA, macB).IP(a, b).TCP(1, 2, SYN).From(b).To(a).MACs(macB, macA).Ports(3, 4),
		"vlan":           Eth(macA, macB).VLAN(0x8100, 5).IP(a, b).UDP(1, 2),
		"first fragment": Eth(macA, macB).IP(a, b).Fragment(0, true).UDP(1, 2).Payload(16).Only(V4),
	}
	for name, p := range rows {
		for _, f := range Families() {
			if !p.In(f) {
				continue
			}
			t.Run(name+"/"+f.String(), func(t *testing.T) {
				frame := p.Bytes(f)
				for len(frame) < 60 { // gopacket pads
					frame = append(frame, 0)
				}
				if diff := Diff(again(t, frame), frame); diff != "" {
					t.Error(diff)
				}
			})
		}
	}
}

// again decodes a frame and serialises it anew.
func again(t *testing.T, frame []byte) []byte {
	t.Helper()
	packet := gopacket.NewPacket(frame, layers.LayerTypeEthernet, gopacket.Default)
	if e := packet.ErrorLayer(); e != nil {
		t.Fatalf("decode: %v\n%s", e.Error(), Show(frame))
	}
	var stack []gopacket.SerializableLayer
	var around gopacket.NetworkLayer
	for _, l := range packet.Layers() {
		if n, ok := l.(gopacket.NetworkLayer); ok {
			around = n
		}
		if l, ok := l.(interface {
			SetNetworkLayerForChecksum(gopacket.NetworkLayer) error
		}); ok {
			if err := l.SetNetworkLayerForChecksum(around); err != nil {
				t.Fatal(err)
			}
		}
		if f, ok := l.(*gopacket.Fragment); ok {
			stack = append(stack, gopacket.Payload(*f))
			continue
		}
		stack = append(stack, l.(gopacket.SerializableLayer))
	}
	buffer := gopacket.NewSerializeBuffer()
	options := gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}
	if err := gopacket.SerializeLayers(buffer, options, stack...); err != nil {
		t.Fatal(err)
	}
	if frame[23] == 17 && frame[40] == 0 && frame[41] == 0 { // UDP without a checksum stays so
		copy(buffer.Bytes()[40:], []byte{0, 0})
	}
	return buffer.Bytes()
}

// Lies are told: a builder that repairs them would let the parser's rows prove nothing.
func TestBuildersLie(t *testing.T) {
	tcp := Eth(macA, macB).IP(a, b).TCP(1, 2, SYN)
	udp := Eth(macA, macB).IP(a, b).UDP(1, 2).Payload(4)
	rows := map[string]struct {
		packet Packet
		offset int
		want   byte
	}{
		"ethertype":  {tcp.EtherType(0x1234), 12, 0x12},
		"protocol":   {tcp.Protocol(99), 23, 99},
		"ttl":        {tcp.TTL(3), 22, 3},
		"udp length": {udp.UDPLength(99), 39, 99},
		"tcp words":  {tcp.TCPWords(4), 46, 0x40},
		"poke":       {tcp.Poke(14, 0x46), 14, 0x46},
		"no sum":     {udp.NoChecksum(), 40, 0},
	}
	for name, row := range rows {
		if got := row.packet.Bytes(V4)[row.offset]; got != row.want {
			t.Errorf("%s: byte %d is %#x, want %#x", name, row.offset, got, row.want)
		}
	}
	if n := len(tcp.Cut(20).Bytes(V6)); n != 20 {
		t.Errorf("cut to 20 bytes leaves %d", n)
	}
}

// A packet exists only where all its parts do.
func TestFamilies(t *testing.T) {
	only4 := IP("10.0.0.9")
	rows := map[string]struct {
		packet Packet
		v4, v6 bool
	}{
		"both":      {Eth(macA, macB).IP(a, b).UDP(1, 2), true, true},
		"one has 4": {Eth(macA, macB).IP(a, only4).UDP(1, 2), true, false},
		"arp":       {Eth(macA, macB).ARP(ARPReply, macA, a, macB, b), true, false},
		"extension": {Eth(macA, macB).IP(a, b).Extension(HopByHop).UDP(1, 2), false, true},
		"options":   {Eth(macA, macB).IP(a, b).UDP(1, 2).Options4(1), true, false},
		"question":  {WhoHas(macA, a, b), true, true},
		"vxlan of 6": {Eth(macA, macB).Underlay(a, b).VXLAN(1).Inside(
			Eth(macA, macB).IP(a, b).UDP(1, 2).Only(V6)), false, true},
		"none": {Packet{}, false, false},
	}
	for name, row := range rows {
		if row.packet.In(V4) != row.v4 || row.packet.In(V6) != row.v6 {
			t.Errorf("%s: in IPv4 %v, in IPv6 %v", name, row.packet.In(V4), row.packet.In(V6))
		}
	}
}

// A difference names both packets and where they differ; equal packets have none.
func TestDiff(t *testing.T) {
	p := Eth(macA, macB).IP(a, b).TCP(1, 2, SYN)
	if d := Diff(p.Bytes(V4), p.Bytes(V4)); d != "" {
		t.Errorf("equal packets differ: %s", d)
	}
	d := Diff(p.Bytes(V4), p.TTL(63).Bytes(V4))
	for _, want := range []string{"TTL=64", "TTL=63", "22(40,3f)", "TCP"} {
		if !strings.Contains(d, want) {
			t.Errorf("the difference lacks %q:\n%s", want, d)
		}
	}
}
