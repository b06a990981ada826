// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"net/netip"

	"github.com/eniplane/eniplane/pkg/api"
)

// arrival is what is known of a packet to a local ENI: exactly one of the fields.
type arrival struct {
	sender identity   // the ENI of this host that sent it
	vtep   netip.Addr // the host that sent it
	eip    netip.Addr // from the internet: the destination, before it became the private IP
	// gateway: vtep is a gateway that has translated a packet of the internet.
	gateway bool
}

func (a *arrival) internet() bool { return a.eip.IsValid() || a.gateway }

// toENI judges a packet for the ENI that it is addressed to.
func (r *run) toENI(e *api.ENI, a arrival) Reason {
	if !r.ready(e) {
		return NotReady
	}
	f, reason := r.flowIn(e, &a)
	if reason != goOn {
		return reason
	}
	r.remember(e, f, a.internet())
	if r.wire.size > r.host.PortMTU {
		r.tooBig = r.host.PortMTU
		if a.gateway {
			r.out.Tunnel = &Tunnel{VNI: r.from.VNI, Remote: a.vtep}
		}
		return TooBig
	}
	if reason := r.ratePacket(e); reason != goOn {
		return reason
	}
	if a.eip.IsValid() {
		r.p.setDestination(a.eip, r.p.dst)
	}
	from := r.objs.Region.GatewayMAC
	sender := f.peer
	if r.p.quotes && !a.internet() { // an error may come from a third party
		sender = a.sender.name
	}
	if peer := r.objs.ENIs[sender]; peer != nil && peer.Subnet == e.Subnet {
		from = peer.MAC
	}
	r.p.setMACs(e.MAC, from)
	r.out.Device = e.Attachment.Device
	return Delivered
}

func (r *run) flowIn(e *api.ENI, a *arrival) (*flow, Reason) {
	if r.p.fragment == laterFragment || r.p.isICMPError() {
		if reason := r.sender(e, a); reason != goOn {
			return nil, reason
		}
		if r.p.fragment == laterFragment {
			return r.follow(e, a.internet())
		}
		return r.related(e, a.eip, a.internet(), !a.internet() && r.inTransit(e, r.p.dst))
	}
	key := r.p.key(In, r.vpcOf(e).VNI, "", a.internet())
	if !a.internet() && r.inTransit(e, r.p.dst) {
		key = r.p.key(In, 0, e.Name, false)
	}
	f, reason := r.pass(e, key)
	if reason != NoFlow {
		return f, reason
	}
	if reason := r.sender(e, a); reason != goOn {
		return nil, reason
	}
	return r.open(e, key, a.sender)
}

// sender is what a packet must prove for which no flow vouches.
func (r *run) sender(e *api.ENI, a *arrival) (reason Reason) {
	if a.vtep.IsValid() && !a.gateway {
		a.sender, reason = r.overlaySender(e, a.vtep)
		return reason
	}
	if a.gateway && !r.mayBeTold(e, r.p.dst) {
		return VXLANSender
	}
	answers := path{local: r.p.dst, remote: r.p.src, protocol: r.p.protocol, port: r.p.sport}
	if a.internet() && !r.onInternet(e, answers) {
		return EIPSource
	}
	return goOn
}

// overlaySender: the source MAC must name an ENI behind the host that sent the packet, and the source IP must be that
// ENI's, unless it may send others'.
func (r *run) overlaySender(e *api.ENI, vtep netip.Addr) (identity, Reason) {
	sender := r.senderOfMAC(r.vpcOf(e), r.p.smac)
	if sender == nil || r.vtepOf(sender) != vtep {
		return identity{}, VXLANSender
	}
	if r.isGateway(r.vpcOf(sender), r.p.src) && r.p.isICMPError() && r.p.fragment != laterFragment {
		return r.identify(sender), goOn // it says that something is too big
	}
	if !owns(sender, r.p.src) && sender.SourceDestCheck && len(sender.AllowedAddresses) == 0 {
		return identity{}, VXLANSender
	}
	return r.identify(sender), goOn
}

// overlay: a packet that the VXLAN device, or XDP, has decapsulated.
func (r *run) overlay() Reason {
	r.enter("", In)
	if !r.from.Marked || r.from.VNI == 0 || r.p.parseEthernet() != goOn {
		return VXLANUnmarked
	}
	if !r.from.Public && r.p.dmac == r.objs.Region.GatewayMAC {
		r.enter("", Out)
		return r.leave()
	}
	e := r.eniOfMAC(r.from.VNI, r.p.dmac)
	if e == nil || !r.isLocal(e) {
		return VXLANNoENI
	}
	r.enter(e.Name, In)
	return r.fromOverlay(e)
}

// parseInner reads a decapsulated packet, whoever it is for.
func (r *run) parseInner() Reason {
	p := &r.p
	if p.ethertype != etherIPv4 && p.ethertype != etherIPv6 {
		return Ethertype
	}
	if reason := p.parseIP(); reason != goOn {
		return reason
	}
	if isGroup(p.dst) {
		return Multicast
	}
	if reason := p.checkAddresses(); reason != goOn {
		return reason
	}
	if p.isNeighbourDiscovery() {
		return StrayND
	}
	return goOn
}

func (r *run) fromOverlay(e *api.ENI) Reason {
	if reason := r.parseInner(); reason != goOn {
		return reason
	}
	return r.toENI(e, arrival{vtep: r.from.Source, gateway: r.from.Public})
}

