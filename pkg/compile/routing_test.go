// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/eniplane/eniplane/pkg/api"
)

// routed is a region with two peers, a third VPC that only one of them names, and an ENI that forwards.
func routed(t *testing.T) *api.Objects {
	t.Helper()
	var b strings.Builder
	doc := func(kind, name, spec string) {
		fmt.Fprintf(&b, "---\napiVersion: %s\nkind: %s\nmetadata: {name: %s}\nspec: {%s}\n", api.Version, kind, name, spec)
	}
	doc("InstanceType", "any", "maxENIs: 8, maxIPsPerENI: 21")
	for i, host := range []string{"host-a", "host-b", "host-c"} {
		doc("Host", host, fmt.Sprintf("zone: z, vtep: 192.168.100.%d, uplinks: [up0]", i+1))
		doc("Instance", "vm-"+host, "host: "+host+", type: any")
	}
	for i, vpc := range []string{"red", "green", "grey"} {
		doc("VPC", vpc, fmt.Sprintf("vni: %d, cidrs: [10.%d.0.0/16]", 1001+i, i))
		doc("SecurityGroup", vpc, "vpc: "+vpc)
	}
	doc("PrefixList", "lab", "entries: [192.0.2.0/24, 10.1.9.0/24]")
	doc("RouteTable", "red", "vpc: red, routes: [{destination: 0.0.0.0/0, target: internet}, {destination: 10.0.2.0/24, target: eni/fw}, "+
		"{destination: 10.1.0.0/16, target: vpc/green}, {destination: 10.1.5.0/24, target: internet}, {destination: pl/lab, target: eni/fw}]")
	doc("RouteTable", "red-other", "vpc: red, routes: [{destination: 0.0.0.0/0, target: internet}, {destination: 10.2.0.0/24, target: vpc/grey}]")
	doc("RouteTable", "green", "vpc: green, routes: [{destination: 10.0.0.0/8, target: vpc/red}]")
	doc("Subnet", "red-1", "vpc: red, cidrs: [10.0.1.0/24], routeTable: red")
	doc("Subnet", "red-2", "vpc: red, cidrs: [10.0.2.0/24], routeTable: red-other")
	doc("Subnet", "green-1", "vpc: green, cidrs: [10.1.1.0/24], routeTable: green")
	doc("Subnet", "grey-1", "vpc: grey, cidrs: [10.2.1.0/24]")
	eni := func(name, subnet, vpc, host string, n int, ip, more string) {
		doc("ENI", name, fmt.Sprintf("subnet: %s, mac: \"02:00:00:00:00:%02x\", ips: [%s], securityGroups: [%s], attachment: {instance: vm-%s, index: %d, device: d%d}%s",
			subnet, n, ip, vpc, host, n%8, n, more))
	}
	eni("web", "red-1", "red", "host-a", 0x10, "10.0.1.10", ", policyRoutes: [{priority: 5, from: [10.0.1.10/32], protocol: tcp, ports: [443], target: eni/fw}, "+
		"{priority: 7, to: [10.1.0.0/16], target: blackhole}, {priority: 9, target: internet}]")
	eni("db", "red-2", "red", "host-a", 0x11, "10.0.2.10", "")
	eni("fw", "red-2", "red", "host-b", 0x12, "10.0.2.20", ", sourceDestCheck: false")
	eni("peer", "green-1", "green", "host-c", 0x13, "10.1.1.10", "")
	doc("Instance", "vm-grey", "host: host-c, type: any")
	eni("other", "grey-1", "grey", "grey", 0x14, "10.2.1.10", "")
	return decode(t, b.String())
}

