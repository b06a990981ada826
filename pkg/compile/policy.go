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
	lists []*ruleList
}

// ruleList are the rules of one direction of a group or a network ACL, made once for all policies.
type ruleList struct {
	rules  []rule
	text   [32]byte // what they say, but for what prefix lists hold
	groups []string // named as peers, sorted
	lists  []string // prefix lists that they name, sorted

	ids    []uint32 // of the rules; nil = not numbered
	idHash [32]byte
}

func newRuleList(rules []rule) *ruleList {
	l := &ruleList{rules: rules}
	var h content
	h.num(uint64(len(rules)))
	for i := range rules {
		h.str(rules[i].Name)
		rules[i].addText(&h)
		l.groups = append(l.groups, rules[i].groups...)
		l.lists = append(l.lists, rules[i].lists...)
	}
	l.text = h.sum()
	l.groups, l.lists = sortedNames(l.groups), sortedNames(l.lists)
	return l
}

// number gives the rules their ids.
func (l *ruleList) number(ids *ruleIDs) {
	if l.ids != nil {
		return
	}
	l.ids = make([]uint32, len(l.rules))
	var h content
	for i := range l.rules {
		l.ids[i] = ids.give(l.rules[i].RuleName)
		h.num(uint64(l.ids[i]))
	}
	l.idHash = h.sum()
}

// groups compiles one direction of united security groups. All rules allow, so their order changes no
// verdict; it says which of several allowing rules decides.
func (c *compiler) groups(v *vpc, groups []string, dir direction) *compiled {
	p := policy{label: "sg " + strings.Join(groups, ",") + " " + string(dir)}
	if done, ok := c.compiled[p.label]; ok {
		return done
	}
	for _, group := range groups {
		p.lists = append(p.lists, c.groupRules(c.Objects.SecurityGroups[group], dir))
	}
	if p.count() == 0 {
		c.compiled[p.label] = &compiled{}
		return c.compiled[p.label]
	}
	return c.ruleset(v, p)
}

// groupRules returns one direction of a security group, made once for all unions.
func (c *compiler) groupRules(g *api.SecurityGroup, dir direction) *ruleList {
	id := [2]string{g.Name, string(dir)}
	if done, ok := c.ruleLists[id]; ok {
		return done
	}
	list := g.Ingress
	if dir == egress {
		list = g.Egress
	}
	made, ok := c.previousLists[id]
	if !ok || made.uid != g.UID || !slices.EqualFunc(made.source, list, sameRule) {
		made = groupRules{uid: g.UID, source: cloneRules(list)}
		names := GroupRules(g, string(dir))
		rules := make([]rule, len(list))
		for i := range list {
			rules[i] = newGroupRule(&made.source[i])
			rules[i].RuleName = names[i]
		}
		made.list = *newRuleList(rules)
	}
	c.out.lists[id] = made
	c.ruleLists[id] = &made.list
	return c.ruleLists[id]
}

// groupRules are what the rules of one direction of a group were made of, and what they became: to name and hash them
// costs more than to compare them.
type groupRules struct {
	uid    string
	source []api.Rule
	list   ruleList // not numbered
}

// cloneRules copies all that sameRule compares: whoever owns the rules may change them.
func cloneRules(rules []api.Rule) []api.Rule {
	out := slices.Clone(rules)
	for i := range out {
		r := &out[i]
		r.Ports, r.Peers = slices.Clone(r.Ports), slices.Clone(r.Peers)
		if r.ICMP != nil {
			icmp := *r.ICMP
			if icmp.Code != nil {
				code := *icmp.Code
				icmp.Code = &code
			}
			r.ICMP = &icmp
		}
	}
	return out
}

func sameRule(a, b api.Rule) bool {
	return a.Name == b.Name && a.Protocol == b.Protocol && sameICMP(a.ICMP, b.ICMP) &&
		slices.Equal(a.Ports, b.Ports) && slices.Equal(a.Peers, b.Peers)
}

func sameICMP(a, b *api.ICMP) bool {
	if a == nil || b == nil {
		return a == b
	}
	if a.Type != b.Type || (a.Code == nil) != (b.Code == nil) {
		return false
	}
	return a.Code == nil || *a.Code == *b.Code
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
	rules := make([]rule, len(entries))
	for i, e := range entries {
		rules[i] = rule{
			RuleName: names[i], allow: e.Allow,
			protocol: e.Protocol, ports: e.Ports, icmp: e.ICMP, cidrs: []netip.Prefix{e.CIDR},
		}
	}
	p.lists = []*ruleList{newRuleList(rules)}
	return c.ruleset(v, p)
}

