// SPDX-License-Identifier: Apache-2.0

package diff

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"

	"github.com/eniplane/eniplane/pkg/api"
)

// gen draws everything that is random.
type gen struct{ *rand.Rand }

func pick[T any](g gen, list []T) T { return list[g.IntN(len(list))] }

// oneIn is true once in n times.
func (g gen) oneIn(n int) bool { return g.IntN(n) == 0 }

// The hosts. The packets are those of the first one.
var hosts = []string{"host-a", "host-b", "host-c"}

var vteps = []netip.Addr{
	netip.MustParseAddr("192.168.100.1"), netip.MustParseAddr("192.168.100.2"), netip.MustParseAddr("192.168.100.3"),
}

// ports is how many devices the host has for ENIs.
const ports = 8

// internet: addresses beyond the VPCs. The host's own routes refuse the last two.
var internet4 = addrs("198.51.100.7", "198.51.100.8", "192.0.2.70", "198.18.0.7", "198.51.100.200")
var internet6 = addrs("2001:db8:c::7", "2001:db8:c::8", "2001:db8:ff1::7", "2001:db8:dead::7", "2001:db8:c:bad::7")

// strange: addresses that nobody should send to or from.
var strange = addrs("100.64.0.7", "fd00:ffff::7", "192.168.100.1", "192.168.100.2", "2001:db8:64::1", "0.0.0.0", "127.0.0.1",
	"169.254.169.254", "224.0.0.1", "255.255.255.255", "::", "::1", "::ffff:10.0.1.10", "fe80::1", "fe80::10", "ff02::1",
	"10.0.1.77", "fd00:1:0:1::77", "10.0.9.9", "fd00:1:0:9::9", "203.0.113.99", "2001:db8:e::99")

func addrs(texts ...string) []netip.Addr {
	var list []netip.Addr
	for _, t := range texts {
		list = append(list, netip.MustParseAddr(t))
	}
	return list
}

// prefixes that rules, routes and allowed addresses like.
func (g gen) prefix(v6 bool) netip.Prefix {
	texts := []string{"0.0.0.0/0", "172.16.0.0/15", "172.16.1.0/24", "10.0.0.0/16", "10.0.1.0/24", "10.0.2.0/24", "10.0.1.10/32", "10.0.1.8/29", "10.0.2.10/31",
		"198.51.100.0/24", "198.51.100.7/32", "203.0.113.0/24", "203.0.113.10/32", "198.18.0.0/15", "192.0.2.0/24", "10.0.0.0/8"}
	if v6 {
		texts = []string{"::/0", "fd00:2::/47", "fd00:2:0:1::/64", "fd00:1::/48", "fd00:1:0:1::/64", "fd00:1:0:2::/64", "fd00:1:0:1::10/128", "fd00:1:0:1::8/125",
			"2001:db8:c::/48", "2001:db8:c::7/128", "2001:db8:e::/64", "2001:db8:e::10/128", "2001:db8:dead::/48", "fd00::/8"}
	}
	return netip.MustParsePrefix(pick(g, texts))
}

var portNumbers = []uint16{1, 22, 53, 79, 80, 81, 443, 1023, 1024, 4789, 8000, 8999, 40000, 65535}

func (g gen) portRange() api.PortRange {
	a, b := pick(g, portNumbers), pick(g, portNumbers)
	if g.oneIn(2) {
		b = a
	}
	return api.PortRange{From: min(a, b), To: max(a, b)}
}

