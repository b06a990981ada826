// SPDX-License-Identifier: Apache-2.0

package api_test

import (
	"fmt"
	"strings"
	"testing"
)

// eni appends an ENI in red-b that differs from a valid one by one line.
func eni(name, field, line, want string) edit {
	lines := map[string]string{
		"subnet":         "  subnet: red-b",
		"mac":            `  mac: "02:00:00:00:09:09"`,
		"ips":            "  ips: [10.0.2.99]",
		"securityGroups": "  securityGroups: [db]",
		"attachment":     "  attachment: {instance: vm2, index: 0, device: port9}",
		"extra":          "",
	}
	lines[field] = line
	var spec []string
	for _, f := range []string{"subnet", "mac", "ips", "securityGroups", "attachment", "extra"} {
		if lines[f] != "" {
			spec = append(spec, lines[f])
		}
	}
	return with(name, "ENI", "e", strings.Join(spec, "\n"), want)
}

func TestENIs(t *testing.T) {
	runEdits(t, []edit{
		eni("valid", "extra", "", ""),
		eni("attached nowhere", "attachment", "", ""),
		eni("no such subnet", "subnet", "  subnet: nix #HERE", `ENI/e: spec.subnet: Subnet "nix" does not exist (add it or correct the name)`),
		eni("mac zero", "mac", `  mac: "00:00:00:00:00:00" #HERE`, "ENI/e: spec.mac: is all zero (give the MAC of an interface)"),
		eni("mac of a group", "mac", `  mac: "01:00:5e:00:00:01" #HERE`, "ENI/e: spec.mac: 01:00:5e:00:00:01 is a group address (give a unicast MAC: the first byte is even)"),
		eni("mac broadcast", "mac", `  mac: "ff:ff:ff:ff:ff:ff" #HERE`, "ENI/e: spec.mac: ff:ff:ff:ff:ff:ff is a group address (give a unicast MAC: the first byte is even)"),
		eni("mac of the gateway", "mac", `  mac: "02:00:5E:00:00:01" #HERE`, "ENI/e: spec.mac: 02:00:5e:00:00:01 is the gateway's (give the ENI another one)"),
		eni("mac too long", "mac", `  mac: "02:00:00:00:01:10:00:01" #HERE`, `ENI/e: spec.mac: "02:00:00:00:01:10:00:01" is not a MAC (write it as 02:00:00:00:01:10)`),
		eni("mac without quotes", "mac", `  mac: 02:00:00:00:09:10`, ""),
		eni("duplicate mac in the VPC", "mac", `  mac: "02:00:00:00:01:10" #HERE`, "ENI/e: spec.mac: 02:00:00:00:01:10 is the MAC of ENI/web-0 too (MACs are unique in a VPC: give one another)"),
		eni("ips empty", "ips", "  ips: [] #HERE", "ENI/e: spec.ips: is empty (give at least one private IP)"),
		eni("ip is no address", "ips", "  ips: [10.0.2.300] #HERE", `ENI/e: spec.ips[0]: "10.0.2.300" is not an IP address (write one without prefix length)`),
		eni("ip with length", "ips", "  ips: [10.0.2.99/24] #HERE", `ENI/e: spec.ips[0]: "10.0.2.99/24" is not an IP address (write one without prefix length)`),
		eni("ip with zone", "ips", "  ips: [\"fe80::1%eth0\"] #HERE", `ENI/e: spec.ips[0]: "fe80::1%eth0" has a zone (write the address only)`),
		eni("ip IPv4-mapped", "ips", "  ips: [\"::ffff:10.0.2.99\"] #HERE", `ENI/e: spec.ips[0]: "::ffff:10.0.2.99" is IPv4 written as IPv6 (write 10.0.2.99)`),
		eni("ip outside the subnet", "ips", "  ips: [10.0.1.99] #HERE", "ENI/e: spec.ips[0]: 10.0.1.99 is not in Subnet/red-b (choose an address of its CIDRs)"),
		eni("ip of a family that the subnet has not", "ips", "  ips:\n  - 10.0.2.99\n  - fd00:1:0:1::99 #HERE", "ENI/e: spec.ips[1]: fd00:1:0:1::99 is not in Subnet/red-b (choose an address of its CIDRs)"),
		eni("network address", "ips", "  ips: [10.0.2.0] #HERE", "ENI/e: spec.ips[0]: 10.0.2.0 is the network address of 10.0.2.0/24 (choose another address)"),
		eni("gateway", "ips", "  ips: [10.0.2.1] #HERE", "ENI/e: spec.ips[0]: 10.0.2.1 is the gateway of 10.0.2.0/24 (choose another address)"),
		eni("host services", "ips", "  ips: [10.0.2.2] #HERE", "ENI/e: spec.ips[0]: 10.0.2.2 is reserved for host services of 10.0.2.0/24 (choose another address)"),
		eni("broadcast", "ips", "  ips: [10.0.2.255] #HERE", "ENI/e: spec.ips[0]: 10.0.2.255 is the broadcast address of 10.0.2.0/24 (choose another address)"),
		eni("first free address", "ips", "  ips: [10.0.2.3, 10.0.2.254]", ""),
		{"IPv6 gateway", `"fd00:1:0:1::10"]`, `"fd00:1:0:1::1"] #HERE`, "ENI/web-0: spec.ips[2]: fd00:1:0:1::1 is the gateway of fd00:1:0:1::/64 (choose another address)"},
		{"last IPv6 address", `"fd00:1:0:1::10"`, `"fd00:1:0:1:ffff:ffff:ffff:ffff"`, ""},
		eni("private IP of another", "ips", "  ips: [10.0.2.10] #HERE", "ENI/e: spec.ips[0]: 10.0.2.10 is a private IP of ENI/web-1 too (give one another)"),
		eni("private IP twice", "ips", "  ips: [10.0.2.99, 10.0.2.99] #HERE", "ENI/e: spec.ips[1]: 10.0.2.99 is listed twice (keep one)"),
		eni("more IPs than the type allows", "ips", "  ips: [10.0.2.20, 10.0.2.21, 10.0.2.22, 10.0.2.23] #HERE",
			"ENI/e: spec.ips: has 4 IPv4 addresses (an ENI of InstanceType/small has at most 3)"),
		eni("groups empty", "securityGroups", "  securityGroups: [] #HERE", "ENI/e: spec.securityGroups: is empty (give at least one security group)"),
		eni("no such group", "securityGroups", "  securityGroups: [db, nix] #HERE", `ENI/e: spec.securityGroups[1]: SecurityGroup "nix" does not exist (add it or correct the name)`),
		eni("group twice", "securityGroups", "  securityGroups: [db, db] #HERE", `ENI/e: spec.securityGroups[1]: db is listed twice (keep one)`),
		eni("group of another VPC", "securityGroups", "  securityGroups: [blue] #HERE", "ENI/e: spec.securityGroups[0]: SecurityGroup/blue is of VPC/blue, not of VPC/red (name one of the same VPC)"),
		eni("allowed address without length", "extra", "  allowedAddresses: [10.0.0.1] #HERE", `ENI/e: spec.allowedAddresses[0]: "10.0.0.1" has no prefix length (write 10.0.0.1/32 for one address)`),
		eni("source check off", "extra", "  sourceDestCheck: false", ""),
		eni("source check is text", "extra", "  sourceDestCheck: \"false\" #HERE", "ENI/e: spec.sourceDestCheck: is text, not true or false"),
		eni("keep", "extra", "  onPolicyChange: keep", ""),
		eni("cut", "extra", "  onPolicyChange: cut", ""),
		eni("policy change unknown", "extra", "  onPolicyChange: drop #HERE", `ENI/e: spec.onPolicyChange: "drop" is not known (use reevaluate, keep or cut)`),
		eni("timeouts, lowest", "extra", "  timeouts: {tcpEstablished: 60, udp: 30, udpStream: 60}", ""),
		eni("timeouts, highest", "extra", "  timeouts: {tcpEstablished: 432000, udp: 60, udpStream: 180}", ""),
		eni("timeouts, none", "extra", "  timeouts: {}", ""),
		eni("timeouts unknown", "extra", "  timeouts: {icmp: 30} #HERE", "ENI/e: spec.timeouts.icmp: is not a field of spec.timeouts (remove it)"),
		eni("tcp timeout too short", "extra", "  timeouts: {tcpEstablished: 59} #HERE", `ENI/e: spec.timeouts.tcpEstablished: "59" is not a number of 60 to 432000`),
		eni("tcp timeout too long", "extra", "  timeouts: {tcpEstablished: 432001} #HERE", `ENI/e: spec.timeouts.tcpEstablished: "432001" is not a number of 60 to 432000`),
		eni("udp timeout too short", "extra", "  timeouts: {udp: 29} #HERE", `ENI/e: spec.timeouts.udp: "29" is not a number of 30 to 60`),
		eni("udp timeout too long", "extra", "  timeouts: {udp: 61} #HERE", `ENI/e: spec.timeouts.udp: "61" is not a number of 30 to 60`),
		eni("udp stream timeout too short", "extra", "  timeouts: {udpStream: 59} #HERE", `ENI/e: spec.timeouts.udpStream: "59" is not a number of 60 to 180`),
		eni("udp stream timeout too long", "extra", "  timeouts: {udpStream: 181} #HERE", `ENI/e: spec.timeouts.udpStream: "181" is not a number of 60 to 180`),
		eni("limits", "extra", "  limits: {flows: 30, ingressMbps: 5, egressMbps: 400000}", ""),
		eni("no Mbit/s", "extra", "  limits: {ingressMbps: 0} #HERE", "ENI/e: spec.limits.ingressMbps: \"0\" is not a number of 1 to 400000"),
		eni("too many Mbit/s", "extra", "  limits: {egressMbps: 400001} #HERE", "ENI/e: spec.limits.egressMbps: \"400001\" is not a number of 1 to 400000"),
		eni("no flows", "extra", "  limits: {flows: 0} #HERE", "ENI/e: spec.limits.flows: \"0\" is not a number of 1 to 1073741824"),
		eni("rates, lowest", "extra", "  limits: {newFlowsPerSecond: 1, packetsPerSecond: 1}", ""),
		eni("rates, highest", "extra", "  limits: {newFlowsPerSecond: 100000000, packetsPerSecond: 100000000}", ""),
		eni("no new flows", "extra", "  limits: {newFlowsPerSecond: 0} #HERE", "ENI/e: spec.limits.newFlowsPerSecond: \"0\" is not a number of 1 to 100000000"),
		eni("too many packets", "extra", "  limits: {packetsPerSecond: 100000001} #HERE", "ENI/e: spec.limits.packetsPerSecond: \"100000001\" is not a number of 1 to 100000000"),
		eni("unknown limit", "extra", "  limits: {flow: 3} #HERE", "ENI/e: spec.limits.flow: is not a field of spec.limits (did you mean flows?)"),
	})
}

