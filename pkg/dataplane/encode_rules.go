// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"net/netip"

	"github.com/eniplane/eniplane/pkg/compile"
)

// rules is a rule set as an ENI names it.
func (e *encoder) rules(eni *compile.ENI, id uint32) (r bpfRules) {
	if id == 0 {
		return r
	}
	rs := e.rulesets[id]
	if rs == nil {
		e.fail("ENI %s: there is no rule set %d", eni.Name, id)
		return r
	}
	return bpfRules{Addrs: rs.Addrs, Lists: rs.Lists, Groups: rs.Groups, Services: rs.Services, Verdicts: rulesetID(rs)}
}

// ruleset lays out what a rule set has beside its tables.
func (e *setEncoder) ruleset(rs *compile.Ruleset) {
	id := rulesetID(rs)
	for _, v := range rs.Verdicts {
		if v.Rule == 0 || int(v.Rule) > len(rs.Rules) {
			e.fail("rule set %d: a verdict names rule %d of %d", rs.ID, v.Rule, len(rs.Rules))
			return
		}
		value := bpfVerdict{Word: v.Rule << 1, Rule: rs.Rules[v.Rule-1].ID}
		if v.Allow {
			value.Word |= 1
		}
		e.addOf(len(rs.Verdicts), bpfMapVerdicts, view(&bpfVerdictKey{Ruleset: id, Peer: classID(v.Kind, v.Peer), Service: v.Service}), view(&value))
	}
	entries := 0
	for _, sets := range rs.ClassRules {
		entries += len(sets)/cRulesetClasses + 1
	}
	for kind, sets := range rs.ClassRules {
		e.classRules(id, compile.ClassKind(kind), sets, entries)
	}
}

// classID is a class of a kind as the programs name it.
func classID(kind compile.ClassKind, class uint32) uint32 { return uint32(kind)<<cClassShift | class }

// classRules lays out the rules of each class, several to an entry.
func (e *setEncoder) classRules(id uint32, kind compile.ClassKind, sets []compile.RuleSet, entries int) {
	var value bpfClassRules
	for class := 1; class <= len(sets); class++ {
		place := class % cRulesetClasses
		value.Of[place].Words = sets[class-1]
		if place != cRulesetClasses-1 && class != len(sets) {
			continue
		}
		key := bpfClassKey{Ruleset: id, Classes: classID(kind, uint32(class)) / cRulesetClasses}
		e.addOf(entries, bpfMapClassRules, view(&key), view(&value))
		value = bpfClassRules{}
	}
}

func (e *setEncoder) addrs(t *compile.AddrTable) {
	for i := range t.Prefixes {
		p := &t.Prefixes[i]
		e.lpm(bpfMapAddrs4, bpfMapAddrs6, t.ID, p.Prefix, view(&p.Class))
	}
}

func (e *setEncoder) groups(t *compile.GroupTable) {
	for i := range t.Groups {
		g := &t.Groups[i]
		e.add(bpfMapGroups, view(&bpfGroupKey{Table: t.ID, GroupSet: g.GroupSet}), view(&g.Class))
	}
}

func (e *setEncoder) services(t *compile.ServiceTable) {
	for i := range t.Prefixes {
		s := &t.Prefixes[i]
		key := bpfServiceKey{
			Prefixlen: 32 + uint32(s.Bits), Table: t.ID,
			Protocol: s.Protocol, Port: [2]uint8{uint8(s.Port >> 8), uint8(s.Port)},
		}
		e.addOf(len(t.Prefixes), bpfMapServices, view(&key), view(&s.Class))
	}
	for i := range t.Blocks {
		b := &t.Blocks[i]
		e.addOf(len(t.Blocks), bpfMapServiceBlocks, view(&bpfBlockKey{Table: t.ID, Protocol: b.Protocol, High: b.High}), view(&b.Classes))
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