func TestRouting(t *testing.T) {
	res := mustCompile(t, Input{Objects: routed(t), Host: "host-a", Revision: 1})
	hop := map[string]uint32{}
	for _, n := range res.State.NextHops {
		hop[n.ENI] = n.Index
	}
	if len(hop) != 4 || hop["peer"] == 0 || hop["other"] != 0 {
		t.Errorf("next hops are %v: want those of red and of its peer", hop)
	}
	kinds := [...]string{RouteLocal: "local", RouteInternet: "internet", RouteBlackhole: "blackhole", RouteENI: "eni", RouteVPC: "vpc", RouteNotPeered: "not peered"}
	var got []string
	for _, r := range res.State.Routes {
		if r.Table != res.State.Host.Infra {
			got = append(got, strings.TrimSpace(fmt.Sprintf("%s %v %s %d %s", res.State.Names.Tables[r.Table], r.Prefix, kinds[r.Kind], r.Arg, res.State.Names.Subnets[r.Subnet])))
		}
	}
	want := []string{
		"red/red 0.0.0.0/0 internet 0",
		"red/red 10.0.0.0/16 local 0",
		"red/red 10.0.1.0/24 local 0 red-1",
		fmt.Sprintf("red/red 10.0.2.0/24 eni %d red-2", hop["fw"]),
		"red/red 10.1.0.0/16 vpc 1002",
		"red/red 10.1.5.0/24 not peered 0", // no place of the internet
		fmt.Sprintf("red/red 10.1.9.0/24 eni %d", hop["fw"]),
		"red/red 10.2.0.0/16 not peered 0", // another table names grey
		fmt.Sprintf("red/red 192.0.2.0/24 eni %d", hop["fw"]),
		"red/red-other 0.0.0.0/0 internet 0",
		"red/red-other 10.0.0.0/16 local 0",
		"red/red-other 10.0.1.0/24 local 0 red-1",
		"red/red-other 10.0.2.0/24 local 0 red-2",
		"red/red-other 10.1.0.0/16 not peered 0",
		"red/red-other 10.2.0.0/16 not peered 0",
		"red/red-other 10.2.0.0/24 not peered 0", // one-sided
	}
	slices.Sort(got)
	slices.Sort(want)
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("routes (-want +got):\n%s", d)
	}
	var macs, vteps []string
	for _, m := range res.State.MACs {
		macs = append(macs, fmt.Sprintf("%d %x", m.VNI, m.MAC[5]))
	}
	for _, v := range res.State.VTEPs {
		vteps = append(vteps, fmt.Sprintf("%d %v", v.VNI, v.Addr))
	}
	if d := cmp.Diff([]string{"1001 10", "1001 11", "1001 12", "1001 13"}, macs); d != "" {
		t.Errorf("MACs (-want +got):\n%s", d)
	}
	if d := cmp.Diff([]string{"1001 192.168.100.2", "1001 192.168.100.3"}, vteps); d != "" {
		t.Errorf("VTEPs (-want +got):\n%s", d)
	}
}

// classOf looks an address up as the programs do.
func classOf(st *State, table uint32, a netip.Addr) uint32 {
	tables, _ := tablesOf(st)
	return addrClass(tables.addrs[table], a)
}

func serviceOf(st *State, table uint32, protocol uint8, port uint16) uint32 {
	tables, _ := tablesOf(st)
	return serviceClass(tables.services[table], packet{protocol: protocol, port: port})
}

// TestMostRoutes: a table is as long as what it says; what is put beside it for the VPC and its peers does not count.
func TestMostRoutes(t *testing.T) {
	obj := routed(t)
	fill := func(n int) {
		table := obj.RouteTables["red-other"]
		for i := len(table.Routes); i < n; i++ {
			addr := netip.AddrFrom4([4]byte{20, byte(i >> 16), byte(i >> 8), byte(i)})
			table.Routes = append(table.Routes, api.Route{Destination: netip.PrefixFrom(addr, 32), Target: api.Target{Kind: api.TargetInternet}})
		}
	}
	fill(maxRoutes)
	res := mustCompile(t, Input{Objects: obj, Host: "host-a", Revision: 1})
	if len(res.Degraded) > 0 || len(res.State.Routes) <= maxRoutes {
		t.Errorf("%d routes, degraded: %v", len(res.State.Routes), res.Degraded)
	}
	fill(maxRoutes + 1)
	res = mustCompile(t, Input{Objects: obj, Host: "host-a", Revision: 1})
	if err := res.Degraded["db"]; err == nil || !strings.Contains(err.Error(), "100001 routes are more than the limit of 100000") {
		t.Errorf("degraded: %v", res.Degraded)
	}
}

