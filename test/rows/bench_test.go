// SPDX-License-Identifier: Apache-2.0

package rows

import (
	"net/netip"
	"testing"

	"github.com/eniplane/eniplane/pkg/api"
	. "github.com/eniplane/eniplane/pkg/pkttest"
)

// benchRules is a group whose last rule, of n, is the one that allows. Overlapping rules cross each other in
// networks and ports.
func benchRules(n int, overlap bool) []api.Rule {
	rules := make([]api.Rule, n)
	for i := range rules {
		r := &rules[i]
		r.Protocol = api.Protocol{Number: api.ProtoTCP}
		r.Ports = []api.PortRange{{From: uint16(10000 + i), To: uint16(10000 + i)}}
		r.Peers = []api.Peer{{Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 9, byte(i >> 8), byte(i)}), 32)}}
		if overlap {
			r.Ports[0].To = uint16(60000 - 7*i)
			r.Peers[0].Prefix = netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i * 37), byte(i * 11), byte(i)}), 9+i%24).Masked()
		}
	}
	last := &rules[n-1]
	last.Ports = []api.PortRange{{From: 2525, To: 2525}}
	last.Peers = []api.Peer{{Prefix: netip.MustParsePrefix("10.0.0.0/8")}}
	return rules
}

// BenchmarkFirstPacket is what a packet costs that security groups allow and the network ACL denies: the port's whole
// program with two rule sets asked, and no flow, which would not be judged again.
func BenchmarkFirstPacket(b *testing.B) {
	for _, tt := range []struct {
		name          string
		rules         int
		overlap, wide bool
	}{
		{"1-rule", 1, false, false},
		{"1-rule-wide", 1, false, true},
		{"1000-disjoint", 1000, false, false},
		{"1000-disjoint-wide", 1000, false, true},
		{"1000-overlapping", 1000, true, false}, // wide by themselves
	} {
		b.Run(tt.name, func(b *testing.B) {
			s := setup(nil)
			s.WideRules = tt.wide
			s.Objects = func() (*api.Objects, error) {
				o, err := objects()
				if err == nil {
					o.SecurityGroups["web"].Egress = benchRules(tt.rules, tt.overlap)
				}
				return o, err
			}
			w := NewWorld(b, s)
			step := Step{At: web0.port(), In: frame(web0, open0).TCP(1, 2525, SYN)}
			for b.Loop() {
				best := 0.0
				for range 20 {
					cost, err := w.Cost(step, V4, 20000)
					if err != nil {
						b.Fatal(err)
					}
					if ns := float64(cost.Nanoseconds()); best == 0 || ns < best {
						best = ns
					}
				}
				b.ReportMetric(best, "ns/packet")
			}
		})
	}
}
