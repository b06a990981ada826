// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"fmt"
	"math/bits"
	"net/netip"
	"strings"
)

func eipInRow4(n namer, k *bpfEipKey4, s *bpfEipsIn4) any {
	v := &s.V[0]
	return eipInRow(n, v.Flags, v.Eni, v.Nexthop, addr4(k.Addr), addr4(v.Addr))
}

func eipInRow6(n namer, k *bpfEipKey6, s *bpfEipsIn6) any {
	v := &s.V[0]
	return eipInRow(n, v.Flags, v.Eni, v.Nexthop, addr6(k.Addr), addr6(v.Addr))
}

func eipInRow(n namer, flags, eni, hop uint32, eip, private string) any {
	if flags == 0 {
		return nil
	}
	row := EIPInRow{EIP: eip, ENI: n.eni(eni), Private: private, Uplink: flags&cEIPUplink != 0}
	if flags&cEIPBehind != 0 {
		row.ENI, row.Gateway = n.nexthop(hop), true
	}
	return row
}

func eipOutRow4(n namer, k *bpfAddrKey4, s *bpfEipsOut4) any {
	v := &s.V[0]
	return eipOutRow(n, v.Flags, k.Vni, v.Nexthop, addr4(k.Addr), addr4(v.Addr))
}

func eipOutRow6(n namer, k *bpfAddrKey6, s *bpfEipsOut6) any {
	v := &s.V[0]
	return eipOutRow(n, v.Flags, k.Vni, v.Nexthop, addr6(k.Addr), addr6(v.Addr))
}

func eipOutRow(n namer, flags, vni, hop uint32, private, eip string) any {
	if flags == 0 {
		return nil
	}
	row := EIPOutRow{VPC: n.vpc(vni), Private: private, EIP: eip, Way: n.nexthop(hop)}
	if flags&cEIPBehind != 0 {
		row.Way = "internet" // as everything that a gateway sends out
	}
	return row
}

func routeRow4(n namer, k *bpfLpmKey4, v *bpfRoute) any { return routeRow(n, k.Table, prefix4(k), v) }

func routeRow6(n namer, k *bpfLpmKey6, v *bpfRoute) any { return routeRow(n, k.Table, prefix6(k), v) }

func routeRow(n namer, table uint32, prefix string, v *bpfRoute) any {
	row := RouteRow{Table: n.table(table), Prefix: prefix, Subnet: n.subnet(v.Subnet)}
	row.Kind, row.Target = way(n, v)
	return row
}

// way says what kind of route it is, and to whom it leads if it names somebody.
func way(n namer, v *bpfRoute) (kind, target string) {
	switch v.Kind {
	case cRouteLocal:
		return "local", ""
	case cRouteInternet:
		return "internet", ""
	case cRouteBlackhole:
		return "blackhole", ""
	case cRouteInfra:
		return "infrastructure", ""
	case cRouteENI:
		return "eni", n.nexthop(v.Arg)
	case cRouteVPC:
		return "vpc", n.vpc(v.Arg)
	case cRouteNotPeered:
		return "not peered", ""
	case cRouteGateway:
		return "gateway", ""
	}
	return fmt.Sprint(v.Kind), ""
}

func policyRow(n namer, k *bpfPolicyKey, v *bpfRoute) any {
	row := PolicyRow{Policy: n.ruleset(k.Policy), Route: bits.Len32(k.Bit)}
	row.Kind, row.Target = way(n, v)
	return row
}

func peerRow4(n namer, k *bpfLpmKey4, v *uint32) any {
	return PeerRow{Ruleset: n.ruleset(k.Table), Prefix: prefix4(k), Class: *v}
}

func peerRow6(n namer, k *bpfLpmKey6, v *uint32) any {
	return PeerRow{Ruleset: n.ruleset(k.Table), Prefix: prefix6(k), Class: *v}
}

func prefix4(k *bpfLpmKey4) string {
	return netip.PrefixFrom(netip.AddrFrom4(k.Addr), int(k.Prefixlen)-32).String()
}

