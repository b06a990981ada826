// SPDX-License-Identifier: Apache-2.0

package api

import (
	"net/netip"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

const maxNACLNumber = 32766

func decodeSecurityGroup(m *mapping) Object {
	return &SecurityGroup{
		VPC:     m.need("vpc").name(),
		Ingress: list(m.get("ingress"), func(f *field) Rule { return f.rule("from") }),
		Egress:  list(m.get("egress"), func(f *field) Rule { return f.rule("to") }),
	}
}

// rule reads one rule of a group; its peers stand under the name of their direction.
func (f *field) rule(direction string) Rule {
	m := f.mapping()
	r := Rule{Name: m.get("name").text()}
	r.Protocol, r.Ports, r.ICMP = m.service()
	peers := m.need(direction)
	r.Peers = filled(peers, "CIDR, sg/NAME or pl/NAME", (*field).peer)
	if len(r.Peers) > 0 && !slices.ContainsFunc(r.Peers, func(p Peer) bool { return p.canMatch(r.Protocol) }) {
		peers.errorf("has no address that %s can come from (%s)", r.Protocol, familyAdvice(r.Protocol))
	}
	m.done()
	return r
}

// canMatch tells whether packets of a protocol can have the peer's addresses. One that could not be
// read is not judged.
func (p Peer) canMatch(proto Protocol) bool {
	return !p.Prefix.IsValid() || proto.Matches(p.Prefix.Addr())
}

func familyAdvice(p Protocol) string {
	if p.Number == ProtoICMP {
		return "icmp is IPv4 only: use icmpv6 for IPv6"
	}
	return "icmpv6 is IPv6 only: use icmp for IPv4"
}

// service reads protocol, ports and icmp, which rules and ACL entries share.
func (m *mapping) service() (Protocol, []PortRange, *ICMP) {
	p, known := m.need("protocol").protocol()
	ports, icmp := m.get("ports"), m.get("icmp")
	ranges := filled(ports, "port, or remove the field for all ports", (*field).portRange)
	types := icmp.icmp()
	if known && ports != nil && !p.HasPorts() {
		ports.errorf("do not go with protocol %s (only tcp and udp have ports)", p)
	}
	if known && icmp != nil && !p.HasTypes() {
		icmp.errorf("does not go with protocol %s (only icmp and icmpv6 have types)", p)
	}
	return p, ranges, types
}

// protocol reads a name or a number. A number that has a name is the same protocol.
func (f *field) protocol() (p Protocol, known bool) {
	s, ok := f.scalar("a protocol", "!!str", "!!int")
	if !ok {
		return Protocol{}, false
	}
	switch s {
	case "all":
		return Protocol{Any: true}, true
	case "tcp":
		return Protocol{Number: ProtoTCP}, true
	case "udp":
		return Protocol{Number: ProtoUDP}, true
	case "icmp":
		return Protocol{Number: ProtoICMP}, true
	case "icmpv6":
		return Protocol{Number: ProtoICMPv6}, true
	}
	n, err := parseNumber(s, 0, 255)
	if err != nil {
		f.errorf("%q is not a protocol (use tcp, udp, icmp, icmpv6, all or a number of 0 to 255)", s)
		return Protocol{}, false
	}
	return Protocol{Number: uint8(n)}, true
}

// portRange reads 443 or "8000-8999".
func (f *field) portRange() PortRange {
	s, ok := f.scalar("a port", "!!str", "!!int")
	if !ok {
		return PortRange{}
	}
	a, b, isRange := strings.Cut(s, "-")
	if !isRange {
		b = a
	}
	from, err := parseNumber(a, 1, 65535)
	to, err2 := parseNumber(b, 1, 65535)
	switch {
	case err != nil || err2 != nil:
		f.errorf(`%q is not a port (write 1 to 65535, or a range as "8000-8999")`, s)
	case from > to:
		f.errorf("%q ends before it begins (write the lower port first)", s)
	default:
		return PortRange{From: uint16(from), To: uint16(to)}
	}
	return PortRange{}
}

func (f *field) icmp() *ICMP {
	m := f.mapping()
	if m == nil {
		return nil
	}
	i := &ICMP{Type: uint8(m.need("type").number(0, 255))}
	if code := m.get("code"); code != nil {
		c := uint8(code.number(0, 255))
		i.Code = &c
	}
	m.done()
	return i
}

// peer reads a CIDR, sg/NAME or pl/NAME.
func (f *field) peer() Peer {
	s, ok := f.scalar("text", "!!str")
	if !ok {
		return Peer{}
	}
	kind, name, _ := strings.Cut(s, "/")
	if kind != "sg" && kind != "pl" {
		return Peer{Prefix: f.prefix()}
	}
	if problem := NameProblem(name); problem != "" {
		f.errorf("%q names nothing: the name %s (write %s/NAME)", s, problem, kind)
		return Peer{}
	}
	if kind == "sg" {
		return Peer{Group: name}
	}
	return Peer{PrefixList: name}
}

func decodeNetworkACL(m *mapping) Object {
	return &NetworkACL{
		VPC:     m.need("vpc").name(),
		Ingress: naclEntries(m.get("ingress")),
		Egress:  naclEntries(m.get("egress")),
	}
}

// naclEntries reads one direction and puts it into the order in which it is judged.
func naclEntries(f *field) []NACLEntry {
	lines := map[int]int{}
	entries := list(f, func(item *field) NACLEntry {
		e := item.naclEntry()
		if first := lines[e.Number]; first != 0 {
			item.errorf("number %d is used twice (give one another number; the first is at line %d)", e.Number, first)
		} else if e.Number != 0 {
			lines[e.Number] = item.line
		}
		return e
	})
	slices.SortStableFunc(entries, func(a, b NACLEntry) int { return a.Number - b.Number })
	return entries
}

func (f *field) naclEntry() NACLEntry {
	m := f.mapping()
	e := NACLEntry{
		Number: int(m.need("number").number(1, maxNACLNumber)),
		Allow:  m.need("action").action(),
	}
	e.Protocol, e.Ports, e.ICMP = m.service()
	cidr := m.need("cidr")
	e.CIDR = cidr.prefix()
	if e.CIDR.IsValid() && !e.Protocol.Matches(e.CIDR.Addr()) {
		cidr.errorf("%s cannot match %s (%s)", e.CIDR, e.Protocol, familyAdvice(e.Protocol))
		e.CIDR = netip.Prefix{}
	}
	m.done()
	return e
}

// action reads allow (true) or deny.
func (f *field) action() bool {
	if f == nil {
		return false
	}
	if f.node.Kind == yaml.ScalarNode && f.node.Value == "allow" {
		return true
	}
	if f.node.Kind != yaml.ScalarNode || f.node.Value != "deny" {
		f.errorf("is neither allow nor deny (write one of them)")
	}
	return false
}
