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

// groupPolicy unites security groups. All rules allow, so their order changes no verdict; it says
// which of several allowing rules is named.
func groupPolicy(obj *api.Objects, groups []string, dir direction) policy {
	p := policy{label: "sg " + strings.Join(groups, ",") + " " + string(dir)}
	for _, group := range groups {
		rules := obj.SecurityGroups[group].Ingress
		if dir == egress {
			rules = obj.SecurityGroups[group].Egress
		}
		for i := range rules {
			p.rules = append(p.rules, groupRule(group, dir, i, &rules[i]))
		}
	}
	return p
}

func groupRule(group string, dir direction, index int, r *api.Rule) rule {
	out := rule{
		name: group + "/" + r.Name, allow: true,
		protocol: r.Protocol, ports: r.Ports, icmp: r.ICMP,
	}
	if r.Name == "" {
		out.name = fmt.Sprintf("%s/%s[%d]", group, dir, index)
	}
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

// aclPolicy is one direction of a network ACL, by number.
func aclPolicy(acl *api.NetworkACL, dir direction) policy {
	p := policy{label: "nacl " + acl.Name + " " + string(dir)}
	entries := acl.Ingress
	if dir == egress {
		entries = acl.Egress
	}
	for _, e := range entries {
		p.rules = append(p.rules, rule{
			name: fmt.Sprintf("%s/%d", acl.Name, e.Number), allow: e.Allow,
			protocol: e.Protocol, ports: e.Ports, icmp: e.ICMP, cidrs: []netip.Prefix{e.CIDR},
		})
	}
	return p
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
func policyHash(rules [32]byte, sets []groupSet) [32]byte {
	var h content
	h.num(rulesetFormat)
	h.hash(rules)
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
		h.str(r.name)
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
		h.num(uint64(len(r.lists)))
		for _, list := range r.lists {
			h.hash(c.listHash(list))
		}
		h.strs(r.groups)
	}
	return h.sum()
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

// ruleset compiles a policy of a VPC, once for all ENIs that share it. One that the previous
// revision had already is taken from there.
func (c *compiler) ruleset(v *vpc, p policy) *compiled {
	if done, ok := c.compiled[p.label]; ok {
		return done
	}
	out := &compiled{groups: p.namedGroups()}
	c.compiled[p.label] = out
	var sets []groupSet // those that the rules can tell apart from no group
	for _, set := range v.sets {
		if intersects(set.names, out.groups) {
			sets = append(sets, set)
		}
	}
	out.rules = c.rulesHash(&p)
	out.hash = policyHash(out.rules, sets)
	if old, ok := c.previousRulesets[c.alloc.old.Rulesets[keyOf(out.hash)]]; ok {
		c.admit(out, *old, p.label)
		return out
	}
	set, err := compileRules(p.rules, c.Objects.PrefixLists, sets)
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
