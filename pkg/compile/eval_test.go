// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/eniplane/eniplane/pkg/api"
)

// packet is what a rule sees of a packet, from the ENI's side.
type packet struct {
	peer     netip.Addr
	internet bool // did not come through the VPC: no group matches
	protocol uint8
	port     uint16 // destination port, ICMP type<<8|code, or 0
}

// decision is the outcome of rules: rule is "" if none matched.
type decision struct {
	allow bool
	rule  string
}

// evaluate judges a packet by a compiled state, the way the programs do.
func evaluate(t *testing.T, st *State, ruleset, vni uint32, p packet, groups bool) decision {
	t.Helper()
	if ruleset == 0 {
		return decision{}
	}
	groupSet := uint32(0)
	if groups && !p.internet {
		groupSet = groupSetOf(st, vni, p.peer)
	}
	return evaluateSet(partsOf(t, st, ruleset), p, groupSet)
}

// partsOf returns a rule set of a state with its tables.
func partsOf(t *testing.T, st *State, ruleset uint32) *ruleParts {
	t.Helper()
	tables, _ := tablesOf(st)
	set := tables.sets[ruleset]
	if set == nil {
		t.Fatalf("rule set %d is not in the state", ruleset)
	}
	parts := tables.parts(set)
	if parts == nil {
		t.Fatalf("a table of rule set %d is not in the state", ruleset)
	}
	return parts
}

func evaluateSet(p *ruleParts, packet packet, groupSet uint32) decision {
	service := serviceClass(p.services, packet)
	peers := [OfService]uint32{addrClass(p.addrs, packet.peer), addrClass(p.lists, packet.peer), groupClass(p.groups, groupSet)}
	var best *Verdict
	if p.set.Wide() {
		best = firstOf(p.set, service, peers)
	} else {
		for kind, peer := range peers {
			if v := verdictOf(p.set, ClassKind(kind), peer, service); v != nil && (best == nil || v.Rule < best.Rule) {
				best = v
			}
		}
	}
	if best == nil {
		return decision{}
	}
	return decision{best.Allow, p.set.Rules[best.Rule-1].Name}
}

// firstOf finds the first rule of a wide set that service and peer have in common.
func firstOf(set *Ruleset, service uint32, peers [OfService]uint32) *Verdict {
	if service == 0 {
		return nil
	}
	for i := range set.Rules {
		has := func(s RuleSet) bool { return s[i/64]>>(i%64)&1 == 1 }
		for kind, peer := range peers {
			if peer != 0 && has(set.ClassRules[OfService][service-1]) && has(set.ClassRules[kind][peer-1]) {
				return verdictOf(set, OfAddr, 0, uint32(i+1))
			}
		}
	}
	return nil
}

func addrClass(table *AddrTable, a netip.Addr) uint32 {
	class, longest := uint32(0), -1
	if table == nil {
		return 0
	}
	for _, p := range table.Prefixes {
		if p.Prefix.Contains(a) && p.Prefix.Bits() > longest {
			class, longest = p.Class, p.Prefix.Bits()
		}
	}
	return class
}

func serviceClass(table *ServiceTable, p packet) uint32 {
	class, longest := uint32(0), -1
	if table == nil {
		return 0
	}
	key := uint32(p.protocol)<<16 | uint32(p.port)
	for _, s := range table.Prefixes {
		mine := uint32(s.Protocol)<<16 | uint32(s.Port)
		if key>>(24-s.Bits) == mine>>(24-s.Bits) && int(s.Bits) > longest {
			class, longest = s.Class, int(s.Bits)
		}
	}
	if class != 0 || longest < 0 {
		return class
	}
	for i := range table.Blocks {
		if b := &table.Blocks[i]; b.Protocol == p.protocol && b.High == uint8(p.port>>8) {
			return b.Classes[p.port&0xff]
		}
	}
	return 0
}

func groupSetOf(st *State, vni uint32, a netip.Addr) uint32 {
	for _, e := range st.Endpoints {
		if e.VNI == vni && e.Addr == a {
			return e.GroupSet
		}
	}
	return 0
}

