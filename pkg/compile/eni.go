// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"hash/fnv"
	"net/netip"
	"slices"

	"github.com/eniplane/eniplane/pkg/api"
)

// policies are the compiled policies of one ENI.
type policies struct {
	sgIn, sgOut, naclIn, naclOut, allowed *compiled
	policy                                *policyRoutes
	routes                                *table
}

func (p *policies) rulesets() []*compiled {
	return []*compiled{p.sgIn, p.sgOut, p.naclIn, p.naclOut, p.allowed, p.policy.from, p.policy.to}
}

// err returns the first reason why one of them could not be compiled.
func (p *policies) err() error {
	for _, set := range p.rulesets() {
		if set.err != nil {
			return set.err
		}
	}
	return p.routes.err
}

// policiesOf compiles the policies of an ENI, or takes what an ENI before it shares with it.
func (c *compiler) policiesOf(e *api.ENI, v *vpc, subnet *api.Subnet) *policies {
	none := &compiled{}
	p := &policies{naclIn: none, naclOut: none, allowed: none}
	groups := sortedNames(e.SecurityGroups)
	p.sgIn, p.sgOut = c.groups(v, groups, ingress), c.groups(v, groups, egress)
	if subnet.NetworkACL != "" {
		// Without an entry too: an ACL that says nothing denies everything.
		acl := c.Objects.NetworkACLs[subnet.NetworkACL]
		p.naclIn, p.naclOut = c.acl(v, acl, ingress), c.acl(v, acl, egress)
	}
	if len(e.AllowedAddresses) > 0 {
		p.allowed = c.allowedAddresses(e.AllowedAddresses)
	}
	p.policy = c.policyRoutes(v, e)
	p.routes = c.routeTable(v, subnet.RouteTable)
	return p
}

// addENI adds a local ENI with its policies. If one cannot be compiled, its old policies stay.
func (c *compiler) addENI(e *api.ENI) {
	slot := c.alloc.ids.ENIs[e.Name]
	if c.degraded[e.Name] != nil {
		return
	}
	v, subnet := c.vpcOf[e.Name], c.Objects.Subnets[e.Subnet]
	p := c.policiesOf(e, v, subnet)
	eni := ENI{
		Name: e.Name, UID: e.UID, Epoch: e.Attachment.Epoch, Device: e.Attachment.Device,
		Index: slot.Index, Incarnation: slot.Incarnation,
		Content: c.content(e, v, subnet, p),
		VNI:     v.obj.VNI, Subnet: c.alloc.subnet(subnet),
		NextHop: c.alloc.ids.NextHops[e.Name].Index, MAC: e.MAC,
		SGIn: p.sgIn.id, SGOut: p.sgOut.id,
		HasNACL: subnet.NetworkACL != "", NACLIn: p.naclIn.id, NACLOut: p.naclOut.id,
		Routes: p.routes.id, Allowed: p.allowed.id, NoSource: !e.SourceDestCheck,
		PolicyFrom: p.policy.from.id, PolicyTo: p.policy.to.id,
		Keep: e.OnPolicyChange == api.Keep, MaxFlows: uint32(e.Limits.Flows),
		NewFlows: uint32(e.Limits.NewFlowsPerSecond), Packets: uint32(e.Limits.PacketsPerSecond),
		IngressMbps: uint32(e.Limits.IngressMbps), EgressMbps: uint32(e.Limits.EgressMbps),
		Idle: Idle{uint32(e.Timeouts.TCPEstablished), uint32(e.Timeouts.UDP), uint32(e.Timeouts.UDPStream)},
	}
	eni.Instance = instanceNumber(e.Attachment.Instance)
	eni.Gateway4, eni.Gateway6 = gateway(e, subnet, false), gateway(e, subnet, true)
	groups := keyOf(groupsHash(v, p))
	if err := p.err(); err != nil {
		c.degraded[e.Name] = err
		if !c.keep(&eni) {
			return
		}
		groups = slot.Groups // what is in force has not changed
	}
	if key := keyOf(eni.Content); slot.Content != key {
		slot.Content = key
		c.alloc.next(&slot.Generation, "generations of ENI "+e.Name)
	}
	if slot.Flows == 0 {
		slot.Flows = slot.Incarnation
	}
	if slot.Groups != groups {
		if e.OnPolicyChange == api.Cut && slot.Groups != "" {
			slot.Flows = c.alloc.next(&c.alloc.ids.Last.Incarnation, "incarnations")
		}
		slot.Groups = groups
	}
	slot.claimEIPs(c.eips[e.Name])
	c.alloc.ids.ENIs[e.Name] = slot
	eni.Generation, eni.Flows = slot.Generation, slot.Flows
	c.stand(e, &eni)
	c.out.ENIs = append(c.out.ENIs, eni)
}

