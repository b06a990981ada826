// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"golang.org/x/sys/unix"

	"github.com/eniplane/eniplane/pkg/dataplane"
	"github.com/eniplane/eniplane/pkg/lab"
)

// How many ENIs there are on one host: as many as a host may have, in a soak.
const (
	crowdFew  = 100
	crowdMany = 1000
)

// soak tells whether `make soak` runs the tests: then the long versions.
func soak() bool { return os.Getenv("ENIPLANE_SOAK") != "" }

func crowdDevice(i int) string { return fmt.Sprintf("c%d", i) }

func crowdMAC(i int) net.HardwareAddr { return net.HardwareAddr{2, 0, 0, 1, byte(i >> 8), byte(i)} }

func crowdAddr(i int) netip.Addr {
	i += 10 // the first ones are reserved
	return netip.AddrFrom4([4]byte{10, 20, byte(128 + i>>8), byte(i)})
}

// crowdObjects are n ENIs, 8 of each instance.
func crowdObjects(n int) []byte {
	var b strings.Builder
	b.WriteString("apiVersion: eniplane.io/v1alpha1\nkind: Subnet\nmetadata: {name: crowd}\nspec: {vpc: plug, cidrs: [10.20.128.0/20]}\n")
	for i := range n {
		if i%plugENIs == 0 {
			b.WriteString(plugInstance(fmt.Sprintf("i%d", i/plugENIs), "host-a"))
		}
		fmt.Fprintf(&b, "---\napiVersion: eniplane.io/v1alpha1\nkind: ENI\nmetadata: {name: %s}\nspec:\n  subnet: crowd\n  mac: %q\n  ips: [%s]\n  securityGroups: [some]\n",
			crowdDevice(i), crowdMAC(i), crowdAddr(i))
		fmt.Fprintf(&b, "  attachment: {instance: i%d, index: %d, device: %s}\n", i/plugENIs, i%plugENIs, crowdDevice(i))
	}
	return []byte(b.String())
}

// upCrowd brings a lab up with a namespace that holds the guests' ends of the devices of n ENIs, which are not in the feed
// yet, and far.
func upCrowd(t *testing.T, n int) *lab.Lab {
	t.Helper()
	dir := t.TempDir()
	objects := plugBase + plugInstance("vm-crowd", "host-a") + plugInstance("vm-far", "host-b") + plugSubnet(100) +
		plugENI("far", 100, 100, 1, 0, "vm-far", 0, "eni-far")
	for name, text := range map[string]string{"lab.yaml": plugTopology, "objects.yaml": objects} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	l := upFrom(t, filepath.Join(dir, "lab.yaml"), false)
	if err := l.In("vm-crowd", func(crowd *lab.Namespace) error {
		if err := os.WriteFile("/proc/sys/net/ipv6/conf/default/disable_ipv6", []byte("1"), 0); err != nil {
			return err
		}
		return l.In("host-a", func(host *lab.Namespace) error {
			for i := range n {
				if err := host.Join(crowdDevice(i), crowd, crowdDevice(i), 1450); err != nil {
					return err
				}
				end, err := crowd.Netlink().LinkByName(crowdDevice(i))
				if err != nil {
					return err
				}
				if err := crowd.Netlink().LinkSetUp(end); err != nil {
					return err
				}
			}
			return nil
		})
	}); err != nil {
		t.Fatal(err)
	}
	return l
}

// TestCrowd: many ENIs on one host are attached at once, each is itself and no other, an agent that starts again finds
// them, and one more comes and goes among them. How long that takes is told.
func TestCrowd(t *testing.T) {
	n := crowdFew
	if soak() {
		n = crowdMany
	}
	begin := time.Now()
	l := upCrowd(t, n)
	t.Logf("the lab with %d devices is up after %v", n, time.Since(begin).Round(time.Millisecond))
	ctx := context.Background()
	begin = time.Now()
	revision, err := l.PutFeed("crowd.yaml", crowdObjects(n))
	if err != nil {
		t.Fatal(err)
	}
	if err := l.WaitRevisionAll(ctx, revision); err != nil {
		t.Fatal(err)
	}
	t.Logf("cold attach of %d ports: %v from the visible revision on", n, time.Since(begin).Round(time.Millisecond))
	crowdReady(t, l, n)
	c := openCrowd(t, l, n)
	c.everybodyOnce(t, l)
	if err := l.KillAgent("host-a"); err != nil {
		t.Fatal(err)
	}
	begin = time.Now()
	if err := l.StartAgent("host-a"); err != nil {
		t.Fatal(err)
	}
	if err := l.WaitReady(ctx, "host-a"); err != nil {
		t.Fatal(err)
	}
	t.Logf("adoption of %d ports: ready %v after the start of the process", n, time.Since(begin).Round(time.Millisecond))
	crowdReady(t, l, n)
	c.everybodyOnce(t, l)
	for _, attached := range []bool{false, true} {
		begin = time.Now()
		edit(t, l, []lab.Edit{attach(crowdDevice(n-1), attached, fmt.Sprintf("i%d", (n-1)/plugENIs), (n-1)%plugENIs, crowdDevice(n-1))})
		t.Logf("one of %d attached: %v; told as applied after %v", n, attached, time.Since(begin).Round(time.Millisecond))
	}
	crowdReady(t, l, n)
}

// crowdReady wants all ENIs Ready.
func crowdReady(t *testing.T, l *lab.Lab, n int) {
	t.Helper()
	ready := 0
	for end := time.Now().Add(phaseWait); ready != n && time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		ready = 0
		for _, e := range agentStatus(t, l, "host-a").ENIs {
			if e.Phase == "Ready" {
				ready++
			}
		}
	}
	if ready != n {
		t.Fatalf("%d of %d ENIs are Ready\n%s", ready, n, l.LogTail("host-a"))
	}
}

