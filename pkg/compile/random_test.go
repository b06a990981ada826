// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/eniplane/eniplane/pkg/api"
)

// TestAgainstReference compares compiled rules with the rules themselves, for random rules and
// packets whose addresses and ports lie close together, so that they meet.
func TestAgainstReference(t *testing.T) {
	matched := map[bool]int{}
	for seed := range uint64(60) {
		g := generator{rand.New(rand.NewPCG(seed, 3))}
		obj := g.objects()
		res := mustCompile(t, Input{Objects: obj, Host: "host-a", Revision: 1})
		if len(res.Degraded) > 0 {
			t.Fatalf("seed %d: degraded: %v", seed, res.Degraded)
		}
		checkOrder(t, res.State)
		for range 250 {
			eni := &res.State.ENIs[g.IntN(len(res.State.ENIs))]
			p := g.packet(obj)
			got, want := evaluateAll(t, res.State, eni, p), referenceAll(obj, obj.ENIs[eni.Name], p)
			if got != want {
				t.Fatalf("seed %d: %s, %+v: got %+v, want %+v", seed, eni.Name, p, got, want)
			}
			for _, d := range got {
				matched[d.rule != ""]++
			}
		}
	}
	if matched[true] < 5000 || matched[false] < 5000 {
		t.Errorf("the random rules decide too little or too much to prove anything: %v", matched)
	}
}

// TestFormsAgainstReference: rules that overlap heavily decide the same as pairs, searched, and one after the other.
func TestFormsAgainstReference(t *testing.T) {
	decided, wide := map[bool]int{}, 0
	for seed := range uint64(80) {
		g := generator{rand.New(rand.NewPCG(seed, 5))}
		rules, sets := g.overlapping(1+g.IntN(150)), manySets(1+g.IntN(20))
		var forms []*ruleParts
		for _, pairs := range []int{0, ordinaryPairs, 1 << 30} {
			forms = append(forms, mustCompileRules(t, rules, nil, sets, pairs))
		}
		if !forms[0].set.Wide() || forms[2].set.Wide() {
			t.Fatalf("seed %d: %d rules took forms that were not asked for", seed, len(rules))
		}
		if forms[1].set.Wide() {
			wide++
		}
		for range 200 {
			p := g.overlappingPacket()
			groupSet, names := uint32(g.IntN(len(sets)+1)), []string(nil)
			if groupSet > 0 {
				names = sets[groupSet-1].names
			}
			want := firstRule(rules, p, names)
			for i := range forms {
				if got := evaluateSet(forms[i], p, groupSet); got != want {
					t.Fatalf("seed %d: form %d of %d rules, %+v of %v: got %+v, want %+v", seed, i, len(rules), p, names, got, want)
				}
			}
			decided[want.rule != ""]++
		}
	}
	if decided[true] < 3000 || decided[false] < 500 || wide == 0 || wide == 80 {
		t.Errorf("the random rules prove little: %v decided, %d of 80 sets wide by themselves", decided, wide)
	}
}

// overlapping returns rules whose networks nest and whose port ranges cross each other, to allow and to deny.
func (g generator) overlapping(n int) []rule {
	rules := make([]rule, n)
	for i := range rules {
		from := uint16(1 + g.IntN(300))
		r := rule{
			RuleName: RuleName{Name: fmt.Sprint(i)}, allow: g.IntN(3) > 0, protocol: proto(uint8(6 + 11*g.IntN(2))),
			ports: []api.PortRange{{From: from, To: from + uint16(g.IntN(200))}},
		}
		if g.IntN(10) == 0 {
			r.protocol, r.ports = api.Protocol{Any: true}, nil
		}
		for range g.IntN(3) {
			r.cidrs = append(r.cidrs, netip.PrefixFrom(g.near(), 20+g.IntN(13)).Masked())
		}
		if len(r.cidrs) == 0 || g.IntN(4) == 0 {
			r.groups = []string{fmt.Sprintf("sg-%d", g.IntN(8))}
		}
		rules[i] = r
	}
	return rules
}

