// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"net/netip"

	"github.com/eniplane/eniplane/pkg/api"
)

// quotedPacket reads the packet that an ICMP error quotes: its addresses and the first 8 bytes of its transport
// header, at least.
func (p *packet) quotedPacket() (*packet, Reason) {
	start := p.l4 + 8
	q := &packet{frame: p.frame, v6: p.v6, isQuoted: true, l3Len: p.l3Len}
	header := 20
	if p.v6 {
		header = 40
	}
	if start+header > len(p.frame) {
		return nil, Malformed
	}
	ip := p.frame[start:]
	if p.v6 {
		q.src, q.dst = netip.AddrFrom16([16]byte(ip[8:24])), netip.AddrFrom16([16]byte(ip[24:40]))
		q.protocol, q.l4 = ip[6], start+40
		if ip[0]>>4 != 6 || q.skipExtensions() != goOn || q.fragment == laterFragment {
			return nil, ICMPUnrelated
		}
	} else {
		q.src, q.dst = netip.AddrFrom4([4]byte(ip[12:16])), netip.AddrFrom4([4]byte(ip[16:20]))
		q.protocol, q.l4 = ip[9], start+int(ip[0]&15)*4
		if ip[0]>>4 != 4 || ip[0]&15 < 5 || be.Uint16(ip[6:])&0x1fff != 0 {
			return nil, ICMPUnrelated
		}
	}
	if q.l4+8 > ethernet+p.l3Len || q.l4+8 > len(p.frame) {
		return nil, ICMPUnrelated
	}
	h := p.frame[q.l4:]
	switch {
	case q.protocol == tcp, q.protocol == udp:
		q.sport, q.dport = be.Uint16(h), be.Uint16(h[2:])
	case q.isICMP():
		q.typ, q.code, q.id = h[0], h[1], be.Uint16(h[4:])
	}
	return q, goOn
}

// isReported: an error that an ENI may hear of. Source quench and redirects are not, nor are those that IPv6 does not
// know.
func (p *packet) isReported() bool {
	if p.v6 {
		return p.typ >= 1 && p.typ <= 4
	}
	return p.typ != 4 && p.typ != 5
}

// related is the way of an ICMP error: that of the flow of the packet that it quotes, which must have been sent from
// where the error goes. It is judged by the network ACL, and nothing of the flow changes. `public` is the EIP to which
// an error from the internet was addressed.
func (r *run) related(e *api.ENI, public netip.Addr, internet, transit bool) (*flow, Reason) {
	p := &r.p
	if p.fragment != whole || !p.isReported() {
		return nil, ICMPUnrelated
	}
	q, reason := p.quotedPacket()
	if reason != goOn {
		return nil, reason
	}
	if public.IsValid() && q.src != public || !public.IsValid() && q.src != p.dst || q.isICMPError() {
		return nil, ICMPUnrelated
	}
	if r.dir == Out && internet && q.dst != p.src { // its EIP is not the quoted packet's
		return nil, ICMPUnrelated
	}
	q.src = p.dst
	through := ""
	if transit {
		through = e.Name
	}
	f, reason := r.verdictOf(e, q.key(opposite(r.dir), r.vpcOf(e).VNI, through, internet))
	if reason != goOn {
		return nil, reason
	}
	p.quotes = true
	if !r.aclAllows(e, r.dir, p.remote(r.dir), p.service()) {
		return nil, NACLDenied
	}
	return f, goOn
}

// verdictOf asks for the verdict on a flow and leaves it as it is.
func (r *run) verdictOf(e *api.ENI, key flowKey) (*flow, Reason) {
	f := r.flows[key]
	if f == nil || !r.isOf(f, e) {
		return nil, ICMPUnrelated
	}
	v := r.judgeFlow(e, key, f)
	if v.reason != goOn {
		return nil, v.reason
	}
	return &flow{peer: v.peer, nat: v.nat}, goOn
}

func opposite(dir Direction) Direction {
	if dir == Out {
		return In
	}
	return Out
}

// setQuoted changes an address of the packet that an ICMP error quotes, with all checksums that were quoted. Each one
// stays as right or wrong as it was.
func (p *packet) setQuoted(source bool, to netip.Addr) {
	q, reason := p.quotedPacket()
	if reason != goOn {
		return
	}
	start, old := p.l4+8, q.dst
	off := map[bool]int{false: 16, true: 24}[p.v6]
	if source {
		off, old = map[bool]int{false: 12, true: 8}[p.v6], q.src
	}
	delta := p.replace(start+off, to.AsSlice())
	if !p.v6 {
		delta += p.adjustQuoted(start+10, old, to)
	}
	field := 0
	switch {
	case q.protocol == tcp:
		field = q.l4 + 16
	case q.protocol == udp:
		field = q.l4 + 6
	case p.v6 && q.protocol == icmpv6:
		field = q.l4 + 2
	}
	if field > 0 && field+2 <= ethernet+p.l3Len && (p.v6 || q.protocol != udp || be.Uint16(p.frame[field:]) != 0) {
		delta += p.adjustQuoted(field, old, to)
		if q.protocol == udp && be.Uint16(p.frame[field:]) == 0 {
			be.PutUint16(p.frame[field:], 0xffff)
		}
	}
	if fold(delta) != 0xffff { // the sum has changed
		be.PutUint16(p.frame[p.l4+2:], ^fold(uint32(^be.Uint16(p.frame[p.l4+2:]))+uint32(fold(delta))))
	}
}

// replace overwrites words and returns by how much the sum of all has changed; 0xffff = not at all.
func (p *packet) replace(off int, by []byte) uint32 {
	var delta uint32
	for i := 0; i < len(by); i += 2 {
		delta += uint32(^be.Uint16(p.frame[off+i:])) + uint32(be.Uint16(by[i:]))
	}
	copy(p.frame[off:], by)
	return delta
}

func (p *packet) adjustQuoted(off int, old, to netip.Addr) uint32 {
	was := be.Uint16(p.frame[off:])
	p.adjust(off, old, to)
	return uint32(^was) + uint32(be.Uint16(p.frame[off:]))
}
