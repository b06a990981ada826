// SPDX-License-Identifier: Apache-2.0

package api

import (
	"net/netip"
	"slices"
)

// Limits of the contract.
const (
	MaxENIsPerInstance = 8
	MaxIPsPerENI       = 21 // of each family
	MaxGroupsPerENI    = 5
	MaxRulesPerENI     = 1000   // per direction, of all its groups
	MaxPrefixesPerENI  = 100000 // per direction, of all its rules and their prefix lists
	MaxRoutesPerTable  = 100000 // with the entries of the prefix lists that it names
	MaxPolicyRoutes    = 32     // of an ENI
	MaxENIsPerHost     = 1000
	MaxEIPRanges       = 256
	MaxGateways        = 64    // of a range
	MaxEIPsPerHost     = 65536 // of its ENIs and behind it as a gateway, of each family
	MaxVNI             = 1<<24 - 1
)

// minMTU is the underlay MTU that leaves 1280 bytes, IPv6's minimum, inside the overlay.
const minMTU = 1330

func decodeRegion(m *mapping) Object {
	r := defaultRegion()
	if f := m.get("gatewayMAC"); f != nil {
		r.GatewayMAC = f.mac()
	}
	if f := m.get("mtu"); f != nil {
		r.MTU = int(f.number(minMTU, 65535))
	}
	r.InfraCIDRs = list(m.get("infraCIDRs"), (*field).prefix)
	r.EIPRanges = list(m.get("eipRanges"), (*field).eipRange)
	if n := len(r.EIPRanges); n > MaxEIPRanges {
		m.get("eipRanges").errorf("names %d ranges (at most %d: aggregate them)", n, MaxEIPRanges)
	}
	return r
}

func (f *field) eipRange() EIPRange {
	m := f.mapping()
	if m == nil {
		return EIPRange{}
	}
	r := EIPRange{
		CIDR:     m.need("cidr").unicastPrefix(),
		Gateways: list(m.get("gateways"), once((*field).name)),
	}
	if n := len(r.Gateways); n > MaxGateways {
		m.get("gateways").errorf("names %d hosts (at most %d)", n, MaxGateways)
	}
	m.done()
	return r
}

func decodeHost(m *mapping) Object {
	return &Host{
		Zone:    m.need("zone").text(),
		VTEP:    m.need("vtep").vtep(),
		Uplinks: list(m.get("uplinks"), once((*field).device)),
		Peer:    m.get("peer").addrPort(),
	}
}

// vtep reads the underlay address of a host.
func (f *field) vtep() netip.Addr {
	a := f.addr()
	switch {
	case !a.IsValid():
	case !a.Is4():
		f.errorf("%s is IPv6, which a VTEP cannot be in %s (give an IPv4 address)", a, Version)
	case !isUnicast(a):
		f.errorf("%s does not name one host (give its address in the underlay)", a)
	default:
		return a
	}
	return netip.Addr{}
}

func decodeInstanceType(m *mapping) Object {
	return &InstanceType{
		MaxENIs:      int(m.need("maxENIs").number(1, MaxENIsPerInstance)),
		MaxIPsPerENI: int(m.need("maxIPsPerENI").number(1, MaxIPsPerENI)),
	}
}

func decodeInstance(m *mapping) Object {
	return &Instance{Host: m.need("host").name(), Type: m.need("type").name(), Migration: m.get("migration").migration()}
}

func (f *field) migration() *Migration {
	m := f.mapping()
	if m == nil {
		return nil
	}
	out := &Migration{To: m.need("to").name(), From: m.get("from").name()}
	if d := m.get("devices").mapping(); d != nil {
		out.Devices = map[string]string{}
		for _, eni := range d.keys() {
			out.Devices[eni] = d.need(eni).device()
		}
		d.done()
	}
	m.done()
	return out
}

