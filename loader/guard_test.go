// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// probe is a host with addresses on its uplink and sockets that a tenant would like to reach.
type probe struct {
	*world
	sockets []*net.UDPConn
}

var probePorts = []int{vxlanPort, 9999}

func newProbe(t *testing.T, w *world) *probe {
	p := &probe{world: w}
	w.in(func() error {
		uplink, err := netlink.LinkByName("uplink0")
		if err != nil {
			return err
		}
		if err := netlink.LinkSetUp(uplink); err != nil {
			return err
		}
		for _, text := range []string{"192.0.2.1/24", "2001:db8::1/64"} {
			addr, err := netlink.ParseAddr(text)
			if err != nil {
				return err
			}
			addr.Flags = unix.IFA_F_NODAD
			if err := netlink.AddrAdd(uplink, addr); err != nil {
				return err
			}
		}
		for _, port := range probePorts {
			for _, network := range []string{"udp4", "udp6"} {
				c, err := net.ListenUDP(network, &net.UDPAddr{Port: port})
				if err != nil {
					return fmt.Errorf("listen on %s port %d: %w", network, port, err)
				}
				t.Cleanup(func() { _ = c.Close() })
				p.sockets = append(p.sockets, c)
			}
		}
		return nil
	})
	return p
}

// heard counts the datagrams that reached the sockets since the last call.
func (p *probe) heard() int {
	count := 0
	for _, c := range p.sockets {
		for {
			_ = c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
			if _, _, err := c.ReadFrom(make([]byte, 64)); err != nil {
				break
			}
			count++
		}
	}
	return count
}

// attack sends, from the guest's end of a device, datagrams of both families to all sockets with
// unicast and broadcast MACs, and an ARP request. It returns the number of ARP replies.
func (p *probe) attack(device string) (replies int) {
	p.t.Helper()
	target := p.device(device).HardwareAddr
	err := p.guest.Do(func() error {
		l, err := netlink.LinkByName(device)
		if err != nil {
			return err
		}
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(htons(unix.ETH_P_ALL)))
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ALL), Ifindex: l.Attrs().Index}); err != nil {
			return err
		}
		if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 200000}); err != nil {
			return err
		}
		for _, frame := range p.frames(l.Attrs().HardwareAddr, target) {
			if _, err := unix.Write(fd, frame); err != nil {
				return err
			}
		}
		replies = countARPReplies(fd)
		return nil
	})
	if err != nil {
		p.t.Fatal(err)
	}
	return replies
}

func (p *probe) frames(from, to net.HardwareAddr) [][]byte {
	var all [][]byte
	for _, mac := range []net.HardwareAddr{to, layers.EthernetBroadcast} {
		for _, port := range probePorts {
			udp := &layers.UDP{SrcPort: 1000, DstPort: layers.UDPPort(port)}
			ip4 := &layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolUDP, SrcIP: ip("192.0.2.77"), DstIP: ip("192.0.2.1")}
			all = append(all, p.frame(&layers.Ethernet{SrcMAC: from, DstMAC: mac, EthernetType: layers.EthernetTypeIPv4}, ip4, udp))
			udp6 := &layers.UDP{SrcPort: 1000, DstPort: layers.UDPPort(port)}
			ip6 := &layers.IPv6{Version: 6, HopLimit: 64, NextHeader: layers.IPProtocolUDP, SrcIP: ip("2001:db8::77"), DstIP: ip("2001:db8::1")}
			all = append(all, p.frame(&layers.Ethernet{SrcMAC: from, DstMAC: mac, EthernetType: layers.EthernetTypeIPv6}, ip6, udp6))
		}
	}
	arp := &layers.ARP{
		AddrType: layers.LinkTypeEthernet, Protocol: layers.EthernetTypeIPv4, HwAddressSize: 6, ProtAddressSize: 4,
		Operation: layers.ARPRequest, SourceHwAddress: from, SourceProtAddress: ip("192.0.2.77"),
		DstHwAddress: make([]byte, 6), DstProtAddress: ip("192.0.2.1"),
	}
	return append(all, p.frame(&layers.Ethernet{SrcMAC: from, DstMAC: layers.EthernetBroadcast, EthernetType: layers.EthernetTypeARP}, arp))
}

