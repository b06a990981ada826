// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"net/netip"
	"slices"

	"github.com/eniplane/eniplane/pkg/api"
)

// The ranges of EIPs and their gateways.

func (m *Model) rangeOf(a netip.Addr) *api.EIPRange {
	for i := range m.objs.Region.EIPRanges {
		if r := &m.objs.Region.EIPRanges[i]; r.CIDR.Contains(a) {
			return r
		}
	}
	return nil
}

// gatewayed tells whether a range with gateways holds an EIP.
func (m *Model) gatewayed(a netip.Addr) bool {
	r := m.rangeOf(a)
	return r != nil && len(r.Gateways) > 0
}

// isEIPHere tells whether an ENI of this host has an EIP.
func (m *Model) isEIPHere(a netip.Addr) bool {
	e, _ := m.eipHere(a)
	return e != nil
}

// gatewayHere tells whether this host is a gateway for an address.
func (m *Model) gatewayHere(a netip.Addr) bool {
	r := m.rangeOf(a)
	return r != nil && slices.Contains(r.Gateways, m.host.Name)
}

// taken: packets to the EIP of an ENI of this host are taken from the uplinks, unless other hosts are the gateways.
func (m *Model) taken(a netip.Addr) bool { return !m.gatewayed(a) || m.gatewayHere(a) }

// eipBehind finds the ENI of another host with an EIP for which this host is a gateway, and its private IP.
func (m *Model) eipBehind(a netip.Addr) (*api.ENI, netip.Addr) {
	for _, eip := range m.objs.EIPs {
		if eip.Address != a || eip.ENI == "" || !m.gatewayHere(a) {
			continue
		}
		if e := m.objs.ENIs[eip.ENI]; !m.isLocal(e) {
			return e, eip.PrivateIP
		}
	}
	return nil, netip.Addr{}
}

// allBehind are the ENIs of other hosts with EIPs for which this host is a gateway: it knows who they are, whether or not
// their VPC is here.
func (m *Model) allBehind() map[string]bool {
	all := map[string]bool{}
	for _, eip := range m.objs.EIPs {
		if e := m.objs.ENIs[eip.ENI]; e != nil && !m.isLocal(e) && m.gatewayHere(eip.Address) {
			all[e.Name] = true
		}
	}
	return all
}

// isGatewayOf tells whether another host is a gateway for an EIP of an ENI of this host, in a VPC.
func (m *Model) isGatewayOf(vtep netip.Addr, vni uint32) bool {
	for _, eip := range m.objs.EIPs {
		e := m.objs.ENIs[eip.ENI]
		if e == nil || !m.isLocal(e) || m.vpcOf(e).VNI != vni || !m.gatewayed(eip.Address) {
			continue
		}
		for _, host := range m.rangeOf(eip.Address).Gateways {
			if host != m.host.Name && m.objs.Hosts[host].VTEP == vtep {
				return true
			}
		}
	}
	return false
}

// isBehind tells whether another host has an ENI of a VPC with an EIP for which this host is a gateway.
func (m *Model) isBehind(vtep netip.Addr, vni uint32) bool {
	for _, eip := range m.objs.EIPs {
		e := m.objs.ENIs[eip.ENI]
		if e != nil && m.gatewayHere(eip.Address) && m.vpcOf(e).VNI == vni && m.vtepOf(e).IsValid() && m.vtepOf(e) == vtep {
			return true
		}
	}
	return false
}

// mayBeTold: what a gateway sends is for EIPs of its ranges.
func (m *Model) mayBeTold(e *api.ENI, private netip.Addr) bool {
	eip, ok := m.eipOf(e, private)
	return ok && m.gatewayed(eip)
}

// viaGateway names the gateway that an ENI's packets with an EIP take, "" = they leave here.
func (m *Model) viaGateway(eip netip.Addr) string {
	if m.taken(eip) {
		return ""
	}
	return m.objs.GatewaysOf(eip)[0]
}

