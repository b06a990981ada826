// SPDX-License-Identifier: Apache-2.0

package api

import (
	"maps"
	"slices"
)

// treeOf returns an object as the feed writes it.
func treeOf(o Object) tree {
	return tree{
		{"apiVersion", Version},
		{"kind", o.Kind()},
		{"metadata", o.Meta().tree()},
		{"spec", specOf(o)},
	}
}

func (m *Metadata) tree() tree {
	t := tree{{"name", m.Name}}
	if m.UID != m.Name {
		t.putText("uid", m.UID)
	}
	for _, notes := range []struct {
		key    string
		values map[string]string
	}{{"labels", m.Labels}, {"annotations", m.Annotations}} {
		if len(notes.values) == 0 {
			continue
		}
		var values tree
		for _, k := range slices.Sorted(maps.Keys(notes.values)) {
			values.put(k, notes.values[k])
		}
		t.put(notes.key, values)
	}
	return t
}

func specOf(o Object) tree {
	switch v := o.(type) {
	case *Region:
		return v.spec()
	case *Host:
		return v.spec()
	case *InstanceType:
		return tree{{"maxENIs", v.MaxENIs}, {"maxIPsPerENI", v.MaxIPsPerENI}}
	case *Instance:
		return v.spec()
	case *VPC:
		return v.spec()
	case *Subnet:
		return v.spec()
	case *RouteTable:
		return v.spec()
	case *PrefixList:
		return tree{{"entries", texts(v.Entries)}}
	case *SecurityGroup:
		return v.spec()
	case *NetworkACL:
		return v.spec()
	case *ENI:
		return v.spec()
	case *EIP:
		return v.spec()
	}
	return nil
}

func (r *Region) spec() tree {
	t := tree{{"gatewayMAC", r.GatewayMAC.String()}}
	if r.MTU != 0 {
		t.put("mtu", r.MTU)
	}
	t.putList("infraCIDRs", texts(r.InfraCIDRs))
	ranges := make([]any, len(r.EIPRanges))
	for i := range r.EIPRanges {
		in := tree{{"cidr", r.EIPRanges[i].CIDR.String()}}
		in.putList("gateways", plain(r.EIPRanges[i].Gateways))
		ranges[i] = in
	}
	t.putList("eipRanges", ranges)
	return t
}

func (h *Host) spec() tree {
	t := tree{{"zone", h.Zone}, {"vtep", h.VTEP.String()}, {"uplinks", plain(h.Uplinks)}}
	if h.Peer.IsValid() {
		t.put("peer", h.Peer.String())
	}
	return t
}

func (i *Instance) spec() tree {
	t := tree{{"host", i.Host}, {"type", i.Type}}
	if m := i.Migration; m != nil {
		migration := tree{{"to", m.To}}
		migration.putText("from", m.From)
		if len(m.Devices) > 0 {
			var devices tree
			for _, eni := range slices.Sorted(maps.Keys(m.Devices)) {
				devices.put(eni, m.Devices[eni])
			}
			migration.put("devices", devices)
		}
		t.put("migration", migration)
	}
	return t
}

func (v *VPC) spec() tree {
	t := tree{{"vni", v.VNI}, {"cidrs", texts(v.CIDRs)}}
	t.putText("account", v.Account)
	return t
}

func (s *Subnet) spec() tree {
	t := tree{{"vpc", s.VPC}, {"cidrs", texts(s.CIDRs)}}
	t.putText("routeTable", s.RouteTable)
	t.putText("networkACL", s.NetworkACL)
	return t
}

func (t *RouteTable) spec() tree {
	routes := make([]any, len(t.Routes))
	for i, r := range t.Routes {
		routes[i] = tree{{"destination", r.To()}, {"target", r.Target.String()}}
	}
	return tree{{"vpc", t.VPC}, {"routes", routes}}
}

func (g *SecurityGroup) spec() tree {
	t := tree{{"vpc", g.VPC}}
	t.putList("ingress", ruleTrees(g.Ingress, "from"))
	t.putList("egress", ruleTrees(g.Egress, "to"))
	return t
}

func ruleTrees(rules []Rule, direction string) []any {
	list := make([]any, len(rules))
	for i, r := range rules {
		var t tree
		t.putText("name", r.Name)
		t.putService(r.Protocol, r.Ports, r.ICMP)
		t.put(direction, texts(r.Peers))
		list[i] = t
	}
	return list
}

