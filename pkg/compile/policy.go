// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/eniplane/eniplane/pkg/api"
)

// direction is one side of a policy, by the name that the feed uses.
type direction string

const (
	ingress direction = "ingress"
	egress  direction = "egress"
)

// policy is a list of rules, the first matching one deciding, and for what it was made.
type policy struct {
	label string
	rules []rule
}

// groups compiles one direction of united security groups. All rules allow, so their order changes no
// verdict; it says which of several allowing rules decides.
func (c *compiler) groups(v *vpc, groups []string, dir direction) *compiled {
	p := policy{label: "sg " + strings.Join(groups, ",") + " " + string(dir)}
	if done, ok := c.compiled[p.label]; ok {
		return done
	}
	for _, group := range groups {
		p.rules = append(p.rules, c.groupRules(c.Objects.SecurityGroups[group], dir)...)
	}
	if len(p.rules) == 0 {
		c.compiled[p.label] = &compiled{}
		return c.compiled[p.label]
	}
	return c.ruleset(v, p)
}

// groupRules returns one direction of a security group, made once for all unions.
func (c *compiler) groupRules(g *api.SecurityGroup, dir direction) []rule {
	id := [2]string{g.Name, string(dir)}
	if done, ok := c.ruleLists[id]; ok {
		return done
	}
	list := g.Ingress
	if dir == egress {
		list = g.Egress
	}
	names := GroupRules(g, string(dir))
	rules := make([]rule, len(list))
	for i := range list {
		rules[i] = newGroupRule(&list[i])
		rules[i].RuleName = names[i]
	}
	c.ruleLists[id] = rules
	return rules
}

// GroupRules names the rules of one direction of a security group, and says what their ids belong to: the
// group, the direction and the rule's own name, or what it says.
func GroupRules(g *api.SecurityGroup, dir string) []RuleName {
	list := g.Ingress
	if dir == string(egress) {
		list = g.Egress
	}
	keys := ruleKeys{object: "sg/" + g.Name + "@" + g.UID, dir: dir, seen: map[string]int{}}
	names := make([]RuleName, len(list))
	for i := range list {
		if name := list[i].Name; name != "" {
			names[i] = keys.next("name "+name, g.Name+"/"+name)
			continue
		}
		r := newGroupRule(&list[i])
		names[i] = keys.next("text "+r.textKey(), fmt.Sprintf("%s/%s[%d]", g.Name, dir, i))
	}
	return names
}

// ACLRules does the same for the entries of a network ACL, whose numbers are their names.
func ACLRules(acl *api.NetworkACL, dir string) []RuleName {
	entries := acl.Ingress
	if dir == string(egress) {
		entries = acl.Egress
	}
	keys := ruleKeys{object: "nacl/" + acl.Name + "@" + acl.UID, dir: dir, seen: map[string]int{}}
	names := make([]RuleName, len(entries))
	for i := range entries {
		names[i] = keys.next(fmt.Sprint("number ", entries[i].Number), fmt.Sprintf("%s/%d", acl.Name, entries[i].Number))
	}
	return names
}

// ruleKeys tells rules that look the same apart by their order.
type ruleKeys struct {
	object, dir string
	seen        map[string]int
}

func (k *ruleKeys) next(what, name string) RuleName {
	key := k.object + " " + k.dir + " " + what
	k.seen[key]++
	if n := k.seen[key]; n > 1 {
		key = fmt.Sprintf("%s #%d", key, n)
	}
	return RuleName{Key: key, Direction: k.dir, Name: name}
}

func newGroupRule(r *api.Rule) rule {
	out := rule{allow: true, protocol: r.Protocol, ports: r.Ports, icmp: r.ICMP}
	for _, peer := range r.Peers {
		switch {
		case peer.Group != "":
			out.groups = append(out.groups, peer.Group)
		case peer.PrefixList != "":
			out.lists = append(out.lists, peer.PrefixList)
		default:
			out.cidrs = append(out.cidrs, peer.Prefix)
		}
	}
	return out
}

// acl compiles one direction of a network ACL, by number.
func (c *compiler) acl(v *vpc, acl *api.NetworkACL, dir direction) *compiled {
	p := policy{label: "nacl " + acl.Name + " " + string(dir)}
	if done, ok := c.compiled[p.label]; ok {
		return done
	}
	entries := acl.Ingress
	if dir == egress {
		entries = acl.Egress
	}
	names := ACLRules(acl, string(dir))
	for i, e := range entries {
		p.rules = append(p.rules, rule{
			RuleName: names[i], allow: e.Allow,
			protocol: e.Protocol, ports: e.Ports, icmp: e.ICMP, cidrs: []netip.Prefix{e.CIDR},
		})
	}
	return c.ruleset(v, p)
}

