// SPDX-License-Identifier: Apache-2.0

package api

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
)

// checkInstances: each is of a type, on a host.
func (r *revision) checkInstances() {
	each(r, func(d *document, i *Instance) {
		refer[*Host](r, d, "spec.host", i.Host)
		refer[*InstanceType](r, d, "spec.type", i.Type)
		if i.Migration != nil {
			refer[*Host](r, d, "spec.migration.to", i.Migration.To)
			r.checkMigrationFrom(d, i)
			r.checkMigrationDevices(d, i)
		}
	})
}

// checkMigrationFrom: it is over, and was from another host.
func (r *revision) checkMigrationFrom(d *document, i *Instance) {
	m := i.Migration
	switch {
	case m.From == "":
	case m.From == m.To:
		d.errorf("spec.migration.from", "%s is where it goes to, too (remove it)", m.From)
	case m.To != i.Host:
		d.errorf("spec.migration.from", "the instance has not left Host/%s: spec.host is not %s (remove it)", m.From, m.To)
	default:
		refer[*Host](r, d, "spec.migration.from", m.From)
	}
}

// checkMigrationDevices: each is that of an ENI of the instance.
func (r *revision) checkMigrationDevices(d *document, i *Instance) {
	for _, name := range slices.Sorted(maps.Keys(i.Migration.Devices)) {
		e := r.objects.ENIs[name]
		if e == nil || e.Attachment == nil || e.Attachment.Instance != i.Name {
			d.errorf("spec.migration.devices", "ENI/%s is not attached to this instance (remove it)", name)
		}
	}
}

// port is a device of a host.
type port struct{ host, device string }

// checkPort: the device is free to be the port of an ENI.
func (r *revision) checkPort(d *document, ports claims[port], path string, p port) {
	if owner := ports.claim(p, d); owner != nil && owner != d {
		d.errorf(path, "%s is the port of %s too on Host/%s (give one another)", p.device, owner.label(), p.host)
	}
	if h := r.objects.Hosts[p.host]; h != nil && slices.Contains(h.Uplinks, p.device) {
		d.errorf(path, "%s is an uplink of Host/%s (name the ENI's own device)", p.device, h.Name)
	}
}

// vpcAddr and vpcMAC are unique: VPCs may overlap each other.
type vpcAddr struct {
	vpc  string
	addr netip.Addr
}

type vpcMAC struct {
	vpc string
	mac MAC
}

// checkENIs: the addresses of each are its own and of its subnet, its groups of its VPC.
func (r *revision) checkENIs() {
	ips := 0
	for _, e := range r.objects.ENIs {
		ips += len(e.IPs)
	}
	addrs, macs := make(claims[vpcAddr], ips), make(claims[vpcMAC], len(r.objects.ENIs))
	ranges := map[string]*prefixSet{} // by subnet
	each(r, func(d *document, e *ENI) {
		if !e.MAC.IsZero() && e.MAC == r.objects.Region.GatewayMAC {
			d.errorf("spec.mac", "%s is the gateway's (give the ENI another one)", e.MAC)
		}
		r.checkIPCount(d, e)
		subnet, to := refer[*Subnet](r, d, "spec.subnet", e.Subnet)
		vpc := ""
		if subnet != nil {
			vpc = subnet.VPC
		}
		for i, name := range e.SecurityGroups {
			path := fmt.Sprintf("spec.securityGroups[%d]", i)
			if group, to := refer[*SecurityGroup](r, d, path, name); group != nil {
				sameVPC(d, path, to, group.VPC, vpc)
			}
		}
		if subnet == nil {
			return
		}
		if owner := macs.claim(vpcMAC{vpc, e.MAC}, d); owner != nil && vpc != "" && !e.MAC.IsZero() {
			d.errorf("spec.mac", "%s is the MAC of %s too (MACs are unique in a VPC: give one another)", e.MAC, owner.label())
		}
		if !to.bad && ranges[e.Subnet] == nil {
			ranges[e.Subnet] = setOf(to, subnet.CIDRs)
		}
		for i, a := range e.IPs {
			if !a.IsValid() {
				continue
			}
			if owner := addrs.claim(vpcAddr{vpc, a}, d); owner != nil && vpc != "" {
				d.errorf(fmt.Sprintf("spec.ips[%d]", i), "%s is a private IP of %s too (give one another)", a, owner.label())
			}
			if !to.bad {
				checkIPInSubnet(d, i, a, ranges[e.Subnet], to)
			}
		}
	})
}