func decodeVPC(m *mapping) Object {
	return &VPC{
		VNI:     uint32(m.need("vni").number(1, MaxVNI)),
		CIDRs:   filled(m.need("cidrs"), "CIDR", (*field).unicastPrefix),
		Account: m.get("account").text(),
	}
}

func decodeSubnet(m *mapping) Object {
	return &Subnet{
		VPC:        m.need("vpc").name(),
		CIDRs:      filled(m.need("cidrs"), "CIDR", (*field).subnetPrefix),
		RouteTable: m.get("routeTable").name(),
		NetworkACL: m.get("networkACL").name(),
	}
}

func decodePrefixList(m *mapping) Object {
	return &PrefixList{Entries: list(m.get("entries"), (*field).prefix)}
}

func decodeENI(m *mapping) Object {
	e := &ENI{
		Subnet:           m.need("subnet").name(),
		MAC:              m.need("mac").mac(),
		IPs:              filled(m.need("ips"), "private IP", once((*field).addr)),
		Attachment:       m.get("attachment").attachment(),
		SourceDestCheck:  true,
		AllowedAddresses: list(m.get("allowedAddresses"), (*field).prefix),
		OnPolicyChange:   Reevaluate,
		Timeouts:         m.get("timeouts").timeouts(),
		Limits:           m.get("limits").limits(),
	}
	groups := m.need("securityGroups")
	e.SecurityGroups = filled(groups, "security group", once((*field).name))
	if n := len(e.SecurityGroups); n > MaxGroupsPerENI {
		groups.errorf("names %d security groups (at most %d)", n, MaxGroupsPerENI)
	}
	if f := m.get("sourceDestCheck"); f != nil {
		e.SourceDestCheck = f.boolean()
	}
	if f := m.get("onPolicyChange"); f != nil {
		e.OnPolicyChange = f.policyChange()
	}
	e.PolicyRoutes = policyRoutes(m.get("policyRoutes"))
	return e
}

func (f *field) attachment() *Attachment {
	m := f.mapping()
	if m == nil {
		return nil
	}
	a := &Attachment{
		Instance: m.need("instance").name(),
		Index:    m.need("index").attachmentIndex(),
		Device:   m.need("device").device(),
	}
	if f := m.get("epoch"); f != nil {
		a.Epoch = f.number(0, 1<<63-1)
	}
	m.done()
	return a
}

// noIndex is the index of an attachment that gives none that can be read.
const noIndex = -1

func (f *field) attachmentIndex() int {
	s, ok := f.scalar("a number", "!!int")
	if !ok {
		return noIndex
	}
	n, err := parseNumber(s, 0, MaxENIsPerInstance-1)
	if err != nil {
		f.errorf("%s is no index (an instance has at most %d ENIs: use 0 to %d)", s, MaxENIsPerInstance, MaxENIsPerInstance-1)
		return noIndex
	}
	return int(n)
}

func (f *field) policyChange() PolicyChange {
	switch s := PolicyChange(f.text()); s {
	case "":
		return Reevaluate
	case Reevaluate, Keep, Cut:
		return s
	default:
		f.errorf("%q is not known (use %s, %s or %s)", s, Reevaluate, Keep, Cut)
		return Reevaluate
	}
}

// timeouts returns the defaults for what is not given.
func (f *field) timeouts() Timeouts {
	t := DefaultTimeouts()
	m := f.mapping()
	if m == nil {
		return t
	}
	seconds := func(name string, to *int, low, high uint64) {
		if f := m.get(name); f != nil {
			*to = int(f.number(low, high))
		}
	}
	seconds("tcpEstablished", &t.TCPEstablished, 60, 432000)
	seconds("udp", &t.UDP, 30, 60)
	seconds("udpStream", &t.UDPStream, 60, 180)
	m.done()
	return t
}