func TestSixthGroup(t *testing.T) {
	e := eni("", "securityGroups", "  securityGroups: [db, a1, a2, a3, a4, a5] #HERE",
		"ENI/e: spec.securityGroups: names 6 security groups (at most 5)")
	e.new = manyGroups(5) + e.new
	five := eni("", "securityGroups", "  securityGroups: [db, a1, a2, a3, a4]", "")
	five.new = manyGroups(4) + five.new
	six, ok := e, five
	six.name, ok.name = "six", "five"
	runEdits(t, []edit{six, ok})
}

func manyGroups(n int) string {
	var b strings.Builder
	b.WriteString("spec: {address: 203.0.113.99}\n")
	for i := 1; i <= n; i++ {
		fmt.Fprintf(&b, "---\napiVersion: eniplane.io/v1alpha1\nkind: SecurityGroup\nmetadata: {name: a%d}\nspec: {vpc: red}\n", i)
	}
	b.WriteString("---\napiVersion: eniplane.io/v1alpha1\nkind: EIP\nmetadata: {name: more}\n")
	return b.String()
}

func TestIPLimit(t *testing.T) {
	ips := func(n int) string {
		var list []string
		for i := range n {
			list = append(list, fmt.Sprintf("10.0.2.%d", 20+i), fmt.Sprintf(`"fd00:1:0:2::%x"`, 20+i))
		}
		return strings.Join(list, ", ")
	}
	subnet := "  cidrs: [10.0.2.0/24]\n"
	both := strings.Replace(subnet, "]", `, "fd00:1:0:2::/64"]`, 1)
	red := strings.Replace(readBase(t), subnet, both, 1)
	for n, want := range map[int][]string{
		21: nil,
		22: {"has 22 IPv4 addresses (an ENI has at most 21)", "has 22 IPv6 addresses (an ENI has at most 21)"},
	} {
		e := eni("", "attachment", "", "")
		text := strings.Replace(e.apply(t, red), "ips: [10.0.2.99]", "ips: ["+ips(n)+"]", 1)
		_, errs := decodeText(text)
		var got []string
		for _, err := range errs {
			got = append(got, err.Msg)
		}
		if strings.Join(got, "\n") != strings.Join(want, "\n") {
			t.Errorf("%d addresses: got %q, want %q", n, got, want)
		}
	}
}