// near returns an address of a small network.
func (g generator) near() netip.Addr {
	return netip.AddrFrom4([4]byte{10, 0, byte(g.IntN(4)), byte(g.IntN(64) * 4)})
}

func (g generator) overlappingPacket() packet {
	return packet{peer: g.near(), protocol: uint8(6 + 11*g.IntN(2)), port: uint16(1 + g.IntN(600))}
}

// firstRule goes through rules one by one.
func firstRule(rules []rule, p packet, groups []string) decision {
	for i := range rules {
		r := &rules[i]
		named := slices.ContainsFunc(r.groups, func(g string) bool { return slices.Contains(groups, g) }) ||
			slices.ContainsFunc(r.cidrs, func(c netip.Prefix) bool { return c.Contains(p.peer) })
		if named && matchesService(r.protocol, r.ports, r.icmp, p) {
			return decision{r.allow, r.Name}
		}
	}
	return decision{}
}

// TestChangesAgainstReference compiles random small changes on top of what was there. The result
// must be that of the new rules, however much of the old was taken over, and where a verdict
// changed the generation must have grown.
func TestChangesAgainstReference(t *testing.T) {
	changed, same := 0, 0
	for seed := range uint64(250) {
		g := generator{rand.New(rand.NewPCG(seed, 4))}
		before := g.objects()
		res := mustCompile(t, Input{Objects: before, Host: "host-a", Revision: 1})
		obj := generator{rand.New(rand.NewPCG(seed, 4))}.objects() // an equal one
		g.change(obj)
		if seed%2 == 0 {
			obj.ENIs["early"] = g.eni("early", "host-a", 99)
		}
		next := mustCompile(t, Input{Objects: obj, Host: "host-a", Revision: 2, Previous: res.State, IDs: res.IDs})
		checkOrder(t, next.State)
		for range 60 {
			eni := &next.State.ENIs[g.IntN(len(next.State.ENIs))]
			p := g.packet(obj)
			got, want := evaluateAll(t, next.State, eni, p), referenceAll(obj, obj.ENIs[eni.Name], p)
			if got != want {
				t.Fatalf("seed %d: %s, %+v: got %+v, want %+v", seed, eni.Name, p, got, want)
			}
			if before.ENIs[eni.Name] == nil {
				continue
			}
			grown := eni.Generation > eniOf(res.State, eni.Name).Generation
			if was := referenceAll(before, before.ENIs[eni.Name], p); was != want && !grown {
				t.Fatalf("seed %d: %s, %+v: %+v became %+v, but the generation stayed", seed, eni.Name, p, was, want)
			} else if was != want {
				changed++
			} else if !grown {
				same++
			}
		}
	}
	if changed < 500 || same < 500 {
		t.Errorf("the random changes change too little or too much to prove anything: %d changed, %d the same", changed, same)
	}
}

// change changes one thing that verdicts depend on.
func (g generator) change(obj *api.Objects) {
	group := obj.SecurityGroups[fmt.Sprintf("sg-%d", g.IntN(6))]
	eni := obj.ENIs[fmt.Sprintf("eni-%d", g.IntN(12))]
	acl := obj.NetworkACLs["acl"]
	rules, entries := &group.Ingress, &acl.Ingress
	if g.IntN(2) == 0 {
		rules, entries = &group.Egress, &acl.Egress
	}
	if len(*rules) == 0 || len(*entries) == 0 {
		*rules, *entries = g.rules(), g.entries()
		return
	}
	r, e := &(*rules)[g.IntN(len(*rules))], &(*entries)[g.IntN(len(*entries))]
	switch g.IntN(10) {
	case 0:
		r.Protocol, r.Ports, r.ICMP = g.service()
	case 1:
		r.Peers = r.Peers[1:]
	case 2:
		r.Peers[0] = api.Peer{Prefix: g.prefix()}
	case 3:
		r.Peers[0] = api.Peer{Group: fmt.Sprintf("sg-%d", g.IntN(6))}
	case 4:
		e.Protocol, e.Ports, e.ICMP = g.service()
	case 5:
		e.CIDR = g.prefix()
	case 6:
		e.Allow = !e.Allow
	case 7:
		eni.SecurityGroups[0] = group.Name
	case 8:
		a := g.addr()
		if a.As16()[15] != 1 && !slices.ContainsFunc(sorted(obj.ENIs), func(e *api.ENI) bool { return slices.Contains(e.IPs, a) }) {
			eni.IPs = append(eni.IPs, a)
		}
	case 9:
		list := obj.PrefixLists[fmt.Sprintf("pl-%d", g.IntN(3))]
		list.Entries = append(list.Entries, g.prefix())
	}
}

