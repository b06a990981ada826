// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/eniplane/eniplane/pkg/compile"
	"github.com/eniplane/eniplane/pkg/dataplane"
	"github.com/eniplane/eniplane/pkg/dataplane/flowtable"
)

// farVTEP is the VTEP of testState's other host.
var farVTEP = netip.MustParseAddr("192.0.2.2")

// underlaid is a world with an underlay: addresses of both hosts on the wire between them.
func underlaid(t *testing.T) *world {
	t.Helper()
	w := newWorld(t)
	w.in(func() error { return errors.Join(addAddress("uplink0", "192.0.2.1/24"), setUpByName("uplink0")) })
	w.far(func() error { return addAddress("uplink0", farVTEP.String()+"/24") })
	return w
}

// far runs fn on the other host.
func (w *world) far(fn func() error) {
	w.t.Helper()
	if err := w.guest.Do(fn); err != nil {
		w.t.Fatal(err)
	}
}

func addAddress(device, cidr string) error {
	l, err := netlink.LinkByName(device)
	if err != nil {
		return err
	}
	addr, err := netlink.ParseAddr(cidr)
	if err != nil {
		return err
	}
	return netlink.AddrAdd(l, addr)
}

func setUpByName(device string) error {
	l, err := netlink.LinkByName(device)
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(l)
}

// farMAC is the MAC of the other host's uplink.
func (w *world) farMAC() (mac [6]byte) {
	w.t.Helper()
	w.far(func() error {
		l, err := netlink.LinkByName("uplink0")
		if err == nil {
			mac = [6]byte(l.Attrs().HardwareAddr)
		}
		return err
	})
	return mac
}

// wayTo is the MAC by which packets leave to a VTEP, as the programs see it, and whether there is one at all.
func wayTo(t testing.TB, l *Loader, vtep netip.Addr) (mac [6]byte, open bool) {
	t.Helper()
	now, err := flowtable.Now()
	if err != nil {
		t.Fatal(err)
	}
	exits := map[uint16]bool{}
	for _, e := range rows[dataplane.ExitRow](t, l, dataplane.MapExits) {
		exits[uint16(e.Index)] = e.Until >= now
	}
	for _, bucket := range rows[dataplane.WaysRow](t, l, dataplane.MapVTEPWays) {
		for _, way := range bucket.Ways {
			if way.VTEP != vtep.String() {
				continue
			}
			parsed, err := net.ParseMAC(way.MAC)
			if err != nil {
				t.Fatal(err)
			}
			return [6]byte(parsed), exits[way.Exit]
		}
	}
	return mac, false
}

// wayOpens waits until packets to a VTEP leave by a MAC, wayCloses until they take the kernel's way.
func (w *world) wayOpens(l *Loader, vtep netip.Addr, mac [6]byte, why string) {
	w.t.Helper()
	eventually(w.t, why, func() bool {
		got, open := wayTo(w.t, l, vtep)
		return open && got == mac
	})
}

func (w *world) wayCloses(l *Loader, vtep netip.Addr, why string) {
	w.t.Helper()
	eventually(w.t, why, func() bool {
		_, open := wayTo(w.t, l, vtep)
		return !open
	})
}

// A neighbour may change between the subscription and the first look, and after a look that failed.
func TestNeighbourBeforeTheFirstLook(t *testing.T) {
	u := &underlay{}
	n := neighbour{hop: hop{ifindex: 1, addr: netip.MustParseAddr("192.168.100.2")}}
	u.learn(n)
	n.gone = true
	u.learn(n)
	if len(u.neighbours) > 0 {
		t.Errorf("%d neighbours are known before anybody looked", len(u.neighbours))
	}
}

// The ways are what the kernel's neighbours and routes are, whatever happens to them.
func TestWaysFollowTheKernel(t *testing.T) {
	w := underlaid(t)
	l := w.open()
	w.apply(l, testState(1, 0))
	w.wayOpens(l, farVTEP, w.farMAC(), "the neighbour is found")

	moved := [6]byte{2, 0, 0, 0, 0xbb, 1}
	w.far(func() error {
		link, err := netlink.LinkByName("uplink0")
		if err != nil {
			return err
		}
		return netlink.LinkSetHardwareAddr(link, moved[:])
	})
	w.in(func() error { return setNeighbour("uplink0", farVTEP, moved, netlink.NUD_REACHABLE) }) // as a gratuitous ARP does
	w.wayOpens(l, farVTEP, moved, "the MAC changed")

	w.in(func() error { return setMTU("uplink0", 1400) })
	w.wayCloses(l, farVTEP, "the uplink carries less than the overlay's packets")
	w.in(func() error { return setMTU("uplink0", 1500) })
	w.wayOpens(l, farVTEP, moved, "the MTU is right again")

	w.in(func() error { return setDownByName("uplink0") })
	w.wayCloses(l, farVTEP, "the uplink is down")
	w.in(func() error { return setUpByName("uplink0") })
	w.wayOpens(l, farVTEP, moved, "the uplink is up again")
}

