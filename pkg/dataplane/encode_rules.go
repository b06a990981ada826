// SPDX-License-Identifier: Apache-2.0

package dataplane

import "github.com/eniplane/eniplane/pkg/compile"

// rulesetID is the id by which the programs know a rule set: it tells how the set is asked.
func (e *encoder) rulesetID(id uint32) uint32 {
	if e.wide[id] {
		return id | cRulesetWide
	}
	return id
}

func (e *encoder) ruleset(rs *compile.Ruleset) {
	id := e.rulesetID(rs.ID)
	for i := range rs.Peers {
		p := &rs.Peers[i]
		e.put(byFamily(p.Prefix.Addr(), bpfMapAddrs4, bpfMapAddrs6), lpmKey(id, p.Prefix), bytesOf(&p.Class))
	}
	for i := range rs.Groups {
		g := &rs.Groups[i]
		e.put(bpfMapGroups, keyOf(&bpfGroupKey{Ruleset: id, GroupSet: g.GroupSet}), bytesOf(&g.Class))
	}
	for i := range rs.PeerRules {
		e.put(bpfMapPeerRules, keyOf(&bpfClassKey{Ruleset: id, Class: uint32(i + 1)}), bytesOf(&rs.PeerRules[i]))
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
		key := bpfVerdictKey{Ruleset: id, Peer: v.Peer, Service: v.Service}
		e.put(bpfMapVerdicts, keyOf(&key), bytesOf(&value))
	}
}

func (e *encoder) service(rs *compile.Ruleset, id uint32, s *compile.ServiceClass) {
	key := bpfServiceKey{
		Prefixlen: 32 + uint32(s.Bits), Ruleset: id,
		Protocol: s.Protocol, Port: [2]uint8{uint8(s.Port >> 8), uint8(s.Port)},
	}
	switch {
	case !rs.Wide():
		e.put(bpfMapServices, keyOf(&key), bytesOf(&s.Class))
	case s.Class == 0 || int(s.Class) > len(rs.ServiceRules):
		e.fail("rule set %d: a service names class %d of %d", rs.ID, s.Class, len(rs.ServiceRules))
	default:
		e.put(bpfMapServiceRules, keyOf(&key), bytesOf(&rs.ServiceRules[s.Class-1]))
	}
}
