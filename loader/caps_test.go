// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"

	"github.com/eniplane/eniplane/pkg/compile"
	"github.com/eniplane/eniplane/pkg/dataplane"
)

// cappedState has two ENIs: the first with caps in both directions and an EIP with its own, the second without.
func cappedState(revision uint64, out, in, eip uint32) *compile.State {
	st := testState(revision, 2)
	st.ENIs[0].EgressMbps, st.ENIs[0].IngressMbps = out, in
	st.EIPs = []compile.EIP{{
		Addr: netip.MustParseAddr("203.0.113.1"), ENI: 1, VNI: 7, Private: netip.MustParseAddr("10.0.0.1"), Class: 1, EgressMbps: eip,
	}}
	return st
}

// queues describes the caps of a device: "" = it has none.
func (w *world) queues(name string) (text string) {
	w.t.Helper()
	w.in(func() error {
		l, err := netlink.LinkByName(name)
		if err != nil {
			return nil // as if it had none
		}
		q, err := listQueueing()
		if err != nil || !q.isShaped(l.Attrs().Index) {
			return err
		}
		classes, err := listClasses(l.Attrs().Index)
		if err != nil {
			return err
		}
		leaves := 0
		var groups []string
		for _, c := range classes {
			htb := c.(*netlink.HtbClass)
			switch minor := htb.Handle &^ dataplane.ShapeHandle; {
			case minor == dataplane.ShapeRoot, minor%dataplane.ShapeGroup == 0:
				groups = append(groups, fmt.Sprintf("%x:%d", minor, htb.Ceil*8/1_000_000))
			default:
				leaves++
			}
		}
		slices.Sort(groups)
		text = fmt.Sprintf("%s, %d leaves, %d queues", strings.Join(groups, " "), leaves, q.queues(l.Attrs().Index))
		return nil
	})
	return text
}

// devices lists what there is of shapers.
func (w *world) shapers() (names []string) {
	w.t.Helper()
	w.in(func() error {
		all, err := listDevices()
		for name := range all {
			if strings.HasPrefix(name, nearEnd) || strings.HasPrefix(name, farEnd) {
				names = append(names, name)
			}
		}
		return err
	})
	slices.Sort(names)
	return names
}

// liveOf is what the programs know of an ENI's device.
func liveOf(t *testing.T, l *Loader, index uint32) dataplane.LiveRow {
	t.Helper()
	for _, row := range rows[dataplane.LiveRow](t, l, dataplane.MapLive) {
		if row.Index == index {
			return row
		}
	}
	return dataplane.LiveRow{}
}

