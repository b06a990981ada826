// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
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
		for range 250 {
			eni := &res.State.ENIs[g.IntN(len(res.State.ENIs))]
			from := obj.ENIs[eni.Name]
			p := g.packet(obj)
			for _, c := range []struct {
				name   string
				id     uint32
				groups bool
				want   decision
			}{
				{"sg ingress", eni.SGIn, true, referenceGroups(obj, from, "ingress", p)},
				{"sg egress", eni.SGOut, true, referenceGroups(obj, from, "egress", p)},
				{"nacl ingress", eni.NACLIn, false, referenceACL(obj, from, "ingress", p)},
				{"nacl egress", eni.NACLOut, false, referenceACL(obj, from, "egress", p)},
			} {
				got := evaluate(t, res.State, c.id, eni.VNI, p, c.groups)
				if got != c.want {
					t.Fatalf("seed %d: %s of %s, %+v: got %+v, want %+v", seed, c.name, eni.Name, p, got, c.want)
				}
				matched[got.rule != ""]++
			}
		}
	}
	if matched[true] < 5000 || matched[false] < 5000 {
		t.Errorf("the random rules decide too little or too much to prove anything: %v", matched)
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
	for i, name := range []string{"host-a", "host-b"} {
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
	for i := range 12 {
		e := &api.ENI{
			Metadata: api.Metadata{Name: fmt.Sprintf("eni-%d", i)}, Subnet: "all",
			MAC: api.MAC{2, 0, 0, 0, 0, byte(i)}, SourceDestCheck: true,
			Attachment: &api.Attachment{Instance: []string{"host-a", "host-b"}[i%2], Index: i / 2, Device: fmt.Sprintf("tap%d", i)},
		}
		for range 1 + g.IntN(3) {
			if a := g.addr(); !taken[a] {
				taken[a] = true
				e.IPs = append(e.IPs, a)
			}
		}
		for _, group := range g.Perm(6)[:1+g.IntN(5)] {
			e.SecurityGroups = append(e.SecurityGroups, fmt.Sprintf("sg-%d", group))
		}
		obj.ENIs[e.Name] = e
	}
	return obj
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
