// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"encoding/binary"
	"net/netip"

	"github.com/eniplane/eniplane/pkg/api"
)

// Numbers of the standards.
const (
	etherIPv4 = 0x0800
	etherARP  = 0x0806
	etherRARP = 0x8035
	etherIPv6 = 0x86dd

	ethernet = 14 // length of the header

	icmp     = 1
	tcp      = 6
	udp      = 17
	icmpv6   = 58
	hopOpts  = 0
	routing  = 43
	fragHead = 44
	dstOpts  = 60
	mobility = 135

	fin = 1
	syn = 2
	rst = 4
	ack = 16
)

// packet is a frame and what its headers say.
type packet struct {
	frame      []byte
	dmac, smac api.MAC
	ethertype  uint16

	v6           bool
	src, dst     netip.Addr
	protocol     uint8
	l3Len        int // from the IP header to the end of the payload
	l4           int // where the transport header begins
	sport, dport uint16
	flags        uint8
	seq, ack     uint32
	typ, code    uint8
	id           uint16

	fragment   fragment
	fragmentID [4]byte // of IPv4: the first two
	upTo       int     // where the first fragment ends, or where a later one begins
	isQuoted   bool    // by an ICMP error: it may have been cut off
	quotes     bool    // an ICMP error that passes
}

var be = binary.BigEndian

func (p *packet) parseEthernet() Reason {
	if len(p.frame) < ethernet {
		return Malformed
	}
	p.dmac, p.smac = api.MAC(p.frame[0:6]), api.MAC(p.frame[6:12])
	p.ethertype = be.Uint16(p.frame[12:])
	return goOn
}

func (p *packet) parseIP() Reason {
	if p.ethertype == etherIPv6 {
		p.v6 = true
		return p.parseIPv6()
	}
	return p.parseIPv4()
}

func (p *packet) parseIPv4() Reason {
	ip := p.frame[ethernet:]
	if len(ip) < 20 || ip[0]>>4 != 4 {
		return Malformed
	}
	header, total := int(ip[0]&15)*4, int(be.Uint16(ip[2:]))
	if header < 20 || total < header || total > len(ip) {
		return Malformed
	}
	p.src, p.dst = netip.AddrFrom4([4]byte(ip[12:16])), netip.AddrFrom4([4]byte(ip[16:20]))
	p.protocol = ip[9]
	p.l3Len, p.l4 = total, ethernet+header
	if where := be.Uint16(ip[6:]); where&0x3fff != 0 {
		copy(p.fragmentID[:], ip[4:6])
		if reason := p.parseFragment(int(where&0x1fff)*8, where&0x2000 != 0, header); reason != goOn {
			return reason
		}
	}
	if reason := p.parseTransport(); reason != goOn {
		return reason
	}
	return checkOptions(ip[20:header])
}

// checkOptions of an IPv4 header: they end inside it, or with the option that says so. Source routes, which would lead
// the packet past what was judged, never pass.
func checkOptions(options []byte) Reason {
	const end, noOperation, looseSourceRoute, strictSourceRoute = 0, 1, 131, 137
	for len(options) > 0 {
		switch options[0] {
		case end:
			return goOn
		case noOperation:
			options = options[1:]
			continue
		case looseSourceRoute, strictSourceRoute:
			return Extension
		}
		if len(options) < 2 || options[1] < 2 || int(options[1]) > len(options) {
			return Malformed
		}
		options = options[options[1]:]
	}
	return goOn
}

func (p *packet) parseIPv6() Reason {
	ip := p.frame[ethernet:]
	if len(ip) < 40 || ip[0]>>4 != 6 {
		return Malformed
	}
	total := 40 + int(be.Uint16(ip[4:]))
	if total > 65535 || total > len(ip) {
		return Malformed
	}
	p.src, p.dst = netip.AddrFrom16([16]byte(ip[8:24])), netip.AddrFrom16([16]byte(ip[24:40]))
	p.protocol = ip[6]
	p.l3Len, p.l4 = total, ethernet+40
	if reason := p.skipExtensions(); reason != goOn {
		return reason
	}
	if p.l4 > ethernet+total {
		return Malformed
	}
	return p.parseTransport()
}

