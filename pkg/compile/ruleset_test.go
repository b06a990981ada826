// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/eniplane/eniplane/pkg/api"
)

func prefixes(list ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range list {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

func proto(n uint8) api.Protocol { return api.Protocol{Number: n} }

// inputOf is what the compiler makes a rule set of.
func inputOf(rules []rule, lists map[string]*api.PrefixList, sets []groupSet, pairs int) ruleInput {
	return ruleInput{
		rules: rules, lists: lists, sets: sets, pairs: pairs, ports: min(pairs, piecesPerBlock),
		known: func(string) *AddrTable { return nil }, listsKey: "lists",
	}
}

func mustCompileRules(t testing.TB, rules []rule, lists map[string]*api.PrefixList, sets []groupSet, pairs int) *ruleParts {
	t.Helper()
	parts, err := compileRules(inputOf(rules, lists, sets, pairs))
	if err != nil {
		t.Fatal(err)
	}
	return parts
}

func peersOf(table *AddrTable) (out []string) {
	if table == nil {
		return nil
	}
	for _, p := range table.Prefixes {
		out = append(out, fmt.Sprintf("%v=%d", p.Prefix, p.Class))
	}
	return out
}

func groupsOf(table *GroupTable) (out []string) {
	if table == nil {
		return nil
	}
	for _, g := range table.Groups {
		out = append(out, fmt.Sprintf("%d=%d", g.GroupSet, g.Class))
	}
	return out
}

func servicesOf(table *ServiceTable) (out []string) {
	if table == nil {
		return nil
	}
	for _, s := range table.Prefixes {
		out = append(out, fmt.Sprintf("%d:%d/%d=%d", s.Protocol, s.Port, s.Bits, s.Class))
	}
	return out
}

func verdictsOf(set *Ruleset) (out []string) {
	for _, v := range set.Verdicts {
		word := "deny"
		if v.Allow {
			word = "allow"
		}
		out = append(out, fmt.Sprintf("%c%d,%d=%s by %s", "alg"[v.Kind], v.Peer, v.Service, word, set.Rules[v.Rule-1].Name))
	}
	return out
}

func TestCompileRules(t *testing.T) {
	code := uint8(0)
	lists := map[string]*api.PrefixList{
		"office": {Entries: prefixes("192.0.2.0/28", "192.0.2.64/26", "2001:db8::/32")},
		"room":   {Entries: prefixes("192.0.2.0/24")},
	}
	tests := []struct {
		name                                     string
		rules                                    []rule
		sets                                     []groupSet
		peers, lists, groups, services, verdicts []string
	}{
		{name: "no rule matches nothing"},
		{
			name:  "a prefix within another adds to it",
			rules: []rule{{RuleName: RuleName{Name: "a"}, allow: true, protocol: proto(6), cidrs: prefixes("10.0.0.0/8")}, {RuleName: RuleName{Name: "b"}, allow: true, protocol: proto(17), cidrs: prefixes("10.1.0.0/16")}},
			peers: []string{"10.0.0.0/8=1", "10.1.0.0/16=2"}, services: []string{"6:0/8=1", "17:0/8=2"},
			verdicts: []string{"a1,1=allow by a", "a2,1=allow by a", "a2,2=allow by b"},
		},
		{
			name:  "a prefix that adds nothing is left out",
			rules: []rule{{RuleName: RuleName{Name: "a"}, allow: true, protocol: proto(6), cidrs: prefixes("10.1.0.0/16", "10.0.0.0/8", "10.0.0.0/8")}},
			peers: []string{"10.0.0.0/8=1"}, services: []string{"6:0/8=1"}, verdicts: []string{"a1,1=allow by a"},
		},
		{
			name:  "neighbours do not cover each other",
			rules: []rule{{RuleName: RuleName{Name: "a"}, allow: true, protocol: proto(6), cidrs: prefixes("10.0.0.0/9", "10.128.0.0/9", "10.0.1.0/24")}, {RuleName: RuleName{Name: "b"}, allow: true, protocol: proto(6), cidrs: prefixes("10.0.1.0/24", "0.0.0.0/0")}},
			peers: []string{"0.0.0.0/0=1", "10.0.0.0/9=2", "10.128.0.0/9=2"}, services: []string{"6:0/8=1"},
			verdicts: []string{"a1,1=allow by b", "a2,1=allow by a"},
		},
		{
			name:  "the first matching entry decides, also to deny",
			rules: []rule{{RuleName: RuleName{Name: "acl/50"}, protocol: proto(6), ports: []api.PortRange{{From: 23, To: 23}}, cidrs: prefixes("0.0.0.0/0")}, {RuleName: RuleName{Name: "acl/100"}, allow: true, protocol: api.Protocol{Any: true}, cidrs: prefixes("0.0.0.0/0")}},
			peers: []string{"0.0.0.0/0=1"}, services: []string{"0:0/0=1", "6:23/24=2"},
			verdicts: []string{"a1,1=allow by acl/100", "a1,2=deny by acl/50"},
		},
		{
			name:  "icmp is IPv4, icmpv6 is IPv6, whatever the prefixes",
			rules: []rule{{RuleName: RuleName{Name: "4"}, allow: true, protocol: proto(1), icmp: &api.ICMP{Type: 8, Code: &code}, cidrs: prefixes("0.0.0.0/0", "::/0")}, {RuleName: RuleName{Name: "6"}, allow: true, protocol: proto(58), icmp: &api.ICMP{Type: 128}, cidrs: prefixes("0.0.0.0/0", "::/0")}},
			peers: []string{"0.0.0.0/0=1", "::/0=2"}, services: []string{"1:2048/24=1", "58:32768/16=2"},
			verdicts: []string{"a1,1=allow by 4", "a2,2=allow by 6"},
		},
		{
			name:  "a prefix list and a group, each with classes of its own",
			rules: []rule{{RuleName: RuleName{Name: "pl"}, allow: true, protocol: proto(6), lists: []string{"office"}}, {RuleName: RuleName{Name: "sg"}, allow: true, protocol: api.Protocol{Any: true}, groups: []string{"web"}}, {RuleName: RuleName{Name: "db"}, allow: true, protocol: proto(50), groups: []string{"db"}}},
			sets:  []groupSet{{3, []string{"db"}}, {5, []string{"other"}}, {7, []string{"db", "web"}}, {9, []string{"web"}}},
			lists: []string{"192.0.2.0/28=1", "192.0.2.64/26=1", "2001:db8::/32=1"}, groups: []string{"3=1", "7=2", "9=3"},
			services: []string{"0:0/0=1", "6:0/8=2", "50:0/8=3"},
			verdicts: []string{"l1,2=allow by pl", "g1,3=allow by db", "g2,1=allow by sg", "g2,2=allow by sg", "g2,3=allow by sg", "g3,1=allow by sg", "g3,2=allow by sg", "g3,3=allow by sg"},
		},
		{
			name:  "lists that share addresses",
			rules: []rule{{RuleName: RuleName{Name: "b"}, allow: true, protocol: proto(6), lists: []string{"room"}}, {RuleName: RuleName{Name: "a"}, protocol: proto(6), lists: []string{"room", "office"}}},
			lists: []string{"192.0.2.0/24=1", "192.0.2.0/28=2", "192.0.2.64/26=2", "2001:db8::/32=3"}, services: []string{"6:0/8=1"},
			verdicts: []string{"l1,1=allow by b", "l2,1=allow by b", "l3,1=deny by a"},
		},
		{
			name: "port ranges that cross",
			rules: []rule{
				{RuleName: RuleName{Name: "a"}, allow: true, protocol: proto(6), ports: []api.PortRange{{From: 4, To: 9}, {From: 8, To: 11}}, cidrs: prefixes("0.0.0.0/0")},
				{RuleName: RuleName{Name: "b"}, allow: true, protocol: proto(6), cidrs: prefixes("10.0.0.0/8")},
				{RuleName: RuleName{Name: "c"}, protocol: proto(6), ports: []api.PortRange{{From: 8, To: 65535}}, cidrs: prefixes("10.0.0.0/8")},
			},
			peers:    []string{"0.0.0.0/0=1", "10.0.0.0/8=2"},
			services: []string{"6:0/8=1", "6:4/22=2", "6:8/22=3", "6:12/22=4", "6:16/20=4", "6:32/19=4", "6:64/18=4", "6:128/17=4", "6:256/16=4", "6:512/15=4", "6:1024/14=4", "6:2048/13=4", "6:4096/12=4", "6:8192/11=4", "6:16384/10=4", "6:32768/9=4"},
			verdicts: []string{"a1,2=allow by a", "a1,3=allow by a", "a2,1=allow by b", "a2,2=allow by a", "a2,3=allow by a", "a2,4=allow by b"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			parts := mustCompileRules(t, tt.rules, lists, tt.sets, ordinaryPairs)
			for _, part := range []struct {
				name      string
				got, want []string
			}{
				{"peers", peersOf(parts.addrs), tt.peers}, {"lists", peersOf(parts.lists), tt.lists},
				{"groups", groupsOf(parts.groups), tt.groups},
				{"services", servicesOf(parts.services), tt.services}, {"verdicts", verdictsOf(parts.set), tt.verdicts},
			} {
				if d := cmp.Diff(part.want, part.got, cmpopts.EquateEmpty()); d != "" {
					t.Errorf("%s (-want +got):\n%s", part.name, d)
				}
			}
		})
	}
}

// TestServices asks for every port of random rules, of which some split into so many prefixes that they are blocks.
func TestServices(t *testing.T) {
	blocks, pieces := 0, 0
	for seed := range uint64(12) {
		g := generator{rand.New(rand.NewPCG(seed, 6))}
		rules := make([]rule, 1+g.IntN(60))
		for i := range rules {
			rules[i].protocol, rules[i].ports, rules[i].icmp = g.service()
			if len(rules[i].ports) > 0 && g.IntN(2) == 0 {
				for range g.IntN(30) {
					from := uint16(8000 + g.IntN(700))
					rules[i].ports = append(rules[i].ports, api.PortRange{From: from, To: from + uint16(g.IntN(3))})
				}
			}
		}
		table, sets, err := serviceTable(rules, int(seed)%3*piecesPerBlock/2)
		if err != nil {
			t.Fatal(err)
		}
		blocks, pieces = blocks+len(table.Blocks), pieces+len(table.Prefixes)
		for _, protocol := range []uint8{1, 6, 17, 50, 99} {
			for port := range 1 << 16 {
				p := packet{protocol: protocol, port: uint16(port), peer: netip.IPv4Unspecified()}
				if protocol != 6 && protocol != 17 && port > 0x300 {
					break
				}
				want := newBitset(len(rules))
				for i := range rules {
					if matchesService(rules[i].protocol, rules[i].ports, rules[i].icmp, p) {
						want.add(i)
					}
				}
				got := newBitset(len(rules))
				if class := serviceClass(table, p); class > 0 {
					got = sets[class-1]
				}
				if !slices.Equal(got, want) {
					t.Fatalf("seed %d: protocol %d port %d has the rules %v, want %v", seed, protocol, port, slices.Collect(got.all()), slices.Collect(want.all()))
				}
			}
		}
	}
	if blocks < 20 || pieces < 100 {
		t.Errorf("%d blocks and %d prefixes prove little", blocks, pieces)
	}
}

// TestPortRanges checks each range at every port, and that it takes the fewest prefixes.
func TestPortRanges(t *testing.T) {
	for _, tt := range []struct {
		ports  api.PortRange
		pieces int
	}{
		{api.PortRange{From: 443, To: 443}, 1},
		{api.PortRange{From: 8000, To: 8999}, 6},
		{api.PortRange{From: 1024, To: 65535}, 6},
		{api.PortRange{From: 1, To: 65535}, 16},
		{api.PortRange{From: 1, To: 65534}, 30},
		{api.PortRange{From: 0, To: 65535}, 1},
		{api.PortRange{From: 65535, To: 65535}, 1},
	} {
		pieces := appendRange(nil, api.ProtoTCP, tt.ports)
		if len(pieces) != tt.pieces {
			t.Errorf("%v splits into %d prefixes, want %d: %v", tt.ports, len(pieces), tt.pieces, pieces)
		}
		for port := range 1 << 16 {
			key := netip.AddrFrom4([4]byte{api.ProtoTCP, byte(port >> 8), byte(port)})
			hits := 0
			for _, p := range pieces {
				if p.Contains(key) {
					hits++
				}
			}
			want := 0
			if int(tt.ports.From) <= port && port <= int(tt.ports.To) {
				want = 1
			}
			if hits != want {
				t.Fatalf("%v: port %d is in %d prefixes, want %d", tt.ports, port, hits, want)
			}
		}
	}
}

func TestRuleLimits(t *testing.T) {
	one := rule{RuleName: RuleName{Name: "r"}, allow: true, protocol: proto(6), cidrs: prefixes("10.0.0.0/8")}
	many := func(n int) (rules []rule) {
		for range n {
			rules = append(rules, one)
		}
		return rules
	}
	// Pairs of peers and services that all have a rule in common: n*n verdicts.
	square := func(n int) (rules []rule) {
		for i := range n {
			cidr := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 1}), 32)
			rules = append(rules,
				rule{allow: true, protocol: api.Protocol{Any: true}, cidrs: []netip.Prefix{cidr}},
				rule{allow: true, protocol: proto(6), ports: []api.PortRange{{From: uint16(i + 1), To: uint16(i + 1)}}, cidrs: prefixes("10.0.0.0/8")})
		}
		return rules
	}
	ranges := one
	for i := range maxServices + 1 {
		ranges.ports = append(ranges.ports, api.PortRange{From: uint16(i), To: uint16(i)})
	}
	two := []rule{ranges, ranges} // ports are merged within a rule
	for i := range two {
		two[i].ports = nil
		for port := 1; port < 1<<16; port += 2 {
			two[i].ports = append(two[i].ports, api.PortRange{From: uint16(port), To: uint16(port)})
		}
	}
	lists := map[string]*api.PrefixList{"big": {Entries: make([]netip.Prefix, maxPrefixes)}}
	for i := range lists["big"].Entries {
		lists["big"].Entries[i] = netip.MustParsePrefix("10.0.0.0/8")
	}
	for _, tt := range []struct {
		name  string
		rules []rule
		want  string // "" = within the limits
	}{
		{"1000 rules", many(maxRules), ""},
		{"1001 rules", many(maxRules + 1), "1001 rules are more than the limit of 1000"},
		{"a full prefix list", []rule{{allow: true, protocol: proto(6), lists: []string{"big"}}}, ""},
		{"a list named twice counts once", []rule{{protocol: proto(6), lists: []string{"big"}}, {protocol: proto(17), lists: []string{"big", "big"}}}, ""},
		{"a full prefix list and one more", []rule{one, {allow: true, protocol: proto(6), lists: []string{"big"}}}, "prefixes of its rules are more than the limit of 131072"},
		{"port ranges that are one", []rule{ranges}, ""},
		{"many port ranges", append(two, two...), ""},
		{"too many port ranges", append(append(two, two...), two[0]), "port ranges of its rules are more than 131072"},
		{"250,000 verdicts", square(500), ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := compileRules(inputOf(tt.rules, lists, nil, ordinaryPairs))
			switch {
			case tt.want == "" && err != nil:
				t.Error(err)
			case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
				t.Errorf("got %v, want an error with %q", err, tt.want)
			}
		})
	}
}