func (p *policy) count() (n int) {
	for _, l := range p.lists {
		n += len(l.rules)
	}
	return n
}

// rules returns all rules in order.
func (p *policy) rules() []rule {
	out := make([]rule, 0, p.count())
	for _, l := range p.lists {
		for i := range l.rules {
			r := l.rules[i]
			if l.ids != nil {
				r.id = l.ids[i]
			}
			out = append(out, r)
		}
	}
	return out
}

// named returns what the lists name together, sorted.
func (p *policy) named(by func(*ruleList) []string) []string {
	var out []string
	for _, l := range p.lists {
		out = append(out, by(l)...)
	}
	return sortedNames(out)
}

// compiled is a rule set made in this run, or why it could not be made.
type compiled struct {
	id     uint32 // 0 = no rule set
	hash   [32]byte
	rules  [32]byte // what of it the feed says
	groups []string // named as peers
	err    error
}

// policyHash covers everything that compileRules turns into a rule set.
func policyHash(hash [32]byte, p *policy, sets []groupSet) [32]byte {
	var h content
	h.num(rulesetFormat)
	h.hash(hash)
	for _, l := range p.lists {
		h.hash(l.idHash)
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
	h.num(uint64(len(p.lists)))
	for _, l := range p.lists {
		h.hash(l.text)
	}
	for _, name := range p.named(func(l *ruleList) []string { return l.lists }) {
		h.hash(c.listHash(name))
	}
	return h.sum()
}

// listsKey is the key of the table of some prefix lists.
func (c *compiler) listsKey(names []string) string {
	var h content
	h.tableKey("prefix lists")
	for _, name := range names {
		h.hash(c.listHash(name))
	}
	return h.key()
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
	out := &compiled{groups: p.named(func(l *ruleList) []string { return l.groups })}
	c.compiled[p.label] = out
	sets := v.setsNamed(out.groups)
	if p.count() <= maxRules {
		for _, l := range p.lists {
			l.number(c.alloc.rules)
		}
	}
	out.rules = c.rulesHash(&p)
	out.hash = policyHash(out.rules, &p, sets)
	if old := c.previous.sets[c.previousIDs[keyOf(out.hash)]]; old != nil {
		if parts := c.previous.parts(old); parts != nil {
			c.admit(out, parts, p.label)
			return out
		}
	}
	in := ruleInput{
		rules: p.rules(), lists: c.Objects.PrefixLists, sets: sets, pairs: ordinaryPairs, ports: piecesPerBlock, known: c.knownAddrs,
		listsKey: c.listsKey(p.named(func(l *ruleList) []string { return l.lists })),
	}
	if c.WideRules {
		in.pairs, in.ports = 0, 0
	}
	parts, err := compileRules(in)
	if err != nil {
		out.err = fmt.Errorf("compile %s: %w", p.label, err)
		return out
	}
	c.admit(out, parts, p.label)
	return out
}

// knownAddrs returns a table of addresses of this run or the previous one.
func (c *compiler) knownAddrs(key string) *AddrTable {
	if t := c.made.addrs[c.alloc.ids.Rulesets[key]]; t != nil {
		return t
	}
	return c.previous.addrs[c.previousIDs[key]]
}

// setsNamed returns the group sets that have one of some groups, by id.
func (v *vpc) setsNamed(groups []string) []groupSet {
	var places []int
	for _, group := range groups {
		places = append(places, v.setsOf[group]...)
	}
	slices.Sort(places)
	var out []groupSet
	for _, i := range slices.Compact(places) {
		out = append(out, v.sets[i])
	}
	return out
}

// allowedAddresses makes the table of the foreign sources of an ENI, of one class.
func (c *compiler) allowedAddresses(prefixes []netip.Prefix) *compiled {
	sorted := slices.Clone(prefixes)
	slices.SortFunc(sorted, api.ComparePrefix)
	var h content
	h.num(rulesetFormat)
	h.str(allowedLabel)
	h.prefixes(sorted)
	out := &compiled{hash: h.sum()}
	var matches []match
	for _, p := range sorted {
		matches = append(matches, match{p, bitset{1}})
	}
	table := &AddrTable{Key: keyOf(out.hash), Prefixes: peerClasses(newClasses().classify(matches))}
	c.admit(out, &ruleParts{addrs: table}, allowedLabel)
	return out
}

const allowedLabel = "allowed addresses"
