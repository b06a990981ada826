// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/eniplane/eniplane/pkg/lab"
)

// An instance with all the ENIs and addresses that an instance may have, and who talks to it: far on another host, near on
// the same.
const (
	plugENIs = 8
	plugIPs  = 21   // of each family
	plugHot  = "m7" // comes and goes
	plugOpen = 7000 // the ports from here to 7999 are open, all others are not
	plugShut = 9999
)

const plugTopology = `# SPDX-License-Identifier: Apache-2.0
apiVersion: eniplane.io/v1alpha1
kind: Lab
metadata: {name: plug}
spec:
  feed: objects.yaml
  underlay: {cidrs: [192.168.100.0/24, "fd00:100::/64"], mtu: 1500}
  internet:
    addresses: [192.168.100.254/24, "fd00:100::fe/64"]
`

const plugBase = `apiVersion: eniplane.io/v1alpha1
kind: Host
metadata: {name: host-a}
spec: {zone: az-1, vtep: 192.168.100.1, uplinks: [uplink0]}
---
apiVersion: eniplane.io/v1alpha1
kind: Host
metadata: {name: host-b}
spec: {zone: az-2, vtep: 192.168.100.2, uplinks: [uplink0]}
---
apiVersion: eniplane.io/v1alpha1
kind: InstanceType
metadata: {name: large}
spec: {maxENIs: 8, maxIPsPerENI: 21}
---
apiVersion: eniplane.io/v1alpha1
kind: VPC
metadata: {name: plug}
spec: {vni: 3001, cidrs: [10.20.0.0/16, "fd00:20::/56"]}
---
apiVersion: eniplane.io/v1alpha1
kind: SecurityGroup
metadata: {name: some}
spec:
  vpc: plug
  ingress:
  - {name: udp, protocol: udp, ports: ["7000-7999"], from: [0.0.0.0/0, "::/0"]}
  - {name: tcp, protocol: tcp, ports: ["7000-7999"], from: [0.0.0.0/0, "::/0"]}
  egress: [{name: any, protocol: all, to: [0.0.0.0/0, "::/0"]}]
`

// plugMAC and plugAddr are those of the ENI m0, m1, ...
func plugMAC(eni int) net.HardwareAddr { return net.HardwareAddr{2, 0, 0, 0, 0x20, byte(eni)} }

func plugAddr(eni, i int, f lab.Family) netip.Addr {
	if f == lab.IPv6 {
		return netip.MustParseAddr(fmt.Sprintf("fd00:20:0:%x::%x", eni, 16+i))
	}
	return netip.AddrFrom4([4]byte{10, 20, byte(eni), byte(10 + i)})
}

func plugInstance(name, host string) string {
	return fmt.Sprintf("---\napiVersion: eniplane.io/v1alpha1\nkind: Instance\nmetadata: {name: %s}\nspec: {host: %s, type: large}\n", name, host)
}

func plugSubnet(i int) string {
	return fmt.Sprintf("---\napiVersion: eniplane.io/v1alpha1\nkind: Subnet\nmetadata: {name: s%d}\nspec: {vpc: plug, cidrs: [10.20.%d.0/24, \"fd00:20:0:%x::/64\"]}\n", i, i, i)
}

// plugENI is an ENI with its first n addresses; without an instance it is not attached.
func plugENI(name string, subnet, mac, n, first int, instance string, index int, device string) string {
	var ips []string
	for i := range n {
		ips = append(ips, plugAddr(subnet, first+i, lab.IPv4).String(), fmt.Sprintf("%q", plugAddr(subnet, first+i, lab.IPv6)))
	}
	text := fmt.Sprintf("---\napiVersion: eniplane.io/v1alpha1\nkind: ENI\nmetadata: {name: %s}\nspec:\n  subnet: s%d\n  mac: %q\n  ips: [%s]\n  securityGroups: [some]\n",
		name, subnet, plugMAC(mac), strings.Join(ips, ", "))
	if instance != "" {
		text += fmt.Sprintf("  attachment: {instance: %s, index: %d, device: %s}\n", instance, index, device)
	}
	return text
}

func plugObjects() string {
	var b strings.Builder
	b.WriteString(plugBase)
	for _, i := range []string{"vm-many host-a", "vm-near host-a", "vm-far host-b"} {
		name, host, _ := strings.Cut(i, " ")
		b.WriteString(plugInstance(name, host))
	}
	for i := range plugENIs {
		b.WriteString(plugSubnet(i))
		b.WriteString(plugENI(fmt.Sprintf("m%d", i), i, i, plugIPs, 0, "vm-many", i, fmt.Sprintf("eni-m%d", i)))
	}
	for i, name := range []string{"far", "near"} {
		b.WriteString(plugSubnet(100 + i))
		b.WriteString(plugENI(name, 100+i, 100+i, 1, 0, "vm-"+name, 0, "eni-"+name))
	}
	b.WriteString(plugENI("thief", 7, 50, 1, 40, "", 0, "")) // a neighbour of m7, attached nowhere yet
	return b.String()
}

// upPlug brings such a lab up.
func upPlug(t *testing.T) *lab.Lab {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{"lab.yaml": plugTopology, "objects.yaml": plugObjects()} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return upFrom(t, filepath.Join(dir, "lab.yaml"), false)
}

// plugSpot is an address of an ENI of the lab.
func plugSpot(node string, addr netip.Addr) lab.Spot {
	return lab.Spot{Node: node, Addr: addr, Local: addr}
}

func farSpot(f lab.Family) lab.Spot  { return plugSpot("vm-far", plugAddr(100, 0, f)) }
func nearSpot(f lab.Family) lab.Spot { return plugSpot("vm-near", plugAddr(101, 0, f)) }
func manySpot(eni, i int, f lab.Family) lab.Spot {
	return plugSpot("vm-many", plugAddr(eni, i, f))
}
