// SPDX-License-Identifier: Apache-2.0

package announce

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
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
	for _, addr := range []string{"203.0.113.10", "2001:db8::10"} {
		t.Run(addr, func(t *testing.T) {
			err := testroot.Netns(t).Do(func() error { return announceOverVeth(t, netip.MustParseAddr(addr)) })
			if err != nil {
				t.Fatal(err)
			}
		})
	}
}

func announceOverVeth(t *testing.T, addr netip.Addr) error {
	end, err := overVeth(t)
	if err != nil {
		return err
	}
	at, err := kernel{}.find("up0")
	if err != nil {
		return err
	}
	if err := (kernel{}).send(at, announcement(at.mac[:], addr)); err != nil {
		return err
	}
	want := hex.Dump(announcement(testMAC, addr))
	buf := make([]byte, 2048)
	for { // the kernel's own router solicitations and MLD reports are on the wire too
		read, _, err := unix.Recvfrom(end, buf, 0)
		if err != nil {
			return fmt.Errorf("wait for the announcement: %w", err)
		}
		if hex.Dump(buf[:read]) == want {
			return nil
		}
	}
}

// overVeth makes an uplink up0 and a socket that hears what is sent there.
func overVeth(t *testing.T) (int, error) {
	veth := &netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: "up0", HardwareAddr: testMAC}, PeerName: "wire0",
	}
	if err := netlink.LinkAdd(veth); err != nil {
		return 0, fmt.Errorf("add veth: %w", err)
	}
	peer, err := netlink.LinkByName("wire0")
	if err != nil {
		return 0, fmt.Errorf("find the peer: %w", err)
	}
	for _, l := range []netlink.Link{veth, peer} {
		if err := netlink.LinkSetUp(l); err != nil {
			return 0, fmt.Errorf("set %s up: %w", l.Attrs().Name, err)
		}
	}
	const all = unix.ETH_P_ALL<<8&0xff00 | unix.ETH_P_ALL>>8
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, all)
	if err != nil {
		return 0, fmt.Errorf("open a packet socket: %w", err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: peer.Attrs().Index}); err != nil {
		return 0, fmt.Errorf("bind: %w", err)
	}
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 5}); err != nil {
		return 0, fmt.Errorf("set a timeout: %w", err)
	}
	return fd, nil
}

// TestGroups: the uplink listens to the groups of what is held and of nothing else that was put there by hand; two
// addresses of one group need it once; the groups outlive who asked for them.
func TestGroups(t *testing.T) {
	testroot.Require(t)
	ns := testroot.Netns(t)
	err := ns.Do(func() error {
		veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "up0", HardwareAddr: testMAC}, PeerName: "wire0"}
		if err := netlink.LinkAdd(veth); err != nil {
			return fmt.Errorf("add veth: %w", err)
		}
		six := func(last ...string) (addrs []netip.Addr) {
			for _, l := range last {
				addrs = append(addrs, netip.MustParseAddr("2001:db8:"+l))
			}
			return addrs
		}
		steps := []struct {
			held []netip.Addr
			want []string
		}{
			{six("1::10", "2::10", "1::ab:cdef"), []string{"3333ff000010", "3333ffabcdef"}},
			{six("2::10", "1::11"), []string{"3333ff000010", "3333ff000011"}},
			{nil, nil},
			{six("1::12"), []string{"3333ff000012"}},
		}
		for _, s := range steps {
			if err := (kernel{}).listen("up0", s.held); err != nil {
				return err
			}
			if err := wantGroups(t, s.want); err != nil {
				return err
			}
		}
		if err := Silence("up0"); err != nil {
			return err
		}
		return wantGroups(t, nil)
	})
	if err != nil {
		t.Fatal(err)
	}
}

func wantGroups(t *testing.T, want []string) error {
	found, err := groups("up0")
	if err != nil {
		return err
	}
	var have []string
	for mac := range found {
		have = append(have, hex.EncodeToString(mac[:]))
	}
	slices.Sort(have)
	if diff := cmp.Diff(want, have); diff != "" {
		t.Errorf("groups: %s", diff)
	}
	return nil
}

// fakeWire keeps what was sent.
type fakeWire struct {
	mu     sync.Mutex
	sent   []string
	groups []string
	mac    byte
	fail   bool
	onSend func(n int)
}

func (f *fakeWire) find(uplink string) (port, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if uplink == "gone" {
		return port{}, errors.New("no such device")
	}
	return port{index: int(uplink[1]), mac: [6]byte{2, f.mac}}, nil
}

func (f *fakeWire) send(at port, frame []byte) error {
	f.mu.Lock()
	f.sent = append(f.sent, fmt.Sprintf("u%c %d", at.index, frame[len(frame)-1]))
	n, fail, then := len(f.sent), f.fail, f.onSend
	f.mu.Unlock()
	if then != nil {
		then(n)
	}
	if fail {
		return errors.New("it is down")
	}
	return nil
}

