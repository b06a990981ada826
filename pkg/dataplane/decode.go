// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"fmt"
	"net/netip"
)

// decoder turns one entry of a table into a row; nil means that the entry is empty. The value of a
// slotted table is whole, with the half in force as the first.
type decoder func(n namer, key, value []byte) (any, error)

// decoders by table.
func decoders() map[string]decoder {
	return map[string]decoder{
		bpfMapActive:     decode(activeRow),
		bpfMapHostConf:   decode(hostRow),
		bpfMapEnis:       decode(eniRow),
		bpfMapLive:       decode(liveRow),
		bpfMapPorts:      decode(portRow),
		bpfMapUplinks:    decode(uplinkRow),
		bpfMapExits:      decode(exitRow),
		bpfMapVtepWays:   decode(waysRow),
		bpfMapEndpoints4: decode(endpointRow4),
		bpfMapEndpoints6: decode(endpointRow6),
		bpfMapMacs:       decode(macRow),
		bpfMapNexthops:   decode(nexthopRow),
		bpfMapVteps:      decode(vtepRow),
		bpfMapEipIn4:     decode(eipInRow4),
		bpfMapEipIn6:     decode(eipInRow6),
		bpfMapEipOut4:    decode(eipOutRow4),
		bpfMapEipOut6:    decode(eipOutRow6),
		bpfMapRoutes4:    decode(routeRow4),
		bpfMapRoutes6:    decode(routeRow6),
		bpfMapPolicies:   decode(policyRow),
		bpfMapAddrs4:     decode(peerRow4),
		bpfMapAddrs6:     decode(peerRow6),
		bpfMapGroups:     decode(groupRow),
		bpfMapServices:   decode(serviceRow),
		bpfMapVerdicts:   decode(verdictRow),
		bpfMapRuleHits:   decode(ruleHitsRow),

		bpfMapServiceBlocks: decode(serviceBlockRow),
		bpfMapClassRules:    decode(classRulesRow),
	}
}

// decode gives a function over generated structs the shape of a decoder. Halves of slotted tables
// have no type of their own: their functions take the whole.
func decode[K, V any](row func(n namer, k *K, v *V) any) decoder {
	return func(n namer, key, value []byte) (any, error) {
		var k K
		var v V
		if err := fromBytes(&k, key); err != nil {
			return nil, err
		}
		if err := fromBytes(&v, value); err != nil {
			return nil, err
		}
		return row(n, &k, &v), nil
	}
}

func activeRow(_ namer, _ *uint32, v *uint64) any {
	return ActiveRow{Revision: *v >> 1, Slot: int(*v & 1)}
}

func hostRow(n namer, _ *uint32, s *bpfHostConfs) any {
	v := &s.V[0]
	if v.VxlanIfindex == 0 {
		return nil
	}
	return HostRow{
		VTEP: addr4(v.Vtep), VXLANIfindex: v.VxlanIfindex, OverlayMTU: v.OverlayMtu, GatewayMAC: macText(v.GatewayMac),
		FlowShare: v.FlowShare, FlowPool: v.FlowPool, Infra: n.table(v.Infra), Gatewayed: n.table(v.Gatewayed),
	}
}

func eniRow(n namer, k *uint32, s *bpfEnis) any {
	v := &s.V[0]
	if v.Flags&cENIPresent == 0 {
		return nil
	}
	row := ENIRow{
		Index: *k, ENI: n.eni(*k), VPC: n.vpc(v.Vni), Subnet: n.subnet(v.Subnet), MAC: macText(v.Mac),
		Incarnation: v.Incarnation, Generation: v.Generation, NextHop: v.Nexthop,
		SGIn: n.ruleset(v.SgIn.Verdicts), SGOut: n.ruleset(v.SgOut.Verdicts),
		Routes: n.table(v.Routes), Allowed: n.ruleset(v.Allowed), Policy: n.ruleset(v.PolicyTo),
		SourceCheck: v.Flags&cENINoSourceCheck == 0,
		Flows:       v.Flows, Keep: v.Flags&cENIKeep != 0,
		Timeouts: fmt.Sprintf("tcp %ds, udp %ds/%ds", v.Idle.TcpEstablished, v.Idle.Udp, v.Idle.UdpStream),
		MaxFlows: v.MaxFlows, HalfOpen: v.HalfOpen, NewFlows: v.NewFlows, Packets: v.Packets,
	}
	if v.Flags&cENINACL != 0 {
		row.NACLIn, row.NACLOut = pick(n.Rulesets, v.NaclIn.Verdicts&^cRulesetWide), pick(n.Rulesets, v.NaclOut.Verdicts&^cRulesetWide)
	}
	return row
}

