// SPDX-License-Identifier: Apache-2.0

package api_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/eniplane/eniplane/pkg/api"
)

const blackhole = "  - {destination: 198.18.0.0/15, target: blackhole}\n"

// route adds a route to table red.
func route(name, destination, target, want string) edit {
	return edit{name, blackhole, blackhole + fmt.Sprintf("  - {destination: %q, target: %s} #HERE\n", destination, target), want}
}

func TestRouteTables(t *testing.T) {
	const at = "RouteTable/red: spec.routes[2]"
	runEdits(t, []edit{
		with("no such VPC", "RouteTable", "t", "  vpc: nix #HERE\n  routes: []", `RouteTable/t: spec.vpc: VPC "nix" does not exist (add it or correct the name)`),
		route("same destination twice", "198.18.0.0/15", "internet", at+".destination: 198.18.0.0/15 has a route already (keep one)"),
		route("inside the VPC", "10.0.1.0/24", "blackhole", at+".destination: 10.0.1.0/24 lies in 10.0.0.0/16 of VPC/red, whose addresses are local (remove it, or lead a subnet's CIDR through eni/NAME)"),
		route("the VPC itself", "fd00:1::/56", "internet", at+".destination: fd00:1::/56 lies in fd00:1::/56 of VPC/red, whose addresses are local (remove it, or lead a subnet's CIDR through eni/NAME)"),
		route("a subnet through an ENI", "10.0.1.0/24", "eni/fw", ""),
		route("a subnet through an ENI, IPv6", "fd00:1:0:1::/64", "eni/fw", ""),
		route("a part of a subnet through an ENI", "10.0.1.0/25", "eni/fw", at+".destination: 10.0.1.0/25 lies in 10.0.0.0/16 of VPC/red and is no subnet's CIDR (inside the VPC, lead whole CIDRs of subnets through an ENI)"),
		route("the VPC through an ENI", "10.0.0.0/16", "eni/fw", at+".destination: 10.0.0.0/16 lies in 10.0.0.0/16 of VPC/red and is no subnet's CIDR (inside the VPC, lead whole CIDRs of subnets through an ENI)"),
		route("around the VPC", "10.0.0.0/8", "eni/fw", ""),
		route("prefix list", "pl/office", "eni/fw", ""),
		route("no such prefix list", "pl/nix", "eni/fw", at+`.destination: PrefixList "nix" does not exist (add it or correct the name)`),
		route("a group as destination", "sg/web", "eni/fw", at+`.destination: sg/web is no destination of routes (use a CIDR or pl/NAME)`),
		{"a prefix list and one of its entries", blackhole, blackhole + "  - {destination: pl/office, target: internet}\n  - {destination: 192.0.2.0/28, target: blackhole} #HERE\n",
			"RouteTable/red: spec.routes[3].destination: 192.0.2.0/28 has a route already (keep one)"},
		{"a prefix list in the VPC", "    target: internet\n", "    target: internet\n  - {destination: pl/mine, target: blackhole} #HERE\n---\napiVersion: eniplane.io/v1alpha1\nkind: PrefixList\nmetadata: {name: mine}\nspec: {entries: [10.0.2.0/24]}\n---\napiVersion: eniplane.io/v1alpha1\nkind: RouteTable\nmetadata: {name: grey}\nspec:\n  vpc: green\n  routes:\n",
			"RouteTable/red: spec.routes[1].destination: 10.0.2.0/24 of PrefixList/mine lies in 10.0.0.0/16 of VPC/red, whose addresses are local (remove it, or lead a subnet's CIDR through eni/NAME)"},
		route("no such ENI", "0.0.0.0/1", "eni/nix", at+`.target: ENI "nix" does not exist (add it or correct the name)`),
		route("an ENI that does not forward", "0.0.0.0/1", "eni/web-1", at+".target: ENI/web-1 takes only what is addressed to it (give it sourceDestCheck: false)"),
		route("an ENI of another VPC", "0.0.0.0/1", "eni/green-0", at+".target: ENI/green-0 is of VPC/green, not of VPC/red (name one of the same VPC)"),
		route("no such VPC", "172.20.0.0/16", "vpc/nix", at+`.target: VPC "nix" does not exist (add it or correct the name)`),
		route("the own VPC", "172.20.0.0/16", "vpc/red", at+".target: VPC/red is the own VPC, whose addresses are local (remove the route)"),
		route("a VPC that overlaps", "172.20.0.0/16", "vpc/blue", at+".target: 10.0.0.0/16 of VPC/blue overlaps 10.0.0.0/16 of VPC/red (only VPCs with different addresses can be peers)"),
		route("target unknown", "0.0.0.0/1", "Internet", at+`.target: "Internet" is not a target (use internet, eni/NAME, vpc/NAME or blackhole)`),
		route("target of a name", "0.0.0.0/1", "internet/x", at+`.target: "internet/x" is not a target (use internet, eni/NAME, vpc/NAME or blackhole)`),
		route("target without a name", "0.0.0.0/1", "eni/", at+`.target: "eni/" names nothing: the name is empty (write eni/NAME)`),
		route("target without a slash", "0.0.0.0/1", "vpc", at+`.target: "vpc" is not a target (use internet, eni/NAME, vpc/NAME or blackhole)`),
		route("host bits", "198.18.0.1/15", "internet", at+`.destination: "198.18.0.1/15" has host bits (write 198.18.0.0/15)`),
		{"unknown field", blackhole, "  - {destination: 198.18.0.0/15, target: internet, metric: 1} #HERE\n",
			"RouteTable/red: spec.routes[1].metric: is not a field of spec.routes[1] (remove it)"},
		{"no routes", "spec: {vpc: blue, routes: []}", "spec: {vpc: blue}", ""},
	})
}

