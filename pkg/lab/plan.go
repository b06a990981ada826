// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sort"

	"github.com/eniplane/eniplane/pkg/api"
)

// The nodes of every lab beside hosts and instances.
const (
	nodeInternet   = "internet"
	nodeUnderlay   = "underlay"
	nodeWirePrefix = "wire-"
	namespacePre   = "enilab-"
	deviceInternet = "uplink0" // of the internet namespace
	deviceBridge   = "segment"
	maxIfaceName   = 15
)

// Plan is everything that Up makes, by name. It is kept in the state file.
type Plan struct {
	Lab           string
	MTU           int // of the underlay
	UplinkOffload bool
	Hosts         []HostPlan
	Instances     []InstancePlan
	Internet      InternetPlan
}

// HostPlan is one hypervisor.
type HostPlan struct {
	Name     string
	Uplinks  []string
	Addrs    []netip.Prefix // of the first uplink; the VTEP is the first
	Gateways []netip.Addr
	Peer     netip.AddrPort // where its agent talks to others; invalid = nowhere
}

// InstancePlan is one guest.
type InstancePlan struct {
	Name     string
	Host     string // where it is now
	Migrates bool
	Ports    []PortPlan
}

// PortPlan is one ENI of a guest.
type PortPlan struct {
	ENI      string
	VPC      string
	Device   string // host end
	Guest    string // guest end
	Index    int
	MAC      string
	Addrs    []netip.Prefix
	EIPs     map[netip.Addr]netip.Addr // private IP -> EIP
	Gateways []netip.Addr
}

// InternetPlan is the namespace outside.
type InternetPlan struct {
	Addrs  []netip.Prefix
	Routes []InternetRoute
}

// MakePlan derives the plan from a topology and the objects of its feed. It touches nothing.
func MakePlan(t *Topology, objects *api.Objects) (*Plan, error) {
	p := &Plan{
		Lab: t.Name, MTU: t.MTU, UplinkOffload: t.UplinkOffload,
		Internet: InternetPlan{Addrs: t.Internet.Addresses, Routes: t.Internet.Routes},
	}
	var errs []error
	for _, name := range sortedKeys(objects.Hosts) {
		h, err := planHost(t, objects.Hosts[name])
		errs = append(errs, err)
		p.Hosts = append(p.Hosts, h)
	}
	for _, name := range sortedKeys(objects.Instances) {
		inst := objects.Instances[name]
		p.Instances = append(p.Instances, InstancePlan{
			Name: name, Host: inst.Host, Migrates: t.Wiring[name].Migrates,
			Ports: planPorts(objects, name),
		})
	}
	for name := range t.Wiring {
		if objects.Instances[name] == nil {
			errs = append(errs, fmt.Errorf("spec.instances.%s: the feed has no such instance", name))
		}
	}
	errs = append(errs, p.checkNames(), p.checkDevices())
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("plan lab %s: %w", t.Name, err)
	}
	return p, nil
}

func planHost(t *Topology, h *api.Host) (HostPlan, error) {
	plan := HostPlan{Name: h.Name, Uplinks: h.Uplinks, Peer: h.Peer}
	if len(h.Uplinks) == 0 {
		return plan, fmt.Errorf("host %s has no uplink", h.Name)
	}
	for _, underlay := range t.Underlay {
		addr := h.VTEP
		switch {
		case underlay.Addr().Is6():
			addr = embed(underlay, h.VTEP)
		case !underlay.Contains(h.VTEP):
			return plan, fmt.Errorf("host %s: vtep %s is not in the underlay %s", h.Name, h.VTEP, underlay)
		}
		plan.Addrs = append(plan.Addrs, netip.PrefixFrom(addr, underlay.Bits()))
		plan.Gateways = append(plan.Gateways, t.gateway(underlay))
	}
	return plan, nil
}

// embed puts an IPv4 address into the last 32 bits of an IPv6 prefix.
func embed(prefix netip.Prefix, v4 netip.Addr) netip.Addr {
	out, in := prefix.Addr().As16(), v4.As4()
	copy(out[12:], in[:])
	return netip.AddrFrom16(out)
}