func liveRow(n namer, k *uint32, v *bpfLive) any {
	if v.Incarnation == 0 {
		return nil
	}
	return LiveRow{
		Index: *k, ENI: n.eni(*k), Incarnation: v.Incarnation, Ifindex: v.Ifindex, MTU: v.Mtu, XDP: v.Flags&cLiveXdp != 0,
		CapIn: v.Flags&cLiveCapIn != 0, CapOut: v.Flags&cLiveCapOut != 0, CapEIPs: v.Flags&cLiveCapEips != 0, Shaper: v.Shaper,
	}
}

func portRow(n namer, k *uint32, v *bpfPort) any {
	return PortRow{Ifindex: *k, ENI: n.eni(v.Eni), Incarnation: v.Incarnation}
}

func uplinkRow(_ namer, k *uint32, v *bpfUplink) any {
	return UplinkRow{Ifindex: *k, MAC: macText(v.Mac)}
}

func endpointRow4(n namer, k *bpfAddrKey4, s *bpfEndpoints) any {
	return endpointRow(n, k.Vni, addr4(k.Addr), s)
}

func endpointRow6(n namer, k *bpfAddrKey6, s *bpfEndpoints) any {
	return endpointRow(n, k.Vni, addr6(k.Addr), s)
}

func endpointRow(n namer, vni uint32, addr string, s *bpfEndpoints) any {
	v := &s.V[0]
	if v.Flags&cEpPresent == 0 {
		return nil
	}
	return EndpointRow{
		VPC: n.vpc(vni), Address: addr, NextHop: n.nexthop(v.Nexthop), Groups: n.groups(v.GroupSet),
		Gateway: v.Flags&cEpGateway != 0,
	}
}

func macRow(n namer, k *bpfMacKey, s *bpfMacs) any {
	v := &s.V[0]
	if v.Flags&cMACPresent == 0 {
		return nil
	}
	return MACRow{VPC: n.vpc(k.Vni), MAC: macText(k.Mac), NextHop: n.nexthop(v.Nexthop), Foreign: v.Flags&cMACForeign != 0}
}

func nexthopRow(n namer, k *uint32, v *bpfNexthop) any {
	row := NextHopRow{Index: *k, ENI: n.nexthop(*k), Subnet: n.subnet(v.Subnet), MAC: macText(v.Mac), Generation: v.Generation}
	if v.Vni != 0 {
		row.VPC = n.vpc(v.Vni)
	}
	switch v.Kind {
	case cNhNone:
		if *v == (bpfNexthop{}) {
			return nil
		}
		row.Kind = "none"
	case cNhLocal:
		row.Kind, row.Where = "local", n.eni(uint32(v.Eni))
	case cNhVTEP, cNhGateway:
		vtep := netip.AddrFrom4(v.Vtep)
		row.Kind, row.Where = "vtep", vtep.String()
		if v.Kind == cNhGateway {
			row.Kind = "gateway"
		}
		if host := n.host(vtep); host != "" {
			row.Where = host
		}
	case cNhInternet:
		row.Kind, row.MAC = "internet", ""
	default:
		row.Kind = fmt.Sprint(v.Kind)
	}
	return row
}

func vtepRow(n namer, k *bpfVtepKey, _ *uint32) any {
	role, vni := k.Vni>>cVTEPRoleShift, k.Vni&(1<<cVTEPRoleShift-1)
	name := fmt.Sprint(role)
	if names := []string{cVTEPENIs: "enis", cVTEPGateway: "gateway", cVTEPBehind: "behind"}; role < uint32(len(names)) {
		name = names[role]
	}
	return VTEPRow{VPC: n.vpc(vni), VTEP: addr4(k.Vtep), Role: name, Host: n.host(netip.AddrFrom4(k.Vtep))}
}
