// SPDX-License-Identifier: Apache-2.0

package pkttest

import (
	"encoding/binary"
	"net/netip"
	"slices"
)

// ip4Layer is an IPv4 header (RFC 791).
type ip4Layer struct {
	src, dst netip.Addr
	ttl, tos uint8
	id       uint16
	fragment uint16 // flags and offset in units of 8 bytes
	options  []byte // filled up to words with "end of options"
	protocol int    // -1 = that of the layer inside
	sum      sumMode
}

// ip6Layer is an IPv6 header (RFC 8200).
type ip6Layer struct {
	src, dst netip.Addr
	hops     uint8
	class    uint8
	next     int // -1 = that of the layer inside
}

// extLayer is an IPv6 extension header: next header and length, then body filled up to 8 bytes.
type extLayer struct {
	kind uint8
	next int // -1 = that of the layer inside
	body []byte
}

// Extension headers and other protocol numbers that rows name.
const (
	HopByHop    uint8 = 0
	IPinIP      uint8 = 4
	IPv6inIP    uint8 = 41
	Routing     uint8 = 43
	fragmentHdr uint8 = 44
	GRE         uint8 = 47
	ESP         uint8 = 50
	AH          uint8 = 51
	ICMPv6      uint8 = 58
	NoNext      uint8 = 59
	DestOptions uint8 = 60
	SCTP        uint8 = 132
)

const (
	ip4Len         = 20
	dontFragment   = 0x4000
	moreFragments4 = 0x2000
)

func (l ip4Layer) build(at position, payload []byte) []byte {
	options := pad(l.options, 4)
	b := make([]byte, ip4Len, ip4Len+len(options)+len(payload))
	b[0] = 4<<4 | byte((ip4Len+len(options))/4)
	b[1] = l.tos
	binary.BigEndian.PutUint16(b[2:], uint16(ip4Len+len(options)+len(payload)))
	binary.BigEndian.PutUint16(b[4:], l.id)
	binary.BigEndian.PutUint16(b[6:], l.fragment)
	b[8] = l.ttl
	b[9] = protocolOf(l.protocol, at.inner())
	copy(b[12:], l.src.AsSlice())
	copy(b[16:], l.dst.AsSlice())
	b = append(b, options...)
	binary.BigEndian.PutUint16(b[10:], l.sum.apply(checksum(b)))
	return append(b, payload...)
}

func (l ip6Layer) build(at position, payload []byte) []byte {
	b := make([]byte, 0, 40+len(payload))
	b = append(b, 6<<4|l.class>>4, l.class<<4, 0, 0)
	b = binary.BigEndian.AppendUint16(b, uint16(len(payload)))
	b = append(b, protocolOf(l.next, at.inner()), l.hops)
	b = append(b, l.src.AsSlice()...)
	b = append(b, l.dst.AsSlice()...)
	return append(b, payload...)
}

func (l extLayer) build(at position, payload []byte) []byte {
	b := pad(append([]byte{0, 0}, l.body...), 8)
	b[0] = protocolOf(l.next, at.inner())
	switch l.kind {
	case fragmentHdr: // the second byte is reserved
	case AH: // in words minus 2 (RFC 4302 section 2.2)
		b[1] = byte(len(b)/4 - 2)
	default:
		b[1] = byte(len(b)/8 - 1)
	}
	return append(b, payload...)
}

func pad(b []byte, unit int) []byte {
	b = slices.Clone(b)
	for len(b)%unit != 0 {
		b = append(b, 0)
	}
	return b
}

// protocolOf is the number that a header gives for what it carries.
func protocolOf(fixed int, inner layer) uint8 {
	if fixed >= 0 {
		return uint8(fixed)
	}
	switch l := inner.(type) {
	case tcpLayer:
		return 6
	case udpLayer:
		return 17
	case icmpLayer:
		if l.v6 {
			return ICMPv6
		}
		return 1
	case extLayer:
		return l.kind
	case ip4Layer:
		return IPinIP
	case ip6Layer:
		return IPv6inIP
	}
	return NoNext
}

// addresses finds the IP header around a transport header, for its checksum.
func (at position) addresses() (src, dst netip.Addr) {
	for i := at.i - 1; i >= 0; i-- {
		switch l := at.layers[i].(type) {
		case ip4Layer:
			return l.src, l.dst
		case ip6Layer:
			return l.src, l.dst
		}
	}
	panic("build packet: a transport header without an IP header around it")
}

// IP adds an IP header; the packet exists in the families in which both have an address.
func (p Packet) IP(src, dst Addr) Packet {
	var l4, l6 layer
	if src.V4.IsValid() && dst.V4.IsValid() {
		l4 = ip4Layer{src: src.V4, dst: dst.V4, ttl: 64, id: 0x1234, fragment: dontFragment, protocol: -1}
	}
	if src.V6.IsValid() && dst.V6.IsValid() {
		l6 = ip6Layer{src: src.V6, dst: dst.V6, hops: 64, next: -1}
	}
	return p.add(l4, l6)
}