// crowd is a packet socket at all guests' devices, and far's.
type crowd struct {
	fd      int
	devices map[int]int // number of the ENI by ifindex
	index   []int       // the other way round
	far     *net.UDPConn
}

func openCrowd(t *testing.T, l *lab.Lab, n int) *crowd {
	t.Helper()
	c := &crowd{devices: map[int]int{}, index: make([]int, n)}
	if err := l.In("vm-crowd", func(ns *lab.Namespace) (err error) {
		links, err := ns.Netlink().LinkList()
		if err != nil {
			return err
		}
		for _, link := range links {
			var i int
			if _, err := fmt.Sscanf(link.Attrs().Name, "c%d", &i); err == nil {
				c.devices[link.Attrs().Index], c.index[i] = i, link.Attrs().Index
			}
		}
		const ipv4 = unix.ETH_P_IP<<8 | unix.ETH_P_IP>>8 // in network order
		if c.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, ipv4); err != nil {
			return err
		}
		return errors.Join(
			unix.SetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20),
			unix.SetsockoptTimeval(c.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 20000}))
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(c.fd) })
	if len(c.devices) != n {
		t.Fatalf("the guests have %d devices, want %d", len(c.devices), n)
	}
	var err error
	if c.far, err = l.ListenUDP(farSpot(lab.IPv4), plugOpen); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.far.Close() })
	return c
}

// everybodyOnce: a datagram from each ENI arrives at far as that ENI's, one from far at each ENI's device and no other,
// and one to a closed port at none.
func (c *crowd) everybodyOnce(t *testing.T, l *lab.Lab) {
	t.Helper()
	before := counters(t, l)
	missing := map[int]bool{}
	for i := range c.index {
		missing[i] = true
	}
	for end := time.Now().Add(2 * answerWait); len(missing) > 0 && time.Now().Before(end); {
		for i := range missing {
			c.send(t, i)
		}
		c.heardAtFar(t, missing)
	}
	if len(missing) > 0 {
		t.Errorf("of %d ENIs %d do not reach far", len(c.index), len(missing))
	}
	for i := range c.index {
		missing[i] = true
		c.fromFar(t, i, plugShut)
	}
	for end := time.Now().Add(2 * answerWait); len(missing) > 0 && time.Now().Before(end); {
		for i := range missing {
			c.fromFar(t, i, plugOpen)
		}
		c.heardAtGuests(t, missing)
	}
	if len(missing) > 0 {
		t.Errorf("of %d ENIs %d are not reached", len(c.index), len(missing))
	}
	denied := map[string]bool{}
	for _, m := range counters(t, l).Since(before) {
		if m.Direction == dataplane.In && m.Reason == dataplane.ReasonSGDenied {
			denied[m.ENI] = true
		}
	}
	if len(denied) != len(c.index) {
		t.Errorf("the run is void: at %d of %d ENIs a denied datagram was counted", len(denied), len(c.index))
	}
}

func (c *crowd) send(t *testing.T, i int) {
	t.Helper()
	udp := &layers.UDP{SrcPort: 40001, DstPort: plugOpen}
	ip := network(crowdAddr(i), farSpot(lab.IPv4).Addr, udp)
	f := frame(t, &layers.Ethernet{SrcMAC: crowdMAC(i), DstMAC: gatewayMAC, EthernetType: layers.EthernetTypeIPv4},
		ip.(gopacket.SerializableLayer), udp, gopacket.Payload(binary.BigEndian.AppendUint32(nil, uint32(i))))
	if err := unix.Sendto(c.fd, f, 0, &unix.SockaddrLinklayer{Ifindex: c.index[i]}); err != nil {
		t.Fatalf("send from %s: %v", crowdDevice(i), err)
	}
}

func (c *crowd) heardAtFar(t *testing.T, missing map[int]bool) {
	t.Helper()
	b := make([]byte, 64)
	for len(missing) > 0 {
		_ = c.far.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
		n, from, err := c.far.ReadFromUDPAddrPort(b)
		if err != nil {
			return
		}
		i := int(binary.BigEndian.Uint32(b[:max(n, 4)]))
		if i >= len(c.index) || from.Addr().Unmap() != crowdAddr(i) {
			t.Errorf("a datagram of ENI %d arrives from %v", i, from)
			return
		}
		delete(missing, i)
	}
}

func (c *crowd) fromFar(t *testing.T, i int, port uint16) {
	t.Helper()
	if _, err := c.far.WriteToUDPAddrPort(marker, netip.AddrPortFrom(crowdAddr(i), port)); err != nil {
		t.Fatal(err)
	}
}

func (c *crowd) heardAtGuests(t *testing.T, missing map[int]bool) {
	t.Helper()
	b := make([]byte, 2048)
	for len(missing) > 0 {
		n, from, err := unix.Recvfrom(c.fd, b, 0)
		if err != nil {
			return
		}
		ll, ok := from.(*unix.SockaddrLinklayer)
		if !ok || ll.Pkttype == unix.PACKET_OUTGOING || n < 42 || b[23] != unix.IPPROTO_UDP {
			continue
		}
		i, known := c.devices[ll.Ifindex]
		dst, port := netip.AddrFrom4([4]byte(b[30:34])), binary.BigEndian.Uint16(b[36:])
		if !known || dst != crowdAddr(i) || port == plugShut {
			t.Errorf("a datagram to %v port %d arrives at ENI %d", dst, port, i)
			return
		}
		delete(missing, i)
	}
}