func TestAttachments(t *testing.T) {
	runEdits(t, []edit{
		eni("no such instance", "attachment", "  attachment: {instance: nix, index: 0, device: d} #HERE", `ENI/e: spec.attachment.instance: Instance "nix" does not exist (add it or correct the name)`),
		eni("index 8", "attachment", "  attachment: {instance: vm2, index: 8, device: d} #HERE", "ENI/e: spec.attachment.index: 8 is no index (an instance has at most 8 ENIs: use 0 to 7)"),
		eni("index missing", "attachment", "  attachment: {instance: vm2, device: d} #HERE", "ENI/e: spec.attachment.index: is missing (add it)"),
		eni("index 7", "attachment", "  attachment: {instance: vm2, index: 7, device: d}", ""),
		{"index of another", "attachment: {instance: vm, index: 1, device: port1}", "attachment: {instance: vm, index: 0, device: port1} #HERE",
			"ENI/web-1: spec.attachment.index: 0 is the index of ENI/web-0 too (give one another)"},
		eni("third of two ENIs", "attachment", "  attachment: {instance: vm, index: 2, device: d} #HERE", "ENI/e: spec.attachment.instance: Instance/vm has 3 ENIs (InstanceType/small has at most 2)"),
		eni("third of two ENIs at a taken index", "attachment", "  attachment: {instance: vm, index: 1, device: d} #HERE", "ENI/e: spec.attachment.instance: Instance/vm has 3 ENIs (InstanceType/small has at most 2)"),
		eni("third of two ENIs at no index", "attachment", "  attachment: {instance: vm, index: 8, device: d} #HERE", "ENI/e: spec.attachment.index: 8 is no index (an instance has at most 8 ENIs: use 0 to 7)"),
		eni("device of another on the host", "attachment", "  attachment: {instance: vm2, index: 0, device: port1} #HERE", "ENI/e: spec.attachment.device: port1 is the port of ENI/web-1 too on Host/host-a (give one another)"),
		eni("device is an uplink", "attachment", "  attachment: {instance: vm2, index: 0, device: up0} #HERE", "ENI/e: spec.attachment.device: up0 is an uplink of Host/host-a (name the ENI's own device)"),
		eni("device is the overlay's", "attachment", "  attachment: {instance: vm2, index: 0, device: eniplane0} #HERE", `ENI/e: spec.attachment.device: "eniplane0" is a reserved name (give the device another one)`),
		eni("device of 16 bytes", "attachment", "  attachment: {instance: vm2, index: 0, device: a234567890123456} #HERE", `ENI/e: spec.attachment.device: "a234567890123456" has 16 bytes (a device's name has at most 15)`),
		eni("device with a space", "attachment", "  attachment: {instance: vm2, index: 0, device: \"a b\"} #HERE", `ENI/e: spec.attachment.device: "a b" is not a name of a device (use letters, digits, - and .)`),
		{"same device on another host", "metadata: {name: vm2}\nspec: {host: host-a, type: small}\n",
			"metadata: {name: vm2}\nspec: {host: host-b, type: small}\n---\napiVersion: eniplane.io/v1alpha1\nkind: ENI\nmetadata: {name: e}\nspec: {subnet: red-b, mac: \"02:00:00:00:09:09\", ips: [10.0.2.99], securityGroups: [db], attachment: {instance: vm2, index: 0, device: port0}}\n", ""},
		eni("epoch negative", "attachment", "  attachment: {instance: vm2, index: 0, device: d, epoch: -1} #HERE", `ENI/e: spec.attachment.epoch: "-1" is not a number of 0 to 9223372036854775807`),
		{"ENIs of two VPCs", "  securityGroups: [blue]\n", "  securityGroups: [blue]\n  attachment: {instance: vm2, index: 1, device: port8}\n" +
			"---\napiVersion: eniplane.io/v1alpha1\nkind: ENI\nmetadata: {name: e}\nspec: {subnet: red-b, mac: \"02:00:00:00:09:09\", ips: [10.0.2.99], securityGroups: [db], attachment: {instance: vm2, index: 0, device: port9}} #HERE\n",
			"ENI/e: spec.attachment.instance: Instance/vm2 has ENIs of VPC/blue (ENI/blue-0) and of VPC/red (all must be of one VPC)"},
	})
}