// What decides by more than addresses, or about more than the way, is left to the kernel.
func TestWaysLeaveToTheKernel(t *testing.T) {
	w := underlaid(t)
	l := w.open()
	w.apply(l, testState(1, 0))
	mac := w.farMAC()
	w.wayOpens(l, farVTEP, mac, "the neighbour is found")
	gateway, routerMAC := netip.MustParseAddr("192.0.2.77"), [6]byte{2, 0, 0, 0, 0xbb, 7}
	w.in(func() error { return setNeighbour("uplink0", gateway, routerMAC, netlink.NUD_PERMANENT) })
	host := &net.IPNet{IP: farVTEP.AsSlice(), Mask: net.CIDRMask(32, 32)}
	uplink := w.device("uplink0").Index
	marked := netlink.NewRule()
	marked.Mark, marked.Table, marked.Priority, marked.Family = 7, 100, 50, unix.AF_INET
	byGateway := netlink.Route{Dst: host, Gw: gateway.AsSlice(), LinkIndex: uplink}
	narrow := netlink.Route{Dst: host, LinkIndex: uplink, MTU: 1400, Scope: netlink.SCOPE_LINK}
	several := netlink.Route{Dst: host, MultiPath: []*netlink.NexthopInfo{
		{LinkIndex: uplink, Gw: gateway.AsSlice()}, {LinkIndex: uplink, Gw: net.IPv4(192, 0, 2, 78)},
	}}
	nowhere := netlink.Route{Dst: host, Type: unix.RTN_BLACKHOLE}
	route := func(r netlink.Route, closes bool, why string) {
		w.in(func() error { return netlink.RouteAdd(&r) })
		if closes {
			w.wayCloses(l, farVTEP, why)
		} else {
			w.wayOpens(l, farVTEP, routerMAC, why)
		}
		w.in(func() error { return netlink.RouteDel(&r) })
		w.wayOpens(l, farVTEP, mac, why+", and no more")
	}
	route(byGateway, false, "a route by a gateway")
	route(narrow, true, "a route with a smaller MTU")
	route(several, true, "several next hops")
	route(nowhere, true, "a blackhole")
	w.in(func() error { return netlink.RuleAdd(marked) })
	w.wayCloses(l, farVTEP, "a rule by mark")
	w.in(func() error { return netlink.RuleDel(marked) })
	w.wayOpens(l, farVTEP, mac, "no such rule")
}

// When the loader is closed its lease ends at once; if it died, soon. What it asked the kernel for goes with a teardown.
func TestWaysEndWithTheLoader(t *testing.T) {
	w := underlaid(t)
	l := w.open()
	w.apply(l, testState(1, 0))
	w.wayOpens(l, farVTEP, w.farMAC(), "the neighbour is found")
	now, err := flowtable.Now()
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range rows[dataplane.ExitRow](t, l, dataplane.MapExits) {
		if e.Until > now+leaseTicks+4 { // renewed meanwhile
			t.Errorf("exit %+v at tick %d: a lease is for %d ticks", e, now, leaseTicks)
		}
	}
	if n := w.managed(); !slices.Equal(n, []netip.Addr{farVTEP}) {
		t.Errorf("the kernel manages %v, want %v", n, farVTEP)
	}
	pinned := l.Maps().Map(dataplane.MapExits)
	clone, err := pinned.Clone()
	if err != nil {
		t.Fatal(err)
	}
	defer clone.Close()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	words := make([]uint64, 2)
	for i := range uint32(dataplane.MaxExits) {
		if err := clone.Lookup(i, words); err != nil {
			t.Fatal(err)
		}
		if e := dataplane.ExitOf([2]uint64(words)); e.Until != 0 {
			t.Errorf("exit %+v has a lease after Close", e)
		}
	}
	w.in(func() error { return Teardown(t.Context(), w.opts) })
	if n := w.managed(); n != nil {
		t.Errorf("after the teardown the kernel manages %v", n)
	}
}

