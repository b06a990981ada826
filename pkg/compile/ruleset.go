// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"fmt"
	"maps"
	"math/bits"
	"net/netip"
	"slices"

	"github.com/eniplane/eniplane/pkg/api"
)

// The bounds of one rule set: one direction of the united security groups of an ENI, or of a
// network ACL. They bound the time of a compilation and the maps.
const (
	maxRules    = 1000
	maxPrefixes = 1 << 17 // 100,000 of prefix lists, each list counted once, and what rules write themselves
	maxServices = 1 << 17 // port ranges
)

// ordinaryPairs is up to how many pairs of classes a set has a verdict for each, so that they are looked up
// and not searched. With more, the set is wide unless that would be as many entries: publishing a set is writing them.
const ordinaryPairs = 1 << 11

// ClassesPerEntry is how many classes of a wide set share an entry of the map, as in bpf/types.h.
const ClassesPerEntry = 8

// WordsPerSet is the length of a set of rules, as in bpf/types.h.
const WordsPerSet = (maxRules + 63) / 64

// rulesetFormat is part of every rule set's identity. It grows when compileRules gives another
// result for the same rules: an id stands for one content, also across an upgrade.
const rulesetFormat = 4

// rule is a rule of a security group or an entry of a network ACL, as the compiler needs it.
type rule struct {
	RuleName
	id       uint32
	allow    bool
	protocol api.Protocol
	ports    []api.PortRange
	icmp     *api.ICMP
	cidrs    []netip.Prefix
	lists    []string // names of prefix lists
	groups   []string // names of security groups
}

// matches says whether the rule can match packets of a family at all: ICMP exists in IPv4 only,
// ICMPv6 in IPv6 only. Peers that are groups have no family; there the programs see to it, which
// drop either protocol in the other family as malformed.
func (r *rule) matches(family netip.Addr) bool {
	if r.protocol.Any {
		return true
	}
	switch r.protocol.Number {
	case api.ProtoICMP:
		return family.Is4()
	case api.ProtoICMPv6:
		return family.Is6()
	}
	return true
}

// services returns the protocols and ports that the rule matches as prefixes of the 24 bits
// protocol and port, written as the first three bytes of an IPv4 address.
func (r *rule) services() []netip.Prefix {
	if r.protocol.Any {
		return []netip.Prefix{servicePrefix(0, 0, 0)}
	}
	number := r.protocol.Number
	if r.icmp != nil {
		port := uint16(r.icmp.Type) << 8
		if r.icmp.Code == nil {
			return []netip.Prefix{servicePrefix(number, port, 16)}
		}
		return []netip.Prefix{servicePrefix(number, port|uint16(*r.icmp.Code), 24)}
	}
	if len(r.ports) == 0 {
		return []netip.Prefix{servicePrefix(number, 0, 8)}
	}
	var out []netip.Prefix
	for _, ports := range r.ports {
		out = appendRange(out, number, ports)
	}
	return out
}

// appendRange appends the fewest prefixes that cover a range of ports.
func appendRange(out []netip.Prefix, protocol uint8, ports api.PortRange) []netip.Prefix {
	for port, open := range pieces(portSpan{uint32(ports.From), uint32(ports.To)}) {
		out = append(out, servicePrefix(protocol, port, 24-open))
	}
	return out
}

func servicePrefix(protocol uint8, port uint16, length int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{protocol, byte(port >> 8), byte(port)}), length)
}

// groupSet is a combination of security groups of one VPC that some ENI is a member of.
type groupSet struct {
	id    uint32
	names []string // sorted
}

// ruleInput is what a rule set is made of.
type ruleInput struct {
	rules []rule
	lists map[string]*api.PrefixList
	sets  []groupSet // those that the rules can tell apart from no group
	pairs int        // ordinaryPairs; 0 makes the set wide,
	ports int        // piecesPerBlock; 0 makes blocks
	// known returns a table of prefix lists made before, by its key; nil = none. The key is that of listsKey.
	known    func(key string) *AddrTable
	listsKey string
}