// namedGroups returns the security groups that rules name as peers, sorted.
func (p *policy) namedGroups() []string {
	var out []string
	for i := range p.rules {
		out = append(out, p.rules[i].groups...)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// compiled is a rule set made in this run, or why it could not be made.
type compiled struct {
	id     uint32 // 0 = no rule set
	hash   [32]byte
	rules  [32]byte // what of it the feed says
	groups []string // named as peers
	err    error
}

// policyHash covers everything that compileRules turns into a Ruleset.
func policyHash(hash [32]byte, rules []rule, sets []groupSet) [32]byte {
	var h content
	h.num(rulesetFormat)
	h.hash(hash)
	for i := range rules {
		h.num(uint64(rules[i].id))
	}
	for _, set := range sets {
		h.num(uint64(set.id)) // which stands for its names
	}
	return h.sum()
}

// rulesHash covers the rules of a policy as the feed has them.
func (c *compiler) rulesHash(p *policy) [32]byte {
	var h content
	h.str(p.label)
	h.num(uint64(len(p.rules)))
	for i := range p.rules {
		r := &p.rules[i]
		h.str(r.Name)
		r.addText(&h)
		for _, list := range r.lists {
			h.hash(c.listHash(list))
		}
	}
	return h.sum()
}

// textKey is the identity of a rule without a name.
func (r *rule) textKey() string {
	var h content
	r.addText(&h)
	return h.key()
}

// addText adds what a rule says, but for what its prefix lists hold.
func (r *rule) addText(h *content) {
	h.flag(r.allow)
	h.flag(r.protocol.Any)
	h.num(uint64(r.protocol.Number))
	h.num(uint64(len(r.ports)))
	for _, ports := range r.ports {
		h.num(uint64(ports.From)<<16 | uint64(ports.To))
	}
	h.flag(r.icmp != nil)
	if r.icmp != nil {
		h.num(uint64(r.icmp.Type))
		h.flag(r.icmp.Code != nil)
		if r.icmp.Code != nil {
			h.num(uint64(*r.icmp.Code))
		}
	}
	h.prefixes(r.cidrs)
	h.strs(r.lists)
	h.strs(r.groups)
}

func (c *compiler) listHash(name string) [32]byte {
	if h, ok := c.listHashes[name]; ok {
		return h
	}
	var h content
	h.str(name)
	h.prefixes(c.Objects.PrefixLists[name].Entries)
	c.listHashes[name] = h.sum()
	return c.listHashes[name]
}

// ruleset compiles a policy of a VPC. One that the previous revision had already is taken from there.
func (c *compiler) ruleset(v *vpc, p policy) *compiled {
	out := &compiled{groups: p.namedGroups()}
	c.compiled[p.label] = out
	var sets []groupSet // those that the rules can tell apart from no group
	for _, set := range v.sets {
		if intersects(set.names, out.groups) {
			sets = append(sets, set)
		}
	}
	if len(p.rules) <= maxRules {
		for i := range p.rules {
			p.rules[i].id = c.alloc.rules.give(p.rules[i].RuleName)
		}
	}
	out.rules = c.rulesHash(&p)
	out.hash = policyHash(out.rules, p.rules, sets)
	if old, ok := c.previousRulesets[c.alloc.old.Rulesets[keyOf(out.hash)]]; ok {
		c.admit(out, *old, p.label)
		return out
	}
	pairs := ordinaryPairs
	if c.WideRules {
		pairs = 0
	}
	set, err := compileRules(p.rules, c.Objects.PrefixLists, sets, pairs)
	if err != nil {
		out.err = fmt.Errorf("compile %s: %w", p.label, err)
		return out
	}
	c.admit(out, set, p.label)
	return out
}

// admit gives a rule set its id, if the maps have room for it or it is there already.
func (c *compiler) admit(out *compiled, set Ruleset, label string) {
	if id, ok := c.alloc.ids.Rulesets[keyOf(out.hash)]; ok {
		out.id = id
		return
	}
	if err := c.room.take(set.size()); err != nil {
		out.err = fmt.Errorf("compile %s: %w", label, err)
		return
	}
	out.id = c.alloc.ruleset(keyOf(out.hash))
	set.ID = out.id
	c.rulesets[out.id] = namedRuleset{set, label}
}

// allowedAddresses makes the rule set of the foreign sources of an ENI: one class, nothing else.
func (c *compiler) allowedAddresses(prefixes []netip.Prefix) *compiled {
	sorted := slices.Clone(prefixes)
	slices.SortFunc(sorted, api.ComparePrefix)
	var h content
	h.num(rulesetFormat)
	h.str(allowedLabel)
	h.prefixes(sorted)
	out := &compiled{hash: h.sum()}
	var set Ruleset
	var matches []match
	for _, p := range sorted {
		matches = append(matches, match{p, bitset{1}})
	}
	for _, e := range newClasses().classify(matches) {
		set.Peers = append(set.Peers, PeerClass{Prefix: e.prefix, Class: e.class})
	}
	c.admit(out, set, allowedLabel)
	return out
}

const allowedLabel = "allowed addresses"

// intersects says whether two sorted lists have a member in common.
func intersects(a, b []string) bool {
	for len(a) > 0 && len(b) > 0 {
		switch strings.Compare(a[0], b[0]) {
		case -1:
			a = a[1:]
		case 1:
			b = b[1:]
		default:
			return true
		}
	}
	return false
}
