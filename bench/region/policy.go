// SPDX-License-Identifier: Apache-2.0

package region

import (
	"fmt"
	"net/netip"

	"github.com/eniplane/eniplane/pkg/api"
)

const (
	memberGroups = 8      // groups that the other hosts' ENIs are in
	lists        = 10     // prefix lists of a case
	maxPrefixes  = 100000 // that the rules of an ENI may name, CIDRs of rules included
	services     = 25     // ports and ranges of ports
	peersEach    = 4      // rules in a row about one CIDR
)

// policy makes the groups of the local ENIs, over which the rules are spread, and the groups that the rules name.
func (b *builder) policy() {
	for m := range memberGroups {
		name := b.name("m%d", m)
		b.o.SecurityGroups[name] = &api.SecurityGroup{Metadata: meta(name), VPC: b.c.Name}
	}
	b.prefixLists()
	ingress, egress := b.rules("in"), b.rules("out")
	for g := range b.c.Groups {
		name := b.name("g%d", g)
		group := &api.SecurityGroup{Metadata: meta(name), VPC: b.c.Name}
		for i := g; i < b.c.Rules; i += b.c.Groups {
			group.Ingress = append(group.Ingress, ingress[i])
			group.Egress = append(group.Egress, egress[i])
		}
		b.o.SecurityGroups[name] = group
	}
}

// prefixLists: half of the entries of each family lie among the addresses of the other hosts' ENIs, so that a look-up
// goes down to the end; the others are somewhere else.
func (b *builder) prefixLists() {
	entries := min(b.c.Prefixes, maxPrefixes-2*b.c.Rules-2)
	for i := range entries {
		name := b.name("l%d", i%lists)
		list := b.o.PrefixLists[name]
		if list == nil {
			list = &api.PrefixList{Metadata: meta(name)}
			b.o.PrefixLists[name] = list
		}
		v6, n := i%2 == 1, uint32(i/4)<<4
		a := Remote(v6, n)
		if i%4 >= 2 {
			a = either(v6, "99.0.0.0", "2a02::", n)
		}
		list.Entries = append(list.Entries, netip.PrefixFrom(a, a.BitLen()-4))
	}
}

// rules are many as people have them: a few dozen services, some of them ranges, of CIDRs, groups and lists. The last
// one admits the traffic.
func (b *builder) rules(direction string) []api.Rule {
	rules := make([]api.Rule, b.c.Rules)
	for i := range rules {
		r := &rules[i]
		r.Name = fmt.Sprintf("%s-%d", direction, i)
		r.Protocol = api.Protocol{Number: api.ProtoTCP}
		from := uint16(1 + i%services*15) // below the ports of the traffic
		r.Ports = []api.PortRange{{From: from, To: from + uint16(i%services%3)*9}}
		switch {
		case i%4 == 0:
			r.Peers = []api.Peer{{Group: b.name("m%d", i/4%memberGroups)}}
		case i%10 == 1 && b.c.Prefixes >= lists:
			r.Peers = []api.Peer{{PrefixList: b.name("l%d", i/10%lists)}}
		default:
			n := i / peersEach
			a := netip.AddrFrom4([4]byte{10, byte(128 + n%4), byte(n), 0})
			r.Peers = []api.Peer{{Prefix: netip.PrefixFrom(a, 12+n%17).Masked()}}
		}
	}
	if !b.c.Closed {
		admit(&rules[len(rules)-1])
	}
	return rules
}

// admit makes a rule that every packet of the traffic matches.
func admit(r *api.Rule) {
	r.Protocol, r.Ports = api.Protocol{Any: true}, nil
	r.Peers = []api.Peer{{Prefix: netip.MustParsePrefix("0.0.0.0/0")}, {Prefix: netip.MustParsePrefix("::/0")}}
}
