// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"net/netip"

	"github.com/eniplane/eniplane/pkg/api"
)

// port: a packet that an ENI sends.
func (r *run) port() {
	e := r.eniOfDevice(r.from.Device)
	if e == nil {
		r.enter("", Out)
		r.end(UnknownPort)
		return
	}
	r.enter(e.Name, Out)
	reason := r.fromENI(e)
	if (reason == SpoofedIP || reason == SpoofedARP) && r.dir == Out && r.isSiblings(e) {
		reason = WrongENI
	}
	r.end(reason)
	if r.answersTooBig() {
		r.answerTooBig(e)
	}
}

// isSiblings: the source is an address of another ENI of the same instance.
func (r *run) isSiblings(e *api.ENI) bool {
	source := r.p.src
	if r.p.ethertype == etherARP {
		source = r.asker
	}
	other := r.owner(r.vpcOf(e), source)
	return other != nil && other != e && other.Attachment != nil && other.Attachment.Instance == e.Attachment.Instance
}

func (r *run) fromENI(e *api.ENI) Reason {
	if !r.ready(e) {
		return NotReady
	}
	if reason := r.ratePacket(e); reason != goOn {
		return reason
	}
	if reason := r.p.parseEthernet(); reason != goOn {
		return reason
	}
	if r.wire.packets > maxSegments {
		return Malformed
	}
	if r.p.smac != e.MAC {
		return SpoofedMAC
	}
	switch r.p.ethertype {
	case etherIPv4, etherIPv6:
		return r.ipFromENI(e)
	case etherARP:
		return r.arpFromENI(e)
	case etherRARP:
		return Consumed
	}
	return Ethertype
}

func (r *run) ipFromENI(e *api.ENI) Reason {
	p := &r.p
	if reason := p.parseIP(); reason != goOn {
		return reason
	}
	if reason := p.networkService(); reason != goOn {
		return reason
	}
	if reason := r.ndFromENI(e); reason != goOn {
		return reason
	}
	if isGroup(p.dst) || isGroupMAC(p.dmac) {
		return Multicast
	}
	if reason := p.checkAddresses(); reason != goOn {
		return reason
	}
	f, reason := r.flowOut(e)
	if reason != goOn {
		return reason
	}
	r.remember(e, f, false)
	if f.peer == "" {
		return r.toInternet(e, f.nat)
	}
	peer := r.objs.ENIs[f.peer]
	if r.isLocal(peer) {
		r.end(Delivered)
		r.enter(peer.Name, In)
		return r.toENI(peer, arrival{sender: r.identify(e)})
	}
	return r.toOverlay(e, peer)
}

// networkService: a DHCP client's messages end here; what only a network may say is dropped.
func (p *packet) networkService() Reason {
	client, server := uint16(68), uint16(67)
	if p.v6 {
		client, server = 546, 547
	}
	if p.protocol == udp && p.sport == client && p.dport == server {
		return Consumed
	}
	if p.protocol == udp && p.sport == server && p.dport == client {
		return GuestServer
	}
	if !p.v6 && p.protocol == icmp && (p.typ == 5 || p.typ == 9) {
		return GuestServer
	}
	return goOn
}

// flowOut is the flow of a packet that an ENI sends: in transit, with the VPC, with the internet, or a new one.
func (r *run) flowOut(e *api.ENI) (*flow, Reason) {
	if r.p.fragment == laterFragment || r.p.isICMPError() {
		return r.continued(e)
	}
	if r.inTransit(e, r.p.src) {
		if !may(e, r.p.src) && e.SourceDestCheck {
			return nil, SpoofedIP
		}
		key := r.p.key(Out, 0, e.Name, false)
		if f, reason := r.pass(e, key); reason != NoFlow {
			return f, reason
		}
		return r.open(e, key, identity{})
	}
	vni := r.vpcOf(e).VNI
	for _, internet := range []bool{false, true} {
		if f, reason := r.pass(e, r.p.key(Out, vni, "", internet)); reason != NoFlow {
			return f, reason
		}
	}
	if owns(e, r.p.src) {
		return r.open(e, r.p.key(Out, vni, "", false), identity{})
	}
	return nil, SpoofedIP
}

