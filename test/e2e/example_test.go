// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"net/netip"
	"os"
	"testing"

	"github.com/eniplane/eniplane/pkg/dataplane"
	"github.com/eniplane/eniplane/pkg/lab"
)

// TestRoutingExample: examples/routing.yaml does what it says.
func TestRoutingExample(t *testing.T) {
	l := upFrom(t, "../../examples/routing-lab.yaml", false)
	firewall, err := os.ReadFile("../../examples/routing-firewall.nft")
	if err != nil {
		t.Fatal(err)
	}
	run(t, l, "vm-fw", "", "sysctl", "-q", "-w", "net.ipv4.ip_forward=1")
	run(t, l, "vm-fw", string(firewall), "nft", "-f", "-")
	for _, p := range []probe{
		{from: internetNode, to: "203.0.113.10"}, {from: internetNode, to: "203.0.113.11"}, {from: "web", to: "db"}, {from: "db", to: "web"},
		{from: "db", to: internetNode}, {from: "web", to: "shop"}, {from: "shop", to: "web"},
	} {
		p.protocol, p.port = "tcp", 443
		allowed(t, l, p)
	}
	before := counters(t, l)
	src, dst := spots(t, l, "web", "db", lab.IPv4)
	exchangeTCP(t, l, src, dst, megabytes, func() {})
	if in, out := packetsAt(t, l, before, "fw"); in < 200 || out < 200 {
		t.Errorf("from web to db: %d packets came to fw and %d from it", in, out)
	}
	_, internet := spots(t, l, "web", internetNode, lab.IPv4)
	private, fw := netip.MustParseAddr("10.0.1.11"), netip.MustParseAddr("203.0.113.20")
	own := netip.MustParseAddr("203.0.113.11")
	for port, want := range map[uint16]netip.Addr{25: fw, 443: own} {
		x := call(t, l, lab.Spot{Node: "vm-web", Addr: own, Local: private}, internet, port)
		if x.caller() != want {
			t.Errorf("port %d of the internet sees %s as %s, want %s", port, private, x.caller(), want)
		}
		x.hangUp()
	}
	denied(t, l, probe{from: "web", to: "198.18.1.1", protocol: "icmp"}, "web", dataplane.Out, dataplane.ReasonBlackhole)
	denied(t, l, probe{from: "db", to: "shop", protocol: "tcp", port: 443}, "fw", dataplane.Out, dataplane.ReasonNotPeered)
	balanced(t, l)
}
