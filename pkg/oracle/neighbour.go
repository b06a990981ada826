// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"net/netip"
	"slices"

	"github.com/eniplane/eniplane/pkg/api"
)

// arpPacket is the body of an ARP packet for IPv4 over Ethernet.
type arpPacket struct {
	request        bool
	senderMAC      api.MAC
	sender, target netip.Addr
}

func (p *packet) parseARP() (arpPacket, bool) {
	b := p.frame[ethernet:]
	if len(b) < 28 || !slices.Equal(b[:7], []byte{0, 1, 8, 0, 6, 4, 0}) || b[7] != 1 && b[7] != 2 {
		return arpPacket{}, false
	}
	return arpPacket{
		request:   b[7] == 1,
		senderMAC: api.MAC(b[8:14]),
		sender:    netip.AddrFrom4([4]byte(b[14:18])), target: netip.AddrFrom4([4]byte(b[24:28])),
	}, true
}

func (r *run) arpFromENI(e *api.ENI) Reason {
	a, ok := r.p.parseARP()
	switch {
	case !ok:
		return Malformed
	case a.senderMAC != e.MAC:
		return SpoofedARP
	case a.sender.IsUnspecified() && a.request: // a probe
		return Consumed
	case a.sender.IsUnspecified():
		return SpoofedARP
	case !may(e, a.sender):
		r.asker = a.sender
		return SpoofedARP
	case !a.request, a.sender == a.target: // an announcement
		return Consumed
	}
	mac, _, ok := r.resolve(e, a.target)
	if !ok {
		return ARPUnknown
	}
	return r.answerARP(a, mac)
}

// resolve: who answers for an address of the ENI's subnet? The owner of the address, or the gateway.
func (r *run) resolve(e *api.ENI, target netip.Addr) (mac api.MAC, router, ok bool) {
	gateway := r.objs.Region.GatewayMAC
	if isLinkLocal6(target) {
		return gateway, true, target == netip.MustParseAddr("fe80::1")
	}
	if !r.inSubnet(e, target) {
		return mac, false, false
	}
	if r.isGateway(r.vpcOf(e), target) {
		return gateway, true, true
	}
	o := r.owner(r.vpcOf(e), target)
	if o == nil || o == e || !r.isSomewhere(o) {
		return mac, false, false
	}
	return o.MAC, false, true
}

// answerARP turns the request into its answer.
func (r *run) answerARP(a arpPacket, mac api.MAC) Reason {
	r.p.setMACs(r.p.smac, mac)
	b := r.p.frame[ethernet:]
	asker := [4]byte(b[14:18])
	b[7] = 2
	copy(b[18:24], a.senderMAC[:])
	copy(b[8:14], mac[:])
	copy(b[14:18], b[24:28])
	copy(b[24:28], asker[:])
	r.out.Device = r.from.Device
	return Answered
}

// ICMPv6 types of neighbour and multicast listener discovery.
const (
	mldQuery   = 130
	mldReport  = 131
	mldDone    = 132
	rs         = 133
	ra         = 134
	ns         = 135
	na         = 136
	ndRedirect = 137
	mld2Report = 143
)

func (r *run) ndFromENI(e *api.ENI) Reason {
	p := &r.p
	if !p.v6 || p.protocol != icmpv6 || p.fragment == laterFragment {
		return goOn
	}
	if p.fragment != whole && p.isNeighbourDiscovery() { // RFC 6980
		return Fragment
	}
	switch p.typ {
	case ns:
		return r.solicitation(e)
	case na:
		return r.advertisement(e)
	case rs, mldReport, mldDone, mld2Report:
		return Consumed
	case ra, ndRedirect, mldQuery:
		return GuestServer
	}
	return goOn
}

// isNeighbourDiscovery: what is said on one link only, with multicast listener discovery.
func (p *packet) isNeighbourDiscovery() bool {
	return p.v6 && p.protocol == icmpv6 && p.fragment != laterFragment &&
		(p.typ >= mldQuery && p.typ <= ndRedirect || p.typ == mld2Report)
}

