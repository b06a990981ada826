// SPDX-License-Identifier: Apache-2.0

package api

import (
	"cmp"
	"slices"
)

// Reference names an object by its kind and name.
type Reference struct {
	Kind string
	Name string
}

// String returns the reference as errors and commands write it: ENI/web-0.
func (r Reference) String() string { return r.Kind + "/" + r.Name }

// Compare orders references by kind as in Kinds, then by name.
func (r Reference) Compare(other Reference) int {
	return cmp.Or(
		cmp.Compare(slices.Index(Kinds(), r.Kind), slices.Index(Kinds(), other.Kind)),
		cmp.Compare(r.Name, other.Name))
}

// ReferenceTo returns the reference that names an object.
func ReferenceTo(o Object) Reference { return Reference{o.Kind(), o.Meta().Name} }

// References returns the objects that an object names, each once, sorted.
func References(o Object) []Reference {
	var refs []Reference
	add := func(kind string, names ...string) {
		for _, name := range names {
			if name != "" {
				refs = append(refs, Reference{kind, name})
			}
		}
	}
	switch v := o.(type) {
	case *Region:
		for i := range v.EIPRanges {
			add("Host", v.EIPRanges[i].Gateways...)
		}
	case *Instance:
		add("Host", v.Host)
		add("InstanceType", v.Type)
		if v.Migration != nil {
			add("Host", v.Migration.To)
			add("Host", v.Migration.From)
		}
	case *Subnet:
		add("VPC", v.VPC)
		add("RouteTable", v.RouteTable)
		add("NetworkACL", v.NetworkACL)
	case *RouteTable:
		add("VPC", v.VPC)
		for i := range v.Routes {
			add("PrefixList", v.Routes[i].PrefixList)
			add(v.Routes[i].Target.reference())
		}
	case *NetworkACL:
		add("VPC", v.VPC)
	case *SecurityGroup:
		add("VPC", v.VPC)
		for _, rules := range [][]Rule{v.Ingress, v.Egress} {
			for _, r := range rules {
				for _, p := range r.Peers {
					add("SecurityGroup", p.Group)
					add("PrefixList", p.PrefixList)
				}
			}
		}
	case *ENI:
		add("Subnet", v.Subnet)
		add("SecurityGroup", v.SecurityGroups...)
		if v.Attachment != nil {
			add("Instance", v.Attachment.Instance)
		}
		for i := range v.PolicyRoutes {
			for _, to := range v.PolicyRoutes[i].To {
				add("PrefixList", to.PrefixList)
			}
			add(v.PolicyRoutes[i].Target.reference())
		}
	case *EIP:
		add("ENI", v.ENI)
	}
	slices.SortFunc(refs, Reference.Compare)
	return slices.Compact(refs)
}

// reference returns kind and name of what a target names; no name = nothing.
func (t Target) reference() (kind, name string) {
	if t.Kind == TargetVPC {
		return "VPC", t.Name
	}
	return "ENI", t.Name
}
