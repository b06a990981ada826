// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/eniplane/eniplane/pkg/compile"
	"github.com/eniplane/eniplane/pkg/dataplane"
	"github.com/eniplane/eniplane/pkg/testroot"
)

// world is a host in a namespace of its own with an uplink, and a namespace that holds the other
// ends of its devices.
type world struct {
	t     testing.TB
	host  *testroot.Namespace
	guest *testroot.Namespace
	opts  Options
}

func newWorld(t testing.TB) *world {
	t.Helper()
	testroot.Require(t)
	w := &world{t: t, host: testroot.Netns(t), guest: testroot.Netns(t)}
	w.opts = Options{
		Host: "host-a", BPFFS: testroot.Pins(t), StateDir: t.TempDir(), MaxFlows: 1024,
		Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
	}
	t.Cleanup(func() {
		err := w.host.Do(func() error { return Teardown(context.Background(), w.opts) })
		if err != nil && !errors.Is(err, ErrNothing) {
			t.Errorf("teardown: %v", err)
		}
	})
	w.veth("uplink0")
	return w
}

// in runs fn in the host's namespace.
func (w *world) in(fn func() error) {
	w.t.Helper()
	if err := w.host.Do(fn); err != nil {
		w.t.Fatal(err)
	}
}

// veth makes a device in the host whose other end, up and of the same name, is in the guest.
func (w *world) veth(name string) {
	w.t.Helper()
	w.in(func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = name
		peer := netlink.NsFd(w.guest.Handle)
		return netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: name, PeerNamespace: peer})
	})
	if err := w.guest.Do(func() error {
		l, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		return netlink.LinkSetUp(l)
	}); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) remove(name string) {
	w.t.Helper()
	w.in(func() error {
		l, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		return netlink.LinkDel(l)
	})
}

func (w *world) device(name string) *netlink.LinkAttrs {
	w.t.Helper()
	var attrs *netlink.LinkAttrs
	w.in(func() error {
		l, err := netlink.LinkByName(name)
		if err == nil {
			attrs = l.Attrs()
		}
		return err
	})
	return attrs
}

// open opens the loader and closes it when the test ends.
func (w *world) open() *Loader {
	w.t.Helper()
	var l *Loader
	w.in(func() (err error) {
		l, err = Open(context.Background(), w.opts)
		return err
	})
	w.t.Cleanup(func() { _ = l.Close() })
	return l
}

func (w *world) apply(l *Loader, st *compile.State) *Report {
	w.t.Helper()
	report, err := w.tryApply(l, st)
	if err != nil {
		w.t.Fatal(err)
	}
	return report
}

func (w *world) tryApply(l *Loader, st *compile.State) (report *Report, err error) {
	w.t.Helper()
	_ = w.host.Do(func() error {
		report, err = l.Apply(context.Background(), st)
		return nil
	})
	return report, err
}

func (w *world) reconcile(l *Loader) *Report {
	w.t.Helper()
	var report *Report
	w.in(func() (err error) {
		report, err = l.Reconcile(context.Background())
		return err
	})
	return report
}

// testState has n local ENIs, port1.. with addresses 10.0.0.1.., that may talk to each other, and
// one remote.
func testState(revision uint64, n int) *compile.State {
	st := &compile.State{
		Revision: revision,
		Host: compile.HostConf{
			Name: "host-a", VTEP: netip.MustParseAddr("192.0.2.1"), Uplinks: []string{"uplink0"},
			GatewayMAC: [6]byte{2, 0, 0x5e, 0, 0, 1}, Infra: 1,
		},
		VTEPs: []compile.VTEP{{VNI: 7, Addr: netip.MustParseAddr("192.0.2.2")}},
		Routes: []compile.Route{
			{Table: 1, Prefix: netip.MustParsePrefix("192.0.2.0/24"), Kind: compile.RouteInfra},
			{Table: 2, Prefix: netip.MustParsePrefix("10.0.0.0/16"), Kind: compile.RouteLocal, Arg: 1},
		},
		Rulesets: []compile.Ruleset{{
			ID: 3, Addrs: 31, Services: 32,
			Verdicts: []compile.Verdict{{Peer: 1, Service: 1, Allow: true, Rule: 1}},
			Rules:    []compile.Rule{{ID: 1, Name: "open/any"}},
		}},
		Addrs:    []compile.AddrTable{{ID: 31, Prefixes: []compile.PeerClass{{Prefix: netip.MustParsePrefix("0.0.0.0/0"), Class: 1}}}},
		Services: []compile.ServiceTable{{ID: 32, Prefixes: []compile.ServiceClass{{Class: 1}}}},
	}
	for i := uint32(1); i <= uint32(n); i++ {
		addENI(st, i, i)
	}
	hop := uint32(2000)
	mac := [6]byte{2, 0, 0, 0, 9, 9}
	st.NextHops = append(st.NextHops, compile.NextHop{Index: hop, ENI: "far", VTEP: netip.MustParseAddr("192.0.2.2"), Generation: 1, VNI: 7, MAC: mac})
	st.Endpoints = append(st.Endpoints, compile.Endpoint{VNI: 7, Addr: netip.MustParseAddr("10.0.9.9"), NextHop: hop})
	st.MACs = append(st.MACs, compile.MAC{VNI: 7, MAC: mac, NextHop: hop})
	return st
}

func addENI(st *compile.State, index, incarnation uint32) {
	name := fmt.Sprintf("eni-%d-%d", index, incarnation)
	device := fmt.Sprintf("port%d", incarnation)
	mac := [6]byte{2, 0, 0, 0, 0, byte(incarnation)}
	hop := 10 + index
	st.ENIs = append(st.ENIs, compile.ENI{
		Name: name, Device: device, Index: index, Incarnation: incarnation, Generation: 1,
		Flows: incarnation, MaxFlows: 100, VNI: 7, Subnet: 1, NextHop: hop, MAC: mac, SGIn: 3, SGOut: 3, Routes: 2,
	})
	st.NextHops = append(st.NextHops, compile.NextHop{Index: hop, ENI: name, Local: index, Generation: 1, VNI: 7, MAC: mac})
	st.Endpoints = append(st.Endpoints, compile.Endpoint{VNI: 7, Addr: netip.AddrFrom4([4]byte{10, 0, 0, byte(incarnation)}), NextHop: hop})
	st.MACs = append(st.MACs, compile.MAC{VNI: 7, MAC: mac, NextHop: hop})
	st.PortNames = append(st.PortNames, device)
}

// rows dumps a map as the CLI would.
func rows[T any](t testing.TB, l *Loader, name string) []T {
	t.Helper()
	var all []T
	err := l.Maps().Dump(name, compile.Names{}, func(row any) error {
		all = append(all, row.(T))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// readyENIs lists the indexes of the ENIs that are READY, by the maps.
func readyENIs(t *testing.T, l *Loader) map[uint32]uint32 {
	t.Helper()
	incarnations := map[uint32]uint32{}
	for _, row := range rows[dataplane.ENIRow](t, l, dataplane.MapENIs) {
		incarnations[row.Index] = row.Incarnation
	}
	ready := map[uint32]uint32{}
	for _, row := range rows[dataplane.LiveRow](t, l, dataplane.MapLive) {
		if row.Incarnation == incarnations[row.Index] {
			ready[row.Index] = row.Incarnation
		}
	}
	return ready
}