// parseND reads the target of a solicitation or advertisement.
func (p *packet) parseND() (target netip.Addr, ok bool) {
	end := ethernet + p.l3Len
	if p.frame[ethernet+7] != 255 || p.code != 0 || p.l4+24 > end {
		return target, false
	}
	target = netip.AddrFrom16([16]byte(p.frame[p.l4+8 : p.l4+24]))
	return target, !isGroup(target)
}

// checkOptions: every option of this kind must name the ENI's MAC. At most four options are followed.
func (p *packet) checkOptions(kind uint8, mac api.MAC) Reason {
	end := ethernet + p.l3Len
	off := p.l4 + 24
	for range 4 {
		if off >= end {
			return goOn
		}
		if off > 512 || off+8 > end || p.frame[off+1] == 0 {
			return Malformed
		}
		if p.frame[off] == kind && api.MAC(p.frame[off+2:off+8]) != mac {
			return SpoofedARP
		}
		off += int(p.frame[off+1]) * 8
	}
	if off < end {
		return Malformed
	}
	return goOn
}

func (r *run) solicitation(e *api.ENI) Reason {
	p := &r.p
	target, ok := p.parseND()
	switch {
	case !ok:
		return Malformed
	case p.src.IsUnspecified(): // duplicate address detection
		return Consumed
	case !isLinkLocal6(p.src) && !may(e, p.src):
		return SpoofedARP
	}
	if reason := p.checkOptions(1, e.MAC); reason != goOn {
		return reason
	}
	mac, router, ok := r.resolve(e, target)
	if !ok {
		return ARPUnknown
	}
	return r.answerND(target, mac, router)
}

func (r *run) advertisement(e *api.ENI) Reason {
	target, ok := r.p.parseND()
	switch {
	case !ok:
		return Malformed
	case !isLinkLocal6(target) && !may(e, target):
		return SpoofedARP
	}
	if reason := r.p.checkOptions(2, e.MAC); reason != goOn {
		return reason
	}
	return Consumed
}

// answerND replaces the solicitation by the advertisement for its target.
func (r *run) answerND(target netip.Addr, mac api.MAC, router bool) Reason {
	flags := byte(0x60) // solicited, override
	if router {
		flags |= 0x80
	}
	body := append([]byte{na, 0, 0, 0, flags, 0, 0, 0}, target.AsSlice()...)
	body = append(append(body, 2, 1), mac[:]...)
	frame := slices.Concat(r.p.smac[:], mac[:], []byte{0x86, 0xdd, 0x60, 0, 0, 0, 0, byte(len(body)), icmpv6, 255},
		target.AsSlice(), r.p.src.AsSlice(), body)
	sum := checksum(slices.Concat(target.AsSlice(), r.p.src.AsSlice(), []byte{0, 0, 0, byte(len(body)), 0, 0, 0, icmpv6}, body))
	be.PutUint16(frame[ethernet+40+2:], sum)
	r.p.frame = frame
	r.out.Device = r.from.Device
	return Answered
}

// arpAtUplink answers for EIPs of ENIs that are ready here, or that this host is a gateway for.
func (r *run) arpAtUplink() Reason {
	mac, ours := r.host.Uplinks[r.from.Device]
	a, ok := r.p.parseARP()
	if !ours || !ok || !a.request || a.sender == a.target || !r.hasReadyEIP(a.target) {
		return notOurs
	}
	r.enter("", In)
	return r.answerARP(a, mac)
}

func (r *run) hasReadyEIP(a netip.Addr) bool {
	if e, _ := r.eipHere(a); e != nil {
		return r.taken(a) && r.ready(e)
	}
	e, _ := r.eipBehind(a)
	return e != nil && r.vtepOf(e).IsValid()
}

func (r *run) ndAtUplink() Reason {
	mac, ours := r.host.Uplinks[r.from.Device]
	p := packet{frame: r.p.frame, ethertype: etherIPv6, v6: true}
	if !ours || p.parseIPv6() != goOn || p.frame[ethernet+6] != icmpv6 || p.typ != ns {
		return notOurs
	}
	target, ok := p.parseND()
	if !ok || p.src.IsUnspecified() || !r.hasReadyEIP(target) {
		return notOurs
	}
	r.p.src = p.src
	r.enter("", In)
	return r.answerND(target, mac, true)
}