// A host that is gone from the feed is no neighbour to be kept, and its place can be another's.
func TestWaysComeAndGo(t *testing.T) {
	w := underlaid(t)
	l := w.open()
	w.apply(l, testState(1, 0))
	w.wayOpens(l, farVTEP, w.farMAC(), "the neighbour is found")
	other := netip.MustParseAddr("192.0.2.3")
	w.far(func() error { return addAddress("uplink0", other.String()+"/24") })
	st := testState(2, 0)
	st.VTEPs = []compile.VTEP{{VNI: 7, Addr: other}}
	w.apply(l, st)
	w.wayOpens(l, other, w.farMAC(), "a new host")
	w.wayCloses(l, farVTEP, "the host is gone")
	eventually(t, "the neighbour is forgotten", func() bool { return slices.Equal(w.managed(), []netip.Addr{other}) })
}

// managed are the neighbours that the kernel keeps for us.
func (w *world) managed() (addrs []netip.Addr) {
	w.t.Helper()
	w.in(func() error {
		all, err := listNeighbours()
		for h, n := range all {
			if n.ours && n.managed {
				addrs = append(addrs, h.addr)
			}
		}
		return err
	})
	return addrs
}

func setNeighbour(device string, addr netip.Addr, mac [6]byte, state int) error {
	l, err := netlink.LinkByName(device)
	if err != nil {
		return err
	}
	return netlink.NeighSet(&netlink.Neigh{LinkIndex: l.Attrs().Index, IP: addr.AsSlice(), HardwareAddr: mac[:], State: state})
}

func setMTU(device string, mtu int) error {
	l, err := netlink.LinkByName(device)
	if err != nil {
		return err
	}
	return netlink.LinkSetMTU(l, mtu)
}

func setDownByName(device string) error {
	l, err := netlink.LinkByName(device)
	if err != nil {
		return err
	}
	return netlink.LinkSetDown(l)
}

// More VTEPs than a bucket has places for: the rest are the kernel's. A place that becomes free is given away.
func TestWayTable(t *testing.T) {
	memory := &mapping{memory: make([]byte, dataplane.WayBuckets*64), size: 64}
	table := &wayTable{memory: memory}
	table.adopt()
	var same [][4]byte // of one bucket
	for i := uint32(0); len(same) < dataplane.WaysPerBucket+1; i++ {
		vtep := [4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}
		if dataplane.WayBucket(vtep) == 77 {
			same = append(same, vtep)
		}
	}
	ways := map[[4]byte]dataplane.Way{}
	for i, vtep := range same[:dataplane.WaysPerBucket] {
		ways[vtep] = dataplane.Way{VTEP: vtep, MAC: [6]byte{2, 0, 0, 0, 0, byte(i)}, Exit: 1}
	}
	check := func(why string) {
		t.Helper()
		if err := table.set(ways); err != nil {
			t.Fatal(err)
		}
		got := map[[4]byte]dataplane.Way{}
		for bucket := range uint32(dataplane.WayBuckets) {
			for i := range dataplane.WaysPerBucket {
				if w := table.load(wayPlace{bucket, i}); w.Exit != 0 {
					got[w.VTEP] = w
				}
			}
		}
		for vtep, w := range ways {
			if got[vtep] != w {
				t.Errorf("%s: way to %v is %+v, want %+v", why, vtep, got[vtep], w)
			}
		}
		if len(got) != len(ways) {
			t.Errorf("%s: %d ways, want %d", why, len(got), len(ways))
		}
	}
	check("a full bucket")
	last := dataplane.Way{VTEP: same[dataplane.WaysPerBucket], MAC: [6]byte{2, 9}, Exit: 1}
	ways[last.VTEP] = last
	if err := table.set(ways); err != nil {
		t.Fatal(err)
	}
	delete(ways, last.VTEP)
	check("one too many")
	delete(ways, same[0])
	ways[last.VTEP] = last
	check("a place is free")
	again := &wayTable{memory: memory}
	again.adopt()
	table = again
	ways[same[1]] = dataplane.Way{VTEP: same[1], MAC: [6]byte{2, 8}, Exit: 2}
	check("adopted, and one moved")
}
