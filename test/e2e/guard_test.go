// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"net"
	"os"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"github.com/eniplane/eniplane/pkg/lab"
)

// The addresses of host-a, where the tenant must not get: its VTEP and its IPv6 address.
const (
	vtepA  = "192.168.100.1"
	hostA6 = "fd00:100::c0a8:6401"
)

// TestGuard: with the agent dead, a port is deleted and made again, and brought up by somebody: no
// program is on it. Nothing that the tenant sends reaches a socket of the host, whatever its port,
// and nothing leaves the host. Then the guards are taken away, to see that it was them.
func TestGuard(t *testing.T) {
	l := up(t, false)
	if err := l.KillAgent("host-a"); err != nil {
		t.Fatal(err)
	}
	if err := l.UnplugPort("a2"); err != nil {
		t.Fatal(err)
	}
	if err := l.PlugPort("a2"); err != nil {
		t.Fatal(err)
	}
	if err := l.FlapPort("a2"); err != nil { // leaves it up
		t.Fatal(err)
	}
	frames := tenantFrames(t, deviceMAC(t, l, "host-a", "eni-a2"))
	// To a neighbour, which answers with an ICMP error as soon as the port is back.
	legitimate := datagram(t, macA2, gatewayMAC, "10.0.1.20", "10.0.1.40", 53)
	stack := delivered(t, l, "host-a")
	elsewhere := []*sniffer{
		sniff(t, l, "host-a", "eniplane0"), sniff(t, l, "underlay", "host0-0"),
		sniff(t, l, "vm-a1", guestDevice), sniff(t, l, internetNode, internetDev),
	}
	sendAll(t, l, append(frames, legitimate))
	if n := seenBy(stack); n != 0 {
		t.Errorf("%d packets of the tenant reached the host's stack through a bare port", n)
	}
	if n := seenBy(elsewhere); n != 0 {
		t.Errorf("%d packets of the tenant left the host or reached another port", n)
	}
	allowed(t, l, probe{from: "a1", to: "b1", protocol: "tcp", port: 80}) // nobody else is harmed

	dropGuards(t, l, "host-a", "eni-a2")
	sendAll(t, l, frames)
	if seenBy(stack) == 0 {
		t.Error("without guards nothing reached the host's stack either, so the silence above proves nothing")
	}
	if err := l.StartAgent("host-a"); err != nil {
		t.Fatal(err)
	}
	waitPhase(t, l, "host-a", "a2", "Ready")
	before := seenBy(stack)
	sendAll(t, l, frames)
	if n := seenBy(stack) - before; n != 0 {
		t.Errorf("%d packets reached the host's stack although the agent is back", n)
	}
	allowed(t, l, probe{from: "a2", to: "b1", protocol: "tcp", port: 80})
}

func sendAll(t *testing.T, l *lab.Lab, frames [][]byte) {
	t.Helper()
	for _, f := range frames {
		if err := l.SendFrame("vm-a2", guestDevice, f); err != nil {
			t.Fatal(err)
		}
	}
	time.Sleep(4 * silence)
}

func deviceMAC(t *testing.T, l *lab.Lab, node, device string) (mac net.HardwareAddr) {
	t.Helper()
	if err := l.In(node, func(n *lab.Namespace) error {
		dev, err := n.Netlink().LinkByName(device)
		if err == nil {
			mac = dev.Attrs().HardwareAddr
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return mac
}

// tenantFrames is everything by which a tenant could try to reach the host: its own device as the
// next hop or everybody, any port, also the overlay's, as itself or as a neighbour of the host.
func tenantFrames(t *testing.T, port net.HardwareAddr) [][]byte {
	t.Helper()
	var frames [][]byte
	for _, dst := range []net.HardwareAddr{port, broadcast, gatewayMAC} {
		for _, udp := range []uint16{4789, 5555, 53, 9966} {
			for _, src := range []string{"10.0.1.20", "192.168.100.2", "198.51.100.7"} {
				frames = append(frames, datagram(t, macA2, dst, src, vtepA, udp))
			}
			frames = append(frames, datagram(t, macA2, dst, "fd00:1:0:1::20", hostA6, udp))
		}
		frames = append(frames,
			datagram(t, macA2, dst, "10.0.1.20", "10.0.1.1", 53),
			datagram(t, macA2, dst, "192.168.100.2", "192.168.100.254", 53),
			vxlanFrame(t, dst))
	}
	allNodes := net.HardwareAddr{0x33, 0x33, 0, 0, 0, 1}
	return append(frames, datagram(t, macA2, allNodes, "fe80::ff:fe00:a02", "ff02::1", 53))
}

// vxlanFrame looks like a packet of the overlay from the other host, for a neighbour of the tenant.
func vxlanFrame(t *testing.T, dst net.HardwareAddr) []byte {
	t.Helper()
	ip := &layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolUDP, SrcIP: net.IP{192, 168, 100, 2}, DstIP: net.IP{192, 168, 100, 1}}
	udp := &layers.UDP{SrcPort: 50000, DstPort: 4789}
	inner := datagram(t, macA2, macA1, "10.0.1.20", "10.0.1.10", 53)
	return frame(t,
		&layers.Ethernet{SrcMAC: macA2, DstMAC: dst, EthernetType: layers.EthernetTypeIPv4},
		ip, udp, gopacket.Payload(append([]byte{0x08, 0, 0, 0, 0, 0x07, 0xd1, 0}, inner...)))
}

// dropGuards takes away what protects a bare port: the nftables guards and the strict source check.
func dropGuards(t *testing.T, l *lab.Lab, host, device string) {
	t.Helper()
	if err := l.In(host, func(*lab.Namespace) error {
		c, err := nftables.New()
		if err != nil {
			return err
		}
		tables, err := c.ListTables()
		if err != nil {
			return err
		}
		if len(tables) == 0 {
			t.Error("the host has no nftables guard")
		}
		c.FlushRuleset()
		if err := c.Flush(); err != nil {
			return err
		}
		for _, name := range []string{"all", device} {
			if err := os.WriteFile("/proc/sys/net/ipv4/conf/"+name+"/rp_filter", []byte("0"), 0); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

// TestPortMadeAgain: a device that comes and goes ends as an ordinary ENI again.
func TestPortMadeAgain(t *testing.T) {
	l := common(t)
	for range 3 {
		if err := l.UnplugPort("a2"); err != nil {
			t.Fatal(err)
		}
		if err := l.PlugPort("a2"); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), answerWait)
	defer cancel()
	from, to, err := l.Spots("a2", "b1", lab.IPv4)
	if err != nil {
		t.Fatal(err)
	}
	for {
		answer, err := l.Probe(ctx, lab.Probe{From: from, To: to, Protocol: "tcp", Port: 80, Wait: 500 * time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		if answer.Allowed {
			return
		}
		if ctx.Err() != nil {
			t.Fatalf("a2 does not come up again: %v\n%s", answer.Why, l.LogTail("host-a"))
		}
	}
}