func TestPolicyRoutes(t *testing.T) {
	obj := routed(t)
	res := mustCompile(t, Input{Objects: obj, Host: "host-a", Revision: 1})
	web := eniOf(res.State, "web")
	where := func(st *State, src, dst string, protocol uint8, port uint16) string {
		e := eniOf(st, "web")
		routes := classOf(st, e.PolicyFrom, netip.MustParseAddr(src)) & classOf(st, e.PolicyTo, netip.MustParseAddr(dst)) &
			serviceOf(st, e.PolicyTo, protocol, port)
		for _, p := range st.Policies {
			if p.Policy == e.PolicyTo && p.Bit == routes&-routes {
				return fmt.Sprint(p.Kind)
			}
		}
		return "none"
	}
	for _, c := range []struct {
		src, dst string
		protocol uint8
		port     uint16
		want     RouteKind // 0 = none
	}{
		{"10.0.1.10", "198.51.100.7", 6, 443, RouteENI},
		{"10.0.1.10", "10.1.1.1", 6, 443, RouteENI},
		{"10.0.1.11", "10.1.1.1", 6, 443, RouteBlackhole},
		{"10.0.1.10", "10.1.1.1", 17, 443, RouteBlackhole},
		{"10.0.1.10", "198.51.100.7", 6, 444, RouteInternet},
		{"10.0.1.10", "10.2.1.1", 6, 444, 0}, // of a VPC that red names: not on the internet
		{"fd00::1", "2001:db8::1", 58, 0, RouteInternet},
	} {
		want := "none"
		if c.want != 0 {
			want = fmt.Sprint(c.want)
		}
		if got := where(res.State, c.src, c.dst, c.protocol, c.port); got != want {
			t.Errorf("%s > %s protocol %d port %d: kind %s, want %s", c.src, c.dst, c.protocol, c.port, got, want)
		}
	}
	// The same again is the same; a change is another set, and the generation grows.
	next := mustCompile(t, Input{Objects: obj, Host: "host-a", Revision: 2, Previous: res.State, IDs: res.IDs})
	if e := eniOf(next.State, "web"); e.PolicyTo != web.PolicyTo || e.Generation != web.Generation {
		t.Errorf("nothing changed, but policy %d became %d, generation %d became %d", web.PolicyTo, e.PolicyTo, web.Generation, e.Generation)
	}
	obj = routed(t)
	obj.ENIs["web"].PolicyRoutes[1].Target = api.Target{Kind: api.TargetInternet}
	next = mustCompile(t, Input{Objects: obj, Host: "host-a", Revision: 2, Previous: res.State, IDs: res.IDs})
	if e := eniOf(next.State, "web"); e.PolicyTo == web.PolicyTo || e.Generation == web.Generation {
		t.Error("a policy route changed, but not the policy's number or not the generation")
	}
	obj.ENIs["web"].PolicyRoutes = nil
	last := mustCompile(t, Input{Objects: obj, Host: "host-a", Revision: 3, Previous: next.State, IDs: next.IDs})
	if e := eniOf(last.State, "web"); e.PolicyTo != 0 || e.PolicyFrom != 0 || len(last.State.Policies) != 0 {
		t.Error("the policy routes are gone, but not from the state")
	}
}

// A next hop is the same ENI's since its UID or VPC changed, whatever its addresses.
func TestNextHopOwner(t *testing.T) {
	obj := routed(t)
	res := mustCompile(t, Input{Objects: obj, Host: "host-a", Revision: 1})
	fw := func(r *Result) NextHop {
		i := slices.IndexFunc(r.State.NextHops, func(n NextHop) bool { return n.ENI == "fw" })
		return r.State.NextHops[i]
	}
	first := fw(res)
	if first.Since != first.Generation {
		t.Errorf("a new next hop of generation %d is its ENI's since %d", first.Generation, first.Since)
	}
	obj = routed(t)
	obj.ENIs["fw"].IPs = append(obj.ENIs["fw"].IPs, netip.MustParseAddr("10.0.2.21"))
	res = mustCompile(t, Input{Objects: obj, Host: "host-a", Revision: 2, Previous: res.State, IDs: res.IDs})
	second := fw(res)
	if second.Generation <= first.Generation || second.Since != first.Since {
		t.Errorf("another address: generation %d to %d, since %d to %d", first.Generation, second.Generation, first.Since, second.Since)
	}
	obj.ENIs["fw"].UID = "another"
	res = mustCompile(t, Input{Objects: obj, Host: "host-a", Revision: 3, Previous: res.State, IDs: res.IDs})
	third := fw(res)
	if third.Index != second.Index || third.Since != third.Generation || third.Since <= second.Generation {
		t.Errorf("another ENI: index %d to %d, generation %d, since %d", second.Index, third.Index, third.Generation, third.Since)
	}
	// Numbers of a version that did not know it: nobody knows since when.
	ids := *res.IDs
	ids.NextHops = maps.Clone(ids.NextHops)
	slot := ids.NextHops["fw"]
	slot.Owner, slot.Since = "", 0
	ids.NextHops["fw"] = slot
	res = mustCompile(t, Input{Objects: obj, Host: "host-a", Revision: 4, Previous: res.State, IDs: &ids})
	if n := fw(res); n.Since != third.Generation || n.Generation != third.Generation {
		t.Errorf("numbers without owner: since %d, generation %d, want %d", n.Since, n.Generation, third.Generation)
	}
}