// ruleParts are a rule set and its tables, nil where it has none. They have no ids yet.
type ruleParts struct {
	set          *Ruleset // nil: tables alone
	addrs, lists *AddrTable
	groups       *GroupTable
	services     *ServiceTable

	matching [ClassKinds][]bitset // the rules of each class
}

// compileRules makes the classes and verdicts of rules, the first matching one deciding.
func compileRules(in ruleInput) (*ruleParts, error) {
	rules := in.rules
	if len(rules) > maxRules {
		return nil, fmt.Errorf("%d rules are more than the limit of %d per direction: merge rules, or use prefix lists", len(rules), maxRules)
	}
	p := &ruleParts{set: &Ruleset{}}
	for i := range rules {
		p.set.Rules = append(p.set.Rules, Rule{rules[i].id, rules[i].Name})
	}
	names, naming := namedLists(rules)
	if err := checkPrefixes(&in, names); err != nil {
		return nil, err
	}
	p.addOwn(rules)
	p.addLists(&in, names, naming)
	p.addGroups(rules, in.sets)
	if len(rules) > 0 {
		var err error
		if p.services, p.matching[OfService], err = serviceTable(rules, in.ports); err != nil {
			return nil, err
		}
		p.services.Key = p.services.contentKey()
	}
	p.decide(rules, in.pairs)
	return p, nil
}

// decide adds the verdicts in the form that suits.
func (p *ruleParts) decide(rules []rule, pairs int) {
	if pairs > 0 {
		classes := 0
		for _, sets := range p.matching {
			classes += len(sets)
		}
		pairs = max(pairs, classes/4+len(rules))
	}
	var few bool
	if p.set.Verdicts, few = verdicts(rules, &p.matching, pairs); few {
		return
	}
	for kind, sets := range p.matching {
		p.set.ClassRules[kind] = make([]RuleSet, len(sets))
		for i := range sets {
			copy(p.set.ClassRules[kind][i][:], sets[i])
		}
	}
	p.set.Verdicts = make([]Verdict, len(rules))
	for i := range rules {
		p.set.Verdicts[i] = Verdict{Service: uint32(i + 1), Allow: rules[i].allow, Rule: uint32(i + 1)}
	}
}

// namedLists returns the prefix lists that rules name, sorted, and which rules name each.
func namedLists(rules []rule) ([]string, []bitset) {
	byName := map[string]bitset{}
	for i := range rules {
		for _, list := range rules[i].lists {
			if byName[list] == nil {
				byName[list] = newBitset(len(rules))
			}
			byName[list].add(i)
		}
	}
	names := slices.Sorted(maps.Keys(byName))
	naming := make([]bitset, len(names))
	for i, name := range names {
		naming[i] = byName[name]
	}
	return names, naming
}

func checkPrefixes(in *ruleInput, lists []string) error {
	total := 0
	for _, name := range lists {
		total += len(in.lists[name].Entries)
	}
	for i := range in.rules {
		total += len(in.rules[i].cidrs)
	}
	if total > maxPrefixes {
		return fmt.Errorf("the prefixes of its rules are more than the limit of %d: shorten the prefix lists, or merge adjacent prefixes", maxPrefixes)
	}
	return nil
}

// addOwn adds the classes of the addresses that rules write themselves.
func (p *ruleParts) addOwn(rules []rule) {
	var matches []match
	for i := range rules {
		if len(rules[i].cidrs) == 0 {
			continue
		}
		only := newBitset(len(rules))
		only.add(i)
		for _, prefix := range rules[i].cidrs {
			if rules[i].matches(prefix.Addr()) {
				matches = append(matches, match{prefix, only})
			}
		}
	}
	if len(matches) == 0 {
		return
	}
	c := newClasses()
	p.addrs = &AddrTable{Prefixes: peerClasses(c.classify(matches))}
	p.addrs.Key = p.addrs.contentKey()
	p.matching[OfAddr] = c.sets
}

