// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/eniplane/eniplane/pkg/lab"
)

// trip is one of the ways on which app-a may talk to the internet.
type trip struct {
	family   lab.Family
	second   bool // from its second address
	far      bool // to the address of prefix list far
	protocol string
	port     uint16
}

func (p trip) ends() (from, to lab.Spot) {
	source, target := "10.0.3.1", "198.51.100."
	if p.family == lab.IPv6 {
		source, target = "fd00:1:0:3::1", "2001:db8:51::"
	}
	source += map[bool]string{false: "0", true: "1"}[p.second]
	target += map[bool]string{false: "7", true: "200"}[p.far]
	a, b := netip.MustParseAddr(source), netip.MustParseAddr(target)
	return lab.Spot{Node: "vm-app-a", Addr: a, Local: a}, lab.Spot{Node: internetNode, Addr: b, Local: b}
}

// byFirewall is as whom the internet sees what goes through fw or fw-b.
func byFirewall(other bool, f lab.Family) netip.Addr {
	eip := map[lab.Family]string{lab.IPv4: "203.0.113.1", lab.IPv6: "2001:db8:113::1"}[f]
	return netip.MustParseAddr(eip + map[bool]string{false: "0", true: "1"}[other])
}

func trips(f lab.Family) (all []trip) {
	for _, second := range []bool{false, true} {
		for _, far := range []bool{false, true} {
			all = append(all, trip{f, second, far, "tcp", 443}, trip{f, second, far, "tcp", 8085}, trip{f, second, far, "udp", 443})
		}
	}
	return all
}