// TestWide: rules whose peers and ports overlap, each with each, would need very many verdicts.
func TestWide(t *testing.T) {
	var rules []rule
	for i := range 400 {
		cidr := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 1}), 32)
		rules = append(rules,
			rule{allow: true, protocol: api.Protocol{Any: true}, cidrs: []netip.Prefix{cidr}},
			rule{allow: true, protocol: proto(6), ports: []api.PortRange{{From: uint16(100 + 3*i), To: uint16(30000 + 3*i)}}, cidrs: prefixes("10.0.0.0/8")})
	}
	set := mustCompileRules(t, rules, nil, nil, ordinaryPairs).set
	if !set.Wide() || len(set.ClassRules[OfAddr]) != 401 || len(set.ClassRules[OfService]) != 800 || len(set.Verdicts) != 800 {
		t.Errorf("got %d classes of peers, %d of services and %d verdicts, want a wide set", len(set.ClassRules[OfAddr]), len(set.ClassRules[OfService]), len(set.Verdicts))
	}
}

// TestRulesetFormat: the id of a rule set is that of its rules, so the same rules must give the same
// classes also after an upgrade of the agent, or say that they do not.
func TestRulesetFormat(t *testing.T) {
	rules := manyRules(200)
	rules[3].lists = []string{"pl"}
	parts := mustCompileRules(t, rules, manyPrefixes(100), manySets(50), ordinaryPairs)
	text, err := json.Marshal([]any{parts.set, parts.addrs, parts.lists, parts.groups, parts.services})
	if err != nil {
		t.Fatal(err)
	}
	const want = "format 4: b544a1f3c584fee9f5d7d32e590a0de4d76325cba3b6e286253acc55ded4b190"
	if got := fmt.Sprintf("format %d: %x", rulesetFormat, sha256.Sum256(text)); got != want {
		t.Errorf("got %q, want %q: if compileRules gives another result for the same rules, rulesetFormat must grow", got, want)
	}
}

