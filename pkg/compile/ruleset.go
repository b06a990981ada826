// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"fmt"
	"math/bits"
	"net/netip"

	"github.com/eniplane/eniplane/pkg/api"
)

// The bounds of one rule set: one direction of the united security groups of an ENI, or of a
// network ACL. They bound the time of a compilation and the maps.
const (
	maxRules    = 1000
	maxPrefixes = 1 << 17 // 100,000 of prefix lists, each list counted once, and what rules write themselves
	maxServices = 1 << 17 // port ranges split into prefixes
)

// ordinaryPairs is up to how many pairs of classes a set has a verdict for each, so that they are looked up
// and not searched. With more, the set is wide unless that would take even more memory.
const ordinaryPairs = 1 << 13

// WordsPerSet is the length of a set of rules, as in bpf/types.h.
const WordsPerSet = (maxRules + 63) / 64

// rulesetFormat is part of every rule set's identity. It grows when compileRules gives another
// result for the same rules: an id stands for one content, also across an upgrade.
const rulesetFormat = 2

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
	for from, to := uint32(ports.From), uint32(ports.To); from <= to; {
		// The largest block that begins at from and does not reach beyond to.
		size := 16
		if from != 0 {
			size = bits.TrailingZeros32(from)
		}
		size = min(size, bits.Len32(to-from+1)-1)
		out = append(out, servicePrefix(protocol, uint16(from), 24-size))
		from += 1 << size
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

// compileRules makes the classes and verdicts of rules, the first matching one deciding. The
// caller gives the result its ID. pairs is ordinaryPairs; 0 makes every set wide.
func compileRules(rules []rule, lists map[string]*api.PrefixList, sets []groupSet, pairs int) (Ruleset, error) {
	if len(rules) > maxRules {
		return Ruleset{}, fmt.Errorf("%d rules are more than the limit of %d per direction: merge rules, or use prefix lists", len(rules), maxRules)
	}
	peers, services := newClasses(), newClasses()
	var out Ruleset
	for i := range rules {
		out.Rules = append(out.Rules, Rule{rules[i].id, rules[i].Name})
	}
	prefixes, err := prefixMatches(rules, lists)
	if err != nil {
		return Ruleset{}, err
	}
	for _, e := range peers.classify(prefixes) {
		out.Peers = append(out.Peers, PeerClass{Prefix: e.prefix, Class: e.class})
	}
	out.Groups = groupClasses(rules, sets, peers)

	ports, err := serviceMatches(rules)
	if err != nil {
		return Ruleset{}, err
	}
	for _, e := range services.classify(ports) {
		b := e.prefix.Addr().As4()
		out.Services = append(out.Services, ServiceClass{
			Protocol: b[0], Port: uint16(b[1])<<8 | uint16(b[2]), Bits: uint8(e.prefix.Bits()), Class: e.class,
		})
	}
	if pairs > 0 {
		pairs = max(pairs, 2*(len(peers.sets)+len(out.Services))+len(rules))
	}
	var few bool
	if out.Verdicts, few = verdicts(rules, peers.sets, services.sets, pairs); !few {
		out.widen(rules, peers.sets, services.sets)
	}
	return out, nil
}

// widen replaces the verdicts of all pairs: classes say which rules match, and the first in both decides.
func (s *Ruleset) widen(rules []rule, peers, services []bitset) {
	s.PeerRules, s.ServiceRules = make([]RuleSet, len(peers)), make([]RuleSet, len(services))
	for i := range peers {
		copy(s.PeerRules[i][:], peers[i])
	}
	for i := range services {
		copy(s.ServiceRules[i][:], services[i])
	}
	s.Verdicts = make([]Verdict, len(rules))
	for i := range rules {
		s.Verdicts[i] = Verdict{Service: uint32(i + 1), Allow: rules[i].allow, Rule: uint32(i + 1)}
	}
}

// prefixMatches returns which rules match which peer addresses. A prefix list is entered once,
// however many rules name it.
func prefixMatches(rules []rule, lists map[string]*api.PrefixList) ([]match, error) {
	var out []match
	add := func(prefixes []netip.Prefix, named bitset) error {
		v4, v6 := newBitset(len(rules)), newBitset(len(rules))
		for i := range named.all() {
			if rules[i].matches(netip.IPv4Unspecified()) {
				v4.add(i)
			}
			if rules[i].matches(netip.IPv6Unspecified()) {
				v6.add(i)
			}
		}
		if len(out)+len(prefixes) > maxPrefixes {
			return fmt.Errorf("the prefixes of its rules are more than the limit of %d: shorten the prefix lists, or merge adjacent prefixes", maxPrefixes)
		}
		for _, p := range prefixes {
			set := v6
			if p.Addr().Is4() {
				set = v4
			}
			if !set.empty() {
				out = append(out, match{p, set})
			}
		}
		return nil
	}

	var order []string // of the lists, as first named
	named := map[string]bitset{}
	for i := range rules {
		for _, list := range rules[i].lists {
			if named[list] == nil {
				named[list] = newBitset(len(rules))
				order = append(order, list)
			}
			named[list].add(i)
		}
		if len(rules[i].cidrs) == 0 {
			continue
		}
		only := newBitset(len(rules))
		only.add(i)
		if err := add(rules[i].cidrs, only); err != nil {
			return nil, err
		}
	}
	for _, list := range order {
		if err := add(lists[list].Entries, named[list]); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// groupClasses returns the classes of the group sets that have a group which a rule names.
func groupClasses(rules []rule, sets []groupSet, peers *classes) []GroupClass {
	naming := map[string]bitset{}
	for i := range rules {
		for _, group := range rules[i].groups {
			if naming[group] == nil {
				naming[group] = newBitset(len(rules))
			}
			naming[group].add(i)
		}
	}
	var out []GroupClass
	for _, set := range sets {
		matching := newBitset(len(rules))
		for _, group := range set.names {
			matching.union(naming[group])
		}
		if !matching.empty() {
			out = append(out, GroupClass{GroupSet: set.id, Class: peers.number(matching)})
		}
	}
	return out
}

// serviceMatches returns which rules match which protocols and ports.
func serviceMatches(rules []rule) ([]match, error) {
	var out []match
	for i := range rules {
		only := newBitset(len(rules))
		only.add(i)
		for _, p := range rules[i].services() {
			out = append(out, match{p, only})
		}
		if len(out) > maxServices {
			return nil, fmt.Errorf("the port ranges of its rules split into more than %d prefixes: use fewer or wider ranges", maxServices)
		}
	}
	return out, nil
}

// verdicts decides every pair of classes that have a rule in common: the first such rule. few is false if
// there are more than `most`.
func verdicts(rules []rule, peers, services []bitset, most int) (out []Verdict, few bool) {
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
	for p, set := range peers {
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
				Peer: uint32(p + 1), Service: uint32(s + 1), Allow: rules[first[s]].allow, Rule: uint32(first[s] + 1),
			})
		}
	}
	return out, true
}