// seenAs makes a conversation there and back, and says as whom the internet sees it.
func (p trip) seenAs(t *testing.T, l *lab.Lab) netip.Addr {
	t.Helper()
	from, to := p.ends()
	if p.protocol == "tcp" {
		x := call(t, l, from, to, p.port)
		defer x.hangUp()
		if err := x.carries(16 << 10); err != nil {
			t.Error(err)
		}
		return x.caller()
	}
	server, err := l.ListenUDP(to, p.port)
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	client, err := l.ListenUDP(from, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	data := bytesOf(fmt.Sprint(p), 1000)
	if _, err := client.WriteToUDPAddrPort(data, netip.AddrPortFrom(to.Addr, p.port)); err != nil {
		t.Fatal(err)
	}
	seen := receiveUDP(t, server, data, "there")
	if _, err := server.WriteToUDPAddrPort(data, seen); err != nil {
		t.Fatal(err)
	}
	receiveUDP(t, client, data, "back")
	return seen.Addr().Unmap()
}

// twoFirewalls lets fw-b lead to the internet, too, as somebody else; which way was taken shows out there.
func twoFirewalls(t *testing.T, l *lab.Lab, feed string) string {
	t.Helper()
	const last = "metadata: {name: edge-a-v6}\nspec: {address: \"2001:db8:113::20\", eni: edge-a}\n"
	const object = "---\napiVersion: eniplane.io/v1alpha1\nkind: "
	return publish(t, l, feed, "metadata: {name: edge-b}\nspec: {vpc: red, routes: []}",
		"metadata: {name: edge-b}\nspec: {vpc: red, routes: [{destination: 0.0.0.0/0, target: internet}, {destination: \"::/0\", target: internet}]}",
		last, last+
			object+"EIP\nmetadata: {name: fw-b}\nspec: {address: 203.0.113.11, eni: fw-b}\n"+
			object+"EIP\nmetadata: {name: fw-b-v6}\nspec: {address: \"2001:db8:113::11\", eni: fw-b}\n"+
			object+"PrefixList\nmetadata: {name: far}\nspec: {entries: [198.51.100.200/32, \"2001:db8:51::200/128\"]}\n")
}

// detour is what a change of routes leads through fw-b.
type detour struct {
	name  string
	edits []string
	by    func(trip) bool // after it
	was   func(trip) bool // before it
}

func nothing(trip) bool { return false }

// proves: what the change is about goes the other way from the next packet on, so its connections end, since who is
// there has not seen them begin. All else goes on as before.
func (d *detour) proves(t *testing.T, l *lab.Lab, text string) {
	var moved, stay []line
	for _, f := range []lab.Family{lab.IPv4, lab.IPv6} {
		for _, p := range trips(f) {
			if p.protocol != "tcp" {
				continue
			}
			from, to := p.ends()
			x := call(t, l, from, to, p.port)
			if want := byFirewall(d.was(p), f); x.caller() != want {
				t.Errorf("%+v: before the change the internet sees %s, want %s", p, x.caller(), want)
			}
			if d.by(p) != d.was(p) {
				moved = append(moved, x)
			} else {
				stay = append(stay, x)
			}
		}
	}
	each(t, slices.Concat(moved, stay), func(x line) error { return x.carries(4 << 10) })
	publish(t, l, text, d.edits...)
	each(t, moved, line.mute)
	each(t, stay, func(x line) error { return x.carries(4 << 10) })
	for _, f := range []lab.Family{lab.IPv4, lab.IPv6} {
		for _, p := range trips(f) {
			if got, want := p.seenAs(t, l), byFirewall(d.by(p), f); got != want {
				t.Errorf("%+v: the internet sees %s, want %s", p, got, want)
			}
		}
	}
}

// policyWays: policy routes by source, destination, protocol and ports, and all of it together.
func policyWays(t *testing.T, l *lab.Lab, feed string) {
	text := twoFirewalls(t, l, feed)
	const (
		at      = "instance: vm-app-a, index: 0, device: eni-app-a}\n"
		second  = `from: [10.0.3.11/32, "fd00:1:0:3::11/128"], `
		far     = `to: [198.51.100.200/32, "2001:db8:51::200/128"], `
		ports   = `protocol: tcp, ports: ["8080-8089"], `
		through = "target: eni/fw-b}\n"
	)
	route := func(fields string) []string {
		return []string{at, at + "  policyRoutes:\n  - {priority: 2, " + fields + through}
	}
	for _, d := range []detour{
		{"by source", route(second), func(p trip) bool { return p.second }, nothing},
		{"by destination", route(far), func(p trip) bool { return p.far }, nothing},
		{"by prefix list", route("to: [pl/far], "), func(p trip) bool { return p.far }, nothing},
		{"by protocol", route("protocol: udp, "), func(p trip) bool { return p.protocol == "udp" }, nothing},
		{"by ports", route(ports), func(p trip) bool { return p.port == 8085 }, nothing},
		{"by all of it", route(second + far + ports), func(p trip) bool { return p.second && p.far && p.port == 8085 }, nothing},
		{"the first that matches", append(route(far), "  policyRoutes:\n", "  policyRoutes:\n  - {priority: 1, "+second+"target: eni/fw}\n"),
			func(p trip) bool { return p.far && !p.second }, nothing},
	} {
		t.Run(d.name, func(t *testing.T) { d.proves(t, l, text) })
	}
}

// prefixListRoute: a table leads to the entries of a prefix list, and to others as soon as the list changes.
func prefixListRoute(t *testing.T, l *lab.Lab, feed string) {
	text := twoFirewalls(t, l, feed)
	const table = "metadata: {name: app}\nspec:\n  vpc: red\n  routes:\n"
	named := []string{table, table + "  - {destination: pl/far, target: eni/fw-b}\n"}
	far := func(p trip) bool { return p.far }
	near := func(p trip) bool { return !p.far }
	entries := detour{"entries", named, far, nothing}
	t.Run(entries.name, func(t *testing.T) { entries.proves(t, l, text) })
	text = publish(t, l, text, named...)
	others := detour{"other entries", []string{`[198.51.100.200/32, "2001:db8:51::200/128"]`, `[198.51.100.0/28, "2001:db8:51::/124"]`}, near, far}
	t.Run(others.name, func(t *testing.T) { others.proves(t, l, text) })
}

// fastWays: iperf3 through the appliance, there and back, through it to the internet, and to a peer.
func fastWays(t *testing.T, l *lab.Lab) {
	serveIperf(t, l, "app-a", "data-a", "data-b", "lime-b", internetNode)
	devices := map[string][]string{}
	for _, node := range []string{"vm-app-a", "vm-app-b", "vm-data-a", "vm-data-b", "vm-lime-b", "vm-fw"} {
		devices[node] = []string{guestDevice}
	}
	withAndWithoutOffloads(t, l, devices, func(t *testing.T, f lab.Family) {
		for _, ends := range [][2]string{
			{"app-a", "data-a"}, {"app-a", "data-b"}, {"app-b", "data-a"}, {"data-b", "app-a"},
			{"app-a", internetNode}, {"app-b", internetNode}, {"app-b", "lime-b"}, {"lime-b", "app-a"},
		} {
			t.Run(ends[0]+" from "+ends[1], func(t *testing.T) {
				src, dst := spots(t, l, ends[0], ends[1], f)
				iperf(t, l, src, dst)
			})
		}
	})
}
