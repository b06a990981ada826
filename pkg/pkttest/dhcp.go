// SPDX-License-Identifier: Apache-2.0

package pkttest

import "net/netip"

// Ports of DHCP (RFC 2131) and DHCPv6 (RFC 8415).
const (
	dhcpServer4, dhcpClient4 = 67, 68
	dhcpServer6, dhcpClient6 = 547, 546
)

// DHCPAsk is a DHCP client without an address: a discover, a DHCPv6 solicit.
func DHCPAsk(mac MAC, linkLocal Addr) Packet {
	v4 := Eth(mac, Broadcast).IP(IP("0.0.0.0"), IP("255.255.255.255")).UDP(dhcpClient4, dhcpServer4).Payload(240)
	servers := netip.MustParseAddr("ff02::1:2")
	v6 := Eth(mac, multicastMAC(servers)).IP(linkLocal, Addr{V6: servers}).UDP(dhcpClient6, dhcpServer6).Payload(40)
	return Either(v4, v6)
}

// DHCPAnswer is what only DHCP servers may send.
func DHCPAnswer(src, dst MAC, from, to Addr) Packet {
	p := Eth(src, dst).IP(from, to)
	return Either(p.UDP(dhcpServer4, dhcpClient4).Payload(240), p.UDP(dhcpServer6, dhcpClient6).Payload(40))
}
