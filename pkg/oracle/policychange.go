// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/eniplane/eniplane/pkg/api"
)

// policies writes down all that the security groups say, and who is a member of the groups that they name.
func (m *Model) policies() map[string]string {
	texts := map[string]string{}
	for name, g := range m.objs.SecurityGroups {
		var b strings.Builder
		fmt.Fprintln(&b, "group", name)
		for _, rules := range [][]api.Rule{g.Ingress, g.Egress} {
			fmt.Fprintln(&b, len(rules))
			for i := range rules {
				m.writeRule(&b, m.objs.VPCs[g.VPC], &rules[i])
			}
		}
		texts[name] = b.String()
	}
	return texts
}

// policyOf is that of the groups of an ENI: when it changes, onPolicyChange says what becomes of the flows.
func policyOf(e *api.ENI, texts map[string]string) string {
	var b strings.Builder
	for _, name := range slices.Sorted(slices.Values(e.SecurityGroups)) {
		b.WriteString(texts[name])
	}
	return b.String()
}

func (m *Model) writeRule(b *strings.Builder, vpc *api.VPC, r *api.Rule) {
	fmt.Fprintln(b, "rule", r.Name, r.Protocol, r.Ports)
	if r.ICMP != nil {
		fmt.Fprintln(b, "type", r.ICMP.Type)
		if r.ICMP.Code != nil {
			fmt.Fprintln(b, "code", *r.ICMP.Code)
		}
	}
	for _, p := range r.Peers {
		fmt.Fprintln(b, "peer", p.Group, p.PrefixList, p.Prefix)
		switch {
		case p.PrefixList != "":
			fmt.Fprintln(b, m.objs.PrefixLists[p.PrefixList].Entries)
		case p.Group != "":
			fmt.Fprintln(b, m.members(vpc, p.Group))
		}
	}
}

// members are the private IPs of the ENIs that have a group, sorted.
func (m *Model) members(vpc *api.VPC, group string) []netip.Addr {
	var all []netip.Addr
	for _, e := range m.objs.ENIs {
		if slices.Contains(e.SecurityGroups, group) && m.vpcOf(e) == vpc {
			all = append(all, e.IPs...)
		}
	}
	slices.SortFunc(all, netip.Addr.Compare)
	return all
}

// isKept: with onPolicyChange: keep, what the security groups have once let through they judge no more, as long as the
// other side is the same.
func (m *Model) isKept(e *api.ENI, key flowKey, f *flow) bool {
	if e.OnPolicyChange != api.Keep || !f.admitted {
		return false
	}
	owner := m.owner(m.vpcOf(e), key.remote)
	switch {
	case key.internet:
		return owner == nil
	case m.still(f.sender, f.foreign) == nobody:
		return false
	}
	way := key.answers()
	if f.opener == Out {
		way = key.out(f.opening)
	}
	return owner == nil || owner.Name == f.sender.name || m.route(e, way).to == toENI
}
