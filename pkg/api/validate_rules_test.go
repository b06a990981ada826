// SPDX-License-Identifier: Apache-2.0

package api_test

import "testing"

// rule replaces the first rule of SecurityGroup/web.
func rule(name, text, want string) edit {
	return edit{name, `  - name: http
    protocol: tcp
    ports: [80]
    from: [0.0.0.0/0, "::/0", sg/db, pl/office]
`, text + "\n", want}
}

func TestSecurityGroups(t *testing.T) {
	runEdits(t, []edit{
		with("no such VPC", "SecurityGroup", "g", "  vpc: nix #HERE", `SecurityGroup/g: spec.vpc: VPC "nix" does not exist (add it or correct the name)`),
		rule("mixed families", `  - {protocol: udp, ports: [53, "1-65535"], from: [0.0.0.0/0, "::/0"]}`, ""),
		rule("protocol missing", `  - {from: [0.0.0.0/0]} #HERE`, "SecurityGroup/web: spec.ingress[0].protocol: is missing (add it)"),
		rule("protocol unknown", `  - {protocol: sctp, from: [0.0.0.0/0]} #HERE`,
			`SecurityGroup/web: spec.ingress[0].protocol: "sctp" is not a protocol (use tcp, udp, icmp, icmpv6, all or a number of 0 to 255)`),
		rule("protocol 256", `  - {protocol: 256, from: [0.0.0.0/0]} #HERE`,
			`SecurityGroup/web: spec.ingress[0].protocol: "256" is not a protocol (use tcp, udp, icmp, icmpv6, all or a number of 0 to 255)`),
		rule("protocol by number", `  - {protocol: 132, from: [0.0.0.0/0]}`, ""),
		rule("protocol 6 has ports", `  - {protocol: 6, ports: [1], from: [0.0.0.0/0]}`, ""),
		rule("protocol 17 has ports", `  - {protocol: "17", ports: [1], from: [0.0.0.0/0]}`, ""),
		rule("protocol 1 has types", `  - {protocol: 1, icmp: {type: 8}, from: [0.0.0.0/0]}`, ""),
		rule("protocol 58 has types", `  - {protocol: 58, icmp: {type: 128}, from: ["::/0"]}`, ""),
		rule("ports with icmp", `  - {protocol: icmp, ports: [1], from: [0.0.0.0/0]} #HERE`,
			"SecurityGroup/web: spec.ingress[0].ports: do not go with protocol icmp (only tcp and udp have ports)"),
		rule("ports with all", `  - {protocol: all, ports: [1], from: [0.0.0.0/0]} #HERE`,
			"SecurityGroup/web: spec.ingress[0].ports: do not go with protocol all (only tcp and udp have ports)"),
		rule("ports with a number", `  - {protocol: 132, ports: [1], from: [0.0.0.0/0]} #HERE`,
			"SecurityGroup/web: spec.ingress[0].ports: do not go with protocol 132 (only tcp and udp have ports)"),
		rule("icmp with tcp", `  - {protocol: tcp, icmp: {type: 8}, from: [0.0.0.0/0]} #HERE`,
			"SecurityGroup/web: spec.ingress[0].icmp: does not go with protocol tcp (only icmp and icmpv6 have types)"),
		rule("icmp with all", `  - {protocol: all, icmp: {type: 8}, from: [0.0.0.0/0]} #HERE`,
			"SecurityGroup/web: spec.ingress[0].icmp: does not go with protocol all (only icmp and icmpv6 have types)"),
		rule("icmp without type", `  - {protocol: icmp, icmp: {code: 0}, from: [0.0.0.0/0]} #HERE`,
			"SecurityGroup/web: spec.ingress[0].icmp.type: is missing (add it)"),
		rule("icmp type 256", `  - {protocol: icmp, icmp: {type: 256}, from: [0.0.0.0/0]} #HERE`,
			`SecurityGroup/web: spec.ingress[0].icmp.type: "256" is not a number of 0 to 255`),
		rule("icmp is IPv4 only", `  - {protocol: icmp, from: ["::/0"]} #HERE`,
			"SecurityGroup/web: spec.ingress[0].from: has no address that icmp can come from (icmp is IPv4 only: use icmpv6 for IPv6)"),
		rule("icmpv6 is IPv6 only", `  - {protocol: icmpv6, from: [0.0.0.0/0]} #HERE`,
			"SecurityGroup/web: spec.ingress[0].from: has no address that icmpv6 can come from (icmpv6 is IPv6 only: use icmp for IPv4)"),
		rule("icmp from both families", `  - {protocol: icmp, from: [0.0.0.0/0, "::/0"]}`, ""),
		rule("no ports is not all ports", `  - {protocol: tcp, ports: [], from: [0.0.0.0/0]} #HERE`,
			"SecurityGroup/web: spec.ingress[0].ports: is empty (give at least one port, or remove the field for all ports)"),
		rule("ports without value", "  - protocol: tcp\n    ports: #HERE\n    from: [0.0.0.0/0]",
			"SecurityGroup/web: spec.ingress[0].ports: has no value (give one or remove the field)"),
		rule("port 0", `  - {protocol: tcp, ports: [0], from: [0.0.0.0/0]} #HERE`,
			`SecurityGroup/web: spec.ingress[0].ports[0]: "0" is not a port (write 1 to 65535, or a range as "8000-8999")`),
		rule("port 65536", `  - {protocol: tcp, ports: [65536], from: [0.0.0.0/0]} #HERE`,
			`SecurityGroup/web: spec.ingress[0].ports[0]: "65536" is not a port (write 1 to 65535, or a range as "8000-8999")`),
		rule("port in octal", `  - {protocol: tcp, ports: [0443], from: [0.0.0.0/0]} #HERE`,
			`SecurityGroup/web: spec.ingress[0].ports[0]: "0443" is not a port (write 1 to 65535, or a range as "8000-8999")`),
		rule("range backwards", `  - {protocol: tcp, ports: [22, "90-80"], from: [0.0.0.0/0]} #HERE`,
			`SecurityGroup/web: spec.ingress[0].ports[1]: "90-80" ends before it begins (write the lower port first)`),
		rule("range with spaces", `  - {protocol: tcp, ports: ["80 - 90"], from: [0.0.0.0/0]} #HERE`,
			`SecurityGroup/web: spec.ingress[0].ports[0]: "80 - 90" is not a port (write 1 to 65535, or a range as "8000-8999")`),
		rule("range of one port", `  - {protocol: tcp, ports: ["80-80"], from: [0.0.0.0/0]}`, ""),
		rule("from missing", `  - {protocol: tcp} #HERE`, "SecurityGroup/web: spec.ingress[0].from: is missing (add it)"),
		rule("from empty", `  - {protocol: tcp, from: []} #HERE`,
			"SecurityGroup/web: spec.ingress[0].from: is empty (give at least one CIDR, sg/NAME or pl/NAME)"),
		rule("to in ingress", "  - protocol: tcp\n    from: [0.0.0.0/0]\n    to: [0.0.0.0/0] #HERE",
			"SecurityGroup/web: spec.ingress[0].to: is not a field of spec.ingress[0] (remove it)"),
		rule("action", "  - protocol: tcp\n    from: [0.0.0.0/0]\n    action: deny #HERE",
			"SecurityGroup/web: spec.ingress[0].action: is not a field of spec.ingress[0] (remove it)"),
		rule("host bits", `  - {protocol: tcp, from: [10.161.0.0/8]} #HERE`,
			`SecurityGroup/web: spec.ingress[0].from[0]: "10.161.0.0/8" has host bits (write 10.0.0.0/8)`),
		rule("no prefix length", `  - {protocol: tcp, from: [10.0.0.1]} #HERE`,
			`SecurityGroup/web: spec.ingress[0].from[0]: "10.0.0.1" has no prefix length (write 10.0.0.1/32 for one address)`),
		rule("no such group", `  - {protocol: tcp, from: [0.0.0.0/0, sg/nix]} #HERE`,
			`SecurityGroup/web: spec.ingress[0].from[1]: SecurityGroup "nix" does not exist (add it or correct the name)`),
		rule("group of another VPC", `  - {protocol: tcp, from: [sg/blue]} #HERE`,
			"SecurityGroup/web: spec.ingress[0].from[0]: SecurityGroup/blue is of VPC/blue, not of VPC/red (name one of the same VPC)"),
		rule("its own group", `  - {protocol: tcp, from: [sg/web]}`, ""),
		rule("no such prefix list", `  - {protocol: tcp, from: [pl/nix]} #HERE`,
			`SecurityGroup/web: spec.ingress[0].from[0]: PrefixList "nix" does not exist (add it or correct the name)`),
		rule("group without a name", `  - {protocol: tcp, from: [sg/]} #HERE`,
			`SecurityGroup/web: spec.ingress[0].from[0]: "sg/" names nothing: the name is empty (write sg/NAME)`),
		{"egress to a group of another VPC", "  - {protocol: all, to: [0.0.0.0/0]}", "  - {protocol: all, to: [sg/blue]} #HERE",
			"SecurityGroup/web: spec.egress[0].to[0]: SecurityGroup/blue is of VPC/blue, not of VPC/red (name one of the same VPC)"},
		{"from in egress", "  - {protocol: all, to: [0.0.0.0/0]}", "  - {protocol: all, from: [0.0.0.0/0], to: [0.0.0.0/0]} #HERE",
			"SecurityGroup/web: spec.egress[0].from: is not a field of spec.egress[0] (remove it)"},
	})
}