func evaluateAll(t *testing.T, st *State, eni *ENI, p packet) [4]decision {
	t.Helper()
	return [4]decision{
		evaluate(t, st, eni.SGIn, eni.VNI, p, true), evaluate(t, st, eni.SGOut, eni.VNI, p, true),
		evaluate(t, st, eni.NACLIn, eni.VNI, p, false), evaluate(t, st, eni.NACLOut, eni.VNI, p, false),
	}
}

func referenceAll(obj *api.Objects, eni *api.ENI, p packet) [4]decision {
	return [4]decision{
		referenceGroups(obj, eni, "ingress", p), referenceGroups(obj, eni, "egress", p),
		referenceACL(obj, eni, "ingress", p), referenceACL(obj, eni, "egress", p),
	}
}

// checkOrder: all slices are sorted by key, and no key comes twice.
func checkOrder(t *testing.T, st *State) {
	t.Helper()
	ascending(t, "ENIs", st.ENIs, func(a, b ENI) int { return int(a.Index) - int(b.Index) })
	ascending(t, "next hops", st.NextHops, func(a, b NextHop) int { return int(a.Index) - int(b.Index) })
	ascending(t, "endpoints", st.Endpoints, func(a, b Endpoint) int { return a.Addr.Compare(b.Addr) })
	ascending(t, "MACs", st.MACs, func(a, b MAC) int { return bytes.Compare(a.MAC[:], b.MAC[:]) })
	ascending(t, "VTEPs", st.VTEPs, func(a, b VTEP) int { return a.Addr.Compare(b.Addr) })
	ascending(t, "EIPs", st.EIPs, func(a, b EIP) int { return a.Addr.Compare(b.Addr) })
	ascending(t, "routes", st.Routes, compareRoutes)
	ascending(t, "rule sets", st.Rulesets, func(a, b Ruleset) int { return int(a.ID) - int(b.ID) })
	ascending(t, "ports", st.PortNames, strings.Compare)
	ascending(t, "tables of addresses", st.Addrs, func(a, b AddrTable) int { return int(a.ID) - int(b.ID) })
	ascending(t, "tables of services", st.Services, func(a, b ServiceTable) int { return int(a.ID) - int(b.ID) })
	for _, table := range st.Groups {
		for i := 1; i < len(table.Groups); i++ {
			if table.Groups[i-1].GroupSet >= table.Groups[i].GroupSet {
				t.Errorf("table %d: %v comes before %v", table.ID, table.Groups[i-1], table.Groups[i])
			}
		}
	}
}

func ascending[T any](t *testing.T, what string, list []T, compare func(a, b T) int) {
	t.Helper()
	if len(list) < 2 {
		t.Errorf("%d %s: nothing to sort", len(list), what)
	}
	for i := 1; i < len(list); i++ {
		if compare(list[i-1], list[i]) >= 0 {
			t.Errorf("%s: %v comes before %v", what, list[i-1], list[i])
		}
	}
}

type generator struct{ *rand.Rand }

