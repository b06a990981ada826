// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/eniplane/eniplane/pkg/agent"
	"github.com/eniplane/eniplane/pkg/api"
)

// objectColumns are the columns of a kind; objectCells fills them.
func objectColumns(kind string) []column {
	switch kind {
	case allKinds:
		return columns("KIND", "NAME")
	case "Region":
		return columns("NAME", "GATEWAY-MAC", "MTU", "INFRA-CIDRS")
	case "Host":
		return columns("NAME", "ZONE", "VTEP", "UPLINKS")
	case "InstanceType":
		return columns("NAME", "MAX-ENIS", "MAX-IPS-PER-ENI")
	case "Instance":
		return columns("NAME", "TYPE", "HOST")
	case "VPC":
		return columns("NAME", "VNI", "CIDRS", "|", "ACCOUNT")
	case "Subnet":
		return columns("NAME", "VPC", "CIDRS", "ROUTE-TABLE", "NETWORK-ACL")
	case "RouteTable":
		return columns("NAME", "VPC", "ROUTES")
	case "PrefixList":
		return columns("NAME", "ENTRIES")
	case "SecurityGroup", "NetworkACL":
		return columns("NAME", "VPC", "INGRESS", "EGRESS", "|", "RULE", "MATCHES", "HITS")
	case "ENI":
		return columns("NAME", "SUBNET", "IPS", "INSTANCE", "HOST", "STATE", "|", "MAC", "GROUPS", "DEVICE", "INDEX", "EPOCH", "LIMITS")
	}
	return columns("NAME", "ADDRESS", "ENI", "PRIVATE-IP", "|", "EGRESS-MBPS")
}

func objectCells(all *api.Objects, o api.Object, states map[string]agent.ENIStatus) []string {
	name := o.Meta().Name
	switch v := o.(type) {
	case *api.Region:
		return []string{name, v.GatewayMAC.String(), dash(number(v.MTU)), dash(join(v.InfraCIDRs))}
	case *api.Host:
		return []string{name, v.Zone, v.VTEP.String(), strings.Join(v.Uplinks, ",")}
	case *api.InstanceType:
		return []string{name, strconv.Itoa(v.MaxENIs), strconv.Itoa(v.MaxIPsPerENI)}
	case *api.Instance:
		return []string{name, v.Type, v.Host}
	case *api.VPC:
		return []string{name, fmt.Sprint(v.VNI), join(v.CIDRs), dash(v.Account)}
	case *api.Subnet:
		return []string{name, v.VPC, join(v.CIDRs), dash(v.RouteTable), dash(v.NetworkACL)}
	case *api.RouteTable:
		var routes []string
		for _, r := range v.Routes {
			routes = append(routes, r.To()+"="+r.Target.String())
		}
		return []string{name, v.VPC, dash(strings.Join(routes, ","))}
	case *api.PrefixList:
		return []string{name, dash(join(v.Entries))}
	case *api.SecurityGroup:
		return []string{name, v.VPC, rules(len(v.Ingress)), rules(len(v.Egress))}
	case *api.NetworkACL:
		return []string{name, v.VPC, rules(len(v.Ingress)), rules(len(v.Egress))}
	case *api.ENI:
		return eniCells(all, v, states)
	case *api.EIP:
		private := ""
		if v.PrivateIP.IsValid() {
			private = v.PrivateIP.String()
		}
		return []string{name, v.Address.String(), dash(v.ENI), dash(private), dash(number(v.EgressMbps))}
	}
	return []string{name}
}

func eniCells(all *api.Objects, v *api.ENI, states map[string]agent.ENIStatus) []string {
	instance, device, index, epoch := "-", "-", "-", "-"
	if at := v.Attachment; at != nil {
		instance, device = at.Instance, at.Device
		index, epoch = strconv.Itoa(at.Index), fmt.Sprint(at.Epoch)
	}
	return []string{
		v.Name, v.Subnet, join(v.IPs), instance, dash(all.HostOf(v)), dash(string(states[v.Name].Phase)),
		v.MAC.String(), strings.Join(v.SecurityGroups, ","), device, index, epoch,
		dash(limits(v.Limits)),
	}
}

// limits lists those that are not the default.
func limits(l api.Limits) string {
	var texts []string
	add := func(name string, value, usual int) {
		if value != usual {
			texts = append(texts, fmt.Sprintf("%s=%d", name, value))
		}
	}
	add("flows", l.Flows, api.DefaultLimits().Flows)
	add("newFlowsPerSecond", l.NewFlowsPerSecond, 0)
	add("packetsPerSecond", l.PacketsPerSecond, 0)
	add("ingressMbps", l.IngressMbps, 0)
	add("egressMbps", l.EgressMbps, 0)
	return strings.Join(texts, ",")
}

func rules(n int) string {
	if n == 1 {
		return "1 rule"
	}
	return fmt.Sprintf("%d rules", n)
}

// number is an integer of which 0 means none.
func number(n int) string {
	if n == 0 {
		return ""
	}
	return strconv.Itoa(n)
}

func join[T netip.Addr | netip.Prefix](items []T) string {
	texts := make([]string, len(items))
	for i, item := range items {
		texts[i] = fmt.Sprint(item)
	}
	return strings.Join(texts, ",")
}
