// SPDX-License-Identifier: Apache-2.0

package pkttest

import (
	"net/netip"
	"slices"
)

// ICMPv6 messages of neighbour discovery and multicast listeners (RFC 4861, RFC 3810).
const (
	typeRouterSolicitation  = 133
	typeRouterAdvertisement = 134
	typeNeighbourQuestion   = 135
	typeNeighbourAnswer     = 136
	typeRedirect            = 137
	typeListenerReport      = 143
)

// Options that carry a link-layer address.
const (
	optionSource = 1
	optionTarget = 2
)

// Flags of a neighbour advertisement.
const (
	FromRouter uint8 = 0x80
	Solicited  uint8 = 0x40
	Override   uint8 = 0x20
)

// Groups that these messages go to.
var (
	allNodes    = netip.MustParseAddr("ff02::1")
	allRouters  = netip.MustParseAddr("ff02::2")
	allReports  = netip.MustParseAddr("ff02::16")
	unspecified = netip.MustParseAddr("::")
)

// nd makes an IPv6 packet of neighbour discovery: hop limit 255, as receivers insist.
func nd(src, dst MAC, from, to netip.Addr, typ, flags uint8, body []byte) Packet {
	return Eth(src, dst).
		add(nil, ip6Layer{src: from, dst: to, hops: 255, next: -1}).
		add(nil, icmpLayer{v6: true, typ: typ, rest: [4]byte{flags}}).
		add(nil, bytesLayer(body))
}

func linkOption(kind byte, mac MAC) []byte {
	return append([]byte{kind, 1}, mac[:]...)
}

// WhoHas is the question for a neighbour, as an ARP request or a neighbour solicitation to the
// target's group, from a node that has mac and address.
func WhoHas(mac MAC, address, target Addr) Packet {
	arp := Eth(mac, Broadcast).ARP(ARPRequest, mac, address, MAC{}, target)
	return Either(arp, Solicit(mac, address, target, mac))
}

// Solicit is a neighbour solicitation whose source link-layer option names another MAC than its
// frame, if the test wants to, or is left out if that is zero. IPv6 only.
func Solicit(mac MAC, address, target Addr, option MAC) Packet {
	if !target.V6.IsValid() || !address.V6.IsValid() {
		return Eth(mac, mac).add(nil, nil)
	}
	group := solicitedNode(target.V6)
	body := target.V6.AsSlice()
	if option != (MAC{}) {
		body = append(body, linkOption(optionSource, option)...)
	}
	return nd(mac, multicastMAC(group), address.V6, group, typeNeighbourQuestion, 0, body)
}

// IsAt is the answer: target is at owner. asker sent the question.
func IsAt(owner MAC, target Addr, asker MAC, askerAddress Addr, flags uint8) Packet {
	arp := Eth(owner, asker).ARP(ARPReply, owner, target, asker, askerAddress)
	return Either(arp, advertise(owner, asker, target.V6, askerAddress.V6, flags, owner))
}

func advertise(src, dst MAC, target, to netip.Addr, flags uint8, option MAC) Packet {
	if !target.IsValid() || !to.IsValid() {
		return Eth(src, dst).add(nil, nil)
	}
	body := slices.Concat(target.AsSlice(), linkOption(optionTarget, option))
	return nd(src, dst, target, to, typeNeighbourAnswer, flags, body)
}

// Announce is what a node sends when it takes an address: gratuitous ARP, unsolicited neighbour
// advertisement.
func Announce(mac MAC, address Addr) Packet {
	arp := Eth(mac, Broadcast).ARP(ARPRequest, mac, address, MAC{}, address)
	return Either(arp, Advertise(mac, address, mac))
}

// Advertise is an unsolicited neighbour advertisement to all nodes whose option may name another
// MAC than its frame. IPv6 only.
func Advertise(mac MAC, address Addr, option MAC) Packet {
	return advertise(mac, multicastMAC(allNodes), address.V6, allNodes, Override, option)
}

// Probe asks whether somebody has the address already: ARP probe (RFC 5227) and duplicate address
// detection.
func Probe(mac MAC, address Addr) Packet {
	arp := Eth(mac, Broadcast).ARP(ARPRequest, mac, IP("0.0.0.0"), MAC{}, address)
	if !address.V6.IsValid() {
		return arp
	}
	group := solicitedNode(address.V6)
	return Either(arp, nd(mac, multicastMAC(group), unspecified, group, typeNeighbourQuestion, 0,
		address.V6.AsSlice()))
}

// RouterSolicitation asks for routers. IPv6 only.
func RouterSolicitation(mac MAC, from Addr) Packet {
	return nd(mac, multicastMAC(allRouters), from.V6, allRouters, typeRouterSolicitation, 0,
		linkOption(optionSource, mac))
}

// RouterAdvertisement is what only routers may send. IPv6 only.
func RouterAdvertisement(mac MAC, from Addr) Packet {
	body := append(make([]byte, 8), linkOption(optionSource, mac)...)
	return nd(mac, multicastMAC(allNodes), from.V6, allNodes, typeRouterAdvertisement, 64, body)
}

// RedirectMessage tells a node to use another way: ICMP redirect, neighbour discovery redirect.
func RedirectMessage(src, dst MAC, from, to, way Addr) Packet {
	v4 := Eth(src, dst).IP(from, to).Only(V4)
	if way.V4.IsValid() {
		v4 = v4.ICMP(5, 0, 1, way.V4.As4()).Payload(28)
	}
	if !way.V6.IsValid() {
		return v4.Only(V4)
	}
	body := slices.Concat(way.V6.AsSlice(), way.V6.AsSlice())
	return Either(v4, nd(src, dst, from.V6, to.V6, typeRedirect, 0, body))
}

// ListenerReport joins multicast groups: MLDv2 behind its router alert. IPv6 only.
func ListenerReport(mac MAC, from Addr) Packet {
	record := slices.Concat([]byte{4, 0, 0, 0}, solicitedNode(from.V6).AsSlice())
	return Eth(mac, multicastMAC(allReports)).
		add(nil, ip6Layer{src: from.V6, dst: allReports, hops: 1, next: -1}).
		add(nil, extLayer{kind: HopByHop, next: -1, body: []byte{5, 2, 0, 0, 1, 0}}).
		add(nil, icmpLayer{v6: true, typ: typeListenerReport, rest: [4]byte{0, 0, 0, 1}}).
		add(nil, bytesLayer(record))
}

// RARP is a reverse ARP request, which hypervisors send for a guest that moved. It says nothing of
// the family, so it is built as IPv4.
func RARP(mac MAC) Packet {
	body := []byte{0, 1, 8, 0, 6, 4, 0, 3}
	body = slices.Concat(body, mac[:], make([]byte, 4), mac[:], make([]byte, 4))
	return Eth(mac, Broadcast).Only(V4).EtherType(0x8035).Raw(body...)
}