// VPCs are peers if both have a route to each other. Then a MAC names one ENI of both.
func TestPeers(t *testing.T) {
	peer := "  - {destination: 172.20.0.0/16, target: vpc/green}\n"
	valid := edit{"peers", blackhole, blackhole + peer, ""}
	runEdits(t, []edit{valid})
	text := valid.apply(t, readBase(t))
	clash := strings.Replace(text, `"02:00:00:00:01:ff"`, `"02:00:00:00:01:10" #HERE`, 1)
	_, errs := api.Decode([]api.File{{Name: "base.yaml", Data: []byte(clash)}})
	want := fmt.Sprintf("base.yaml:%d: %s", lineOf(t, clash), "ENI/web-0: spec.mac: 02:00:00:00:01:10 is the MAC of ENI/green-0 too, "+
		"and VPC/green exchanges packets with both (MACs are unique among peers: give one another)")
	if len(errs) != 1 || !strings.HasSuffix(errs[0].Error(), want[strings.Index(want, " "):]) {
		t.Errorf("peers with one MAC: got %v\nwant %s", errs, want)
	}
	o, errs := api.Decode([]api.File{{Name: "base.yaml", Data: []byte(text)}})
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	p := o.Peerings()
	if got := [][]string{p.Of("red"), p.Of("green"), p.Of("blue"), p.Named("red")}; fmt.Sprint(got) != "[[green] [red] [] [green]]" {
		t.Errorf("peers are %v", got)
	}
	delete(o.RouteTables, "red")
	p = o.Peerings()
	if got := [][]string{p.Of("red"), p.Of("green"), p.Named("green")}; fmt.Sprint(got) != "[[] [] [red]]" {
		t.Errorf("peers by half are %v", got)
	}
}

// policy is an ENI in red-b with one policy route.
func policy(name, fields, want string) edit {
	if want != "" {
		want = "ENI/e: spec.policyRoutes[0]" + want
	}
	return eni(name, "extra", "  policyRoutes:\n  - {"+fields+"} #HERE", want)
}