func groupClass(table *GroupTable, groupSet uint32) uint32 {
	if table == nil {
		return 0
	}
	for _, g := range table.Groups {
		if g.GroupSet == groupSet {
			return g.Class
		}
	}
	return 0
}

func verdictOf(set *Ruleset, kind ClassKind, peer, service uint32) *Verdict {
	for i := range set.Verdicts {
		if v := &set.Verdicts[i]; v.Kind == kind && v.Peer == peer && v.Service == service {
			return v
		}
	}
	return nil
}

// The reference: straight from the objects, by loops, without a thought of speed.

func referenceGroups(obj *api.Objects, eni *api.ENI, dir string, p packet) decision {
	groups := slices.Clone(eni.SecurityGroups)
	slices.Sort(groups)
	for _, name := range groups {
		rules := obj.SecurityGroups[name].Ingress
		if dir == "egress" {
			rules = obj.SecurityGroups[name].Egress
		}
		for i, r := range rules {
			if matchesService(r.Protocol, r.Ports, r.ICMP, p) && matchesPeer(obj, eni, r.Peers, p) {
				rule := name + "/" + r.Name
				if r.Name == "" {
					rule = name + "/" + dir + "[" + strconv.Itoa(i) + "]"
				}
				return decision{true, rule}
			}
		}
	}
	return decision{}
}

func referenceACL(obj *api.Objects, eni *api.ENI, dir string, p packet) decision {
	acl := obj.NetworkACLs[obj.Subnets[eni.Subnet].NetworkACL]
	entries := acl.Ingress
	if dir == "egress" {
		entries = acl.Egress
	}
	for _, e := range entries {
		if matchesService(e.Protocol, e.Ports, e.ICMP, p) && e.CIDR.Contains(p.peer) {
			return decision{e.Allow, acl.Name + "/" + strconv.Itoa(e.Number)}
		}
	}
	return decision{}
}

func matchesPeer(obj *api.Objects, eni *api.ENI, peers []api.Peer, p packet) bool {
	for _, peer := range peers {
		switch {
		case peer.PrefixList != "":
			for _, prefix := range obj.PrefixLists[peer.PrefixList].Entries {
				if prefix.Contains(p.peer) {
					return true
				}
			}
		case peer.Group != "":
			for _, other := range obj.ENIs {
				if !p.internet && obj.VPCOf(other) == obj.VPCOf(eni) &&
					slices.Contains(other.SecurityGroups, peer.Group) && slices.Contains(other.IPs, p.peer) {
					return true
				}
			}
		case peer.Prefix.Contains(p.peer):
			return true
		}
	}
	return false
}

func matchesService(proto api.Protocol, ports []api.PortRange, icmp *api.ICMP, p packet) bool {
	if proto.Any {
		return true
	}
	if proto.Number != p.protocol ||
		proto.Number == api.ProtoICMP && !p.peer.Is4() || proto.Number == api.ProtoICMPv6 && p.peer.Is4() {
		return false
	}
	if icmp != nil {
		return uint8(p.port>>8) == icmp.Type && (icmp.Code == nil || uint8(p.port) == *icmp.Code)
	}
	if len(ports) == 0 {
		return true
	}
	for _, r := range ports {
		if r.From <= p.port && p.port <= r.To {
			return true
		}
	}
	return false
}

// decode reads objects as a feed would give them.
func decode(t testing.TB, docs string) *api.Objects {
	t.Helper()
	obj, errs := api.Decode([]api.File{{Name: "test.yaml", Data: []byte(strings.TrimSpace(docs))}})
	for _, err := range errs {
		t.Error(err)
	}
	if len(errs) > 0 {
		t.FailNow()
	}
	return obj
}

func mustCompile(t testing.TB, in Input) *Result {
	t.Helper()
	res, err := Compile(in)
	if err != nil {
		t.Fatal(err)
	}
	return res
}

// rulesOf names the rules of a set, by their ids.
func rulesOf(st *State, ruleset uint32) []string {
	var names []string
	for i := range st.Rulesets {
		if st.Rulesets[i].ID != ruleset {
			continue
		}
		for _, rule := range st.Rulesets[i].Rules {
			names = append(names, st.Names.Rules[rule.ID].Name)
		}
	}
	return names
}
