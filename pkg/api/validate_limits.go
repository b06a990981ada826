// SPDX-License-Identifier: Apache-2.0

package api

import (
	"net/netip"
	"slices"
	"strings"
)

// load is what the rules of one direction cost: their number, and the prefixes that they name.
type load struct {
	rules    int
	cidrs    int
	lists    map[string]bool
	prefixes int // of cidrs and lists
}

// loadOf counts the rules of a group.
func (r *revision) loadOf(rules []Rule) *load {
	l := &load{rules: len(rules), lists: map[string]bool{}}
	cidrs := map[netip.Prefix]bool{}
	for _, rule := range rules {
		for _, p := range rule.Peers {
			switch {
			case p.PrefixList != "":
				l.lists[p.PrefixList] = true
			case p.Prefix.IsValid():
				cidrs[p.Prefix] = true
			}
		}
	}
	l.cidrs = len(cidrs)
	l.prefixes = l.cidrs + r.entries(l.lists)
	return l
}

// union counts the rules of several groups. A prefix list that many of them name counts once.
func (r *revision) union(loads []*load) *load {
	if len(loads) == 1 {
		return loads[0]
	}
	sum := &load{lists: map[string]bool{}}
	for _, l := range loads {
		sum.rules += l.rules
		sum.cidrs += l.cidrs
		for name := range l.lists {
			sum.lists[name] = true
		}
	}
	sum.prefixes = sum.cidrs + r.entries(sum.lists)
	return sum
}

func (r *revision) entries(lists map[string]bool) int {
	n := 0
	for name := range lists {
		if list := r.objects.PrefixLists[name]; list != nil {
			n += len(list.Entries)
		}
	}
	return n
}

// checkRuleLimits: the union of an ENI's groups is bounded. Each group and each set of groups is
// counted once, however many ENIs use it.
func (r *revision) checkRuleLimits() {
	for _, direction := range []string{"ingress", "egress"} {
		groups := map[string]*load{}
		each(r, func(d *document, g *SecurityGroup) {
			rules := g.Ingress
			if direction == "egress" {
				rules = g.Egress
			}
			groups[g.Name] = r.loadOf(rules)
		})
		sets := map[string]*load{}
		each(r, func(d *document, e *ENI) {
			if len(e.SecurityGroups) > MaxGroupsPerENI {
				return
			}
			names := slices.Sorted(slices.Values(e.SecurityGroups))
			key := strings.Join(names, "/")
			if sets[key] == nil {
				sets[key] = r.union(known(groups, names))
			}
			checkLoad(d, direction, sets[key])
		})
	}
}

// known returns the loads of the groups that exist.
func known(groups map[string]*load, names []string) []*load {
	var loads []*load
	for _, name := range names {
		if l := groups[name]; l != nil {
			loads = append(loads, l)
		}
	}
	return loads
}

func checkLoad(d *document, direction string, l *load) {
	if l.rules > MaxRulesPerENI {
		d.errorf("spec.securityGroups", "have %d %s rules together (at most %d: use fewer or shorter groups)",
			l.rules, direction, MaxRulesPerENI)
	}
	if l.prefixes > MaxPrefixesPerENI {
		d.errorf("spec.securityGroups", "name %d prefixes together in their %s rules (at most %d: use shorter prefix lists)",
			l.prefixes, direction, MaxPrefixesPerENI)
	}
}

// checkHostLimits: a host carries a bounded number of ENIs.
func (r *revision) checkHostLimits() {
	enis := map[string]int{}
	each(r, func(_ *document, e *ENI) {
		if e.Attachment == nil {
			return
		}
		if i := r.objects.Instances[e.Attachment.Instance]; i != nil {
			enis[i.Host]++
		}
	})
	each(r, func(d *document, h *Host) {
		if n := enis[h.Name]; n > MaxENIsPerHost {
			d.errorf("", "has %d ENIs (at most %d: place instances on other hosts)", n, MaxENIsPerHost)
		}
	})
}

// checkEIPLimits: a host knows a bounded number of EIPs. Only a gateway can have so many.
func (r *revision) checkEIPLimits() {
	type share struct {
		host string
		v6   bool
	}
	eips := map[share]int{}
	each(r, func(_ *document, e *EIP) {
		eni := r.objects.ENIs[e.ENI]
		if eni == nil {
			return
		}
		var hosts []string
		if in := r.objects.RangeOf(e.Address); in != nil {
			hosts = in.Gateways
		}
		if eni.Attachment != nil {
			if i := r.objects.Instances[eni.Attachment.Instance]; i != nil && !slices.Contains(hosts, i.Host) {
				eips[share{i.Host, e.Address.Is6()}]++
			}
		}
		for _, host := range hosts {
			eips[share{host, e.Address.Is6()}]++
		}
	})
	each(r, func(d *document, h *Host) {
		for _, family := range []string{"IPv4", "IPv6"} {
			if n := eips[share{h.Name, family == "IPv6"}]; n > MaxEIPsPerHost {
				d.errorf("", "has to know %d EIPs of %s, those behind it as a gateway included (at most %d: make smaller ranges with other gateways)",
					n, family, MaxEIPsPerHost)
			}
		}
	})
}