func (f *fakeWire) listen(uplink string, addrs []netip.Addr) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.groups = append(f.groups, fmt.Sprint(uplink, addrs))
	return nil
}

func (f *fakeWire) all() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	sent := f.sent
	f.sent = nil
	return sent
}

func public(last ...byte) []netip.Addr {
	var addrs []netip.Addr
	for _, l := range last {
		addrs = append(addrs, netip.AddrFrom4([4]byte{203, 0, 113, l}))
	}
	return addrs
}

func fakeNeighbours() (*Neighbours, *fakeWire) {
	f := &fakeWire{}
	return newNeighbours(slog.New(slog.DiscardHandler), f, time.Nanosecond), f
}

func wantSent(t *testing.T, n *Neighbours, f *fakeWire, what string, want ...string) {
	t.Helper()
	n.Wait()
	if diff := cmp.Diff(want, f.all()); diff != "" {
		t.Errorf("%s: %s", what, diff)
	}
}

// Three times each, on each uplink; saying it again does nothing; only what is new is announced.
func TestAnnounce(t *testing.T) {
	n, f := fakeNeighbours()
	ctx := context.Background()
	both := Held{Uplinks: []string{"u0", "u1"}, Addrs: public(10)}
	n.Announce(ctx, both)
	wantSent(t, n, f, "new", "u0 10", "u1 10", "u0 10", "u1 10", "u0 10", "u1 10")
	n.Announce(ctx, both)
	wantSent(t, n, f, "the same")
	both.Addrs = public(10, 11)
	n.Announce(ctx, both)
	wantSent(t, n, f, "one more", "u0 11", "u1 11", "u0 11", "u1 11", "u0 11", "u1 11")
	both.Addrs = public(11)
	n.Announce(ctx, both)
	wantSent(t, n, f, "one less")
	both.Addrs, both.Uplinks = public(10, 11), []string{"u0"}
	n.Announce(ctx, both)
	wantSent(t, n, f, "it is back", "u0 10", "u0 10", "u0 10")
	f.mac = 9
	n.Announce(ctx, both)
	wantSent(t, n, f, "another MAC", "u0 10", "u0 11", "u0 10", "u0 11", "u0 10", "u0 11")
	n.Withdraw()
	n.Announce(ctx, Held{Uplinks: []string{"u0"}, Addrs: public(11)})
	wantSent(t, n, f, "after Withdraw", "u0 11", "u0 11", "u0 11")
}

// What may be somebody else's is not announced, but taken.
func TestQuiet(t *testing.T) {
	n, f := fakeNeighbours()
	held := Held{Uplinks: []string{"u0"}, Addrs: []netip.Addr{netip.MustParseAddr("2001:db8::1")}, Quiet: true}
	n.Announce(context.Background(), held)
	wantSent(t, n, f, "quiet")
	if diff := cmp.Diff([]string{"u0[2001:db8::1]"}, f.groups); diff != "" {
		t.Errorf("groups: %s", diff)
	}
	held.Quiet = false
	n.Announce(context.Background(), held)
	n.Wait()
	if len(f.all()) != announceCount {
		t.Error("what was quiet is not announced when it is sure")
	}
	if len(f.groups) != 1 {
		t.Errorf("groups were set again: %v", f.groups)
	}
}

// An EIP that has moved away is another host's to announce.
func TestAnnounceStopsWhenMoved(t *testing.T) {
	n, f := fakeNeighbours()
	moved := Held{Uplinks: []string{"u0"}, Addrs: public(11)}
	f.onSend = func(sent int) {
		if sent == 2 {
			n.Announce(context.Background(), moved)
		}
	}
	n.Announce(context.Background(), Held{Uplinks: []string{"u0"}, Addrs: public(10, 11)})
	wantSent(t, n, f, "moved after one round", "u0 10", "u0 11", "u0 11", "u0 11")
}

// Failures are said as long as they last, and what never got out is tried again.
func TestAnnounceFails(t *testing.T) {
	n, f := fakeNeighbours()
	held := Held{Uplinks: []string{"u0", "gone"}, Addrs: public(10)}
	f.fail = true
	n.Announce(context.Background(), held)
	wantSent(t, n, f, "down", "u0 10", "u0 10", "u0 10")
	if diff := cmp.Diff([]string{"announce EIPs: it is down", "announce EIPs: no such device"}, n.Problems()); diff != "" {
		t.Errorf("problems: %s", diff)
	}
	f.fail = false
	held.Uplinks = []string{"u0"}
	n.Announce(context.Background(), held)
	wantSent(t, n, f, "up again", "u0 10", "u0 10", "u0 10")
	if p := n.Problems(); len(p) > 0 {
		t.Errorf("problems %v although all was sent", p)
	}
}

func TestAnnounceStopsWithContext(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	n, f := fakeNeighbours()
	n.every = time.Hour
	n.Announce(ctx, Held{Uplinks: []string{"u0"}, Addrs: public(10)})
	wantSent(t, n, f, "one round", "u0 10")
}