// service is all that the feed may say of protocol, ports and types.
func (g gen) service(v6 bool) (api.Protocol, []api.PortRange, *api.ICMP) {
	switch g.IntN(8) {
	case 0, 1:
		return api.Protocol{Any: true}, nil, nil
	case 2, 3, 4:
		p := api.Protocol{Number: pick(g, []uint8{api.ProtoTCP, api.ProtoTCP, api.ProtoUDP})}
		var ranges []api.PortRange
		for range g.IntN(4) {
			ranges = append(ranges, g.portRange())
		}
		return p, ranges, nil
	case 5, 6:
		p := api.Protocol{Number: api.ProtoICMP}
		types := []uint8{8, 8, 13, 0}
		if v6 {
			p, types = api.Protocol{Number: api.ProtoICMPv6}, []uint8{128, 128, 139, 129}
		}
		if g.oneIn(2) {
			return p, nil, nil
		}
		i := &api.ICMP{Type: pick(g, types)}
		if g.oneIn(2) {
			code := uint8(g.IntN(2))
			i.Code = &code
		}
		return p, nil, i
	}
	return api.Protocol{Number: pick(g, []uint8{0, 2, 47, 50, 51, 112, 132, 255})}, nil, nil
}

// vpcNames are the tenants; the first two have the same addresses.
var vpcNames = []string{"red", "blue", "green", "grey"}

// tables are the ends of the names of a VPC's route tables.
var tables = []string{"-rt", "-rt2"}

func groupName(vpc string, i int) string { return fmt.Sprintf("%s-sg%d", vpc, i) }

func (g gen) rules(vpc string) []api.Rule {
	var rules []api.Rule
	for i := range g.IntN(5) {
		v6 := g.oneIn(2)
		var r api.Rule
		if g.oneIn(2) {
			r.Name = fmt.Sprintf("r%d", i)
		}
		r.Protocol, r.Ports, r.ICMP = g.service(v6)
		r.Peers = []api.Peer{{Prefix: g.prefix(v6)}}
		for range g.IntN(3) {
			switch g.IntN(3) {
			case 0:
				r.Peers = append(r.Peers, api.Peer{Group: groupName(vpc, g.IntN(3))})
			case 1:
				r.Peers = append(r.Peers, api.Peer{PrefixList: fmt.Sprintf("pl%d", g.IntN(2))})
			default:
				r.Peers = append(r.Peers, api.Peer{Prefix: g.prefix(g.oneIn(2))})
			}
		}
		if g.oneIn(3) && len(r.Peers) > 1 && !r.Protocol.HasTypes() {
			r.Peers = r.Peers[1:]
		}
		rules = append(rules, r)
	}
	if g.oneIn(2) { // so that something is allowed at all
		any4, any6 := netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")
		rules = append(rules, api.Rule{Protocol: api.Protocol{Any: true}, Peers: []api.Peer{{Prefix: any4}, {Prefix: any6}}})
	}
	return rules
}

func (g gen) entries() []api.NACLEntry {
	var entries []api.NACLEntry
	number := 0
	for range g.IntN(6) {
		number += 1 + g.IntN(100)
		v6 := g.oneIn(2)
		e := api.NACLEntry{Number: number, Allow: !g.oneIn(3), CIDR: g.prefix(v6)}
		e.Protocol, e.Ports, e.ICMP = g.service(v6)
		entries = append(entries, e)
	}
	for i, cidr := range []string{"0.0.0.0/0", "::/0"} {
		if !g.oneIn(4) {
			entries = append(entries, api.NACLEntry{
				Number: 1000 + i, Allow: true, Protocol: api.Protocol{Any: true}, CIDR: netip.MustParsePrefix(cidr),
			})
		}
	}
	return entries
}

func meta(name string) api.Metadata { return api.Metadata{Name: name, UID: name} }