func (p *probe) frame(all ...gopacket.SerializableLayer) []byte {
	p.t.Helper()
	for i, l := range all {
		if udp, is := l.(*layers.UDP); is {
			if err := udp.SetNetworkLayerForChecksum(all[i-1].(gopacket.NetworkLayer)); err != nil {
				p.t.Fatal(err)
			}
		}
	}
	buffer := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(buffer, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, all...); err != nil {
		p.t.Fatal(err)
	}
	return buffer.Bytes()
}

func ip(text string) net.IP { return netip.MustParseAddr(text).AsSlice() }

func htons(v uint16) uint16 { return v<<8 | v>>8 }

func countARPReplies(fd int) (replies int) {
	frame := make([]byte, 2048)
	for {
		n, err := unix.Read(fd, frame)
		if err != nil {
			return replies
		}
		if n > 21 && frame[12] == 8 && frame[13] == 6 && frame[21] == 2 {
			replies++
		}
	}
}

// up sets a port up behind the loader's back.
func (p *probe) up(name string) {
	p.t.Helper()
	p.in(func() error {
		l, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		return netlink.LinkSetUp(l)
	})
}

func (p *probe) mustHearNothing(when string) {
	p.t.Helper()
	if replies := p.attack("port1"); replies != 0 {
		p.t.Errorf("%s: the host answered %d ARP requests of a tenant", when, replies)
	}
	if n := p.heard(); n != 0 {
		p.t.Errorf("%s: %d datagrams of a tenant reached host sockets", when, n)
	}
}

// With the agent dead and its links deleted, with the VXLAN device gone, and with the port made
// again by somebody: no datagram of the tenant reaches the host, and no ARP is answered. The last
// step takes the guards away and proves that the probe hears what is to be heard.
func TestGuardsHoldWithoutProgram(t *testing.T) {
	w := newWorld(t)
	w.veth("port1")
	l := w.open()
	w.apply(l, testState(1, 1))
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	w.remove(VXLANDevice) // its socket holds the port that the probe listens on
	p := newProbe(t, w)
	p.mustHearNothing("with programs")

	pins, err := filepath.Glob(filepath.Join(w.opts.BPFFS, w.opts.Host, "links", "*"))
	if err != nil || len(pins) == 0 {
		t.Fatalf("links %v: %v", pins, err)
	}
	for _, pin := range pins {
		if err := os.Remove(pin); err != nil {
			t.Fatal(err)
		}
	}
	time.Sleep(300 * time.Millisecond) // the kernel ends links after their last reference went
	p.mustHearNothing("without links")

	w.in(func() error { return nftDelete(nftables.TableFamilyNetdev, l.guard.table) })
	p.mustHearNothing("with the guards by name only")
	w.remove("port1")
	w.veth("port1")
	p.up("port1")
	p.mustHearNothing("with the port made again")

	w.in(func() error {
		_, err := l.guard.ensureIngress([]string{"port1"})
		return err
	})
	for _, family := range []nftables.TableFamily{nftables.TableFamilyINet, nftables.TableFamilyARP} {
		w.in(func() error { return nftDelete(family, l.guard.table) })
	}
	p.mustHearNothing("with the guard of the device only")

	w.in(func() error { return l.guard.remove() })
	w.in(func() error {
		_, err := setSysctls([]sysctl{{"ipv4/conf/port1/rp_filter", "0"}, {"ipv4/conf/all/rp_filter", "0"}, {"ipv4/conf/port1/arp_ignore", "0"}})
		return err
	})
	if replies := p.attack("port1"); replies == 0 {
		t.Error("without guards no ARP is answered either: the probe proves nothing")
	}
	if n := p.heard(); n < 2 {
		t.Errorf("without guards only %d datagrams arrive: the probe proves nothing", n)
	}
}

// A port found up and bare is reported and closed before anything else.
func TestBarePortIsReported(t *testing.T) {
	w := newWorld(t)
	w.veth("port1")
	p := newProbe(t, w)
	p.up("port1")
	p.attack("port1")
	if p.heard() == 0 {
		t.Fatal("a bare port delivers nothing: the probe proves nothing")
	}
	for _, c := range p.sockets[:2] {
		_ = c.Close() // the overlay's port
	}
	p.sockets = p.sockets[2:]
	report := w.apply(w.open(), testState(1, 1))
	if len(report.Repairs) != 1 || report.ENIs["eni-1-1"].Phase != Ready {
		t.Errorf("report %+v, want the bare port as repaired and Ready", report)
	}
	p.mustHearNothing("after Apply")
}
