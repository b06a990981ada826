// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"net/netip"

	"github.com/eniplane/eniplane/pkg/compile"
)

func (e *setEncoder) ruleset(rs *compile.Ruleset) {
	id := rulesetID(rs)
	for i := range rs.Peers {
		p := &rs.Peers[i]
		e.lpm(bpfMapAddrs4, bpfMapAddrs6, id, p.Prefix, view(&p.Class))
	}
	for i := range rs.Groups {
		g := &rs.Groups[i]
		e.add(bpfMapGroups, view(&bpfGroupKey{Ruleset: id, GroupSet: g.GroupSet}), view(&g.Class))
	}
	for i := range rs.PeerRules {
		e.add(bpfMapPeerRules, view(&bpfClassKey{Ruleset: id, Class: uint32(i + 1)}), view(&rs.PeerRules[i]))
	}
	for i := range rs.Services {
		e.service(rs, id, &rs.Services[i])
	}
	for _, v := range rs.Verdicts {
		if v.Rule == 0 || int(v.Rule) > len(rs.Rules) {
			e.fail("rule set %d: a verdict names rule %d of %d", rs.ID, v.Rule, len(rs.Rules))
			return
		}
		value := bpfVerdict{Word: v.Rule << 1, Rule: rs.Rules[v.Rule-1].ID}
		if v.Allow {
			value.Word |= 1
		}
		e.add(bpfMapVerdicts, view(&bpfVerdictKey{Ruleset: id, Peer: v.Peer, Service: v.Service}), view(&value))
	}
}

func (e *setEncoder) service(rs *compile.Ruleset, id uint32, s *compile.ServiceClass) {
	key := bpfServiceKey{
		Prefixlen: 32 + uint32(s.Bits), Ruleset: id,
		Protocol: s.Protocol, Port: [2]uint8{uint8(s.Port >> 8), uint8(s.Port)},
	}
	switch {
	case !rs.Wide():
		e.add(bpfMapServices, view(&key), view(&s.Class))
	case s.Class == 0 || int(s.Class) > len(rs.ServiceRules):
		e.fail("rule set %d: a service names class %d of %d", rs.ID, s.Class, len(rs.ServiceRules))
	default:
		e.add(bpfMapServiceRules, view(&key), view(&rs.ServiceRules[s.Class-1]))
	}
}

// lpm adds a prefix of a table, which is an id in the key, to the map of its family.
func (e *setEncoder) lpm(v4, v6 string, table uint32, prefix netip.Prefix, value []byte) {
	bits := 32 + uint32(prefix.Bits())
	if prefix.Addr().Is4() {
		e.add(v4, view(&bpfLpmKey4{Prefixlen: bits, Table: table, Addr: prefix.Addr().As4()}), value)
		return
	}
	e.add(v6, view(&bpfLpmKey6{Prefixlen: bits, Table: table, Addr: prefix.Addr().As16()}), value)
}