// TestPolicyHash: rules that differ in anything have different hashes, so one's classes are never
// taken for the other's.
func TestPolicyHash(t *testing.T) {
	zero, one := uint8(0), uint8(1)
	obj := api.NewObjects()
	for name, entries := range map[string][]netip.Prefix{"a": prefixes("10.0.0.0/8"), "b": prefixes("10.0.0.0/9"), "c": prefixes("10.0.0.0/9")} {
		obj.PrefixLists[name] = &api.PrefixList{Entries: entries}
	}
	base := func() ([]rule, string) {
		return []rule{{
			RuleName: RuleName{Name: "a/r"}, allow: true, protocol: proto(6), ports: []api.PortRange{{From: 1, To: 2}, {From: 3, To: 4}},
			icmp: &api.ICMP{Type: 1, Code: &zero}, cidrs: prefixes("10.0.0.0/8", "::/0"), lists: []string{"a"}, groups: []string{"x", "yz"},
		}}, "sg a ingress"
	}
	sets := []groupSet{{1, []string{"x"}}}
	hashes := map[[32]byte]string{}
	check := func(name string, change func(*[]rule, *string), sets []groupSet) {
		c := newCompiler(Input{Objects: obj}, &allocator{})
		rules, label := base()
		change(&rules, &label)
		list := newRuleList(rules)
		for i := range rules { // as if it had been given this one
			list.idHash[i] = byte(rules[i].id)
		}
		p := policy{label: label, lists: []*ruleList{list}}
		h := policyHash(c.rulesHash(&p), &p, sets)
		if other, ok := hashes[h]; ok {
			t.Errorf("%s: the hash is that of %s", name, other)
		}
		hashes[h] = name
	}
	check("base", func(*[]rule, *string) {}, sets)
	check("another group set", func(*[]rule, *string) {}, []groupSet{{2, []string{"x"}}})
	check("no group set", func(*[]rule, *string) {}, nil)
	for name, change := range map[string]func(*rule){
		"name":             func(r *rule) { r.Name = "a/s" },
		"id":               func(r *rule) { r.id = 1 },
		"action":           func(r *rule) { r.allow = false },
		"any protocol":     func(r *rule) { r.protocol = api.Protocol{Any: true} },
		"protocol":         func(r *rule) { r.protocol = proto(17) },
		"no ports":         func(r *rule) { r.ports = nil },
		"a port":           func(r *rule) { r.ports[0].To = 3 },
		"no ICMP":          func(r *rule) { r.icmp = nil },
		"ICMP type":        func(r *rule) { r.icmp = &api.ICMP{Type: 2, Code: &zero} },
		"ICMP code":        func(r *rule) { r.icmp = &api.ICMP{Type: 1, Code: &one} },
		"any ICMP code":    func(r *rule) { r.icmp = &api.ICMP{Type: 1} },
		"prefix length":    func(r *rule) { r.cidrs[0] = netip.MustParsePrefix("10.0.0.0/9") },
		"family":           func(r *rule) { r.cidrs[1] = netip.MustParsePrefix("0.0.0.0/0") },
		"no prefix":        func(r *rule) { r.cidrs = nil },
		"prefix list":      func(r *rule) { r.lists[0] = "b" },
		"equal list":       func(r *rule) { r.lists[0] = "c" },
		"no list":          func(r *rule) { r.lists = nil },
		"groups":           func(r *rule) { r.groups[0] = "w" },
		"groups, one cut":  func(r *rule) { r.groups = []string{"xy", "z"} },
		"groups, together": func(r *rule) { r.groups = []string{"xyz"} },
	} {
		check(name, func(rules *[]rule, _ *string) { change(&(*rules)[0]) }, sets)
	}
	check("label", func(_ *[]rule, label *string) { *label = "sg a egress" }, sets)
	check("twice", func(rules *[]rule, _ *string) { *rules = append(*rules, (*rules)[0]) }, sets)
	check("none", func(rules *[]rule, _ *string) { *rules = nil }, sets)
}
