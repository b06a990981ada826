// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"encoding/hex"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/eniplane/eniplane/pkg/testroot"
)

var testMAC = net.HardwareAddr{2, 0, 0, 0, 0, 9}

func TestGratuitousARP(t *testing.T) {
	addr := netip.MustParseAddr("203.0.113.10")
	p := gopacket.NewPacket(announcement(testMAC, addr), layers.LayerTypeEthernet, gopacket.Default)
	if p.ErrorLayer() != nil {
		t.Fatal(p.ErrorLayer().Error())
	}
	eth := p.Layer(layers.LayerTypeEthernet).(*layers.Ethernet)
	if eth.DstMAC.String() != "ff:ff:ff:ff:ff:ff" || eth.SrcMAC.String() != testMAC.String() {
		t.Errorf("frame goes %s -> %s", eth.SrcMAC, eth.DstMAC)
	}
	arp := p.Layer(layers.LayerTypeARP).(*layers.ARP)
	if arp.Operation != layers.ARPRequest {
		t.Errorf("operation %d, want a request", arp.Operation)
	}
	if diff := cmp.Diff(addr.AsSlice(), arp.SourceProtAddress); diff != "" {
		t.Errorf("sender address: %s", diff)
	}
	if diff := cmp.Diff(addr.AsSlice(), arp.DstProtAddress); diff != "" {
		t.Errorf("target address: %s", diff)
	}
	if diff := cmp.Diff([]byte(testMAC), arp.SourceHwAddress); diff != "" {
		t.Errorf("sender MAC: %s", diff)
	}
}

func TestUnsolicitedNA(t *testing.T) {
	addr := netip.MustParseAddr("2001:db8::10")
	frame := announcement(testMAC, addr)
	p := gopacket.NewPacket(frame, layers.LayerTypeEthernet, gopacket.Default)
	if p.ErrorLayer() != nil {
		t.Fatal(p.ErrorLayer().Error())
	}
	ip := p.Layer(layers.LayerTypeIPv6).(*layers.IPv6)
	if ip.HopLimit != 255 || ip.DstIP.String() != "ff02::1" || ip.SrcIP.String() != addr.String() {
		t.Errorf("IPv6 header: %v", ip)
	}
	na := p.Layer(layers.LayerTypeICMPv6NeighborAdvertisement).(*layers.ICMPv6NeighborAdvertisement)
	if na.Flags != 0x20 || na.TargetAddress.String() != addr.String() {
		t.Errorf("advertisement: %+v", na)
	}
	want := layers.ICMPv6Options{{Type: layers.ICMPv6OptTargetAddress, Data: testMAC}}
	if diff := cmp.Diff(want, na.Options); diff != "" {
		t.Errorf("options: %s", diff)
	}

	// An independent implementation must compute the same bytes, checksum included.
	icmp := p.Layer(layers.LayerTypeICMPv6).(*layers.ICMPv6)
	if err := icmp.SetNetworkLayerForChecksum(ip); err != nil {
		t.Fatal(err)
	}
	buf := gopacket.NewSerializeBuffer()
	opts := gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}
	eth := p.Layer(layers.LayerTypeEthernet).(*layers.Ethernet)
	if err := gopacket.SerializeLayers(buf, opts, eth, ip, icmp, na); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(hex.Dump(buf.Bytes()), hex.Dump(frame)); diff != "" {
		t.Errorf("frame (-independent +ours): %s", diff)
	}
}

// TestAnnouncementOnTheWire sends through a real device and reads at its other end.
func TestAnnouncementOnTheWire(t *testing.T) {
	testroot.Require(t)
	ns := testroot.Netns(t)
	for _, addr := range []string{"203.0.113.10", "2001:db8::10"} {
		t.Run(addr, func(t *testing.T) {
			err := ns.Do(func() error { return announceOverVeth(t, netip.MustParseAddr(addr)) })
			if err != nil {
				t.Fatal(err)
			}
		})
	}
}

func announceOverVeth(t *testing.T, addr netip.Addr) error {
	veth := &netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: "up0", HardwareAddr: testMAC}, PeerName: "wire0",
	}
	if err := netlink.LinkAdd(veth); err != nil {
		return wrap(err, "add veth")
	}
	defer func() { _ = netlink.LinkDel(veth) }()
	peer, err := netlink.LinkByName("wire0")
	if err != nil {
		return wrap(err, "find the peer")
	}
	for _, l := range []netlink.Link{veth, peer} {
		if err := netlink.LinkSetUp(l); err != nil {
			return wrap(err, "set %s up", l.Attrs().Name)
		}
	}
	const all = unix.ETH_P_ALL<<8&0xff00 | unix.ETH_P_ALL>>8
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, all)
	if err != nil {
		return wrap(err, "open a packet socket")
	}
	defer func() { _ = unix.Close(fd) }()
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: peer.Attrs().Index}); err != nil {
		return wrap(err, "bind")
	}
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 5}); err != nil {
		return wrap(err, "set a timeout")
	}
	if err := (PacketAnnouncer{}).Announce("up0", addr); err != nil {
		return err
	}
	want := hex.Dump(announcement(testMAC, addr))
	buf := make([]byte, 2048)
	for { // the kernel's own router solicitations and MLD reports are on the wire too
		n, _, err := unix.Recvfrom(fd, buf, 0)
		if err != nil {
			return wrap(err, "wait for the announcement")
		}
		if hex.Dump(buf[:n]) == want {
			return nil
		}
	}
}

type recordingAnnouncer struct {
	sent []string
	fail bool
}

func (r *recordingAnnouncer) Announce(uplink string, addr netip.Addr) error {
	r.sent = append(r.sent, uplink+" "+addr.String())
	if r.fail {
		return errors.New("no such device")
	}
	return nil
}

func always(netip.Addr) bool { return true }

// An EIP that has moved away is another host's to announce.
func TestAnnounceStopsWhenMoved(t *testing.T) {
	r := &recordingAnnouncer{}
	announceAll(context.Background(), r, slog.New(slog.DiscardHandler), time.Nanosecond, []string{"u0"},
		[]netip.Addr{netip.MustParseAddr("203.0.113.10"), netip.MustParseAddr("203.0.113.11")},
		func(addr netip.Addr) bool { return len(r.sent) < 2 || addr.As4()[3] == 11 })
	want := []string{"u0 203.0.113.10", "u0 203.0.113.11", "u0 203.0.113.11", "u0 203.0.113.11"}
	if diff := cmp.Diff(want, r.sent); diff != "" {
		t.Error(diff)
	}
}

func TestAnnounceRepeats(t *testing.T) {
	addrs := []netip.Addr{netip.MustParseAddr("203.0.113.10")}
	for _, fail := range []bool{false, true} {
		r := &recordingAnnouncer{fail: fail}
		announceAll(context.Background(), r, slog.New(slog.DiscardHandler), time.Nanosecond, []string{"u0", "u1"}, addrs, always)
		want := []string{
			"u0 203.0.113.10", "u1 203.0.113.10", "u0 203.0.113.10",
			"u1 203.0.113.10", "u0 203.0.113.10", "u1 203.0.113.10",
		}
		if diff := cmp.Diff(want, r.sent); diff != "" {
			t.Errorf("fail=%v: %s", fail, diff)
		}
	}
}

func TestAnnounceStopsWithContext(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	r := &recordingAnnouncer{}
	announceAll(ctx, r, slog.New(slog.DiscardHandler), time.Hour, []string{"u0"},
		[]netip.Addr{netip.MustParseAddr("203.0.113.10")}, always)
	if len(r.sent) != 1 {
		t.Errorf("sent %v after the end", r.sent)
	}
}