// checkIPInSubnet judges spec.ips[i], which is a.
func checkIPInSubnet(d *document, i int, a netip.Addr, cidrs *prefixSet, subnet *document) {
	path := func() string { return fmt.Sprintf("spec.ips[%d]", i) }
	cidr, _, ok := cidrs.cover(hostPrefix(a))
	if !ok {
		d.errorf(path(), "%s is not in %s (choose an address of its CIDRs)", a, subnet.label())
		return
	}
	if what := reservedAs(cidr, a); what != "" {
		d.errorf(path(), "%s is %s of %s (choose another address)", a, what, cidr)
	}
}

// checkIPCount: at most 21 addresses per family, or fewer by the type of the instance.
func (r *revision) checkIPCount(d *document, e *ENI) {
	var count [2]int
	for _, a := range e.IPs {
		if a.IsValid() {
			count[familyIndex(a)]++
		}
	}
	limit, whose := MaxIPsPerENI, "an ENI"
	if t := r.typeOf(e); t != nil && t.MaxIPsPerENI > 0 {
		limit, whose = t.MaxIPsPerENI, "an ENI of InstanceType/"+t.Name
	}
	for i, family := range []string{"IPv4", "IPv6"} {
		if count[i] > limit {
			d.errorf("spec.ips", "has %d %s addresses (%s has at most %d)", count[i], family, whose, limit)
		}
	}
}

// typeOf returns the type of the instance of an ENI, nil if that cannot be known.
func (r *revision) typeOf(e *ENI) *InstanceType {
	if e.Attachment == nil {
		return nil
	}
	i := r.objects.Instances[e.Attachment.Instance]
	if i == nil {
		return nil
	}
	return r.objects.InstanceTypes[i.Type]
}

// checkAttachments: the ENIs of an instance are few, of one VPC, each at its own index, and the
// devices of a host are told apart by name.
func (r *revision) checkAttachments() {
	type slot struct {
		instance string
		index    int
	}
	slots, ports := claims[slot]{}, claims[port]{}
	enis := map[string]int{}
	first := claims[string]{} // ENI of an instance
	each(r, func(d *document, e *ENI) {
		a := e.Attachment
		if a == nil {
			return
		}
		instance, _ := refer[*Instance](r, d, "spec.attachment.instance", a.Instance)
		if instance == nil {
			return
		}
		enis[a.Instance]++
		owner := slots.claim(slot{a.Instance, a.Index}, d)
		switch t := r.typeOf(e); {
		case a.Index == noIndex: // it has been said that the instance has no such place
		case t != nil && t.MaxENIs > 0 && enis[a.Instance] > t.MaxENIs:
			d.errorf("spec.attachment.instance", "Instance/%s has %d ENIs (InstanceType/%s has at most %d)",
				a.Instance, enis[a.Instance], t.Name, t.MaxENIs)
		case owner != nil:
			d.errorf("spec.attachment.index", "%d is the index of %s too (give one another)", a.Index, owner.label())
		}
		if a.Device != "" && instance.Host != "" {
			r.checkPort(d, ports, "spec.attachment.device", port{instance.Host, a.Device})
		}
		if m := instance.Migration; m != nil && m.To != instance.Host && a.Device != "" && m.To != "" {
			r.checkPort(d, ports, "spec.attachment.device", port{m.To, m.Device(e)})
		}
		if other := first.claim(a.Instance, d); other != nil {
			r.checkOneVPC(d, e, other)
		}
	})
}

// checkOneVPC compares the VPC of an ENI with that of the first one of its instance.
func (r *revision) checkOneVPC(d *document, e *ENI, first *document) {
	mine := r.objects.Subnets[e.Subnet]
	theirs := r.objects.Subnets[first.Object.(*ENI).Subnet]
	if mine == nil || theirs == nil || mine.VPC == "" || theirs.VPC == "" || mine.VPC == theirs.VPC {
		return
	}
	d.errorf("spec.attachment.instance", "Instance/%s has ENIs of VPC/%s (%s) and of VPC/%s (all must be of one VPC)",
		e.Attachment.Instance, theirs.VPC, first.label(), mine.VPC)
}
