// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/eniplane/eniplane/pkg/api"
)

// service is what rules see of a packet besides its addresses.
type service struct {
	protocol   uint8
	port       uint16 // destination port, of TCP and UDP
	typ, code  uint8  // of ICMP
	isICMP     bool
	hasPortNum bool
}

func (s service) matches(p api.Protocol, ports []api.PortRange, icmp *api.ICMP) bool {
	if p.Any {
		return true
	}
	if p.Number != s.protocol {
		return false
	}
	if s.isICMP && icmp != nil {
		return icmp.Type == s.typ && (icmp.Code == nil || *icmp.Code == s.code)
	}
	if s.hasPortNum && len(ports) > 0 {
		return slices.ContainsFunc(ports, func(r api.PortRange) bool { return r.From <= s.port && s.port <= r.To })
	}
	return true
}

// groupsAllow: some rule of some group allows it. The name is that of the first one, groups in the order of names.
func (m *Model) groupsAllow(e *api.ENI, dir Direction, peer netip.Addr, internet bool, s service) (rule string, ok bool) {
	groups := slices.Clone(e.SecurityGroups)
	slices.Sort(groups)
	for _, name := range groups {
		rules, word := m.objs.SecurityGroups[name].Ingress, "ingress"
		if dir == Out {
			rules, word = m.objs.SecurityGroups[name].Egress, "egress"
		}
		for i := range rules {
			r := &rules[i]
			if !s.matches(r.Protocol, r.Ports, r.ICMP) || !m.namesPeer(e, r, peer, internet) {
				continue
			}
			if r.Name == "" {
				return fmt.Sprintf("%s/%s[%d]", name, word, i), true
			}
			return name + "/" + r.Name, true
		}
	}
	return "", false
}

func (m *Model) namesPeer(e *api.ENI, r *api.Rule, peer netip.Addr, internet bool) bool {
	for _, p := range r.Peers {
		switch {
		case p.Group != "":
			if !internet && m.isMember(m.vpcOf(e), p.Group, peer) {
				return true
			}
		case p.PrefixList != "":
			if contains(m.objs.PrefixLists[p.PrefixList].Entries, peer) {
				return true
			}
		default:
			if p.Prefix.Contains(peer) {
				return true
			}
		}
	}
	return false
}

// isMember: a private IP of an ENI that has the group.
func (m *Model) isMember(vpc *api.VPC, group string, a netip.Addr) bool {
	o := m.owner(vpc, a)
	return o != nil && slices.Contains(o.SecurityGroups, group)
}

// aclAllows judges one packet that crosses the border of the subnet: the lowest number that matches decides, none
// denies. Inside the subnet, and in one without a network ACL, everything passes.
func (m *Model) aclAllows(e *api.ENI, dir Direction, peer netip.Addr, s service) bool {
	_, allow := m.aclDecides(e, dir, peer, s)
	return allow
}

// aclDecides names the entry too, "" if none decides.
func (m *Model) aclDecides(e *api.ENI, dir Direction, peer netip.Addr, s service) (entry string, allow bool) {
	acl := m.objs.NetworkACLs[m.subnetOf(e).NetworkACL]
	if acl == nil || m.inSubnet(e, peer) {
		return "", true
	}
	entries := acl.Ingress
	if dir == Out {
		entries = acl.Egress
	}
	var first *api.NACLEntry
	for i := range entries {
		n := &entries[i]
		if n.CIDR.Contains(peer) && s.matches(n.Protocol, n.Ports, n.ICMP) && (first == nil || n.Number < first.Number) {
			first = n
		}
	}
	if first == nil {
		return "", false
	}
	return fmt.Sprintf("%s/%d", acl.Name, first.Number), first.Allow
}
