// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/eniplane/eniplane/pkg/dataplane/flowtable"
)

func TestNewFlow(t *testing.T) {
	local, remote := netip.MustParseAddr("10.0.1.10"), netip.MustParseAddr("192.0.2.1")
	eip := netip.MustParseAddr("203.0.113.10")
	base := flowtable.Flow{
		Scope: 7, Local: local, Remote: remote, LocalPort: 443, RemotePort: 40000, ENI: 1, Incarnation: 11, Rule: 2,
		State: cFlowEstablished, Opened: 100, Expires: 140, Packets: [2]uint64{3, 4}, Bytes: [2]uint64{300, 400},
	}
	want := Flow{
		ENI: 1, Incarnation: 11, Protocol: "tcp", Local: netip.AddrPortFrom(local, 443), Remote: netip.AddrPortFrom(remote, 40000),
		Origin: "vpc", Opener: Out, State: "established", Rule: 2, PacketsOut: 3, BytesOut: 300, PacketsIn: 4, BytesIn: 400,
		Age: flowtable.Ticks(20), Expires: flowtable.Ticks(20),
	}
	cases := []struct {
		name   string
		family flowtable.Family
		in     func(*flowtable.Flow)
		want   func(*Flow)
	}{
		{"tcp", flowtable.IPv4, func(*flowtable.Flow) {}, func(*Flow) {}},
		{"from the internet by EIP", flowtable.IPv4, func(f *flowtable.Flow) {
			f.Class, f.Flags, f.NAT, f.State = cClassUDP|cClassInternet, cFlowOpenedByPeer, eip, cFlowOpening
		}, func(f *Flow) {
			f.Protocol, f.Origin, f.Opener, f.EIP, f.State = "udp", "internet", In, eip, "opening"
		}},
		{"ping", flowtable.IPv4, func(f *flowtable.Flow) { f.Class, f.RemotePort = cClassICMP, 8|cFlowICMPLocal },
			func(f *Flow) { f.Protocol, f.Remote = "icmp", netip.AddrPortFrom(remote, 8) }},
		{"ping of IPv6", flowtable.IPv6, func(f *flowtable.Flow) { f.Class, f.RemotePort = cClassICMP|cClassTransit, 128 },
			func(f *Flow) { f.Protocol, f.Remote = "icmpv6", netip.AddrPortFrom(remote, 128) }},
		{"another protocol", flowtable.IPv4, func(f *flowtable.Flow) { f.Class, f.LocalPort, f.RemotePort = cClassOther, 47, 0 },
			func(f *Flow) {
				f.Protocol, f.Local, f.Remote = "47", netip.AddrPortFrom(local, 0), netip.AddrPortFrom(remote, 0)
			}},
		{"blocked", flowtable.IPv4, func(f *flowtable.Flow) { f.State = cFlowBlocked }, func(f *Flow) { f.State = "blocked" }},
		{"half-open", flowtable.IPv4, func(f *flowtable.Flow) { f.State, f.Flags = cFlowOpening, cFlowAnswered },
			func(f *Flow) { f.State, f.Answered = "opening", true }},
		{"refused", flowtable.IPv4, func(f *flowtable.Flow) { f.State, f.Flags = cFlowClosing, cFlowRefused },
			func(f *Flow) { f.State, f.Refused = "closing", true }},
		{"over while it was read", flowtable.IPv4, func(f *flowtable.Flow) { f.Opened, f.Expires = 121, 119 },
			func(f *Flow) { f.Age, f.Expires = 0, 0 }},
	}
	for _, c := range cases {
		in, out := base, want
		c.in(&in)
		c.want(&out)
		got := newFlow(c.family, &in, 120)
		if diff := cmp.Diff(out, got, cmpopts.EquateComparable(netip.AddrPort{}, netip.Addr{})); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
	}
	if flowtable.Ticks(20) < time.Second {
		t.Error("the ticks of the test are no time at all")
	}
}
