// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"fmt"
	"net/netip"

	"github.com/eniplane/eniplane/pkg/compile"
)

func (e *encoder) host(h *compile.HostConf, facts HostFacts, quotas quotas) error {
	if !h.VTEP.Is4() {
		return fmt.Errorf("host %s: vtep %v is not an IPv4 address", h.Name, h.VTEP)
	}
	var key uint32
	var slots bpfHostConfs
	half := &slots.V[0]
	half.Vtep = h.VTEP.As4()
	half.VxlanIfindex = facts.VXLANIfindex
	half.OverlayMtu = facts.OverlayMTU
	half.Infra = h.Infra
	half.GatewayMac = h.GatewayMAC
	half.FlowShare, half.FlowPool = quotas.share, quotas.pool
	half.Gatewayed = h.Gatewayed
	e.put(bpfMapHostConf, keyOf(&key), bytesOf(half))
	return nil
}

func (e *encoder) eni(eni *compile.ENI, quotas quotas) {
	if eni.Index == 0 || eni.Index >= cMaxENIs {
		e.fail("ENI %s: index %d is not in 1-%d", eni.Name, eni.Index, cMaxENIs-1)
		return
	}
	var slots bpfEnis
	half := &slots.V[0]
	half.Flags = cENIPresent
	if eni.NoSource {
		half.Flags |= cENINoSourceCheck
	}
	if eni.HasNACL {
		half.Flags |= cENINACL
	}
	if eni.Keep {
		half.Flags |= cENIKeep
	}
	if eni.Packets != 0 {
		half.Flags |= cENIPacketRate
	}
	if eni.NewFlows != 0 {
		half.Flags |= cENIFlowRate
	}
	half.Packets, half.NewFlows = eni.Packets, eni.NewFlows
	half.Vni, half.Subnet, half.Nexthop = eni.VNI, eni.Subnet, eni.NextHop
	half.Incarnation, half.Generation = eni.Incarnation, eni.Generation
	half.SgIn, half.SgOut = e.rules(eni, eni.SGIn), e.rules(eni, eni.SGOut)
	half.NaclIn, half.NaclOut = e.rules(eni, eni.NACLIn), e.rules(eni, eni.NACLOut)
	half.Routes, half.Allowed = eni.Routes, eni.Allowed
	half.PolicyFrom, half.PolicyTo = eni.PolicyFrom, eni.PolicyTo
	half.Flows = eni.Flows
	half.MaxFlows, half.HalfOpen = quotas.limit(eni), quotas.halfOpen(eni)
	half.Idle.TcpEstablished, half.Idle.Udp, half.Idle.UdpStream = eni.Idle.TCPEstablished, eni.Idle.UDP, eni.Idle.UDPStream
	half.Mac = eni.MAC
	half.Instance = eni.Instance
	if eni.Gateway4.Is4() {
		half.Gateway4 = eni.Gateway4.As4()
	}
	if eni.Gateway6.Is6() {
		half.Gateway6 = eni.Gateway6.As16()
	}
	e.put(bpfMapEnis, keyOf(&eni.Index), bytesOf(half))
}

// nexthops adds the one of the internet, which no state lists.
func (e *encoder) nexthops(hops []compile.NextHop) {
	internet := uint32(cNexthopInternet)
	e.put(bpfMapNexthops, keyOf(&internet), bytesOf(&bpfNexthop{Kind: cNhInternet}))
	for i := range hops {
		h := &hops[i]
		if h.Index < cNexthopFirst || h.Index >= cMaxNexthops {
			e.fail("ENI %s: next hop %d is not in %d-%d", h.ENI, h.Index, cNexthopFirst, cMaxNexthops-1)
			return
		}
		value := bpfNexthop{Generation: h.Generation, Since: h.Since, Vni: h.VNI, Subnet: h.Subnet, Mac: h.MAC}
		switch {
		case h.Gateway && h.VTEP.Is4():
			value.Kind, value.Vtep = cNhGateway, h.VTEP.As4()
		case h.Local != 0 && h.VTEP.Is4():
			value.Kind, value.Eni, value.Vtep = cNhMoved, uint16(h.Local), h.VTEP.As4()
		case h.Local != 0:
			value.Kind, value.Eni = cNhLocal, uint16(h.Local)
		case h.VTEP.Is4():
			value.Kind, value.Eni, value.Vtep = cNhVTEP, uint16(h.Prepared), h.VTEP.As4()
		}
		e.put(bpfMapNexthops, keyOf(&h.Index), bytesOf(&value))
	}
}

func (e *encoder) moves(moves []compile.Move) {
	for i := range moves {
		m := &moves[i]
		if !m.From.Is4() || !m.To.Is4() {
			e.fail("next hop %d: moves from %v to %v, which are not both IPv4 addresses", m.NextHop, m.From, m.To)
			return
		}
		var slots bpfMoves
		half := &slots.V[0]
		half.From, half.To = m.From.As4(), m.To.As4()
		e.put(bpfMapMoves, keyOf(&m.NextHop), bytesOf(half))
	}
}

