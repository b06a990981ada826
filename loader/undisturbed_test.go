// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"

	"github.com/eniplane/eniplane/pkg/compile"
	"github.com/eniplane/eniplane/pkg/dataplane"
)

// flipWord looks around at the moment of the flip.
type flipWord struct {
	word
	look func()
}

func (f flipWord) store(v uint64) error {
	f.look()
	return f.word.store(v)
}

// calm is a host with one port that is READY, and on which nothing has happened since the last look.
func calm(t *testing.T) (w *world, l *Loader, port int) {
	t.Helper()
	w = newWorld(t)
	w.veth("port1")
	l = w.open()
	port = w.apply(l, testState(1, 1)).ENIs["eni-1-1"].Ifindex
	time.Sleep(1200 * time.Millisecond) // the kernel tells of a carrier up to a second later
	w.reconcile(l)
	return w, l, port
}

// atFlip applies a revision and returns whether the loader had seen at the flip that the guard of the port was gone, and
// whether the port was up without our program.
func (w *world) atFlip(l *Loader, port int, st *compile.State) (guarded, bare bool, report *Report) {
	w.t.Helper()
	old := l.engine.word
	defer func() { l.engine.word = old }()
	flips := 0
	l.engine.word = flipWord{old, func() {
		flips++
		serves, err := linkServes(l.place.link(rolePort, port), port)
		if err != nil {
			w.t.Error(err)
		}
		device, err := netlink.LinkByIndex(port)
		if err != nil {
			w.t.Error(err)
			return
		}
		bare = !serves && isUp(device.Attrs())
		conn, err := nftables.New()
		if err != nil {
			w.t.Error(err)
			return
		}
		chains, err := l.guard.ingress(conn)
		if err != nil {
			w.t.Error(err)
		}
		guarded = slices.Contains(chains, ingressChain("port1"))
	}}
	report = w.apply(l, st)
	if flips != 1 {
		w.t.Errorf("%d flips, want 1", flips)
	}
	return guarded, bare, report
}

// A revision that leaves devices as they are comes into force before anybody looks at them. The look follows: what it
// finds is repaired and reported by the same Apply. After an event of a device the
// look comes first.
func TestLookFollowsUnlessDevicesChanged(t *testing.T) {
	for _, tt := range []struct {
		name   string
		before func() error // an event
		first  bool
	}{
		{name: "rules"},
		{name: "a device changed", first: true, before: func() error {
			d, err := netlink.LinkByName("uplink0")
			if err != nil {
				return err
			}
			return errors.Join(netlink.LinkSetUp(d), netlink.LinkSetDown(d))
		}},
		{name: "a device came", first: true, before: func() error {
			attrs := netlink.NewLinkAttrs()
			attrs.Name = "other0"
			return netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "other1"})
		}},
		{name: "an address came", first: true, before: func() error {
			d, err := netlink.LinkByName("uplink0")
			if err != nil {
				return err
			}
			addr, err := netlink.ParseAddr("192.0.2.1/24")
			if err != nil {
				return err
			}
			return netlink.AddrAdd(d, addr)
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w, l, port := calm(t)
			for _, d := range w.damages(l, port) {
				if d.name == "the port's link" || d.name == "the netdev guard" { // neither makes an event
					w.in(d.do)
				}
			}
			l.events.drain() // the kernel tells of carriers with a delay
			if tt.before != nil {
				w.in(tt.before)
			}
			guarded, bare, report := w.atFlip(l, port, testState(2, 1))
			if guarded != tt.first || bare == tt.first {
				t.Errorf("at the flip: guarded %v, bare %v; looked first must be %v", guarded, bare, tt.first)
			}
			repairs := strings.Join(report.Repairs, "\n")
			if !strings.Contains(repairs, "was up without our program") || report.ENIs["eni-1-1"].Phase != Ready {
				t.Errorf("repairs %q, port %+v: want the bare port closed, repaired and Ready", repairs, report.ENIs["eni-1-1"])
			}
			if serves, err := linkServes(l.place.link(rolePort, port), port); err != nil || !serves {
				t.Errorf("after Apply the port has no program (%v)", err)
			}
			if again := w.reconcile(l); len(again.Repairs) > 0 {
				t.Errorf("still repairing %q", again.Repairs)
			}
		})
	}
}