func TestPrefixLists(t *testing.T) {
	entries := `entries: [192.0.2.0/28, "2001:db8::/32"]`
	runEdits(t, []edit{
		{"host bits", entries, "entries:\n  - 192.0.2.0/28\n  - 192.0.2.1/28 #HERE",
			`PrefixList/office: spec.entries[1]: "192.0.2.1/28" has host bits (write 192.0.2.0/28)`},
		{"number", entries, "entries: [10] #HERE", "PrefixList/office: spec.entries[0]: is a number, not text (write it in quotes)"},
		{"empty", entries, "entries: []", ""},
	})
}

func TestNetworkACLs(t *testing.T) {
	last := `  - {number: 200, action: deny, protocol: all, cidr: "::/0"}`
	runEdits(t, []edit{
		with("no such VPC", "NetworkACL", "n", "  vpc: nix #HERE", `NetworkACL/n: spec.vpc: VPC "nix" does not exist (add it or correct the name)`),
		{"number 0", last, "  - {number: 0, action: deny, protocol: all, cidr: \"::/0\"} #HERE", `NetworkACL/red: spec.ingress[1].number: "0" is not a number of 1 to 32766`},
		{"number 32767", last, "  - {number: 32767, action: deny, protocol: all, cidr: \"::/0\"} #HERE", `NetworkACL/red: spec.ingress[1].number: "32767" is not a number of 1 to 32766`},
		{"number twice", last, "  - {number: 100, action: deny, protocol: all, cidr: \"::/0\"} #HERE",
			"NetworkACL/red: spec.ingress[1]: number 100 is used twice (give one another number; the first is at line 107)"},
		{"action unknown", last, "  - {number: 200, action: drop, protocol: all, cidr: \"::/0\"} #HERE", "NetworkACL/red: spec.ingress[1].action: is neither allow nor deny (write one of them)"},
		{"action missing", last, "  - {number: 200, protocol: all, cidr: \"::/0\"} #HERE", "NetworkACL/red: spec.ingress[1].action: is missing (add it)"},
		{"cidr missing", last, "  - {number: 200, action: deny, protocol: all} #HERE", "NetworkACL/red: spec.ingress[1].cidr: is missing (add it)"},
		{"cidr is a group", last, "  - {number: 200, action: deny, protocol: all, cidr: sg/web} #HERE",
			`NetworkACL/red: spec.ingress[1].cidr: "sg/web" is not a CIDR (write it as 10.0.0.0/16 or fd00::/56)`},
		{"icmp of IPv6", last, "  - {number: 200, action: deny, protocol: icmp, cidr: \"::/0\"} #HERE",
			"NetworkACL/red: spec.ingress[1].cidr: ::/0 cannot match icmp (icmp is IPv4 only: use icmpv6 for IPv6)"},
		{"ports with all", last, "  - {number: 200, action: deny, protocol: all, ports: [1], cidr: \"::/0\"} #HERE",
			"NetworkACL/red: spec.ingress[1].ports: do not go with protocol all (only tcp and udp have ports)"},
		{"no ports is not all ports", last, "  - {number: 200, action: deny, protocol: tcp, ports: [], cidr: \"::/0\"} #HERE",
			"NetworkACL/red: spec.ingress[1].ports: is empty (give at least one port, or remove the field for all ports)"},
		{"icmpv6 types", last, "  - {number: 200, action: deny, protocol: icmpv6, icmp: {type: 128}, cidr: \"::/0\"}", ""},
	})
}