// uplink: a packet from the underlay, which is shared with the host.
func (r *run) uplink() {
	reason := notOurs
	if r.p.parseEthernet() == goOn {
		switch r.p.ethertype {
		case etherIPv4:
			if reason = r.toEIP(); reason == notOurs {
				reason = r.outerVXLAN()
			}
		case etherIPv6:
			if reason = r.ndAtUplink(); reason == notOurs {
				reason = r.toEIP()
			}
		case etherARP:
			reason = r.arpAtUplink()
		}
	}
	r.end(reason)
	if r.answersTooBig() && r.from.Kind == AtUplink {
		r.answerTooBig(nil)
	}
}

// toEIP: a packet to an EIP of an ENI of this host is ours whatever else it is.
func (r *run) toEIP() Reason {
	p := &r.p
	ip := p.frame[ethernet:]
	var dst netip.Addr
	switch {
	case p.ethertype == etherIPv4 && len(ip) >= 20:
		dst = netip.AddrFrom4([4]byte(ip[16:20]))
	case p.ethertype == etherIPv6 && len(ip) >= 40:
		dst = netip.AddrFrom16([16]byte(ip[24:40]))
	default:
		return notOurs
	}
	e, private := r.eipHere(dst)
	if e == nil || !r.taken(dst) {
		return r.toOthersEIP(dst)
	}
	r.enter(e.Name, In)
	if reason := r.parsePublic(); reason != goOn {
		return reason
	}
	p.dst = private
	return r.toENI(e, arrival{eip: dst})
}

// toOthersEIP: of an ENI of another host, or in a range for which this host is a gateway nobody's, or of an ENI here to
// which others are the gateways. XDP leaves the first to TC, which can use the tunnel.
func (r *run) toOthersEIP(dst netip.Addr) Reason {
	switch e, private := r.eipBehind(dst); {
	case e != nil && r.from.Kind == AtUplinkXDP:
		return notOurs
	case e != nil:
		return r.toBehind(e, dst, private)
	case r.gatewayHere(dst), r.isEIPHere(dst):
		r.enter("", In)
		return EIPUnknown
	}
	return notOurs
}

// outerVXLAN: VXLAN to our VTEP is ours. It goes on to the kernel's decapsulation if a host sent it that has the VPC;
// TC vouches for it with a mark.
func (r *run) outerVXLAN() Reason {
	ip := r.p.frame[ethernet:]
	if len(ip) < 20 || ip[9] != udp || ip[0]&15 < 5 || netip.AddrFrom4([4]byte(ip[16:20])) != r.self().VTEP {
		return notOurs
	}
	fragment := be.Uint16(ip[6:])
	header := int(ip[0]&15) * 4
	if fragment&0x1fff != 0 || len(ip) < header+8 || be.Uint16(ip[header+2:]) != 4789 {
		return notOurs
	}
	r.enter("", In)
	vxlan := ip[header+8:]
	if fragment&0x2000 != 0 || len(vxlan) < 8+6 || vxlan[7] != 0 {
		return VXLANHeader
	}
	source, vni := netip.AddrFrom4([4]byte(ip[12:16])), be.Uint32(vxlan[4:])>>8
	ok, public, moved := false, false, uint32(0)
	leaves := api.MAC(vxlan[8:14]) == r.objs.Region.GatewayMAC
	switch flags := be.Uint32(vxlan); flags {
	case 0x88000002, 0x88000003: // with one of a host that has sent it on: its ENI has moved
		moved = flags & 0xffff
		fallthrough
	case 0x08000000:
		ok = !leaves && r.hasVPC(source, vni) || leaves && r.isBehind(source, vni)
	case 0x88000001: // with a group policy id: from the internet
		public = true
		ok = !leaves && r.isGatewayOf(source, vni)
	default:
		return VXLANHeader
	}
	if !ok {
		return VXLANSource
	}
	if r.from.Kind == AtUplinkXDP && r.p.isPlainVXLAN() && !public && !leaves && moved == 0 && !r.handsDown(vni, packet{frame: vxlan[8:]}) {
		r.from.VNI, r.from.Source, r.from.Marked = vni, source, true
		r.p, r.wire = packet{frame: vxlan[8:]}, segments(vxlan[8:], 0)
		return r.overlay()
	}
	r.out.Marked = r.from.Kind == AtUplink
	if r.out.Marked {
		r.out.Public, r.out.Leaves, r.out.Moved = public, leaves, moved
	}
	return notOurs
}

// handsDown: the outer header of an IP packet for an ENI here reports congestion, which the kernel tells the inner one
// (RFC 6040).
func (r *run) handsDown(vni uint32, inside packet) bool {
	if r.p.frame[ethernet+1]&3 != 3 || inside.parseEthernet() != goOn {
		return false
	}
	e := r.eniOfMAC(vni, inside.dmac)
	return e != nil && r.isLocal(e) && (inside.ethertype == etherIPv4 || inside.ethertype == etherIPv6)
}

// isPlainVXLAN: XDP takes off an outer header that has no options and no checksum to verify, if it covers exactly the
// packet, and that a frame.
func (p *packet) isPlainVXLAN() bool {
	ip := p.frame[ethernet:]
	total := int(be.Uint16(ip[2:]))
	return ip[0]&15 == 5 && total == len(ip) && int(be.Uint16(ip[24:])) == total-20 &&
		be.Uint16(ip[26:]) == 0 && len(ip) >= 20+8+8+ethernet
}