// Queues follow the caps of a revision: made before it, changed in place, gone after it. A restart finds them.
func TestCaps(t *testing.T) {
	w := newWorld(t)
	w.veth("port1")
	w.veth("port2")
	l := w.open()
	const leaves = dataplane.ShapeBuckets
	check := func(when, port, shaper string, out, eips, in bool) {
		t.Helper()
		if got := w.queues("port1"); got != port {
			t.Errorf("%s: queues of the port %q, want %q", when, got, port)
		}
		if got := w.queues("eniplane-q1"); got != shaper {
			t.Errorf("%s: queues of the shaper %q, want %q", when, got, shaper)
		}
		if row := liveOf(t, l, 1); row.CapOut != out || row.CapEIPs != eips || row.CapIn != in || (row.Shaper != 0) != (out || eips) {
			t.Errorf("%s: the programs know %+v", when, row)
		}
		if got := w.queues("port2"); got != "" {
			t.Errorf("%s: another ENI has queues %q", when, got)
		}
		if n := len(w.shapers()); n != 0 && shaper == "" || n != 2 && shaper != "" {
			t.Errorf("%s: shapers %v", when, w.shapers())
		}
	}
	tree := func(groups string, n int) string { return fmt.Sprintf("%s, %d leaves, %d queues", groups, n, n) }
	w.apply(l, cappedState(1, 0, 0, 0))
	check("no cap", "", "", false, false, false)
	w.apply(l, cappedState(2, 100, 50, 0))
	check("caps", tree("1:50 20:50", leaves), tree("1:100 20:100 40:100", 2*leaves), true, false, true)
	near := w.device("eniplane-q1").Index
	w.apply(l, cappedState(3, 200, 60, 20))
	check("other caps", tree("1:60 20:60", leaves), tree("1:200 20:200 40:20", 2*leaves), true, false, true)
	if got := w.device("eniplane-q1").Index; got != near {
		t.Errorf("another cap made another shaper")
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l = w.open()
	w.apply(l, cappedState(4, 200, 60, 20))
	check("after a restart", tree("1:60 20:60", leaves), tree("1:200 20:200 40:20", 2*leaves), true, false, true)
	if got := w.device("eniplane-q1").Index; got != near {
		t.Errorf("a restart made another shaper")
	}
	w.apply(l, cappedState(5, 0, 0, 20))
	check("only the EIP's", "", tree("1:1000000 20:1000000 40:20", 2*leaves), false, true, false)
	next := cappedState(6, 30, 0, 0)
	next.ENIs[0].Incarnation, next.ENIs[0].Flows = 9, 9
	w.apply(l, next)
	check("another incarnation", "", tree("1:30 20:30 40:30", 2*leaves), true, false, false)
	if got := w.device("eniplane-q1"); got.Index == near || !strings.Contains(got.Alias, "incarnation 9 ") {
		t.Errorf("another incarnation has the shaper of the one before: %+v", got)
	}
	w.apply(l, testState(7, 2))
	check("no cap any more", "", "", false, false, false)
}

// What somebody changes of queues and shapers is put right.
func TestCapsRepaired(t *testing.T) {
	w := newWorld(t)
	w.veth("port1")
	w.veth("port2")
	l := w.open()
	w.apply(l, cappedState(1, 100, 50, 0))
	whole := []string{w.queues("port1"), w.queues("eniplane-q1")}
	for name, harm := range map[string]func() error{
		"the port's queues": func() error { return removeTree(w.device("port1").Index) },
		"the shaper":        func() error { return removeDevice(w.device("eniplane-q1")) },
		"a class": func() error {
			c := htbClass{minor: dataplane.ShapeRoot, rate: 7_000_000, ceil: 7_000_000, quantum: mostQuantum}
			return c.put(w.device("port1").Index)
		},
		"the program": func() error {
			return removePin(l.place.link(roleShaper, w.device("eniplane-r1").Index))
		},
		"a device that is down": func() error { return setDown(w.device("eniplane-r1")) },
	} {
		t.Run(name, func(t *testing.T) {
			w.in(harm)
			w.reconcile(l)
			if diff := cmp.Diff(whole, []string{w.queues("port1"), w.queues("eniplane-q1")}); diff != "" {
				t.Errorf("queues (-want +got):\n%s", diff)
			}
			if row := liveOf(t, l, 1); int(row.Shaper) != w.device("eniplane-q1").Index || !row.CapIn || !row.CapOut {
				t.Errorf("the programs know %+v", row)
			}
			far := w.device("eniplane-r1")
			if !isUp(far) {
				t.Error("the far end is down")
			}
			w.in(func() error {
				serves, err := linkServes(l.place.link(roleShaper, far.Index), far.Index)
				if !serves {
					t.Error("the far end has no program")
				}
				return err
			})
		})
	}
}

// A cap that cannot be kept closes an ENI that is new, and leaves one that is open as it was.
func TestCapsFail(t *testing.T) {
	w := newWorld(t)
	w.veth("port1")
	w.veth("port2")
	w.veth("eniplane-q1") // somebody else's
	l := w.open()
	w.apply(l, testState(1, 1))
	st := cappedState(2, 100, 0, 0)
	st.ENIs[1].EgressMbps = 10
	report := w.apply(l, st)
	if s := report.ENIs["eni-1-1"]; s.Phase != Degraded || !strings.Contains(s.Message, "not as we make them") || !strings.Contains(s.Message, "pass as before") {
		t.Errorf("an open ENI whose cap cannot be kept: %+v", s)
	}
	if readyENIs(t, l)[1] == 0 {
		t.Error("an open ENI was closed because its cap cannot be kept")
	}
	if row := liveOf(t, l, 1); row.CapOut || row.Shaper != 0 {
		t.Errorf("the programs know of a cap that is not kept: %+v", row)
	}
	if s := report.ENIs["eni-2-2"]; s.Phase != Ready {
		t.Errorf("another ENI: %+v", s)
	}
	w.remove("port2")
	w.veth("eniplane-q3")
	st = cappedState(3, 100, 0, 0)
	addENI(st, 3, 3)
	st.ENIs[2].EgressMbps = 10
	w.veth("port3")
	if s := w.apply(l, st).ENIs["eni-3-3"]; s.Phase != Degraded || strings.Contains(s.Message, "pass as before") || readyENIs(t, l)[3] != 0 {
		t.Errorf("a new ENI whose cap cannot be kept: %+v", s)
	}
}

// A pair that was made and not yet marked as ours, because its maker died or was told of an error, is in nobody's way.
func TestHalfMadeShaper(t *testing.T) {
	w := newWorld(t)
	w.veth("port1")
	w.veth("port2")
	w.in(func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = shaperNames(1)[0]
		return netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: shaperNames(1)[1]})
	})
	if s := w.apply(w.open(), cappedState(1, 100, 0, 0)).ENIs["eni-1-1"]; s.Phase != Ready || w.queues(shaperNames(1)[0]) == "" {
		t.Errorf("the ENI is %+v, its queues %q", s, w.queues(shaperNames(1)[0]))
	}
}

// A teardown leaves no queues.
func TestTeardownOfCaps(t *testing.T) {
	w := newWorld(t)
	w.veth("port1")
	w.veth("port2")
	l := w.open()
	w.apply(l, cappedState(1, 100, 50, 0))
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	w.in(func() error { return Teardown(t.Context(), w.opts) })
	if got := w.queues("port1"); got != "" || len(w.shapers()) != 0 {
		t.Errorf("left behind: queues %q, devices %v", got, w.shapers())
	}
}
