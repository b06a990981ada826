// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"

	"github.com/eniplane/eniplane/pkg/compile"
	"github.com/eniplane/eniplane/pkg/dataplane"
)

func TestApplyMakesPortsReady(t *testing.T) {
	w := newWorld(t)
	w.veth("port1")
	l := w.open()
	report := w.apply(l, testState(5, 2))

	if report.Revision != 5 || report.ENIs["eni-1-1"].Phase != Ready || report.ENIs["eni-2-2"].Phase != Waiting {
		t.Errorf("report = %+v", report)
	}
	if diff := cmp.Diff(map[uint32]uint32{1: 1}, readyENIs(t, l)); diff != "" {
		t.Errorf("ready ENIs (-want +got):\n%s", diff)
	}
	if !isUp(w.device("port1")) {
		t.Error("a ready port is down")
	}
	active := rows[dataplane.ActiveRow](t, l, dataplane.MapActive)
	if diff := cmp.Diff([]dataplane.ActiveRow{{Revision: 5, Slot: 1}}, active); diff != "" {
		t.Errorf("active (-want +got):\n%s", diff)
	}
	if got := len(rows[dataplane.NextHopRow](t, l, dataplane.MapNextHops)); got != 4 {
		t.Errorf("%d next hops, want 2 local, 1 remote, the internet", got)
	}

	w.veth("port2")
	if report = w.reconcile(l); report.ENIs["eni-2-2"].Phase != Ready {
		t.Errorf("the device came, but the report is %+v", report)
	}
	if diff := cmp.Diff(map[uint32]uint32{1: 1, 2: 2}, readyENIs(t, l)); diff != "" {
		t.Errorf("ready ENIs (-want +got):\n%s", diff)
	}
}

func TestSecondAgentIsRefused(t *testing.T) {
	w := newWorld(t)
	w.open()
	err := w.host.Do(func() error {
		_, err := Open(context.Background(), w.opts)
		return err
	})
	if !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), "host-a") {
		t.Errorf("second Open: %v, want ErrLocked that names the host", err)
	}
}

// Two agents of one host that were given different state directories.
func TestSecondAgentElsewhereIsRefused(t *testing.T) {
	w := newWorld(t)
	w.open()
	other := w.opts
	other.StateDir = t.TempDir()
	err := w.host.Do(func() error {
		_, err := Open(context.Background(), other)
		return err
	})
	if !errors.Is(err, ErrLocked) {
		t.Errorf("second Open: %v, want ErrLocked", err)
	}
}

// Two hosts need two network namespaces.
func TestSecondHostIsRefused(t *testing.T) {
	w := newWorld(t)
	w.open()
	other := w.opts
	other.Host = "host-b"
	err := w.host.Do(func() error {
		_, err := Open(context.Background(), other)
		return err
	})
	if err == nil || !strings.Contains(err.Error(), "this network namespace is that of host host-a") {
		t.Errorf("Open of another host: %v", err)
	}
}

// What is wrong with the host itself is a problem, not an error: its ENIs still reach each other.
func TestProblemsOfTheHost(t *testing.T) {
	w := newWorld(t)
	w.in(func() error {
		uplink, err := netlink.LinkByName("uplink0")
		if err != nil {
			return err
		}
		return netlink.LinkSetDown(uplink)
	})
	l := w.open()
	st := testState(5, 1)
	st.Host.Uplinks = []string{"uplink0", "uplink1"}
	report := w.apply(l, st)
	want := []string{
		"uplink uplink0 is down", "uplink uplink1 does not exist",
		"VTEP " + st.Host.VTEP.String() + " is not an address of this host",
	}
	if diff := cmp.Diff(want, report.Problems); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	w.in(func() error {
		uplink, err := netlink.LinkByName("uplink0")
		if err != nil {
			return err
		}
		return errors.Join(
			netlink.LinkSetUp(uplink),
			netlink.AddrAdd(uplink, &netlink.Addr{IPNet: netlink.NewIPNet(st.Host.VTEP.AsSlice())}),
		)
	})
	want = []string{"uplink uplink1 does not exist"}
	if diff := cmp.Diff(want, w.reconcile(l).Problems); diff != "" {
		t.Errorf("after the repair (-want +got):\n%s", diff)
	}
}