// skipExtensions follows at most five headers; hop-by-hop options only come first, source routes and mobility never.
func (p *packet) skipExtensions() Reason {
	for n := 0; ; n++ {
		if n > 5 {
			return Extension
		}
		switch p.protocol {
		case mobility:
			return Extension
		case hopOpts:
			if n > 0 {
				return Extension
			}
		case routing, dstOpts, fragHead:
		default:
			return goOn
		}
		if p.l4+8 > len(p.frame) {
			return Malformed
		}
		head := p.frame[p.l4:]
		if p.protocol == routing && head[3] != 0 {
			return Extension
		}
		length := (int(head[1]) + 1) * 8
		if p.protocol == fragHead {
			length = 8
		}
		if p.l4 += length; p.l4 > 200 {
			return Extension
		}
		if p.protocol == fragHead {
			if reason := p.parseFragment6(head); reason != goOn {
				return reason
			}
		}
		p.protocol = head[0]
		if p.fragment == laterFragment {
			return goOn
		}
	}
}

// isICMP: ICMP of the packet's own family. That of the other one is malformed.
func (p *packet) isICMP() bool {
	return p.v6 && p.protocol == icmpv6 || !p.v6 && p.protocol == icmp
}

func (p *packet) parseTransport() Reason {
	if p.fragment == laterFragment {
		return goOn
	}
	if (p.protocol == icmp || p.protocol == icmpv6) && !p.isICMP() {
		return Malformed
	}
	room := p.l3Len - (p.l4 - ethernet)
	least := map[uint8]int{tcp: 20, udp: 8, icmp: 8, icmpv6: 8}[p.protocol]
	if room < least {
		return Malformed
	}
	if least == 0 {
		return goOn
	}
	h := p.frame[p.l4:]
	switch p.protocol {
	case tcp:
		return p.parseTCP(h, room)
	case udp:
		p.sport, p.dport = be.Uint16(h), be.Uint16(h[2:])
		if n := int(be.Uint16(h[4:])); n < 8 || n > room && p.fragment == whole {
			return Malformed
		}
	default:
		p.typ, p.code, p.id = h[0], h[1], be.Uint16(h[4:])
	}
	return goOn
}

func (p *packet) parseTCP(h []byte, room int) Reason {
	p.sport, p.dport, p.flags = be.Uint16(h), be.Uint16(h[2:]), h[13]
	p.seq, p.ack = be.Uint32(h[4:]), be.Uint32(h[8:])
	if n := int(h[12]>>4) * 4; n < 20 || n > room {
		return Malformed
	}
	if p.flags&syn != 0 && p.flags&(fin|rst) != 0 {
		return Malformed
	}
	return goOn
}

// checkAddresses: what can never be a source or destination here.
func (p *packet) checkAddresses() Reason {
	if isNever(p.src) || isGroup(p.src) || isNever(p.dst) || isLinkLocal6(p.src) || isLinkLocal6(p.dst) {
		return Address
	}
	return goOn
}

// isNever: this network, loopback, IPv4 link-local; unspecified, loopback and mapped IPv4 addresses of IPv6.
func isNever(a netip.Addr) bool {
	if a.Is4() {
		b := a.As4()
		return b[0] == 0 || b[0] == 127 || b[0] == 169 && b[1] == 254
	}
	return a.IsUnspecified() || a.IsLoopback() || a.Is4In6()
}

// isGroup: multicast, and what was class E with the broadcast address.
func isGroup(a netip.Addr) bool {
	if a.Is4() {
		return a.As4()[0] >= 224
	}
	return a.As16()[0] == 0xff
}

func isLinkLocal6(a netip.Addr) bool { return a.Is6() && a.IsLinkLocalUnicast() }

// isGroupMAC: multicast or broadcast.
func isGroupMAC(m api.MAC) bool { return m[0]&1 == 1 }
