// SPDX-License-Identifier: Apache-2.0

package api_test

import "testing"

func TestInstances(t *testing.T) {
	runEdits(t, []edit{
		{"maxENIs 0", "maxENIs: 2", "maxENIs: 0 #HERE", `InstanceType/small: spec.maxENIs: "0" is not a number of 1 to 8`},
		{"maxENIs 9", "maxENIs: 2", "maxENIs: 9 #HERE", `InstanceType/small: spec.maxENIs: "9" is not a number of 1 to 8`},
		{"maxENIs 8", "maxENIs: 2", "maxENIs: 8", ""},
		{"maxIPsPerENI 22", "maxIPsPerENI: 3", "maxIPsPerENI: 22 #HERE", `InstanceType/small: spec.maxIPsPerENI: "22" is not a number of 1 to 21`},
		{"number in quotes", "maxENIs: 2", `maxENIs: "2" #HERE`, `InstanceType/small: spec.maxENIs: is text, not a number`},
		{"octal number", "maxENIs: 2", `maxENIs: 02 #HERE`, `InstanceType/small: spec.maxENIs: "02" is not a number of 1 to 8`},
		{"fraction", "maxENIs: 2", `maxENIs: 2.0 #HERE`, `InstanceType/small: spec.maxENIs: is a fraction, not a number`},
		{"no such host", "host: host-a\n", "host: host-z #HERE\n", `Instance/vm: spec.host: Host "host-z" does not exist (add it or correct the name)`},
		{"no such type", "type: small\n", "type: big #HERE\n", `Instance/vm: spec.type: InstanceType "big" does not exist (add it or correct the name)`},
		{"migration", "host: host-a\n", "host: host-a\n  migration: {to: host-b}\n", ""},
		{"migration that is over", "host: host-a\n", "host: host-a\n  migration: {to: host-a}\n", ""},
		{"migration whose source is told", "host: host-a\n", "host: host-a\n  migration: {to: host-a, from: host-b}\n", ""},
		{"migration that has left too early", "host: host-a\n", "host: host-a\n  migration: {to: host-b, from: host-a} #HERE\n", "Instance/vm: spec.migration.from: the instance has not left Host/host-a: spec.host is not host-b (remove it)"},
		{"migration on the spot", "host: host-a\n", "host: host-a\n  migration: {to: host-a, from: host-a} #HERE\n", "Instance/vm: spec.migration.from: host-a is where it goes to, too (remove it)"},
		{"migration to nowhere", "host: host-a\n", "host: host-a\n  migration: {to: host-z} #HERE\n", `Instance/vm: spec.migration.to: Host "host-z" does not exist (add it or correct the name)`},
		{"migration of another's ENI", "host: host-a\n", "host: host-a\n  migration: {to: host-b, devices: {nobody: tap9}} #HERE\n", "Instance/vm: spec.migration.devices: ENI/nobody is not attached to this instance (remove it)"},
	})
}

func TestVPCs(t *testing.T) {
	runEdits(t, []edit{
		{"vni 0", "vni: 1001", "vni: 0 #HERE", `VPC/red: spec.vni: "0" is not a number of 1 to 16777215`},
		{"vni too big", "vni: 1001", "vni: 16777216 #HERE", `VPC/red: spec.vni: "16777216" is not a number of 1 to 16777215`},
		{"largest vni", "vni: 1001", "vni: 16777215", ""},
		{"duplicate vni", "vni: 1002", "vni: 1001 #HERE", "VPC/blue: spec.vni: 1001 is the VNI of VPC/red too (give each VPC its own)"},
		{"account", "vni: 1002", "vni: 1002\n  account: \"0815\"", ""},
		with("no cidrs", "VPC", "grey", "  vni: 5\n  cidrs: [] #HERE", "VPC/grey: spec.cidrs: is empty (give at least one CIDR)"),
		with("cidrs overlap", "VPC", "grey", "  vni: 5\n  cidrs:\n  - 10.0.0.0/24\n  - 10.0.0.0/16 #HERE\n",
			"VPC/grey: spec.cidrs[1]: 10.0.0.0/16 overlaps 10.0.0.0/24 of the same VPC (make them disjoint)"),
		with("cidr with host bits", "VPC", "grey", "  vni: 5\n  cidrs: [10.1.0.0/8] #HERE",
			`VPC/grey: spec.cidrs[0]: "10.1.0.0/8" has host bits (write 10.0.0.0/8)`),
		with("cidr without length", "VPC", "grey", "  vni: 5\n  cidrs: [10.1.0.0] #HERE",
			`VPC/grey: spec.cidrs[0]: "10.1.0.0" has no prefix length (write 10.1.0.0/32 for one address)`),
		with("cidr is nonsense", "VPC", "grey", "  vni: 5\n  cidrs: [10.1/16] #HERE",
			`VPC/grey: spec.cidrs[0]: "10.1/16" is not a CIDR (write it as 10.0.0.0/16 or fd00::/56)`),
		with("cidr with leading zeros", "VPC", "grey", "  vni: 5\n  cidrs: [010.1.0.0/16] #HERE",
			`VPC/grey: spec.cidrs[0]: "010.1.0.0/16" is not a CIDR (write it as 10.0.0.0/16 or fd00::/56)`),
		with("IPv4-mapped cidr", "VPC", "grey", "  vni: 5\n  cidrs: [\"::ffff:10.0.0.0/104\"] #HERE",
			`VPC/grey: spec.cidrs[0]: "::ffff:10.0.0.0/104" is IPv4 written as IPv6 (write it as IPv4)`),
		with("everything as a cidr", "VPC", "grey", "  vni: 5\n  cidrs: [0.0.0.0/0] #HERE",
			"VPC/grey: spec.cidrs[0]: 0.0.0.0/0 holds addresses of 0.0.0.0/8, which no ENI can have (choose another range)"),
		with("link-local cidr", "VPC", "grey", "  vni: 5\n  cidrs: [\"fe80::/64\"] #HERE",
			"VPC/grey: spec.cidrs[0]: fe80::/64 holds addresses of fe80::/10, which no ENI can have (choose another range)"),
		with("another VPC may overlap", "VPC", "grey", "  vni: 5\n  cidrs: [10.0.0.0/8, \"fd00:1::/48\"]", ""),
	})
}