func TestEIPs(t *testing.T) {
	private := "  privateIP: 10.0.1.10\n"
	runEdits(t, []edit{
		{"primary by default", private, "", ""},
		{"no such ENI", "eni: web-0\n" + private, "eni: nix #HERE\n", `EIP/public: spec.eni: ENI "nix" does not exist (add it or correct the name)`},
		{"not an IP of the ENI", private, "  privateIP: 10.0.1.99 #HERE\n", "EIP/public: spec.privateIP: 10.0.1.99 is no private IP of ENI/web-0 (choose one of its ips)"},
		{"private IP of another family", private, "  privateIP: fd00:1:0:1::10 #HERE\n", "EIP/public: spec.privateIP: fd00:1:0:1::10 is not of the family of 203.0.113.10 (give a private IP of the same family)"},
		{"private IP without ENI", "  eni: web-0\n" + private, "  privateIP: 10.0.1.10 #HERE\n", "EIP/public: spec.privateIP: is given without an ENI (add eni or remove it)"},
		with("ENI without that family", "EIP", "x", "  address: 2001:db8:1::1\n  eni: web-1 #HERE", "EIP/x: spec.eni: ENI/web-1 has no private IP of the family of 2001:db8:1::1 (add one or choose another ENI)"),
		with("IPv6", "EIP", "x", "  address: 2001:db8:1::1\n  eni: web-0", ""),
		with("second EIP of a private IP", "EIP", "x", "  address: 203.0.113.12\n  eni: web-0\n  privateIP: 10.0.1.10 #HERE", "EIP/x: spec.privateIP: 10.0.1.10 of ENI/web-0 has EIP/public already (one EIP per private IP: choose another)"),
		{"second EIP of a primary", "metadata: {name: reserved}\nspec: {address: 203.0.113.11}", "metadata: {name: reserved}\nspec: {address: 203.0.113.11, eni: web-0} #HERE",
			"EIP/reserved: spec.privateIP: 10.0.1.10 of ENI/web-0 has EIP/public already (one EIP per private IP: choose another)"},
		with("another private IP", "EIP", "x", "  address: 203.0.113.12\n  eni: web-0\n  privateIP: 10.0.1.11", ""),
		with("same address", "EIP", "x", "  address: 203.0.113.11 #HERE\n", "EIP/x: spec.address: 203.0.113.11 is the address of EIP/reserved too (keep one of them)"),
		with("in a VPC", "EIP", "x", "  address: 10.0.3.1 #HERE\n", "EIP/x: spec.address: 10.0.3.1 lies in 10.0.0.0/16 of VPC/red (choose a public address)"),
		with("in the infrastructure", "EIP", "x", "  address: 192.168.3.1 #HERE\n", "EIP/x: spec.address: 192.168.3.1 lies in 192.168.0.0/16 of Region/here, which is infrastructure (choose another address)"),
		with("a VTEP", "EIP", "x", "  address: 172.16.0.2 #HERE\n", "EIP/x: spec.address: 172.16.0.2 lies in 172.16.0.2/32 of Host/host-b, which is infrastructure (choose another address)"),
		with("loopback", "EIP", "x", "  address: 127.0.0.1 #HERE\n", "EIP/x: spec.address: 127.0.0.1 is no unicast address (give a public one)"),
		with("multicast", "EIP", "x", "  address: ff02::1 #HERE\n", "EIP/x: spec.address: ff02::1 is no unicast address (give a public one)"),
		with("egressMbps", "EIP", "x", "  address: 203.0.113.12\n  egressMbps: 100", ""),
		with("egressMbps of nothing", "EIP", "x", "  address: 203.0.113.12\n  egressMbps: 0 #HERE", "EIP/x: spec.egressMbps: \"0\" is not a number of 1 to 400000"),
		with("vip", "EIP", "x", "  address: 203.0.113.12\n  vip: v #HERE", "EIP/x: spec.vip: is not supported by this version (remove it)"),
	})
}
