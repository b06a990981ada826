// SPDX-License-Identifier: Apache-2.0

// Package region makes regions of any size for benchmarks: the objects of the feed, without text. Each case is a VPC
// of its own, all with the same addresses, so that what one case costs can be held against another one on the same
// host, with the same programs in the same place.
package region

import (
	"fmt"
	"net/netip"

	"github.com/eniplane/eniplane/pkg/api"
)

// Host is the host under test, the others what the feed says of it.
const (
	Host    = "bench"
	Uplink  = "uplink0"
	VTEP    = "192.168.100.1"
	Gateway = "192.168.100.254" // of the underlay, for the internet
)

// MostRoutes is how many Routes a case can have: the limit of a table less those of the VPC and the default ones.
const MostRoutes = 100000 - 10

// PerRemote is how many addresses of each family an ENI of another host has.
const PerRemote = 20

// enisPerInstance is what an instance can have.
const enisPerInstance = 8

// Case is a VPC on the host under test.
type Case struct {
	Name      string // a DNS label
	Locals    int    // ENIs here
	EIPs      bool   // each of them has one of each family
	Hosts     int    // other hosts of the VPC; 0 = 1
	Endpoints int    // addresses of ENIs there, of each family
	Groups    int    // of each ENI here, 1 to 5; 0 = 1
	Rules     int    // of its groups together, in each direction; 0 = 1
	Prefixes  int    // entries of the lists that these rules name, both families together
	Routes    int    // both families together, beside the default routes
	Closed    bool   // the rule that admits the traffic is missing
}

// Build makes the objects. The same cases give the same objects.
func Build(cases []Case) *api.Objects {
	o := api.NewObjects()
	o.InstanceTypes["any"] = &api.InstanceType{Metadata: meta("any"), MaxENIs: enisPerInstance, MaxIPsPerENI: PerRemote}
	o.Hosts[Host] = &api.Host{Metadata: meta(Host), Zone: "z", VTEP: netip.MustParseAddr(VTEP), Uplinks: []string{Uplink}}
	for i, c := range cases {
		c.Hosts, c.Groups, c.Rules = max(c.Hosts, 1), max(c.Groups, 1), max(c.Rules, 1)
		b := builder{o: o, c: c, number: i}
		b.network()
		b.policy()
		b.locals()
		b.remotes()
	}
	return o
}

func meta(name string) api.Metadata { return api.Metadata{Name: name, UID: name} }

type builder struct {
	o      *api.Objects
	c      Case
	number int
}

func (b *builder) name(format string, args ...any) string {
	return b.c.Name + "-" + fmt.Sprintf(format, args...)
}

// Device is the port of an ENI: that of the local ENI i of case number c.
func Device(c, i int) string { return fmt.Sprintf("p%d-%d", c, i) }

// Devices lists the ports of all cases.
func Devices(cases []Case) []string {
	var names []string
	for c := range cases {
		for i := range cases[c].Locals {
			names = append(names, Device(c, i))
		}
	}
	return names
}

// network makes the VPC with a subnet for the ENIs here and one for all others, and their routes.
func (b *builder) network() {
	vpc := b.c.Name
	b.o.VPCs[vpc] = &api.VPC{Metadata: meta(vpc), VNI: VNI(b.number), CIDRs: []netip.Prefix{vpc4(), vpc6()}}
	table := b.name("routes")
	routes := &api.RouteTable{Metadata: meta(table), VPC: vpc}
	for _, all := range []string{"0.0.0.0/0", "::/0"} {
		routes.Routes = append(routes.Routes, internet(netip.MustParsePrefix(all)))
	}
	for i := range b.c.Routes {
		a := Outside(i%2 == 1, uint32(i/2)<<4)
		routes.Routes = append(routes.Routes, internet(netip.PrefixFrom(a, a.BitLen()-4)))
	}
	b.o.RouteTables[table] = routes
	for name, cidrs := range map[string][]netip.Prefix{
		"here": {netip.MustParsePrefix("10.0.0.0/16"), netip.MustParsePrefix("fd00:0:0:1::/64")},
		"far":  {netip.MustParsePrefix("10.128.0.0/9"), netip.MustParsePrefix("fd00:0:1:1::/64")},
	} {
		name = b.name("%s", name)
		b.o.Subnets[name] = &api.Subnet{Metadata: meta(name), VPC: vpc, CIDRs: cidrs, RouteTable: table}
	}
}

func internet(to netip.Prefix) api.Route {
	return api.Route{Destination: to, Target: api.Target{Kind: api.TargetInternet}}
}

// locals makes the ENIs of the host under test, with their EIPs.
func (b *builder) locals() {
	for i := range b.c.Locals {
		instance := b.name("i%d", i/enisPerInstance)
		b.o.Instances[instance] = &api.Instance{Metadata: meta(instance), Host: Host, Type: "any"}
		e := b.eni(b.name("e%d", i), "here", LocalMAC(i), instance, Device(b.number, i), i%enisPerInstance)
		e.IPs = []netip.Addr{Local(false, i), Local(true, i)}
		for g := range b.c.Groups {
			e.SecurityGroups = append(e.SecurityGroups, b.name("g%d", g))
		}
		if !b.c.EIPs {
			continue
		}
		for _, v6 := range []bool{false, true} {
			address := EIP(v6, b.number, i)
			name := b.name("x%d-%d", i, address.BitLen())
			b.o.EIPs[name] = &api.EIP{Metadata: meta(name), Address: address, ENI: e.Name, PrivateIP: Local(v6, i)}
		}
	}
}

// remotes makes the ENIs of the other hosts, in turn, each in one group.
func (b *builder) remotes() {
	for h := range b.c.Hosts {
		host := fmt.Sprintf("far-%d", h)
		b.o.Hosts[host] = &api.Host{Metadata: meta(host), Zone: "z", VTEP: RemoteVTEP(h), Uplinks: []string{"eth0"}}
	}
	for j := range (b.c.Endpoints + PerRemote - 1) / PerRemote {
		h, nth := j%b.c.Hosts, j/b.c.Hosts
		instance := b.name("f%d-%d", h, nth/enisPerInstance)
		b.o.Instances[instance] = &api.Instance{Metadata: meta(instance), Host: fmt.Sprintf("far-%d", h), Type: "any"}
		e := b.eni(b.name("r%d", j), "far", RemoteMAC(j), instance, fmt.Sprintf("d%d-%d", b.number, j), nth%enisPerInstance)
		for r := j * PerRemote; r < min((j+1)*PerRemote, b.c.Endpoints); r++ {
			e.IPs = append(e.IPs, Remote(false, uint32(r)), Remote(true, uint32(r)))
		}
		e.SecurityGroups = []string{b.name("m%d", j%memberGroups)}
	}
}

func (b *builder) eni(name, subnet string, mac api.MAC, instance, device string, index int) *api.ENI {
	e := &api.ENI{
		Metadata: meta(name), Subnet: b.name("%s", subnet), MAC: mac, SourceDestCheck: true,
		OnPolicyChange: api.Reevaluate, Timeouts: api.DefaultTimeouts(),
		Limits:     api.Limits{Flows: api.MaxFlowsPerENI},
		Attachment: &api.Attachment{Instance: instance, Index: index, Device: device},
	}
	b.o.ENIs[name] = e
	return e
}