func TestPolicyRoutes(t *testing.T) {
	runEdits(t, []edit{
		policy("all fields", "priority: 1, from: [10.0.2.99/32, 0.0.0.0/0], to: [192.0.2.0/24, pl/office], protocol: tcp, ports: [443, \"8000-8999\"], target: eni/fw", ""),
		policy("the fewest fields", "priority: 32766, target: internet", ""),
		policy("a peer", "priority: 1, to: [172.20.0.0/16], target: vpc/green", ""),
		policy("blackhole for a protocol", "priority: 1, protocol: 50, target: blackhole", ""),
		policy("no priority", "target: internet", ".priority: is missing (add it)"),
		policy("priority 0", "priority: 0, target: internet", `.priority: "0" is not a number of 1 to 32766`),
		policy("no target", "priority: 1", ".target: is missing (add it)"),
		policy("itself", "priority: 1, target: eni/e", ".target: is the ENI itself (name another one)"),
		policy("an ENI that does not forward", "priority: 1, target: eni/web-1", ".target: ENI/web-1 takes only what is addressed to it (give it sourceDestCheck: false)"),
		policy("an ENI of another VPC", "priority: 1, target: eni/green-0", ".target: ENI/green-0 is of VPC/green, not of VPC/red (name one of the same VPC)"),
		policy("a VPC that overlaps", "priority: 1, target: vpc/blue", ".target: 10.0.0.0/16 of VPC/blue overlaps 10.0.0.0/16 of VPC/red (only VPCs with different addresses can be peers)"),
		policy("into the VPC", "priority: 1, to: [10.0.1.0/24], target: eni/fw", ".to: 10.0.1.0/24 lies in 10.0.0.0/16 of VPC/red, whose addresses are local (remove it: local routes come first)"),
		policy("ports without a protocol", "priority: 1, ports: [1], target: internet", ".ports: do not go with protocol all (only tcp and udp have ports)"),
		policy("no ports", "priority: 1, protocol: tcp, ports: [], target: internet", ".ports: is empty (give at least one port, or remove the field for all ports)"),
		policy("from nowhere", "priority: 1, from: [], target: internet", ".from: is empty (give at least one CIDR, or remove the field for all)"),
		policy("a group", "priority: 1, to: [sg/db], target: internet", ".to[0]: sg/db is no destination of routes (use a CIDR or pl/NAME)"),
		policy("no such prefix list", "priority: 1, to: [pl/nix], target: internet", `.to: PrefixList "nix" does not exist (add it or correct the name)`),
		policy("two families", "priority: 1, from: [10.0.2.99/32], to: [\"2001:db8::/32\"], target: internet", ": matches nothing: from, to and protocol all have no address family in common"),
		policy("icmpv6 in IPv4", "priority: 1, from: [10.0.2.99/32], protocol: icmpv6, target: internet", ": matches nothing: from, to and protocol icmpv6 have no address family in common"),
		eni("a priority twice", "extra", "  policyRoutes:\n  - {priority: 7, target: internet}\n  - {priority: 7, target: blackhole} #HERE",
			"ENI/e: spec.policyRoutes[1]: priority 7 is used twice (give one another; the first is at line 252)"),
		eni("too many", "extra", "  policyRoutes: #HERE\n"+manyPolicies(33),
			"ENI/e: spec.policyRoutes: has 33 policy routes (at most 32: use prefix lists, or a route table)"),
		eni("as many as can be", "extra", "  policyRoutes:\n"+manyPolicies(32), ""),
	})
}

func manyPolicies(n int) string {
	var lines []string
	for i := range n {
		lines = append(lines, fmt.Sprintf("  - {priority: %d, target: internet}", n-i))
	}
	return strings.Join(lines, "\n")
}

// They stand in the order in which they are asked, whatever the order of the text, and read back the same.
func TestPolicyRouteOrder(t *testing.T) {
	e := eni("", "extra", "  policyRoutes:\n  - {priority: 9, target: internet}\n  - {priority: 2, from: [10.0.2.0/24], to: [pl/office, 192.0.2.0/24], protocol: udp, ports: [53], target: blackhole}", "")
	o, errs := api.Decode([]api.File{{Name: "base.yaml", Data: []byte(e.apply(t, readBase(t)))}})
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	want := []api.PolicyRoute{
		{Priority: 2, From: []netip.Prefix{netip.MustParsePrefix("10.0.2.0/24")}, To: []api.Peer{{PrefixList: "office"}, {Prefix: netip.MustParsePrefix("192.0.2.0/24")}},
			Protocol: api.Protocol{Number: api.ProtoUDP}, Ports: []api.PortRange{{From: 53, To: 53}}, Target: api.Target{Kind: api.TargetBlackhole}},
		{Priority: 9, Protocol: api.Protocol{Any: true}, Target: api.Target{Kind: api.TargetInternet}},
	}
	if got := o.ENIs["e"].PolicyRoutes; fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("policy routes are %v, want %v", got, want)
	}
	text, err := api.MarshalYAML(o.All()...)
	if err != nil {
		t.Fatal(err)
	}
	again, errs := api.Decode([]api.File{{Name: "again.yaml", Data: text}})
	if len(errs) > 0 || !slices.EqualFunc(again.ENIs["e"].PolicyRoutes, want, func(a, b api.PolicyRoute) bool { return fmt.Sprint(a) == fmt.Sprint(b) }) {
		t.Errorf("read back as %v (%v)", again.ENIs["e"].PolicyRoutes, errs)
	}
}
