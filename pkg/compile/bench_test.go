// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/eniplane/eniplane/pkg/api"
)

// manyRules returns rules that overlap as those of people do: many prefixes, some within others,
// a few dozen services, some of them ranges, and a few groups.
func manyRules(n int) []rule {
	rules := make([]rule, n)
	for i := range rules {
		r := &rules[i]
		r.Name, r.allow, r.protocol = fmt.Sprintf("r%d", i), true, api.Protocol{Number: api.ProtoTCP}
		from := uint16(1 + i%50*1200)
		r.ports = []api.PortRange{{From: from, To: from + uint16(i%3)*100}}
		switch i % 4 {
		case 0:
			r.groups = []string{fmt.Sprintf("sg-%d", i%20)}
		default:
			r.cidrs = []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i), byte(i / 256 * 16), 0}), 8+i%17).Masked()}
		}
	}
	return rules
}

func manySets(n int) []groupSet {
	var sets []groupSet
	for i := range n {
		sets = append(sets, groupSet{uint32(i + 1), sortedNames([]string{fmt.Sprintf("sg-%d", i%20), fmt.Sprintf("sg-%d", i%7)})})
	}
	return sets
}

// manyPrefixes returns a prefix list of n entries of both families, some within others.
func manyPrefixes(n int) map[string]*api.PrefixList {
	list := &api.PrefixList{}
	for i := range n {
		b := [16]byte{0: 0x20, 1: 0x01, 4: byte(i >> 16), 5: byte(i >> 8), 6: byte(i)}
		p := netip.PrefixFrom(netip.AddrFrom16(b), 56+i%3)
		if i%2 == 0 {
			p = netip.PrefixFrom(netip.AddrFrom4([4]byte{byte(i >> 16), byte(i >> 8), byte(i)}), 22+i%11)
		}
		list.Entries = append(list.Entries, p.Masked())
	}
	return map[string]*api.PrefixList{"pl": list}
}

func BenchmarkRules1000(b *testing.B) {
	rules, sets := manyRules(maxRules), manySets(200)
	b.ReportAllocs()
	for b.Loop() {
		b.ReportMetric(float64(len(mustCompileRules(b, rules, nil, sets, ordinaryPairs).set.Verdicts)), "verdicts")
	}
}

func BenchmarkPrefixes100k(b *testing.B) {
	lists := manyPrefixes(100000)
	rules := manyRules(maxRules)
	for i := range rules {
		if i%100 == 0 {
			rules[i].lists = []string{"pl"}
		}
	}
	b.ReportAllocs()
	for b.Loop() {
		b.ReportMetric(float64(len(mustCompileRules(b, rules, lists, nil, ordinaryPairs).lists.Prefixes)), "prefixes")
	}
}

// BenchmarkRevision compiles a small change on a host with 1000 ENIs of a VPC with 20,000.
func BenchmarkRevision(b *testing.B) {
	obj := decode(b, region)
	web, db := *obj.ENIs["web-1"], *obj.ENIs["db-0"]
	for i := range 20000 {
		e := web
		if i%20 == 0 {
			e = db
		}
		e.Name = fmt.Sprintf("eni-%05d", i)
		e.UID, e.MAC = e.Name, api.MAC{2, 1, 0, byte(i >> 16), byte(i >> 8), byte(i)}
		e.IPs = []netip.Addr{netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)})}
		obj.ENIs[e.Name] = &e
	}
	first := mustCompile(b, Input{Objects: obj, Host: "host-a", Revision: 1})
	obj.ENIs["web-1"].IPs[0] = netip.MustParseAddr("10.0.1.99")
	b.ReportAllocs()
	for b.Loop() {
		mustCompile(b, Input{Objects: obj, Host: "host-a", Revision: 2, Previous: first.State, IDs: first.IDs})
	}
}