func TestSubnets(t *testing.T) {
	runEdits(t, []edit{
		with("no such VPC", "Subnet", "s", "  vpc: nix #HERE\n  cidrs: [10.0.9.0/24]", `Subnet/s: spec.vpc: VPC "nix" does not exist (add it or correct the name)`),
		with("outside the VPC", "Subnet", "s", "  vpc: red\n  cidrs: [10.1.9.0/24] #HERE", "Subnet/s: spec.cidrs[0]: 10.1.9.0/24 is not inside a CIDR of VPC/red (choose one of its addresses)"),
		with("wider than the VPC", "Subnet", "s", "  vpc: red\n  cidrs: [\"fd00::/48\"] #HERE", "Subnet/s: spec.cidrs[0]: fd00::/48 is not inside a CIDR of VPC/red (choose one of its addresses)"),
		with("overlaps another subnet", "Subnet", "s", "  vpc: red\n  cidrs: [10.0.1.128/25] #HERE", "Subnet/s: spec.cidrs[0]: 10.0.1.128/25 overlaps 10.0.1.0/24 of Subnet/red-a (make the subnets of a VPC disjoint)"),
		with("holds another subnet", "Subnet", "s", "  vpc: red\n  cidrs:\n  - 10.0.9.0/24\n  - 10.0.2.0/23 #HERE", "Subnet/s: spec.cidrs[1]: 10.0.2.0/23 overlaps 10.0.2.0/24 of Subnet/red-b (make the subnets of a VPC disjoint)"),
		with("equals another subnet", "Subnet", "s", "  vpc: red\n  cidrs: [10.0.2.0/24] #HERE", "Subnet/s: spec.cidrs[0]: 10.0.2.0/24 overlaps 10.0.2.0/24 of Subnet/red-b (make the subnets of a VPC disjoint)"),
		with("beside the others", "Subnet", "s", "  vpc: red\n  cidrs: [10.0.0.0/24, 10.0.3.0/24, \"fd00:1:0:2::/64\"]", ""),
		with("the whole VPC", "Subnet", "s", "  vpc: blue\n  cidrs: [10.0.4.0/22]", ""),
		with("no room in IPv4", "Subnet", "s", "  vpc: red\n  cidrs: [10.0.9.0/30] #HERE", "Subnet/s: spec.cidrs[0]: 10.0.9.0/30 has no address left beside the reserved ones (at most /29)"),
		with("no room in IPv6", "Subnet", "s", "  vpc: red\n  cidrs: [\"fd00:1:0:9::/127\"] #HERE", "Subnet/s: spec.cidrs[0]: fd00:1:0:9::/127 has no address left beside the reserved ones (at most /126)"),
		with("smallest subnets", "Subnet", "s", "  vpc: red\n  cidrs: [10.0.9.0/29, \"fd00:1:0:9::/126\"]", ""),
		{"no such route table", "routeTable: red", "routeTable: rde #HERE", `Subnet/red-a: spec.routeTable: RouteTable "rde" does not exist (add it or correct the name)`},
		{"route table of another VPC", "routeTable: red", "routeTable: blue #HERE", "Subnet/red-a: spec.routeTable: RouteTable/blue is of VPC/blue, not of VPC/red (name one of the same VPC)"},
		{"no such ACL", "networkACL: red", "networkACL: rde #HERE", `Subnet/red-a: spec.networkACL: NetworkACL "rde" does not exist (add it or correct the name)`},
		{"ACL of another VPC", "networkACL: red", "networkACL: blue #HERE", "Subnet/red-a: spec.networkACL: NetworkACL/blue is of VPC/blue, not of VPC/red (name one of the same VPC)"},
		{"neither table nor ACL", "  routeTable: red\n  networkACL: red\n", "", ""},
	})
}