// limits returns the defaults for what is not given.
func (f *field) limits() Limits {
	l := DefaultLimits()
	m := f.mapping()
	if m == nil {
		return l
	}
	if f := m.get("flows"); f != nil {
		l.Flows = int(f.number(1, MaxFlowsPerENI))
	}
	for name, to := range map[string]*int{"newFlowsPerSecond": &l.NewFlowsPerSecond, "packetsPerSecond": &l.PacketsPerSecond} {
		if f := m.get(name); f != nil {
			*to = int(f.number(1, MaxRate))
		}
	}
	l.IngressMbps, l.EgressMbps = m.get("ingressMbps").mbps(), m.get("egressMbps").mbps()
	m.done()
	return l
}

// mbps reads a cap; 0 = there is none.
func (f *field) mbps() int {
	if f == nil {
		return 0
	}
	return int(f.number(1, MaxMbps))
}

func decodeEIP(m *mapping) Object {
	e := &EIP{
		Address: m.need("address").unicastAddr(),
		ENI:     m.get("eni").name(),

		EgressMbps: m.get("egressMbps").mbps(),
	}
	private := m.get("privateIP")
	e.PrivateIP = private.addr()
	if private != nil && m.entries["eni"] == nil {
		private.errorf("is given without an ENI (add eni or remove it)")
	}
	if e.PrivateIP.IsValid() && e.Address.IsValid() && e.PrivateIP.Is4() != e.Address.Is4() {
		private.errorf("%s is not of the family of %s (give a private IP of the same family)", e.PrivateIP, e.Address)
		e.PrivateIP = netip.Addr{}
	}
	m.unsupported("vip")
	return e
}

// neverUnicast are the prefixes in which no ENI, EIP or VTEP can have an address: this network,
// loopback, link-local, multicast, broadcast, and their IPv6 counterparts.
func neverUnicast() []netip.Prefix {
	return []netip.Prefix{
		netip.MustParsePrefix("0.0.0.0/8"),
		netip.MustParsePrefix("127.0.0.0/8"),
		netip.MustParsePrefix("169.254.0.0/16"),
		netip.MustParsePrefix("224.0.0.0/4"),
		netip.MustParsePrefix("255.255.255.255/32"),
		netip.MustParsePrefix("::/96"),
		netip.MustParsePrefix("::ffff:0:0/96"),
		netip.MustParsePrefix("fe80::/10"),
		netip.MustParsePrefix("ff00::/8"),
	}
}

func isUnicast(a netip.Addr) bool {
	return !slices.ContainsFunc(neverUnicast(), func(p netip.Prefix) bool { return p.Contains(a) })
}

func (f *field) unicastAddr() netip.Addr {
	a := f.addr()
	if a.IsValid() && !isUnicast(a) {
		f.errorf("%s is no unicast address (give a public one)", a)
		return netip.Addr{}
	}
	return a
}

func (f *field) unicastPrefix() netip.Prefix {
	p := f.prefix()
	if !p.IsValid() {
		return p
	}
	for _, never := range neverUnicast() {
		if p.Overlaps(never) {
			f.errorf("%s holds addresses of %s, which no ENI can have (choose another range)", p, never)
			return netip.Prefix{}
		}
	}
	return p
}

// subnetPrefix reads a CIDR that has room for an ENI beside the reserved addresses.
func (f *field) subnetPrefix() netip.Prefix {
	p := f.prefix()
	room := 29
	if p.IsValid() && p.Addr().Is6() {
		room = 126
	}
	if p.Bits() > room {
		f.errorf("%s has no address left beside the reserved ones (at most /%d)", p, room)
		return netip.Prefix{}
	}
	return p
}

// once makes a reader of items refuse a value that it has read before.
func once[T comparable](read func(*field) T) func(*field) T {
	var zero T
	seen := map[T]bool{}
	return func(item *field) T {
		v := read(item)
		if v != zero && seen[v] {
			item.errorf("%v is listed twice (keep one)", v)
			return zero
		}
		seen[v] = true
		return v
	}
}
