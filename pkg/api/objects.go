// SPDX-License-Identifier: Apache-2.0

package api

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
)

// NewObjects returns a revision without objects: only the region's defaults.
func NewObjects() *Objects {
	return &Objects{
		Region:         defaultRegion(),
		Hosts:          map[string]*Host{},
		InstanceTypes:  map[string]*InstanceType{},
		Instances:      map[string]*Instance{},
		VPCs:           map[string]*VPC{},
		Subnets:        map[string]*Subnet{},
		RouteTables:    map[string]*RouteTable{},
		PrefixLists:    map[string]*PrefixList{},
		SecurityGroups: map[string]*SecurityGroup{},
		NetworkACLs:    map[string]*NetworkACL{},
		ENIs:           map[string]*ENI{},
		EIPs:           map[string]*EIP{},
	}
}

func defaultRegion() *Region {
	return &Region{
		Metadata:   Metadata{Name: "default", UID: "default"},
		GatewayMAC: DefaultGatewayMAC(),
	}
}

// add puts an object under its name. The caller has checked that the name is free.
func (o *Objects) add(obj Object) {
	name := obj.Meta().Name
	switch v := obj.(type) {
	case *Region:
		o.Region = v
	case *Host:
		o.Hosts[name] = v
	case *InstanceType:
		o.InstanceTypes[name] = v
	case *Instance:
		o.Instances[name] = v
	case *VPC:
		o.VPCs[name] = v
	case *Subnet:
		o.Subnets[name] = v
	case *RouteTable:
		o.RouteTables[name] = v
	case *PrefixList:
		o.PrefixLists[name] = v
	case *SecurityGroup:
		o.SecurityGroups[name] = v
	case *NetworkACL:
		o.NetworkACLs[name] = v
	case *ENI:
		o.ENIs[name] = v
	case *EIP:
		o.EIPs[name] = v
	}
}

// Kinds returns the names of all kinds, in the order in which All lists them: what is referred to
// comes before what refers to it.
func Kinds() []string {
	return []string{
		"Region", "Host", "InstanceType", "Instance", "VPC", "RouteTable", "PrefixList",
		"NetworkACL", "Subnet", "SecurityGroup", "ENI", "EIP",
	}
}

// All returns every object, by kind as in Kinds, then by name.
func (o *Objects) All() []Object {
	all := []Object{o.Region}
	all = appendSorted(all, o.Hosts)
	all = appendSorted(all, o.InstanceTypes)
	all = appendSorted(all, o.Instances)
	all = appendSorted(all, o.VPCs)
	all = appendSorted(all, o.RouteTables)
	all = appendSorted(all, o.PrefixLists)
	all = appendSorted(all, o.NetworkACLs)
	all = appendSorted(all, o.Subnets)
	all = appendSorted(all, o.SecurityGroups)
	all = appendSorted(all, o.ENIs)
	return appendSorted(all, o.EIPs)
}

func appendSorted[T Object](all []Object, m map[string]T) []Object {
	for _, name := range slices.Sorted(maps.Keys(m)) {
		all = append(all, m[name])
	}
	return all
}

// HostOf returns the name of the host where the ENI is attached, "" if nowhere.
func (o *Objects) HostOf(eni *ENI) string {
	if eni.Attachment == nil {
		return eni.Elsewhere
	}
	return o.Instances[eni.Attachment.Instance].Host
}

// MovingTo returns the host on which an ENI is prepared because its instance moves there, "" if there is none.
func (o *Objects) MovingTo(eni *ENI) string {
	if eni.Attachment == nil {
		return eni.ElsewhereTo
	}
	i := o.Instances[eni.Attachment.Instance]
	if i.Migration == nil || i.Migration.To == i.Host {
		return ""
	}
	return i.Migration.To
}

// MovedFrom returns the host that an ENI has left with its instance as it was prepared to, as long as the feed says so;
// "" if there is none.
func (o *Objects) MovedFrom(eni *ENI) string {
	if eni.Attachment == nil {
		return eni.ElsewhereFrom
	}
	i := o.Instances[eni.Attachment.Instance]
	if i.Migration == nil || i.Migration.To != i.Host {
		return ""
	}
	return i.Migration.From
}

// VPCOf returns the VPC of the ENI.
func (o *Objects) VPCOf(eni *ENI) *VPC {
	return o.VPCs[o.Subnets[eni.Subnet].VPC]
}

// InfraCIDRs returns all prefixes that no ENI may ever reach: the region's, and the address of each
// VTEP and peer. Sorted, without duplicates.
func (o *Objects) InfraCIDRs() []netip.Prefix {
	infra := slices.Clone(o.Region.InfraCIDRs)
	for _, h := range o.Hosts {
		infra = append(infra, hostPrefix(h.VTEP))
		if h.Peer.IsValid() {
			infra = append(infra, hostPrefix(h.Peer.Addr()))
		}
	}
	slices.SortFunc(infra, ComparePrefix)
	return slices.Compact(infra)
}

func hostPrefix(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

// ComparePrefix orders prefixes by address, then the shorter one first. IPv4 comes before IPv6.
func ComparePrefix(a, b netip.Prefix) int {
	return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
}

// Gateway returns the address of the gateway in a subnet's CIDR.
func Gateway(cidr netip.Prefix) netip.Addr { return cidr.Addr().Next() }

// LastAddr returns the last address of a CIDR.
func LastAddr(cidr netip.Prefix) netip.Addr {
	b := cidr.Addr().AsSlice()
	for i := cidr.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	last, _ := netip.AddrFromSlice(b)
	return last
}

// reservedAs says for what an address of a subnet's CIDR is kept, "" if an ENI may have it.
func reservedAs(cidr netip.Prefix, a netip.Addr) string {
	network := cidr.Addr()
	switch {
	case a == network:
		return "the network address"
	case a == network.Next():
		return "the gateway"
	case a == network.Next().Next():
		return "reserved for host services"
	case a.Is4() && a == LastAddr(cidr):
		return "the broadcast address"
	}
	return ""
}
