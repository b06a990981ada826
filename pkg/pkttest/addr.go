// SPDX-License-Identifier: Apache-2.0

package pkttest

import (
	"fmt"
	"net"
	"net/netip"
)

// Family is the IP version that a packet is built in.
type Family int

// The families, in the order in which rows run.
const (
	V4 Family = 4
	V6 Family = 6
)

// Families lists both.
func Families() []Family { return []Family{V4, V6} }

func (f Family) String() string { return fmt.Sprintf("IPv%d", int(f)) }

// MAC is an Ethernet address.
type MAC [6]byte

// Broadcast is the Ethernet address of everybody.
var Broadcast = MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// ParseMAC reads the colon form of a MAC. It panics on anything else: rows are program text.
func ParseMAC(s string) MAC {
	hw, err := net.ParseMAC(s)
	if err != nil || len(hw) != 6 {
		panic(fmt.Sprintf("parse MAC %q: want six bytes in hexadecimal", s))
	}
	return MAC(hw)
}

func (m MAC) String() string { return net.HardwareAddr(m[:]).String() }

// Addr is one party of a row under both families. A row runs in a family if all its addresses
// exist there.
type Addr struct{ V4, V6 netip.Addr }

// IP makes an Addr of at most one address per family. It panics on what is no address.
func IP(addrs ...string) Addr {
	var a Addr
	for _, s := range addrs {
		addr := netip.MustParseAddr(s)
		if addr.Is4() {
			a.V4 = addr
		} else {
			a.V6 = addr
		}
	}
	return a
}

// In gives the address of one family; it is invalid if there is none.
func (a Addr) In(f Family) netip.Addr {
	if f == V4 {
		return a.V4
	}
	return a.V6
}

func (a Addr) String() string { return fmt.Sprintf("%v/%v", a.V4, a.V6) }

// multicastMAC is the Ethernet group that an IPv6 group address maps to (RFC 2464 section 7).
func multicastMAC(group netip.Addr) MAC {
	b := group.As16()
	return MAC{0x33, 0x33, b[12], b[13], b[14], b[15]}
}

// solicitedNode is the group in which neighbours ask for an address (RFC 4291 section 2.7.1).
func solicitedNode(target netip.Addr) netip.Addr {
	t := target.As16()
	return netip.AddrFrom16([16]byte{0xff, 0x02, 11: 0x01, 12: 0xff, 13: t[13], 14: t[14], 15: t[15]})
}