func (g generator) addr() netip.Addr {
	if g.IntN(2) == 0 {
		return netip.AddrFrom4([4]byte{10, 0, byte(g.IntN(4)), byte(g.IntN(256))})
	}
	a := [16]byte{0: 0xfd, 7: byte(g.IntN(4)), 14: byte(g.IntN(2)), 15: byte(g.IntN(256))}
	return netip.AddrFrom16(a)
}

func (g generator) prefix() netip.Prefix {
	a := g.addr()
	bits := a.BitLen() - g.IntN(14)
	if g.IntN(4) == 0 {
		bits = g.IntN(a.BitLen() + 1)
	}
	return netip.PrefixFrom(a, bits).Masked()
}

func (g generator) port() uint16 {
	near := []uint16{1, 2, 3, 22, 80, 443, 1023, 1024, 8000, 8191, 8192, 65534, 65535}
	return near[g.IntN(len(near))]
}

// service returns a protocol with ports or ICMP type, all of which the feed may say.
func (g generator) service() (api.Protocol, []api.PortRange, *api.ICMP) {
	numbers := []uint8{0, 1, 6, 6, 6, 17, 17, 50, 58, 112, 255}
	proto := api.Protocol{Number: numbers[g.IntN(len(numbers))]}
	switch {
	case g.IntN(10) == 0:
		return api.Protocol{Any: true}, nil, nil
	case proto.Number == api.ProtoICMP || proto.Number == api.ProtoICMPv6:
		if g.IntN(3) == 0 {
			return proto, nil, nil
		}
		icmp := &api.ICMP{Type: uint8(g.IntN(3))}
		if g.IntN(2) == 0 {
			code := uint8(g.IntN(3))
			icmp.Code = &code
		}
		return proto, nil, icmp
	case proto.Number == api.ProtoTCP || proto.Number == api.ProtoUDP:
		var ports []api.PortRange
		for range g.IntN(4) {
			a, b := g.port(), g.port()
			ports = append(ports, api.PortRange{From: min(a, b), To: max(a, b)})
		}
		return proto, ports, nil
	}
	return proto, nil, nil
}

func (g generator) rules() []api.Rule {
	rules := make([]api.Rule, g.IntN(8))
	for i := range rules {
		r := &rules[i]
		if g.IntN(2) == 0 {
			r.Name = fmt.Sprintf("r%d", i)
		}
		r.Protocol, r.Ports, r.ICMP = g.service()
		for range 1 + g.IntN(3) {
			switch g.IntN(4) {
			case 0:
				r.Peers = append(r.Peers, api.Peer{Group: fmt.Sprintf("sg-%d", g.IntN(6))})
			case 1:
				r.Peers = append(r.Peers, api.Peer{PrefixList: fmt.Sprintf("pl-%d", g.IntN(3))})
			default:
				r.Peers = append(r.Peers, api.Peer{Prefix: g.prefix()})
			}
		}
	}
	return rules
}

func (g generator) entries() []api.NACLEntry {
	entries := make([]api.NACLEntry, g.IntN(12))
	for i := range entries {
		e := &entries[i]
		e.Number, e.Allow, e.CIDR = 10*i+1, g.IntN(3) > 0, g.prefix()
		e.Protocol, e.Ports, e.ICMP = g.service()
	}
	return entries
}