func (e *encoder) endpoints(endpoints []compile.Endpoint) {
	for i := range endpoints {
		ep := &endpoints[i]
		var slots bpfEndpoints
		half := &slots.V[0]
		half.Flags, half.Nexthop, half.GroupSet = cEpPresent, ep.NextHop, ep.GroupSet
		if ep.Gateway {
			half.Flags |= cEpGateway
		}
		e.put(byFamily(ep.Addr, bpfMapEndpoints4, bpfMapEndpoints6), addrKey(ep.VNI, ep.Addr), bytesOf(half))
	}
}

func (e *encoder) macs(macs []compile.MAC) {
	for i := range macs {
		m := &macs[i]
		var slots bpfMacs
		half := &slots.V[0]
		half.Flags, half.Nexthop = cMACPresent, m.NextHop
		if m.Foreign {
			half.Flags |= cMACForeign
		}
		e.put(bpfMapMacs, keyOf(&bpfMacKey{Vni: m.VNI, Mac: m.MAC}), bytesOf(half))
	}
}

func (e *encoder) vteps(vteps []compile.VTEP) {
	for _, v := range vteps {
		if !v.Addr.Is4() {
			e.fail("VNI %d: vtep %v is not an IPv4 address", v.VNI, v.Addr)
			return
		}
		e.put(bpfMapVteps, keyOf(&bpfVtepKey{Vni: v.VNI | uint32(v.Role)<<cVTEPRoleShift, Vtep: v.Addr.As4()}), []byte{1, 0, 0, 0})
	}
}

func (e *encoder) eips(eips []compile.EIP) {
	for i := range eips {
		eip := &eips[i]
		if eip.Addr.Is4() != eip.Private.Is4() {
			e.fail("EIP %v: private IP %v is of another family", eip.Addr, eip.Private)
			return
		}
		flagsIn, flagsOut := eipFlags(eip)
		hop := uint32(0)
		if eip.ENI == 0 {
			hop = eip.NextHop
		}
		if eip.Addr.Is4() {
			var in bpfEipsIn4
			var out bpfEipsOut4
			in.V[0].Flags, in.V[0].Eni, in.V[0].Nexthop, in.V[0].Addr = flagsIn, eip.ENI, hop, eip.Private.As4()
			out.V[0].Flags, out.V[0].Nexthop, out.V[0].Class, out.V[0].Addr = flagsOut, eip.NextHop, eip.Class, eip.Addr.As4()
			e.put(bpfMapEipIn4, keyOf(&bpfEipKey4{Addr: eip.Addr.As4()}), bytesOf(&in.V[0]))
			e.put(bpfMapEipOut4, addrKey(eip.VNI, eip.Private), bytesOf(&out.V[0]))
			continue
		}
		var in bpfEipsIn6
		var out bpfEipsOut6
		in.V[0].Flags, in.V[0].Eni, in.V[0].Nexthop, in.V[0].Addr = flagsIn, eip.ENI, hop, eip.Private.As16()
		out.V[0].Flags, out.V[0].Nexthop, out.V[0].Class, out.V[0].Addr = flagsOut, eip.NextHop, eip.Class, eip.Addr.As16()
		e.put(bpfMapEipIn6, keyOf(&bpfEipKey6{Addr: eip.Addr.As16()}), bytesOf(&in.V[0]))
		e.put(bpfMapEipOut6, addrKey(eip.VNI, eip.Private), bytesOf(&out.V[0]))
	}
}

// eipFlags are those of eip_in and eip_out.
func eipFlags(eip *compile.EIP) (in, out uint32) {
	in, out = cEIPPresent, cEIPPresent
	if eip.Uplink {
		in |= cEIPUplink
	}
	if eip.Gatewayed {
		out |= cEIPGatewayed
	}
	if eip.ENI == 0 {
		in, out = in|cEIPBehind, out|cEIPBehind
	}
	return in, out
}

func (e *encoder) policies(routes []compile.PolicyRoute) {
	for _, r := range routes {
		value := bpfRoute{Kind: uint32(r.Kind), Arg: r.Arg}
		e.put(bpfMapPolicies, keyOf(&bpfPolicyKey{Policy: r.Policy, Bit: r.Bit}), bytesOf(&value))
	}
}

func byFamily(addr netip.Addr, v4, v6 string) string {
	if addr.Is4() {
		return v4
	}
	return v6
}

func addrKey(vni uint32, addr netip.Addr) string {
	if addr.Is4() {
		return keyOf(&bpfAddrKey4{Vni: vni, Addr: addr.As4()})
	}
	return keyOf(&bpfAddrKey6{Vni: vni, Addr: addr.As16()})
}