// instanceNumber tells instances apart. Nothing but the name of a drop depends on it, so two may share one by chance.
func instanceNumber(name string) uint32 {
	h := fnv.New32a()
	_, _ = h.Write([]byte(name)) // never fails
	return h.Sum32()
}

// gateway is that of an ENI's primary private IP of a family, or of its subnet if it has none.
func gateway(e *api.ENI, subnet *api.Subnet, v6 bool) netip.Addr {
	var found netip.Prefix
	for _, cidr := range subnet.CIDRs {
		if cidr.Addr().Is6() == v6 && !found.IsValid() {
			found = cidr
		}
	}
	for _, ip := range e.IPs {
		if ip.Is6() != v6 {
			continue
		}
		for _, cidr := range subnet.CIDRs {
			if cidr.Contains(ip) {
				return api.Gateway(cidr)
			}
		}
	}
	if !found.IsValid() {
		return netip.Addr{}
	}
	return api.Gateway(found)
}

// keep gives an ENI the policies that it had in the previous revision and says whether it had any.
// What it shares with others (addresses, members of groups, EIPs) is that of the new revision, so
// its flows are judged again whenever what it should have been changes.
func (c *compiler) keep(eni *ENI) bool {
	old := c.previousENIs[eni.Name]
	if old == nil || old.Incarnation != eni.Incarnation || old.VNI != eni.VNI {
		return false
	}
	eni.Subnet, eni.Routes, eni.Allowed, eni.NoSource = old.Subnet, old.Routes, old.Allowed, old.NoSource
	eni.PolicyFrom, eni.PolicyTo = old.PolicyFrom, old.PolicyTo
	eni.SGIn, eni.SGOut = old.SGIn, old.SGOut
	eni.HasNACL, eni.NACLIn, eni.NACLOut = old.HasNACL, old.NACLIn, old.NACLOut
	var h content
	h.str("kept instead of")
	h.hash(eni.Content)
	eni.Content = h.sum()
	return true
}

// content covers everything that a verdict of an ENI depends on: if it stays, no flow has to be
// judged again. Where the others are is not part of it, nor with onPolicyChange: keep what the security
// groups say: they judge no flow twice.
func (c *compiler) content(e *api.ENI, v *vpc, subnet *api.Subnet, p *policies) [32]byte {
	var h content
	h.num(uint64(v.obj.VNI))
	h.num(uint64(c.alloc.subnet(subnet)))
	h = append(h, e.MAC[:]...)
	h.flag(e.SourceDestCheck)
	h.addrs(slices.SortedFunc(slices.Values(e.IPs), netip.Addr.Compare))
	h.str(string(e.OnPolicyChange))
	for _, set := range []*compiled{p.naclIn, p.naclOut, p.allowed, p.policy.to} {
		h.hash(set.hash)
	}
	if e.OnPolicyChange != api.Keep {
		h.hash(p.sgIn.hash)
		h.hash(p.sgOut.hash)
		h.hash(groupsHash(v, p))
	}
	h.hash(p.routes.hash) // with the CIDRs of all subnets, its own too
	eips := c.eips[e.Name]
	h.num(uint64(len(eips)))
	for _, eip := range eips {
		c.eipContent(&h, eip)
	}
	h.hash(c.infraHash(v, len(eips) > 0))
	return h.sum()
}

// groupsHash covers the rules of an ENI's security groups and who is a member of the groups that they
// name, in the terms of the feed.
func groupsHash(v *vpc, p *policies) [32]byte {
	var h content
	var named []string
	for _, set := range []*compiled{p.sgIn, p.sgOut} {
		h.hash(set.rules)
		named = append(named, set.groups...)
	}
	for _, group := range sortedNames(named) {
		h.str(group)
		h.hash(v.membersHash(group))
	}
	return h.sum()
}

// infraHash covers what of the infrastructure an ENI can meet: all of it through an EIP, else only
// what lies in its own VPC's CIDRs.
func (c *compiler) infraHash(v *vpc, hasEIP bool) [32]byte {
	var met []netip.Prefix
	for _, p := range c.infra {
		if hasEIP || slices.ContainsFunc(v.obj.CIDRs, p.Overlaps) {
			met = append(met, p)
		}
	}
	var h content
	h.prefixes(met)
	return h.sum()
}

// membersHash covers who is a member of a security group. A large group is hashed once.
func (v *vpc) membersHash(group string) [32]byte {
	if h, ok := v.memberHashes[group]; ok {
		return h
	}
	addrs := v.members[group]
	slices.SortFunc(addrs, netip.Addr.Compare)
	var h content
	h.addrs(addrs)
	v.memberHashes[group] = h.sum()
	return v.memberHashes[group]
}