// objects returns a region with one VPC whose ENIs are spread over two hosts.
func (g generator) objects() *api.Objects {
	obj := api.NewObjects()
	hosts := []string{"host-a", "host-b", "host-c", "host-d"}
	for i, name := range hosts {
		obj.Hosts[name] = &api.Host{Metadata: api.Metadata{Name: name}, VTEP: netip.AddrFrom4([4]byte{192, 0, 2, byte(i)})}
		obj.Instances[name] = &api.Instance{Metadata: api.Metadata{Name: name}, Host: name}
	}
	obj.VPCs["red"] = &api.VPC{Metadata: api.Metadata{Name: "red"}, VNI: 7, CIDRs: []netip.Prefix{
		netip.MustParsePrefix("10.0.0.0/16"), netip.MustParsePrefix("fd00::/56"),
	}}
	obj.NetworkACLs["acl"] = &api.NetworkACL{Metadata: api.Metadata{Name: "acl"}, VPC: "red", Ingress: g.entries(), Egress: g.entries()}
	obj.Subnets["all"] = &api.Subnet{Metadata: api.Metadata{Name: "all"}, VPC: "red", CIDRs: obj.VPCs["red"].CIDRs, NetworkACL: "acl"}
	for i := range 3 {
		list := &api.PrefixList{Metadata: api.Metadata{Name: fmt.Sprintf("pl-%d", i)}}
		for range g.IntN(10) {
			list.Entries = append(list.Entries, g.prefix())
		}
		obj.PrefixLists[list.Name] = list
	}
	for i := range 6 {
		name := fmt.Sprintf("sg-%d", i)
		obj.SecurityGroups[name] = &api.SecurityGroup{Metadata: api.Metadata{Name: name}, VPC: "red", Ingress: g.rules(), Egress: g.rules()}
	}
	taken := map[netip.Addr]bool{}
	for _, cidr := range obj.VPCs["red"].CIDRs {
		taken[api.Gateway(cidr)] = true
	}
	for i := range 12 {
		host := hosts[0]
		if i%2 == 1 {
			host = hosts[1+i/2%3]
		}
		e := g.eni(fmt.Sprintf("eni-%d", i), host, i)
		for range 1 + g.IntN(3) {
			if a := g.addr(); !taken[a] {
				taken[a] = true
				e.IPs = append(e.IPs, a)
			}
		}
		obj.ENIs[e.Name] = e
		for j, ip := range e.IPs {
			address := netip.AddrFrom4([4]byte{203, 0, 113, byte(200 - 16*j - i)})
			obj.EIPs[address.String()] = &api.EIP{Address: address, ENI: e.Name, PrivateIP: ip}
		}
	}
	return obj
}

// eni returns an ENI without addresses.
func (g generator) eni(name, host string, i int) *api.ENI {
	e := &api.ENI{
		Metadata: api.Metadata{Name: name}, Subnet: "all",
		MAC: api.MAC{2, 0, 0, 0, 0, byte(i)}, SourceDestCheck: true,
		Attachment: &api.Attachment{Instance: host, Index: i, Device: fmt.Sprintf("tap%02d", 99-i)},
	}
	for _, group := range g.Perm(6)[:1+g.IntN(5)] {
		e.SecurityGroups = append(e.SecurityGroups, fmt.Sprintf("sg-%d", group))
	}
	return e
}

// packet returns a packet that the programs would ask the rules about: ICMP of the other family is
// malformed and never gets there.
func (g generator) packet(obj *api.Objects) packet {
	p := packet{peer: g.addr(), internet: g.IntN(4) == 0}
	if g.IntN(2) == 0 {
		enis := sorted(obj.ENIs)
		if ips := enis[g.IntN(len(enis))].IPs; len(ips) > 0 {
			p.peer = ips[g.IntN(len(ips))]
		}
	}
	numbers := []uint8{0, 1, 6, 6, 6, 17, 17, 50, 58, 112, 255}
	other := uint8(api.ProtoICMPv6)
	if !p.peer.Is4() {
		other = api.ProtoICMP
	}
	numbers = slices.DeleteFunc(numbers, func(n uint8) bool { return n == other })
	p.protocol = numbers[g.IntN(len(numbers))]
	switch p.protocol {
	case api.ProtoTCP, api.ProtoUDP:
		p.port = g.port() + uint16(g.IntN(3)) - 1
	case api.ProtoICMP, api.ProtoICMPv6:
		p.port = uint16(g.IntN(4))<<8 | uint16(g.IntN(4))
	}
	return p
}
