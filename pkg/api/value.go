// SPDX-License-Identifier: Apache-2.0

package api

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
)

// DefaultGatewayMAC is the gateway's MAC where the region names none.
func DefaultGatewayMAC() MAC { return MAC{0x02, 0x00, 0x5e, 0x00, 0x00, 0x01} }

// String returns the address as 02:00:00:00:01:10.
func (m MAC) String() string { return net.HardwareAddr(m[:]).String() }

// IsZero tells whether the address is 00:00:00:00:00:00.
func (m MAC) IsZero() bool { return m == MAC{} }

// IsUnicast tells whether the address is neither multicast nor broadcast.
func (m MAC) IsUnicast() bool { return m[0]&1 == 0 }

// String returns the protocol's name, or its number if it has none.
func (p Protocol) String() string {
	switch {
	case p.Any:
		return "all"
	case p.Number == ProtoTCP:
		return "tcp"
	case p.Number == ProtoUDP:
		return "udp"
	case p.Number == ProtoICMP:
		return "icmp"
	case p.Number == ProtoICMPv6:
		return "icmpv6"
	}
	return strconv.Itoa(int(p.Number))
}

// HasPorts tells whether a rule of this protocol may name ports.
func (p Protocol) HasPorts() bool {
	return !p.Any && (p.Number == ProtoTCP || p.Number == ProtoUDP)
}

// HasTypes tells whether a rule of this protocol may name ICMP types.
func (p Protocol) HasTypes() bool {
	return !p.Any && (p.Number == ProtoICMP || p.Number == ProtoICMPv6)
}

// Matches tells whether the protocol exists in the address family of a: ICMP is IPv4's, ICMPv6 is
// IPv6's, every other one is of both.
func (p Protocol) Matches(a netip.Addr) bool {
	if !p.HasTypes() {
		return true
	}
	return (p.Number == ProtoICMP) == a.Is4()
}

// String returns the range as the feed writes it: 443 or 8000-8999.
func (r PortRange) String() string {
	if r.From == r.To {
		return strconv.Itoa(int(r.From))
	}
	return fmt.Sprintf("%d-%d", r.From, r.To)
}

// String returns the peer as the feed writes it: a CIDR, sg/NAME or pl/NAME.
func (p Peer) String() string {
	switch {
	case p.Group != "":
		return "sg/" + p.Group
	case p.PrefixList != "":
		return "pl/" + p.PrefixList
	}
	return p.Prefix.String()
}

// String returns the target as the feed writes it.
func (t Target) String() string {
	if t.Name == "" {
		return string(t.Kind)
	}
	return string(t.Kind) + "/" + t.Name
}

// To returns the destination as the feed writes it: a CIDR or pl/NAME.
func (r Route) To() string { return Peer{Prefix: r.Destination, PrefixList: r.PrefixList}.String() }