// mayForeign: the ENI may send from addresses that are not its own.
func mayForeign(e *api.ENI) bool { return !e.SourceDestCheck || len(e.AllowedAddresses) > 0 }

// inTransit: of such an ENI, what is not from it or to it.
func (r *run) inTransit(e *api.ENI, local netip.Addr) bool { return mayForeign(e) && !owns(e, local) }

// continued is the way of a packet that belongs to another one: a later fragment, or an ICMP error about a packet
// from the VPC, from the internet or in transit. What crosses to a peer comes from an address of the VPC.
func (r *run) continued(e *api.ENI) (*flow, Reason) {
	if !owns(e, r.p.src) && e.SourceDestCheck && !contains(e.AllowedAddresses, r.p.src) {
		return nil, SpoofedIP
	}
	if r.p.fragment == laterFragment {
		return r.follow(e, false)
	}
	f, reason := r.related(e, netip.Addr{}, false, false)
	if reason == ICMPUnrelated {
		f, reason = r.related(e, netip.Addr{}, true, false)
	}
	if reason == ICMPUnrelated && mayForeign(e) {
		f, reason = r.related(e, netip.Addr{}, false, true)
	}
	if reason == goOn && f.peer != "" && r.vpcOf(r.objs.ENIs[f.peer]) != r.vpcOf(e) && !contains(r.vpcOf(e).CIDRs, r.p.src) {
		return nil, NotPeered
	}
	return f, reason
}

// toOverlay: to an ENI on another host.
func (r *run) toOverlay(e, peer *api.ENI) Reason {
	return r.tunnelled(e, peer.MAC, r.vpcOf(peer), r.vtepOf(peer))
}

// toGateway: as it is to the gateway of the sender's EIP.
func (r *run) toGateway(e *api.ENI, host string) Reason {
	return r.tunnelled(e, r.objs.Region.GatewayMAC, r.vpcOf(e), r.objs.Hosts[host].VTEP)
}

// tunnelled: to another host, at a MAC there.
func (r *run) tunnelled(e *api.ENI, mac api.MAC, vpc *api.VPC, vtep netip.Addr) Reason {
	if r.wire.size > r.host.OverlayMTU {
		r.tooBig = r.host.OverlayMTU
		return TooBig
	}
	r.p.setMACs(mac, e.MAC)
	r.out.Device = r.host.VXLAN
	r.out.Tunnel = &Tunnel{VNI: vpc.VNI, Remote: vtep}
	r.out.Outside = r.outside(r.out.Tunnel.VNI, r.out.Tunnel.Remote)
	return Delivered
}

// toInternet: out through the sender's EIP, or straight to the neighbour that has the EIP of the destination.
func (r *run) toInternet(e *api.ENI, nat netip.Addr) Reason {
	dst := r.p.dst
	if peer, private := r.eipHere(dst); peer != nil {
		r.p.setSource(nat)
		r.end(Delivered)
		r.enter(peer.Name, In)
		r.p.dst = private
		reason := r.toENI(peer, arrival{eip: dst})
		r.tooBig = 0 // the answer would show the EIP
		return reason
	}
	if peer, private := r.eipBehind(dst); peer != nil {
		if r.wire.size > r.host.OverlayMTU {
			r.tooBig = r.host.OverlayMTU
			return TooBig
		}
		r.p.setSource(nat)
		return r.carry(peer, dst, private)
	}
	if host := r.viaGateway(nat); host != "" {
		return r.toGateway(e, host)
	}
	return r.toUplink(nat)
}

// toUplink: by the host's own routes, with an EIP as source.
func (r *run) toUplink(nat netip.Addr) Reason {
	device := r.host.Route(r.p.dst)
	if _, ok := r.host.Uplinks[device]; !ok {
		return NoFIB
	}
	if r.wire.size > r.host.PortMTU {
		r.tooBig = r.host.PortMTU
		return TooBig
	}
	r.p.setSource(nat)
	r.out.Device, r.out.Neighbour = device, true
	return Delivered
}