// addLists adds the classes of the addresses in prefix lists: those that the same lists hold. They do not depend on the
// rules, so that nothing of them is made or written again when a rule changes. To be able to say so before they are made,
// their key is that of the lists.
func (p *ruleParts) addLists(in *ruleInput, names []string, naming []bitset) {
	if len(names) == 0 {
		return
	}
	if p.lists = in.known(in.listsKey); p.lists == nil {
		p.lists = listTable(in.lists, names)
		p.lists.Key = in.listsKey
	}
	for _, lists := range p.lists.covering {
		set := newBitset(len(in.rules))
		for i := range lists.all() {
			set.union(naming[i])
		}
		p.matching[OfList] = append(p.matching[OfList], set)
	}
}

// listTable makes the table of some prefix lists.
func listTable(lists map[string]*api.PrefixList, names []string) *AddrTable {
	var matches []match
	for i, name := range names {
		only := newBitset(len(names))
		only.add(i)
		for _, prefix := range lists[name].Entries {
			matches = append(matches, match{prefix, only})
		}
	}
	c := newClasses()
	return &AddrTable{Prefixes: peerClasses(c.classify(matches)), covering: c.sets}
}

// addGroups adds the classes of the group sets that have a group which a rule names.
func (p *ruleParts) addGroups(rules []rule, sets []groupSet) {
	naming := map[string]bitset{}
	for i := range rules {
		for _, group := range rules[i].groups {
			if naming[group] == nil {
				naming[group] = newBitset(len(rules))
			}
			naming[group].add(i)
		}
	}
	c := newClasses()
	table := &GroupTable{}
	for _, set := range sets {
		matching := newBitset(len(rules))
		for _, group := range set.names {
			matching.union(naming[group])
		}
		if !matching.empty() {
			table.Groups = append(table.Groups, GroupClass{GroupSet: set.id, Class: c.number(matching)})
		}
	}
	if len(table.Groups) == 0 {
		return
	}
	table.Key = table.contentKey()
	p.groups, p.matching[OfGroup] = table, c.sets
}

// tooMany tells early whether a few classes of peers have too many pairs already: where rules overlap heavily that saves most
// of the work. It need not be sure.
func tooMany(matching *[ClassKinds][]bitset, most int) bool {
	const few = 24
	pairs := 0
	for _, sets := range matching[:OfService] {
		for _, peer := range sets[:min(few, len(sets))] {
			for _, service := range matching[OfService] {
				if peer.meets(service) {
					pairs++
				}
			}
		}
	}
	return pairs > most
}

// verdicts decides every pair of classes that have a rule in common: the first such rule. few is false if
// there are more than `most`.
func verdicts(rules []rule, matching *[ClassKinds][]bitset, most int) (out []Verdict, few bool) {
	if tooMany(matching, most) {
		return nil, false
	}
	services := matching[OfService]
	naming := make([]bitset, len(rules)) // by rule: the service classes that it is in
	for i := range naming {
		naming[i] = newBitset(len(services))
	}
	for s, set := range services {
		for i := range set.all() {
			naming[i].add(s)
		}
	}
	decided := newBitset(len(services)) // for the current peer
	first := make([]int, len(services)) // by which rule
	for kind := OfAddr; kind < OfService; kind++ {
		for p, set := range matching[kind] {
			clear(decided)
			for i := range set.all() {
				for w, word := range naming[i] {
					for hit := word &^ decided[w]; hit != 0; hit &= hit - 1 {
						first[w*64+bits.TrailingZeros64(hit)] = i
					}
					decided[w] |= word
				}
			}
			if len(out)+decided.count() > most {
				return nil, false
			}
			for s := range decided.all() {
				out = append(out, Verdict{
					Kind: kind, Peer: uint32(p + 1), Service: uint32(s + 1), Allow: rules[first[s]].allow, Rule: uint32(first[s] + 1),
				})
			}
		}
	}
	return out, true
}