// quotesOf: an ICMP error is translated with the packet that it quotes, so that must have the address in question.
func (r *run) quotesOf(quoted func(*packet) netip.Addr, address netip.Addr) Reason {
	p := &r.p
	if !p.isICMPError() || p.fragment == laterFragment {
		return goOn
	}
	if p.fragment != whole {
		return ICMPUnrelated
	}
	q, reason := p.quotedPacket()
	if reason != goOn {
		return reason
	}
	if quoted(q) != address {
		return ICMPUnrelated
	}
	p.quotes = true
	return goOn
}

// carry: to the host of an ENI, as a gateway does; the destination becomes the private IP.
func (r *run) carry(e *api.ENI, eip, private netip.Addr) Reason {
	if !r.vtepOf(e).IsValid() {
		return NoNextHop
	}
	r.p.setDestination(eip, private)
	r.p.setMACs(e.MAC, r.objs.Region.GatewayMAC)
	r.out.Device = r.host.VXLAN
	r.out.Tunnel = &Tunnel{VNI: r.vpcOf(e).VNI, Remote: r.vtepOf(e), Internet: true}
	return Delivered
}

// toBehind: from the underlay to an EIP of an ENI of another host.
func (r *run) toBehind(e *api.ENI, eip, private netip.Addr) Reason {
	r.enter("", In)
	if reason := r.parsePublic(); reason != goOn {
		return reason
	}
	if reason := r.quotesOf(func(q *packet) netip.Addr { return q.src }, eip); reason != goOn {
		return reason
	}
	if r.wire.size > r.host.OverlayMTU {
		r.tooBig = r.host.OverlayMTU
		return TooBig
	}
	return r.carry(e, eip, private)
}

func (r *run) parsePublic() Reason {
	if reason := r.p.parseIP(); reason != goOn {
		return reason
	}
	if reason := r.p.checkAddresses(); reason != goOn {
		return reason
	}
	if r.p.isNeighbourDiscovery() {
		return StrayND
	}
	return goOn
}

// leave: what an ENI of another host sends to the internet by this gateway.
func (r *run) leave() Reason {
	p := &r.p
	if reason := r.parseInner(); reason != goOn {
		return reason
	}
	e, eip := r.behind(r.from.VNI, p.src)
	switch {
	case e == nil:
		return NoEIP
	case r.vtepOf(e) != r.from.Source, e.MAC != p.smac:
		return VXLANSender
	}
	if reason := r.quotesOf(func(q *packet) netip.Addr { return q.dst }, p.src); reason != goOn {
		return reason
	}
	reason := r.leaveAs(eip)
	if reason == TooBig && r.tooBig > 0 {
		r.out.Tunnel = &Tunnel{VNI: r.from.VNI, Remote: r.from.Source, Internet: true}
	}
	return reason
}

// leaveAs: to somebody's EIP straight, else by the host's routes.
func (r *run) leaveAs(eip netip.Addr) Reason {
	p, dst := &r.p, r.p.dst
	if e, private := r.eipHere(dst); e != nil {
		p.setSource(eip)
		r.end(Delivered)
		r.enter(e.Name, In)
		p.dst = private
		reason := r.toENI(e, arrival{eip: dst})
		r.tooBig = 0 // the answer would show the EIP
		return reason
	}
	if e, private := r.eipBehind(dst); e != nil {
		if reason := r.quotesOf(func(q *packet) netip.Addr { return q.src }, dst); reason != goOn {
			return reason
		}
		p.setSource(eip)
		return r.carry(e, dst, private)
	}
	return r.toUplink(eip)
}

// behind finds the ENI of another host that has a private IP with an EIP for which this host is a gateway.
func (m *Model) behind(vni uint32, private netip.Addr) (*api.ENI, netip.Addr) {
	for _, eip := range m.objs.EIPs {
		e := m.objs.ENIs[eip.ENI]
		if e != nil && !m.isLocal(e) && eip.PrivateIP == private && m.vpcOf(e).VNI == vni && m.gatewayHere(eip.Address) {
			return e, eip.Address
		}
	}
	return nil, netip.Addr{}
}