func prefix6(k *bpfLpmKey6) string {
	return netip.PrefixFrom(netip.AddrFrom16(k.Addr), int(k.Prefixlen)-32).String()
}

func groupRow(n namer, k *bpfGroupKey, v *uint32) any {
	return GroupRow{Ruleset: n.ruleset(k.Table), Groups: n.groups(k.GroupSet), Class: *v}
}

func serviceRow(n namer, k *bpfServiceKey, v *uint32) any {
	protocol, port := serviceName(k)
	return ServiceRow{Ruleset: n.ruleset(k.Table), Protocol: protocol, Port: port, Class: *v}
}

// serviceBlockRow lists the classes of a block as they follow each other.
func serviceBlockRow(n namer, k *bpfBlockKey, v *bpfServiceBlock) any {
	first := uint16(k.High) << 8
	row := ServiceBlockRow{
		Ruleset: n.ruleset(k.Table), Protocol: protocolName(k.Protocol), Port: fmt.Sprintf("%d-%d", first, first|0xff),
	}
	var runs []string
	for from, to := 0, 0; from < len(v.Classes); from = to {
		for to = from + 1; to < len(v.Classes) && v.Classes[to] == v.Classes[from]; to++ {
		}
		runs = append(runs, fmt.Sprintf("%d*%d", v.Classes[from], to-from))
	}
	row.Classes = strings.Join(runs, ",")
	return row
}

func classRulesRow(n namer, k *bpfClassKey, v *bpfClassRules) any {
	first := k.Classes * cRulesetClasses
	row := ClassRulesRow{Ruleset: n.ruleset(k.Ruleset), Kind: kindName(first), Class: first & (1<<cClassShift - 1)}
	var sets []string
	for i := range v.Of {
		sets = append(sets, ordinals(&v.Of[i]))
	}
	row.Rules = strings.Join(sets, "; ")
	return row
}

// kindName says of what something is a class.
func kindName(class uint32) string {
	switch class >> cClassShift {
	case cClassAddr:
		return "address"
	case cClassList:
		return "prefix list"
	case cClassGroup:
		return "groups"
	}
	return "service"
}

// ordinals lists the rules of a set as they stand in their rule set, from 1.
func ordinals(v *bpfRuleSet) string {
	var list []string
	for i, word := range v.Words {
		for ; word != 0; word &= word - 1 {
			list = append(list, fmt.Sprint(64*i+bits.TrailingZeros64(word)+1))
		}
	}
	return strings.Join(list, ",")
}

// serviceName prints the protocol and the port, or ICMP's type and code, of a key.
func serviceName(k *bpfServiceKey) (protocol, ports string) {
	protocol, ports = "all", "any"
	fixed := int(k.Prefixlen) - 32
	if fixed >= 8 {
		protocol = protocolName(k.Protocol)
	}
	port := uint16(k.Port[0])<<8 | uint16(k.Port[1])
	switch {
	case fixed <= 8:
	case protocol == "icmp" || protocol == "icmpv6":
		ports = fmt.Sprintf("type %d", k.Port[0])
		if fixed == 24 {
			ports += fmt.Sprintf(" code %d", k.Port[1])
		}
	case fixed == 24:
		ports = fmt.Sprint(port)
	default:
		ports = fmt.Sprintf("%d-%d", port, port|uint16(1<<(24-fixed)-1))
	}
	return protocol, ports
}

func ruleHitsRow(n namer, k *uint32, v *uint64) any {
	return RuleHitsRow{ID: *k, Rule: n.rule(*k), Hits: *v}
}

func verdictRow(n namer, k *bpfVerdictKey, v *bpfVerdict) any {
	row := VerdictRow{
		Ruleset: n.ruleset(k.Ruleset), Peer: k.Peer & (1<<cClassShift - 1), Service: k.Service,
		Order: v.Word >> 1, Allow: v.Word&1 == 1, Rule: n.rule(v.Rule),
	}
	if row.Peer != 0 {
		row.Kind = kindName(k.Peer)
	}
	return row
}
