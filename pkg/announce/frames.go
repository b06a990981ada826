// SPDX-License-Identifier: Apache-2.0

package announce

import (
	"encoding/binary"
	"net"
	"net/netip"
)

const (
	etherTypeARP  = 0x0806
	etherTypeIPv6 = 0x86dd
)

// announcement returns the Ethernet frame that tells a segment where addr is now: behind mac.
func announcement(mac net.HardwareAddr, addr netip.Addr) []byte {
	if addr.Is4() {
		return gratuitousARP(mac, addr)
	}
	return unsolicitedNA(mac, addr)
}

// gratuitousARP is an ARP Announcement (RFC 5227 section 2.3): a broadcast request whose sender and
// target protocol address are both addr.
func gratuitousARP(mac net.HardwareAddr, addr netip.Addr) []byte {
	ip := addr.As4()
	b := etherHeader(net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, mac, etherTypeARP)
	b = append(b, 0, 1, 8, 0, 6, 4, 0, 1) // Ethernet, IPv4, lengths, request
	b = append(b, mac...)
	b = append(b, ip[:]...)
	b = append(b, 0, 0, 0, 0, 0, 0)
	return append(b, ip[:]...)
}

// unsolicitedNA is an unsolicited neighbour advertisement to all nodes with the override flag and
// the target's link-layer address (RFC 4861 sections 4.4 and 7.2.6).
func unsolicitedNA(mac net.HardwareAddr, addr netip.Addr) []byte {
	src, dst := addr.As16(), netip.IPv6LinkLocalAllNodes().As16()
	icmp := []byte{136, 0, 0, 0, 0x20, 0, 0, 0} // type, code, checksum, override
	icmp = append(icmp, src[:]...)
	icmp = append(icmp, 2, 1) // option: target link-layer address, 8 bytes
	icmp = append(icmp, mac...)

	pseudo := append(append([]byte{}, src[:]...), dst[:]...)
	pseudo = append(pseudo, 0, 0, 0, byte(len(icmp)), 0, 0, 0, 58)
	binary.BigEndian.PutUint16(icmp[2:], onesComplement(append(pseudo, icmp...)))

	b := etherHeader(net.HardwareAddr{0x33, 0x33, 0, 0, 0, 1}, mac, etherTypeIPv6)
	b = append(b, 0x60, 0, 0, 0, 0, byte(len(icmp)), 58, 255) // a lower hop limit is ignored
	b = append(b, src[:]...)
	b = append(b, dst[:]...)
	return append(b, icmp...)
}

func etherHeader(dst, src net.HardwareAddr, proto uint16) []byte {
	b := make([]byte, 0, 128)
	b = append(b, dst...)
	b = append(b, src...)
	return binary.BigEndian.AppendUint16(b, proto)
}

// onesComplement is the Internet checksum (RFC 1071) of an even number of bytes.
func onesComplement(b []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