func planPorts(objects *api.Objects, instance string) []PortPlan {
	var ports []PortPlan
	for _, name := range sortedKeys(objects.ENIs) {
		e := objects.ENIs[name]
		if e.Attachment == nil || e.Attachment.Instance != instance {
			continue
		}
		subnet := objects.Subnets[e.Subnet]
		port := PortPlan{
			ENI: name, VPC: subnet.VPC, Device: e.Attachment.Device, Index: e.Attachment.Index,
			Guest: fmt.Sprintf("eth%d", e.Attachment.Index),
			MAC:   net.HardwareAddr(e.MAC[:]).String(),
			EIPs:  map[netip.Addr]netip.Addr{},
		}
		for _, ip := range e.IPs {
			port.Addrs = append(port.Addrs, netip.PrefixFrom(ip, subnetOf(subnet, ip).Bits()))
		}
		for _, cidr := range subnet.CIDRs {
			if slices.ContainsFunc(e.IPs, cidr.Contains) {
				port.Gateways = append(port.Gateways, cidr.Masked().Addr().Next())
			}
		}
		for _, eip := range objects.EIPs {
			if eip.ENI == name {
				port.EIPs[eip.PrivateIP] = eip.Address
			}
		}
		ports = append(ports, port)
	}
	sort.Slice(ports, func(i, j int) bool { return ports[i].Index < ports[j].Index })
	return ports
}

// subnetOf is the prefix of the subnet that holds an address; validation has seen that there is one.
func subnetOf(s *api.Subnet, ip netip.Addr) netip.Prefix {
	for _, cidr := range s.CIDRs {
		if cidr.Contains(ip) {
			return cidr
		}
	}
	return netip.PrefixFrom(ip, ip.BitLen())
}

// checkNames refuses nodes that would share a namespace.
func (p *Plan) checkNames() error {
	seen := map[string]bool{}
	for _, node := range p.Nodes() {
		if seen[node] {
			return fmt.Errorf("two nodes are called %s: hosts, instances, %s, %s and %s* share their names",
				node, nodeInternet, nodeUnderlay, nodeWirePrefix)
		}
		seen[node] = true
	}
	return nil
}

// checkDevices refuses devices that would meet on one host: a migrating instance has its devices on
// all of them.
func (p *Plan) checkDevices() error {
	for _, h := range p.Hosts {
		owner := map[string]string{}
		for _, i := range p.Instances {
			if i.Host != h.Name && !i.Migrates {
				continue
			}
			for _, port := range i.Ports {
				if other, taken := owner[port.Device]; taken {
					return fmt.Errorf("device %s of %s and %s meet on host %s (an instance that migrates has a leg on every host)",
						port.Device, port.ENI, other, h.Name)
				}
				owner[port.Device] = port.ENI
			}
		}
	}
	return nil
}

// Nodes lists all nodes, each of which is one namespace: the segment first, then who stands on it.
func (p *Plan) Nodes() []string {
	nodes := []string{nodeUnderlay, nodeInternet}
	for _, h := range p.Hosts {
		nodes = append(nodes, h.Name)
	}
	for _, i := range p.Instances {
		nodes = append(nodes, i.Name)
		if i.Migrates {
			nodes = append(nodes, nodeWirePrefix+i.Name)
		}
	}
	return nodes
}

// Namespace is the name of a node's network namespace.
func (p *Plan) Namespace(node string) string { return namespacePre + p.Lab + "-" + node }

// Host finds a host, nil if there is none.
func (p *Plan) Host(name string) *HostPlan {
	for i := range p.Hosts {
		if p.Hosts[i].Name == name {
			return &p.Hosts[i]
		}
	}
	return nil
}

// Instance finds an instance, nil if there is none.
func (p *Plan) Instance(name string) *InstancePlan {
	for i := range p.Instances {
		if p.Instances[i].Name == name {
			return &p.Instances[i]
		}
	}
	return nil
}

// Port finds an ENI and its instance, nil if there is none.
func (p *Plan) Port(eni string) (*InstancePlan, *PortPlan) {
	for i := range p.Instances {
		for j := range p.Instances[i].Ports {
			if p.Instances[i].Ports[j].ENI == eni {
				return &p.Instances[i], &p.Instances[i].Ports[j]
			}
		}
	}
	return nil, nil
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}