// In another network namespace the same numbers and names are other devices.
func TestOtherNamespaceIsRefused(t *testing.T) {
	w := newWorld(t)
	w.veth("port1")
	l := w.open()
	w.apply(l, testState(5, 1))
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	elsewhere := map[string]func() error{
		"Teardown": func() error { return Teardown(context.Background(), w.opts) },
		"Open": func() error {
			_, err := Open(context.Background(), w.opts)
			return err
		},
	}
	for name, do := range elsewhere {
		if err := w.guest.Do(do); err == nil || !strings.Contains(err.Error(), "another network namespace") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := w.guest.Do(func() error {
		for _, name := range []string{"uplink0", "port1"} {
			if l, err := netlink.LinkByName(name); err != nil || !isUp(l.Attrs()) {
				t.Errorf("%s of the other namespace was touched (%v)", name, err)
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	w.open() // the right one still works
}

// Readers open the pins, also with the agent dead, and say what is wrong.
func TestOpenPinned(t *testing.T) {
	w := newWorld(t)
	dir := dataplane.PinDir(w.opts.BPFFS, w.opts.Host)
	if _, err := dataplane.OpenPinned(dir, true); !errors.Is(err, dataplane.ErrNotLoaded) || !strings.Contains(err.Error(), dir) {
		t.Errorf("nothing is pinned: %v, want ErrNotLoaded that names the directory", err)
	}
	l := w.open()
	w.apply(l, testState(5, 1))
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	maps, err := dataplane.OpenPinned(dir, true)
	if err != nil {
		t.Fatal(err)
	}
	defer maps.Close()
	if revision, slot, err := maps.Active(); revision != 5 || slot != 1 || err != nil {
		t.Errorf("Active() = %d, %d, %v", revision, slot, err)
	}
	for _, name := range maps.Names() {
		if err := maps.Dump(name, compile.Names{}, func(any) error { return nil }); err != nil {
			t.Error(err)
		}
	}
	pin := filepath.Join(dataplane.MapsDir(dir), dataplane.PinnedName(dataplane.MapLive))
	if err := os.Remove(pin); err != nil {
		t.Fatal(err)
	}
	if _, err := dataplane.OpenPinned(dir, true); err == nil || !strings.Contains(err.Error(), pin) || !strings.Contains(err.Error(), "missing") {
		t.Errorf("one pin is missing: %v", err)
	}
	w.apply(w.open(), testState(6, 1))
	if maps, err := dataplane.OpenPinned(dir, true); err != nil {
		t.Errorf("the agent made the pin again, but: %v", err)
	} else {
		_ = maps.Close()
	}
}

// A table that is too small is an error that says so, and the old revision stays.
func TestFullTableChangesNothing(t *testing.T) {
	w := newWorld(t)
	w.veth("port1")
	l := w.open()
	w.apply(l, testState(1, 1))
	st := testState(2, 1)
	for i := range 1<<17 + 1 {
		st.EIPs = append(st.EIPs, compile.EIP{
			Addr: netip.AddrFrom4([4]byte{203, byte(i >> 16), byte(i >> 8), byte(i)}), ENI: 1, VNI: 7,
			Private: netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}),
		})
	}
	report, err := w.tryApply(l, st)
	if err == nil || !strings.Contains(err.Error(), "eip_in4") || !strings.Contains(err.Error(), "full") {
		t.Errorf("too many EIPs: %v, want an error that names the table", err)
	}
	if report.Revision != 1 {
		t.Errorf("revision %d is in force", report.Revision)
	}
	if left := rows[dataplane.EIPInRow](t, l, "eip_in4"); len(left) != 0 {
		t.Errorf("%d EIPs are left", len(left))
	}
	if diff := cmp.Diff(map[uint32]uint32{1: 1}, readyENIs(t, l)); diff != "" {
		t.Errorf("READY (-want +got):\n%s", diff)
	}
	if report := w.apply(l, testState(3, 1)); report.Revision != 3 {
		t.Errorf("revision %d is in force, want 3", report.Revision)
	}
}

// The counter of a rule's id begins at zero when another rule gets it, and only then.
func TestRuleHits(t *testing.T) {
	w := newWorld(t)
	l := w.open()
	hits := func() map[uint32]uint64 {
		t.Helper()
		all := map[uint32]uint64{}
		for _, row := range rows[dataplane.RuleHitsRow](t, l, dataplane.MapRuleHits) {
			all[row.ID] = row.Hits
		}
		return all
	}
	count := func(ids ...uint32) {
		t.Helper()
		for _, id := range ids {
			if err := l.Maps().Map(dataplane.MapRuleHits).Put(id, uint64(id)*10); err != nil {
				t.Fatal(err)
			}
		}
	}
	count(1, 2, 3)
	state := func(revision uint64, ids ...compile.RuleID) *compile.State {
		st := testState(revision, 1)
		st.RuleIDs = ids
		return st
	}
	one, two := compile.RuleID{ID: 1, Revision: 5}, compile.RuleID{ID: 2, Revision: 6}
	w.apply(l, state(5, one))
	if diff := cmp.Diff(map[uint32]uint64{2: 20, 3: 30}, hits()); diff != "" {
		t.Errorf("the first rule (-want +got):\n%s", diff)
	}
	count(1)
	// An id that a revision gave out which never came into force.
	w.apply(l, state(7, one, two))
	if diff := cmp.Diff(map[uint32]uint64{1: 10, 3: 30}, hits()); diff != "" {
		t.Errorf("a rule more (-want +got):\n%s", diff)
	}
	count(2)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l = w.open()
	w.apply(l, state(7, one, two))
	w.apply(l, state(8, one, two))
	if diff := cmp.Diff(map[uint32]uint64{1: 10, 2: 20, 3: 30}, hits()); diff != "" {
		t.Errorf("nothing new, after a restart (-want +got):\n%s", diff)
	}
}