// From gives the outermost IP header another source; checksums follow. The packet is absent where
// the source has no address.
func (p Packet) From(src Addr) Packet {
	return p.where(src).changeIP(
		func(l ip4Layer) ip4Layer { l.src = src.V4; return l },
		func(l ip6Layer) ip6Layer { l.src = src.V6; return l })
}

// To gives the outermost IP header another destination, in the same way.
func (p Packet) To(dst Addr) Packet {
	return p.where(dst).changeIP(
		func(l ip4Layer) ip4Layer { l.dst = dst.V4; return l },
		func(l ip6Layer) ip6Layer { l.dst = dst.V6; return l })
}

// where leaves out the families in which an address does not exist.
func (p Packet) where(a Addr) Packet {
	p.v4.absent = p.v4.absent || !a.V4.IsValid()
	p.v6.absent = p.v6.absent || !a.V6.IsValid()
	return p
}

// TTL sets the TTL or hop limit of the outermost IP header.
func (p Packet) TTL(n uint8) Packet {
	return p.changeIP(
		func(l ip4Layer) ip4Layer { l.ttl = n; return l },
		func(l ip6Layer) ip6Layer { l.hops = n; return l })
}

// Plain leaves identification and flags of the IPv4 header zero.
func (p Packet) Plain() Packet {
	return p.changeIP(
		func(l ip4Layer) ip4Layer { l.id, l.fragment = 0, 0; return l },
		func(l ip6Layer) ip6Layer { return l })
}

// Protocol makes the outermost IP header claim to carry this protocol.
func (p Packet) Protocol(n uint8) Packet {
	return p.changeIP(
		func(l ip4Layer) ip4Layer { l.protocol = int(n); return l },
		func(l ip6Layer) ip6Layer { l.next = int(n); return l })
}

// Carries makes the innermost header in front of the transport claim to carry this protocol.
func (p Packet) Carries(n uint8) Packet {
	for _, v := range []*variant{&p.v4, &p.v6} {
		v.layers = slices.Clone(v.layers)
		for i, l := range slices.Backward(v.layers) {
			switch l := l.(type) {
			case ip4Layer:
				l.protocol = int(n)
				v.layers[i] = l
			case ip6Layer:
				l.next = int(n)
				v.layers[i] = l
			case extLayer:
				l.next = int(n)
				v.layers[i] = l
			default:
				continue
			}
			break
		}
	}
	return p
}

// Class sets the type of service or the traffic class.
func (p Packet) Class(n uint8) Packet {
	return p.changeIP(func(l ip4Layer) ip4Layer { l.tos = n; return l }, func(l ip6Layer) ip6Layer { l.class = n; return l })
}

func (p Packet) changeIP(f4 func(ip4Layer) ip4Layer, f6 func(ip6Layer) ip6Layer) Packet {
	if !p.v4.absent {
		p.v4 = change(Packet{v4: p.v4}, false, f4).v4
	}
	if !p.v6.absent {
		p.v6 = change(Packet{v6: p.v6}, false, f6).v6
	}
	return p
}

// Options4 adds options to the IPv4 header. IPv4 only.
func (p Packet) Options4(options ...byte) Packet {
	p = p.Only(V4)
	return change(p, false, func(l ip4Layer) ip4Layer { l.options = options; return l })
}

// BadIPChecksum makes the checksum of the IPv4 header wrong. IPv4 only.
func (p Packet) BadIPChecksum() Packet {
	p = p.Only(V4)
	return change(p, false, func(l ip4Layer) ip4Layer { l.sum.wrong = 0x0101; return l })
}

// Extension adds an IPv6 extension header. IPv6 only.
func (p Packet) Extension(kind uint8, body ...byte) Packet {
	return p.add(nil, extLayer{kind: kind, next: -1, body: body})
}

// FragmentID gives a fragment another identification; IPv4 takes the low 16 bits of it.
func (p Packet) FragmentID(id uint32) Packet {
	if !p.v4.absent {
		p.v4 = change(Packet{v4: p.v4}, true, func(l ip4Layer) ip4Layer { l.id = uint16(id); return l }).v4
	}
	if !p.v6.absent {
		p.v6 = change(Packet{v6: p.v6}, true, func(l extLayer) extLayer {
			l.body = binary.BigEndian.AppendUint32(slices.Clone(l.body[:2]), id)
			return l
		}).v6
	}
	return p
}

// Fragment makes the packet a fragment that begins at offset (a multiple of 8). The L4 header that
// follows is that of a first fragment, or bytes to ignore in a later one.
func (p Packet) Fragment(offset int, more bool) Packet {
	field := uint16(offset)
	var flag4, flag6 uint16
	if more {
		flag4, flag6 = moreFragments4, 1
	}
	if !p.v4.absent {
		p.v4 = change(Packet{v4: p.v4}, true, func(l ip4Layer) ip4Layer {
			l.fragment = flag4 | field/8
			return l
		}).v4
	}
	if !p.v6.absent {
		b := binary.BigEndian.AppendUint16(nil, field|flag6)
		p.v6 = p.v6.add(extLayer{kind: fragmentHdr, next: -1, body: append(b, 0, 0, 0x56, 0x78)})
	}
	return p
}