func (t *tree) putService(p Protocol, ports []PortRange, icmp *ICMP) {
	t.put("protocol", p.String())
	var list []any
	for _, r := range ports {
		if r.From == r.To {
			list = append(list, r.From)
		} else {
			list = append(list, r.String())
		}
	}
	t.putList("ports", list)
	if icmp != nil {
		types := tree{{"type", icmp.Type}}
		if icmp.Code != nil {
			types.put("code", *icmp.Code)
		}
		t.put("icmp", types)
	}
}

func (a *NetworkACL) spec() tree {
	return tree{
		{"vpc", a.VPC},
		{"ingress", naclTrees(a.Ingress)},
		{"egress", naclTrees(a.Egress)},
	}
}

func naclTrees(entries []NACLEntry) []any {
	list := make([]any, len(entries))
	for i, e := range entries {
		action := "deny"
		if e.Allow {
			action = "allow"
		}
		t := tree{{"number", e.Number}, {"action", action}}
		t.putService(e.Protocol, e.Ports, e.ICMP)
		t.put("cidr", e.CIDR.String())
		list[i] = t
	}
	return list
}

func (e *ENI) spec() tree {
	t := tree{
		{"subnet", e.Subnet},
		{"mac", e.MAC.String()},
		{"ips", texts(e.IPs)},
		{"securityGroups", plain(e.SecurityGroups)},
	}
	if a := e.Attachment; a != nil {
		at := tree{{"instance", a.Instance}, {"index", a.Index}, {"device", a.Device}}
		if a.Epoch != 0 {
			at.put("epoch", a.Epoch)
		}
		t.put("attachment", at)
	}
	if !e.SourceDestCheck {
		t.put("sourceDestCheck", false)
	}
	t.putList("allowedAddresses", texts(e.AllowedAddresses))
	if e.OnPolicyChange != Reevaluate {
		t.putText("onPolicyChange", string(e.OnPolicyChange))
	}
	if timeouts := e.Timeouts.tree(); len(timeouts) > 0 {
		t.put("timeouts", timeouts)
	}
	if limits := e.Limits.tree(); len(limits) > 0 {
		t.put("limits", limits)
	}
	t.putList("policyRoutes", policyRouteTrees(e.PolicyRoutes))
	return t
}

func policyRouteTrees(routes []PolicyRoute) []any {
	list := make([]any, len(routes))
	for i, r := range routes {
		t := tree{{"priority", r.Priority}}
		t.putList("from", texts(r.From))
		t.putList("to", texts(r.To))
		if !r.Protocol.Any {
			t.putService(r.Protocol, r.Ports, nil)
		}
		t.put("target", r.Target.String())
		list[i] = t
	}
	return list
}

// tree holds what is not the default.
func (t Timeouts) tree() tree {
	var out tree
	usual := DefaultTimeouts()
	if t.TCPEstablished != usual.TCPEstablished {
		out.put("tcpEstablished", t.TCPEstablished)
	}
	if t.UDP != usual.UDP {
		out.put("udp", t.UDP)
	}
	if t.UDPStream != usual.UDPStream {
		out.put("udpStream", t.UDPStream)
	}
	return out
}

// tree holds what is not the default.
func (l Limits) tree() tree {
	var out tree
	if l.Flows != DefaultLimits().Flows {
		out.put("flows", l.Flows)
	}
	for _, limit := range []struct {
		key   string
		value int
	}{{"newFlowsPerSecond", l.NewFlowsPerSecond}, {"packetsPerSecond", l.PacketsPerSecond}, {"ingressMbps", l.IngressMbps}, {"egressMbps", l.EgressMbps}} {
		if limit.value != 0 {
			out.put(limit.key, limit.value)
		}
	}
	return out
}

func (e *EIP) spec() tree {
	t := tree{{"address", e.Address.String()}}
	if e.ENI != "" {
		t.put("eni", e.ENI)
		if e.PrivateIP.IsValid() { // else the primary of its family, which only the whole revision knows
			t.put("privateIP", e.PrivateIP.String())
		}
	}
	if e.EgressMbps != 0 {
		t.put("egressMbps", e.EgressMbps)
	}
	return t
}
