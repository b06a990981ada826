// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"net/netip"
	"slices"

	"github.com/eniplane/eniplane/pkg/api"
)

func (p *packet) setMACs(dst, src api.MAC) {
	copy(p.frame[0:], dst[:])
	copy(p.frame[6:], src[:])
}

func (p *packet) setSource(to netip.Addr) {
	if p.quotes {
		p.setQuoted(false, to)
	}
	off := 12
	if p.v6 {
		off = 8
	}
	p.setAddr(ethernet+off, p.src, to)
	p.src = to
}

func (p *packet) setDestination(old, to netip.Addr) {
	if p.quotes {
		p.setQuoted(true, to)
	}
	off := 16
	if p.v6 {
		off = 24
	}
	p.setAddr(ethernet+off, old, to)
	p.dst = to
}

// setAddr changes an address and the checksums that cover it. A checksum that was wrong stays as wrong as it was.
func (p *packet) setAddr(off int, old, to netip.Addr) {
	copy(p.frame[off:], to.AsSlice())
	if !p.v6 {
		p.adjust(ethernet+10, old, to)
	}
	switch {
	case p.fragment == laterFragment:
	case p.protocol == tcp:
		p.adjust(p.l4+16, old, to)
	case p.protocol == udp && be.Uint16(p.frame[p.l4+6:]) != 0: // 0 = there is none
		p.adjust(p.l4+6, old, to)
		if be.Uint16(p.frame[p.l4+6:]) == 0 {
			be.PutUint16(p.frame[p.l4+6:], 0xffff)
		}
	case p.v6 && p.protocol == icmpv6:
		p.adjust(p.l4+2, old, to)
	}
}

// adjust is RFC 1624, equation 3, word by word.
func (p *packet) adjust(off int, old, to netip.Addr) {
	sum := uint32(^be.Uint16(p.frame[off:]))
	for a, b := old.AsSlice(), to.AsSlice(); len(a) > 0; a, b = a[2:], b[2:] {
		sum += uint32(^be.Uint16(a)) + uint32(be.Uint16(b))
	}
	be.PutUint16(p.frame[off:], ^fold(sum))
}

func fold(sum uint32) uint16 {
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return uint16(sum)
}

// checksum of RFC 1071.
func checksum(b []byte) uint16 {
	var sum uint32
	for ; len(b) > 1; b = b[2:] {
		sum += uint32(be.Uint16(b))
	}
	if len(b) == 1 {
		sum += uint32(b[0]) << 8
	}
	return ^fold(sum)
}

// quoted is how much of a packet comes back with an ICMP error.
const quoted = 96

// answersTooBig: somebody is told, but never of an error, or of what only continues a packet (RFC 1122 3.2.2).
func (r *run) answersTooBig() bool {
	return r.out.Reason == TooBig && r.tooBig > 0 && !r.p.quotes && r.p.fragment != laterFragment
}

// answerTooBig sends an ICMP error back, in the name of the gateway of an ENI, or if there is none of the destination.
// It is a packet of ours, counted at the host.
func (r *run) answerTooBig(speaks *api.ENI) {
	r.enter("", Out)
	r.wire.packets = 1
	frame := slices.Concat(r.p.frame[6:12], r.p.frame[0:6], r.p.frame[12:14])
	quote := r.p.frame[ethernet : ethernet+quoted]
	if r.p.v6 {
		frame = append(frame, tooBig6(quote, r.gatewayOf(speaks, quote[24:40]), max(r.tooBig, 1280))...)
	} else {
		frame = append(frame, tooBig4(quote, r.gatewayOf(speaks, quote[16:20]), r.tooBig)...)
	}
	r.p.frame = frame
	r.out.Device = r.from.Device
	r.end(Answered)
}

// answerOverlay sends an ICMP error back to the ENI of another host that has sent too much to one of this host.
func (r *run) answerOverlay(to *api.ENI) {
	sender := r.senderOfMAC(r.vpcOf(to), r.p.smac)
	if sender == nil || !r.vtepOf(sender).IsValid() {
		return
	}
	r.answerTooBig(to)
	r.out.Device = r.host.VXLAN
	r.out.Tunnel = &Tunnel{VNI: r.vpcOf(sender).VNI, Remote: r.vtepOf(sender)}
}

// gatewayOf is the gateway of the ENI's primary private IP of the family, or of its subnet if it has none of it, or
// what stands in for one.
func (r *run) gatewayOf(e *api.ENI, otherwise []byte) []byte {
	v6 := len(otherwise) == 16
	if e == nil {
		return otherwise
	}
	near := r.subnetOf(e).CIDRs
	for _, ip := range e.IPs {
		if ip.Is6() == v6 {
			near = slices.DeleteFunc(slices.Clone(near), func(p netip.Prefix) bool { return !p.Contains(ip) })
			break
		}
	}
	for _, cidr := range near {
		if cidr.Addr().Is6() == v6 {
			return cidr.Addr().Next().AsSlice()
		}
	}
	return otherwise
}

func tooBig4(quote, from []byte, mtu int) []byte {
	body := append([]byte{3, 4, 0, 0, 0, 0, byte(mtu >> 8), byte(mtu)}, quote...)
	be.PutUint16(body[2:], checksum(body))
	total := 20 + len(body)
	ip := slices.Concat([]byte{0x45, 0, byte(total >> 8), byte(total), 0, 0, 0, 0, 64, icmp, 0, 0}, from, quote[12:16])
	be.PutUint16(ip[10:], checksum(ip))
	return append(ip, body...)
}

func tooBig6(quote, from []byte, mtu int) []byte {
	body := append([]byte{2, 0, 0, 0, 0, 0, byte(mtu >> 8), byte(mtu)}, quote...)
	n := byte(len(body))
	pseudo := slices.Concat(from, quote[8:24], []byte{0, 0, 0, n, 0, 0, 0, icmpv6}, body)
	be.PutUint16(body[2:], checksum(pseudo))
	return slices.Concat([]byte{0x60, 0, 0, 0, 0, n, icmpv6, 64}, from, quote[8:24], body)
}