// world draws a region: valid, as the feed would accept it.
func (g gen) world() *api.Objects {
	o := api.NewObjects()
	o.Region.InfraCIDRs = []netip.Prefix{netip.MustParsePrefix("100.64.0.0/16"), netip.MustParsePrefix("fd00:ffff::/64")}
	o.InstanceTypes["any"] = &api.InstanceType{Metadata: meta("any"), MaxENIs: 8, MaxIPsPerENI: 20}
	for i, name := range hosts {
		o.Hosts[name] = &api.Host{Metadata: meta(name), Zone: "z", VTEP: vteps[i], Uplinks: []string{"uplink0"}}
	}
	for i := range 2 {
		list := &api.PrefixList{Metadata: meta(fmt.Sprintf("pl%d", i))}
		for range 1 + g.IntN(4) {
			list.Entries = append(list.Entries, g.prefix(g.oneIn(2)))
		}
		list.Entries = uniquePrefixes(list.Entries)
		o.PrefixLists[list.Name] = list
	}
	for i, name := range vpcNames[:2+g.IntN(3)] {
		g.vpc(o, name, uint32(1001+i))
	}
	for i := range 3 + g.IntN(6) {
		g.addENI(o, i)
	}
	for range g.IntN(6) {
		g.addEIP(o)
	}
	for _, name := range sortedKeys(o.RouteTables) {
		t := o.RouteTables[name]
		t.Routes = g.routes(o, t.VPC)
	}
	for _, name := range sortedKeys(o.ENIs) {
		if g.oneIn(4) {
			o.ENIs[name].PolicyRoutes = g.policyRoutes(o, o.ENIs[name])
		}
	}
	if g.oneIn(2) {
		o.Region.EIPRanges = g.ranges()
	}
	tidy(o)
	return o
}

func uniquePrefixes(list []netip.Prefix) []netip.Prefix {
	slices.SortFunc(list, api.ComparePrefix)
	return slices.Compact(list)
}

func (g gen) vpc(o *api.Objects, name string, vni uint32) {
	v4, v6 := firstBytes(name)
	o.VPCs[name] = &api.VPC{Metadata: meta(name), VNI: vni, CIDRs: []netip.Prefix{
		netip.MustParsePrefix(v4 + ".0.0/16"), netip.MustParsePrefix(v6 + "::/48"),
	}}
	for _, suffix := range tables {
		o.RouteTables[name+suffix] = &api.RouteTable{Metadata: meta(name + suffix), VPC: name}
	}
	acl := &api.NetworkACL{Metadata: meta(name + "-acl"), VPC: name, Ingress: g.entries(), Egress: g.entries()}
	o.NetworkACLs[acl.Name] = acl
	for i := range 3 {
		sg := &api.SecurityGroup{Metadata: meta(groupName(name, i)), VPC: name, Ingress: g.rules(name), Egress: g.rules(name)}
		o.SecurityGroups[sg.Name] = sg
	}
	for i := range 1 + g.IntN(3) {
		s := &api.Subnet{Metadata: meta(fmt.Sprintf("%s-s%d", name, i+1)), VPC: name, CIDRs: []netip.Prefix{
			netip.MustParsePrefix(fmt.Sprintf("%s.%d.0/24", v4, i+1)), netip.MustParsePrefix(fmt.Sprintf("%s:0:%d::/64", v6, i+1)),
		}}
		if !g.oneIn(4) {
			s.RouteTable = name + pick(g, tables)
		}
		if g.oneIn(2) {
			s.NetworkACL = acl.Name
		}
		o.Subnets[s.Name] = s
	}
}