// What a revision wants of devices: if anything of that differs, the look comes first.
func TestSamePorts(t *testing.T) {
	for name, tt := range map[string]struct {
		same   bool
		change func(st *compile.State)
	}{
		"nothing":             {true, func(*compile.State) {}},
		"rules":               {true, func(st *compile.State) { st.ENIs[0].SGIn, st.ENIs[0].Generation = 0, 2 }},
		"a flow cut":          {true, func(st *compile.State) { st.ENIs[0].Flows = 7 }},
		"another incarnation": {false, func(st *compile.State) { st.ENIs[0].Incarnation = 9 }},
		"another index":       {false, func(st *compile.State) { st.ENIs[0].Index = 9 }},
		"another device":      {false, func(st *compile.State) { st.ENIs[0].Device = "tap9" }},
		"another name":        {false, func(st *compile.State) { st.ENIs[0].Name = "x" }},
		"one ENI less":        {false, func(st *compile.State) { st.ENIs = st.ENIs[1:] }},
		"one ENI more":        {false, func(st *compile.State) { addENI(st, 3, 3) }},
		"a name to guard":     {false, func(st *compile.State) { st.PortNames = append(st.PortNames, "tap9") }},
		"another VTEP":        {false, func(st *compile.State) { st.Host.VTEP = st.Host.VTEP.Next() }},
		"another uplink":      {false, func(st *compile.State) { st.Host.Uplinks = append(st.Host.Uplinks, "up9") }},
		"another MTU":         {false, func(st *compile.State) { st.Host.MTU = 1400 }},
	} {
		st := testState(2, 2)
		tt.change(st)
		if got := samePorts(st, testState(1, 2)); got != tt.same {
			t.Errorf("%s: same %v, want %v", name, got, tt.same)
		}
	}
}

// A port that comes with a revision is closed and prepared before anybody becomes READY there, whatever the last look found.
func TestNewPortIsPreparedBeforeTheFlip(t *testing.T) {
	w, l, _ := calm(t)
	w.veth("port2")
	w.reconcile(l) // no event is left
	guest := w.device("port2")
	w.in(func() error { return setUp(guest) })
	w.reconcile(l)
	old := l.engine.word
	l.engine.word = flipWord{old, func() {
		if serves, err := linkServes(l.place.link(rolePort, guest.Index), guest.Index); err != nil || !serves {
			t.Errorf("at the flip the new port has no program (%v)", err)
		}
		if ready := readyENIs(t, l); len(ready) != 1 {
			t.Errorf("at the flip %v are READY, want the old one", ready)
		}
	}}
	w.apply(l, testState(2, 2))
	l.engine.word = old
	if ready := readyENIs(t, l); len(ready) != 2 {
		t.Errorf("%v are READY, want both", ready)
	}
}

// deaf is a table that cannot be read.
type deaf struct{ table }

var errDeaf = errors.New("cannot be read")

func (deaf) read() ([]dataplane.Entry, error) { return nil, errDeaf }

// What fails in the look that follows is an error of a revision that is in force. From then on a look comes first, as
// long as it fails nothing else comes into force, and when it does not any more the rest is done.
func TestLookThatFailsAfterTheFlip(t *testing.T) {
	w, l, _ := calm(t)
	broken := l.tables[dataplane.MapUplinks]
	l.tables[dataplane.MapUplinks] = deaf{broken}
	report, err := w.tryApply(l, testState(2, 1))
	if !errors.Is(err, errDeaf) || report.Revision != 2 || report.ENIs["eni-1-1"].Phase != Ready {
		t.Errorf("report %+v, error %v; want revision 2 in force, with the error", report, err)
	}
	if report, err = w.tryApply(l, testState(3, 1)); !errors.Is(err, errDeaf) || report.Revision != 2 {
		t.Errorf("report %+v, error %v; want revision 2 to stay", report, err)
	}
	l.tables[dataplane.MapUplinks] = broken
	if report = w.apply(l, testState(3, 1)); report.Revision != 3 || report.ENIs["eni-1-1"].Phase != Ready {
		t.Errorf("report %+v", report)
	}
}