// sortedKeys of a kind, so that equal seeds give equal worlds.
func sortedKeys[T any](m map[string]T) []string {
	var names []string
	for name := range m {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// addENI adds one with free addresses; number i has the device of that number if it is of the first host.
func (g gen) addENI(o *api.Objects, i int) {
	name, instance := fmt.Sprintf("eni%d", i), fmt.Sprintf("vm%d", i)
	subnet := o.Subnets[pick(g, sortedKeys(o.Subnets))]
	e := &api.ENI{
		Metadata: meta(name), Subnet: subnet.Name, MAC: api.MAC{2, 0, 0, 0, 1, byte(0x10 + i)}, SourceDestCheck: !g.oneIn(5),
		OnPolicyChange: g.policyChange(), Timeouts: g.timeouts(), Limits: g.quota(),
	}
	if (subnet.VPC == "blue" || subnet.VPC == "grey") && i > 0 { // MACs are of a VPC and its peers alone
		e.MAC[5]--
	}
	for slices.ContainsFunc(sortedKeys(o.ENIs), func(other string) bool {
		vpc := o.VPCOf(o.ENIs[other]).Name
		return o.ENIs[other].MAC == e.MAC && (vpc == subnet.VPC || slices.Contains(peersOf[vpc], subnet.VPC))
	}) {
		e.MAC[4]++
	}
	for _, cidr := range subnet.CIDRs {
		for range pick(g, []int{0, 1, 1, 1, 2}) {
			a := freeAddr(o, subnet, cidr)
			e.IPs = append(e.IPs, a)
			o.ENIs[name] = e // so that freeAddr sees it
		}
	}
	if len(e.IPs) == 0 {
		e.IPs = append(e.IPs, freeAddr(o, subnet, subnet.CIDRs[g.IntN(2)]))
	}
	e.SecurityGroups = g.groups(subnet.VPC)
	if g.oneIn(4) {
		e.AllowedAddresses = uniquePrefixes([]netip.Prefix{g.prefix(false), g.prefix(true)})
	}
	host := pick(g, []string{hosts[0], hosts[0], hosts[0], hosts[1], hosts[2]})
	o.Instances[instance] = &api.Instance{Metadata: meta(instance), Host: host, Type: "any"}
	if shared := g.instanceOf(o, subnet.VPC); shared != "" && g.oneIn(2) {
		instance = shared
	}
	o.ENIs[name] = e
	if !g.oneIn(12) {
		g.plug(o, e, instance, 1)
	}
}

// plug attaches an ENI to an instance, unless ENIs of another VPC are in that. Its place in it is its number.
func (g gen) plug(o *api.Objects, e *api.ENI, instance string, epoch uint64) {
	e.Attachment = nil
	for _, other := range o.ENIs {
		if other.Attachment != nil && other.Attachment.Instance == instance && o.VPCOf(other) != o.VPCOf(e) {
			return
		}
	}
	number := e.Name[len("eni"):]
	e.Attachment = &api.Attachment{Instance: instance, Index: int(number[0] - '0'), Device: "p" + number, Epoch: epoch}
}

// instanceOf draws an instance that has an ENI of a VPC, "" if there is none.
func (g gen) instanceOf(o *api.Objects, vpc string) string {
	var found []string
	for _, name := range sortedKeys(o.ENIs) {
		if e := o.ENIs[name]; e.Attachment != nil && o.VPCOf(e).Name == vpc {
			found = append(found, e.Attachment.Instance)
		}
	}
	if len(found) == 0 {
		return ""
	}
	return pick(g, found)
}

func (g gen) policyChange() api.PolicyChange {
	return pick(g, []api.PolicyChange{api.Reevaluate, api.Reevaluate, api.Keep, api.Cut})
}

func (g gen) timeouts() api.Timeouts {
	t := api.DefaultTimeouts()
	if g.oneIn(3) {
		t = api.Timeouts{TCPEstablished: pick(g, []int{60, 300, 432000}), UDP: 30 + g.IntN(31), UDPStream: 60 + g.IntN(121)}
	}
	return t
}

// limits of a host: sometimes so narrow that its ENIs fight for flows.
func (g gen) limits() limits {
	if g.oneIn(2) {
		return generous
	}
	return limits{Flows: pick(g, []int{2, 12, 24, 48}), HalfOpen: pick(g, []int{1, 2, 3, 8})}
}

func (g gen) quota() api.Limits {
	if !g.oneIn(4) {
		return api.DefaultLimits()
	}
	if g.oneIn(2) {
		return api.Limits{Flows: 1 + g.IntN(8)}
	}
	l := api.DefaultLimits()
	if g.oneIn(2) {
		l.NewFlowsPerSecond = pick(g, []int{1, 10, 30, 100})
	}
	if g.oneIn(2) {
		l.PacketsPerSecond = pick(g, []int{3, 100, 300, 1000})
	}
	return l
}

func (g gen) groups(vpc string) []string {
	var names []string
	for _, i := range g.Perm(3)[:1+g.IntN(3)] {
		names = append(names, groupName(vpc, i))
	}
	return names
}

// freeAddr is the first address from .10 on that nobody has.
func freeAddr(o *api.Objects, subnet *api.Subnet, cidr netip.Prefix) netip.Addr {
	b := cidr.Addr().AsSlice()
	for last := 0x0a; ; last++ {
		b[len(b)-1] = byte(last)
		if cidr.Addr().Is6() {
			b[len(b)-1] = byte(last + 6)
		}
		a, _ := netip.AddrFromSlice(b)
		taken := false
		for _, e := range o.ENIs {
			taken = taken || o.VPCOf(e).Name == subnet.VPC && slices.Contains(e.IPs, a)
		}
		if !taken {
			return a
		}
	}
}

// ranges are those of all EIPs that addEIP makes, with gateways of all kinds.
func (g gen) ranges() []api.EIPRange {
	gateways := [][]string{nil, {hosts[0]}, {hosts[1]}, {hosts[0], hosts[2]}, {hosts[1], hosts[2]}}
	var list []api.EIPRange
	for last := 8; last < 40; last += 4 {
		list = append(list, api.EIPRange{CIDR: netip.MustParsePrefix(fmt.Sprintf("203.0.113.%d/30", last)), Gateways: pick(g, gateways)})
	}
	for last := 0x10; last < 0x40; last += 4 {
		list = append(list, api.EIPRange{CIDR: netip.MustParsePrefix(fmt.Sprintf("2001:db8:e::%x/126", last)), Gateways: pick(g, gateways)})
	}
	return list
}

// addEIP binds a public address to a private IP that has none, or reserves it.
func (g gen) addEIP(o *api.Objects) {
	for last := 10; last < 40; last++ {
		name := fmt.Sprintf("eip%d", last)
		if o.EIPs[name] != nil {
			continue
		}
		e := o.ENIs[pick(g, sortedKeys(o.ENIs))]
		private := pick(g, e.IPs)
		for _, other := range o.EIPs {
			if other.ENI == e.Name && other.PrivateIP == private {
				return
			}
		}
		address := netip.AddrFrom4([4]byte{203, 0, 113, byte(last)})
		if private.Is6() {
			address = netip.MustParseAddr(fmt.Sprintf("2001:db8:e::%d", last))
		}
		eip := &api.EIP{Metadata: meta(name), Address: address, ENI: e.Name, PrivateIP: private}
		if g.oneIn(10) {
			eip.ENI, eip.PrivateIP = "", netip.Addr{}
		}
		o.EIPs[name] = eip
		return
	}
}

// change draws the next revision: one thing or a few.
func (g gen) change(before *api.Objects) *api.Objects {
	o := fork(before)
	for range 1 + g.IntN(3) {
		g.changeOne(o)
		tidy(o)
	}
	return o
}

func (g gen) changeOne(o *api.Objects) {
	sg := o.SecurityGroups[pick(g, sortedKeys(o.SecurityGroups))]
	acl := o.NetworkACLs[pick(g, sortedKeys(o.NetworkACLs))]
	var e *api.ENI
	if names := sortedKeys(o.ENIs); len(names) > 0 {
		e = o.ENIs[pick(g, names)]
	} else {
		g.addENI(o, 0)
		return
	}
	switch g.IntN(18) {
	case 17:
		o.Region.EIPRanges = nil
		if !g.oneIn(4) {
			o.Region.EIPRanges = g.ranges()
		}
	case 15, 16:
		g.changeRoutes(o, e)
	case 0, 1:
		sg.Ingress = g.rules(sg.VPC)
	case 2, 3:
		sg.Egress = g.rules(sg.VPC)
	case 4:
		sg.Ingress = nil
		if g.oneIn(2) {
			sg.Egress = nil
		}
	case 5, 6:
		e.SecurityGroups = g.groups(o.VPCOf(e).Name)
	case 7:
		acl.Ingress = g.entries()
	case 8:
		acl.Egress = g.entries()
	case 9:
		s := o.Subnets[e.Subnet]
		s.NetworkACL = pick(g, []string{"", s.VPC + "-acl"})
		s.RouteTable = pick(g, []string{s.VPC + "-rt", s.VPC + "-rt2", ""})
	case 10:
		list := o.PrefixLists[pick(g, sortedKeys(o.PrefixLists))]
		list.Entries = uniquePrefixes(append(list.Entries[:g.IntN(len(list.Entries))], g.prefix(g.oneIn(2))))
	case 11:
		g.changeEIP(o)
	case 12:
		g.move(o, e)
	case 13:
		g.changeENI(o, e)
	case 14:
		g.replaceENI(o, e)
	}
}

func (g gen) changeEIP(o *api.Objects) {
	names := sortedKeys(o.EIPs)
	if len(names) == 0 || g.oneIn(2) {
		g.addEIP(o)
		return
	}
	delete(o.EIPs, pick(g, names))
	g.addEIP(o)
}

// move attaches an ENI to an instance elsewhere, or nowhere.
func (g gen) move(o *api.Objects, e *api.ENI) {
	instance := "vm" + e.Name[len("eni"):]
	o.Instances[instance].Host = pick(g, hosts)
	epoch := uint64(1)
	if e.Attachment != nil {
		epoch = e.Attachment.Epoch
	}
	g.plug(o, e, instance, epoch+uint64(g.IntN(2)))
	if g.oneIn(4) {
		e.Attachment = nil
	}
}

func (g gen) changeENI(o *api.Objects, e *api.ENI) {
	switch g.IntN(7) {
	case 6:
		e.Limits = g.quota()
	case 4:
		e.OnPolicyChange = g.policyChange()
	case 5:
		e.Timeouts = g.timeouts()
	case 0:
		e.SourceDestCheck = !e.SourceDestCheck
	case 1:
		e.AllowedAddresses = uniquePrefixes([]netip.Prefix{g.prefix(false), g.prefix(true)})
	case 2:
		e.AllowedAddresses = nil
	case 3: // gives its last address away
		if len(e.IPs) < 2 {
			return
		}
		ip := e.IPs[len(e.IPs)-1]
		for _, name := range sortedKeys(o.EIPs) {
			if o.EIPs[name].ENI == e.Name && o.EIPs[name].PrivateIP == ip {
				delete(o.EIPs, name)
			}
		}
		e.IPs = e.IPs[:len(e.IPs)-1]
		for _, name := range sortedKeys(o.ENIs) {
			if other := o.ENIs[name]; other != e && other.Subnet == e.Subnet && g.oneIn(2) {
				other.IPs = append(other.IPs, ip)
				return
			}
		}
	}
}

// replaceENI deletes an ENI and sometimes makes another one in its place, maybe in another VPC.
func (g gen) replaceENI(o *api.Objects, e *api.ENI) {
	delete(o.ENIs, e.Name)
	for _, name := range sortedKeys(o.EIPs) {
		if o.EIPs[name].ENI == e.Name {
			delete(o.EIPs, name)
		}
	}
	for i := range ports {
		if o.ENIs[fmt.Sprintf("eni%d", i)] == nil && (len(o.ENIs) == 0 || g.oneIn(2)) {
			g.addENI(o, i)
			o.ENIs[fmt.Sprintf("eni%d", i)].UID = fmt.Sprintf("u%d", g.Uint32())
			return
		}
	}
	if len(o.ENIs) == 0 {
		g.addENI(o, 0)
	}
}
