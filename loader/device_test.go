// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables"
	"github.com/vishvananda/netlink"

	"github.com/eniplane/eniplane/pkg/dataplane"
	"github.com/eniplane/eniplane/pkg/testroot"
)

// linkIDs returns the kernel's ids of all pinned links.
func (w *world) linkIDs() map[string]link.ID {
	w.t.Helper()
	pins, err := filepath.Glob(filepath.Join(w.opts.BPFFS, w.opts.Host, "links", "*"))
	if err != nil {
		w.t.Fatal(err)
	}
	ids := map[string]link.ID{}
	for _, pin := range pins {
		l, err := link.LoadPinnedLink(pin, nil)
		if err != nil {
			w.t.Fatal(err)
		}
		info, err := l.Info()
		if err != nil {
			w.t.Fatal(err)
		}
		ids[filepath.Base(pin)] = info.ID
		if err := l.Close(); err != nil {
			w.t.Fatal(err)
		}
	}
	return ids
}

// A new agent adopts maps, links, READY marks and counters; it only replaces the programs in the
// slots.
func TestRestartAdopts(t *testing.T) {
	w := newWorld(t)
	w.veth("port1")
	l := w.open()
	w.apply(l, testState(5, 1))
	links := w.linkIDs()
	if len(links) != 4 {
		t.Fatalf("links %v, want port, vxlan, uplink, xdp", links)
	}
	counters := l.Maps().Map(dataplane.MapCounters)
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		t.Fatal(err)
	}
	values := make([][2]uint64, cpus)
	values[0] = [2]uint64{7, 700}
	if err := counters.Put(uint32(2*64+20), values); err != nil {
		t.Fatal(err)
	}
	before, err := counters.Info()
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}

	l = w.open()
	if report := l.Status(); report.Revision != 5 {
		t.Errorf("revision after the restart is %d, want 5", report.Revision)
	}
	if diff := cmp.Diff(map[uint32]uint32{1: 1}, readyENIs(t, l)); diff != "" {
		t.Errorf("READY before the first Apply (-want +got):\n%s", diff)
	}
	report := w.apply(l, testState(5, 1))
	if report.Written != 0 || report.Deleted != 0 || len(report.Repairs) != 0 {
		t.Errorf("the same revision again is no change, but the report is %+v", report)
	}
	if diff := cmp.Diff(links, w.linkIDs()); diff != "" {
		t.Errorf("links (-want +got):\n%s", diff)
	}
	after, err := l.Maps().Map(dataplane.MapCounters).Info()
	if err != nil {
		t.Fatal(err)
	}
	idBefore, _ := before.ID()
	if idAfter, _ := after.ID(); idAfter != idBefore {
		t.Errorf("the counters are another map: %d, was %d", idAfter, idBefore)
	}
	want := []dataplane.Counter{{ENI: 1, Direction: dataplane.Out, Reason: dataplane.ReasonSGDenied, Packets: 7, Bytes: 700}}
	if diff := cmp.Diff(want, denials(t, l)); diff != "" {
		t.Errorf("counters of ENI 1 (-want +got):\n%s", diff)
	}

	st := testState(6, 0)
	addENI(st, 1, 4)
	w.apply(l, st)
	if got := denials(t, l); got != nil {
		t.Errorf("another ENI took the index and inherits %+v", got)
	}
}

// denials are counters that only the test writes.
func denials(t *testing.T, l *Loader) []dataplane.Counter {
	t.Helper()
	var got []dataplane.Counter
	if err := l.Maps().Counters(func(c dataplane.Counter) bool {
		if c.Reason == dataplane.ReasonSGDenied {
			got = append(got, c)
		}
		return true
	}, 1); err != nil {
		t.Fatal(err)
	}
	return got
}

// A device that is made again under its name is another device: it is closed, then opened.
func TestDeviceMadeAgain(t *testing.T) {
	w := newWorld(t)
	w.veth("port1")
	l := w.open()
	first := w.apply(l, testState(1, 1)).ENIs["eni-1-1"].Ifindex
	w.remove("port1")
	report := w.reconcile(l)
	if report.ENIs["eni-1-1"].Phase != Waiting || len(readyENIs(t, l)) != 0 {
		t.Errorf("device gone, report %+v, READY %v", report, readyENIs(t, l))
	}
	if ports := rows[dataplane.PortRow](t, l, dataplane.MapPorts); len(ports) != 0 {
		t.Errorf("device gone, ports %+v", ports)
	}
	w.veth("port1")
	report = w.reconcile(l)
	status := report.ENIs["eni-1-1"]
	if status.Phase != Ready || status.Ifindex == first {
		t.Errorf("device came again, status %+v (first ifindex %d)", status, first)
	}
	for name := range w.linkIDs() {
		if name == fmt.Sprintf("port_%d", first) {
			t.Errorf("the pin %s of the old device is left", name)
		}
	}
}

// damage is what somebody could do to a host, and what the report must say of it.
type damage struct {
	name   string
	repair string
	do     func() error
}

func (w *world) damages(l *Loader, port int) []damage {
	links := filepath.Join(w.opts.BPFFS, w.opts.Host, "links")
	return []damage{
		{"the port's link", "was up without our program", func() error {
			return os.Remove(filepath.Join(links, fmt.Sprintf("port_%d", port)))
		}},
		{"the uplink's link", "uplink uplink0", func() error {
			return os.Remove(filepath.Join(links, fmt.Sprintf("uplink_%d", w.device("uplink0").Index)))
		}},
		{"the uplink's XDP link", "uplink uplink0", func() error {
			return os.Remove(filepath.Join(links, fmt.Sprintf("xdp_%d", w.device("uplink0").Index)))
		}},
		{"the inet guard", "nftables table", func() error {
			return nftDelete(nftables.TableFamilyINet, l.guard.table)
		}},
		{"the netdev guard", "without its nftables guard", func() error {
			return nftDelete(nftables.TableFamilyNetdev, l.guard.table)
		}},
		{"an address on the port", "settings or addresses", func() error {
			d, err := netlink.LinkByName("port1")
			if err != nil {
				return err
			}
			addr, err := netlink.ParseAddr("198.51.100.1/24")
			if err != nil {
				return err
			}
			return netlink.AddrAdd(d, addr)
		}},
		{"the pin of a map", "was not pinned any more", func() error {
			return os.Remove(filepath.Join(l.place.maps(), dataplane.PinnedName(dataplane.MapENIs)))
		}},
		{"another map in the place of one", "was not pinned any more", func() error {
			path := filepath.Join(l.place.maps(), dataplane.PinnedName(dataplane.MapLive))
			other, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 1})
			if err != nil {
				return err
			}
			defer other.Close()
			return errors.Join(os.Remove(path), other.Pin(path))
		}},
		{"all pins", "was not pinned any more", func() error { return os.RemoveAll(l.place.pins) }},
		{"the slot of a program", "the slot of program", func() error {
			slot := dataplane.Slots()[0]
			return l.maps.Map(slot.Array).Delete(slot.Index)
		}},
		{"the program of the port's link", "had another program", func() error {
			prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
				Name: "somebody", Type: ebpf.SchedCLS, License: "MIT",
				Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()},
			})
			if err != nil {
				return err
			}
			defer prog.Close()
			its, err := link.LoadPinnedLink(l.place.link(rolePort, port), nil)
			if err != nil {
				return err
			}
			return errors.Join(its.Update(prog), its.Close())
		}},
		{"the VXLAN device", "device eniplane0", func() error {
			d, err := netlink.LinkByName(VXLANDevice)
			if err != nil {
				return err
			}
			return netlink.LinkDel(d)
		}},
	}
}

// What is lost by hand is found and put back, and the report says so.
func TestReconcileRepairs(t *testing.T) {
	w := newWorld(t)
	w.veth("port1")
	l := w.open()
	port := w.apply(l, testState(1, 1)).ENIs["eni-1-1"].Ifindex
	if report := w.reconcile(l); len(report.Repairs) != 0 {
		t.Fatalf("repairs without damage: %q", report.Repairs)
	}
	for _, d := range w.damages(l, port) {
		w.in(d.do)
		report := w.reconcile(l)
		if !strings.Contains(strings.Join(report.Repairs, "\n"), d.repair) {
			t.Errorf("%s: repairs %q, want one with %q", d.name, report.Repairs, d.repair)
		}
		if report.ENIs["eni-1-1"].Phase != Ready || len(report.Foreign) != 0 {
			t.Errorf("%s: the port is %+v, foreign programs %v", d.name, report.ENIs["eni-1-1"], report.Foreign)
		}
		if report = w.reconcile(l); len(report.Repairs) != 0 {
			t.Errorf("%s: still repairing %q", d.name, report.Repairs)
		}
	}
	host := rows[dataplane.HostRow](t, l, dataplane.MapHost)
	if len(host) != 1 || int(host[0].VXLANIfindex) != w.device(VXLANDevice).Index {
		t.Errorf("host_conf %+v does not name the new VXLAN device", host)
	}
}

func nftDelete(family nftables.TableFamily, name string) error {
	conn, err := nftables.New()
	if err != nil {
		return err
	}
	conn.DelTable(&nftables.Table{Name: name, Family: family})
	return conn.Flush()
}

// A foreign program that runs before ours is reported and left.
func TestForeignProgramIsReported(t *testing.T) {
	w := newWorld(t)
	w.veth("port1")
	l := w.open()
	w.apply(l, testState(1, 1))
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "foreign", Type: ebpf.SchedCLS, License: "MIT",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, -1), asm.Return()},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer prog.Close()
	var foreign link.Link
	port := w.device("port1").Index
	w.in(func() (err error) {
		foreign, err = link.AttachTCX(link.TCXOptions{Interface: port, Program: prog, Attach: ebpf.AttachTCXIngress, Anchor: link.Head()})
		return err
	})
	defer foreign.Close()
	report := w.reconcile(l)
	if len(report.Foreign) != 1 || report.Foreign[0].Device != "port1" || report.Foreign[0].Program != "foreign" {
		t.Errorf("foreign programs %+v, want the one on port1", report.Foreign)
	}
	info, err := foreign.Info()
	if err != nil {
		t.Fatal(err)
	}
	if int(info.TCX().Ifindex) != port {
		t.Error("the foreign program was detached")
	}
}

// Bad surroundings are one clear error each, and change nothing.
func TestOpenRefuses(t *testing.T) {
	w := newWorld(t)
	open := func(opts Options) error {
		return w.host.Do(func() error {
			l, err := Open(context.Background(), opts)
			if err == nil {
				_ = l.Close()
			}
			return err
		})
	}
	other := w.opts
	other.BPFFS = t.TempDir()
	if err := open(other); err == nil || !strings.Contains(err.Error(), "not on a bpffs") {
		t.Errorf("pins outside a bpffs: %v", err)
	}
	other = w.opts
	other.Host = "../etc"
	if err := open(other); err == nil || !strings.Contains(err.Error(), "DNS label") {
		t.Errorf("a path as host name: %v", err)
	}
	w.in(func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "other0"
		return netlink.LinkAdd(&netlink.Vxlan{LinkAttrs: attrs, VxlanId: 9, Port: vxlanPort})
	})
	if err := open(w.opts); err == nil || !strings.Contains(err.Error(), "other0") {
		t.Errorf("a foreign VXLAN device on our port: %v", err)
	}
	w.remove("other0")
	if err := open(w.opts); err != nil {
		t.Errorf("open: %v", err)
	}
	other = w.opts
	other.MaxFlows = 4 * w.opts.MaxFlows
	if err := open(other); err == nil || !strings.Contains(err.Error(), "--max-flows") {
		t.Errorf("another size of the flow table: %v", err)
	}
	other.MaxFlows = 0
	if err := open(other); err != nil {
		t.Errorf("keep the size of the flow table: %v", err)
	}
}

// A wrong name, or a wrong directory, is not a clean host.
func TestTeardownOfNothing(t *testing.T) {
	w := newWorld(t)
	err := w.host.Do(func() error { return Teardown(context.Background(), w.opts) })
	if !errors.Is(err, ErrNothing) {
		t.Errorf("%v, want ErrNothing", err)
	}
	if entries, err := os.ReadDir(w.opts.StateDir); err != nil || len(entries) != 0 {
		t.Errorf("made %v (%v)", entries, err)
	}
}

// With the pins elsewhere a teardown would leave the programs.
func TestTeardownNeedsThePins(t *testing.T) {
	w := newWorld(t)
	l := w.open()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	other := w.opts
	other.BPFFS = testroot.Pins(t)
	err := w.host.Do(func() error { return Teardown(context.Background(), other) })
	if err == nil || !strings.Contains(err.Error(), "give the --bpffs of the agent") {
		t.Errorf("Teardown with other pins: %v", err)
	}
	w.in(func() error {
		if all, err := listDevices(); err != nil || all[VXLANDevice] == nil {
			t.Errorf("something was torn down (%v)", err)
		}
		return nil
	})
}

// Teardown leaves nothing of ours in the kernel or on disk, and what is not ours.
func TestTeardown(t *testing.T) {
	w := newWorld(t)
	w.veth("port1")
	l := w.open()
	w.apply(l, testState(1, 1))
	if err := w.host.Do(func() error { return Teardown(context.Background(), w.opts) }); err == nil {
		t.Error("teardown beside a running agent succeeded")
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	w.in(func() error { return Teardown(context.Background(), w.opts) })
	for _, dir := range []string{filepath.Join(w.opts.BPFFS, w.opts.Host), filepath.Join(w.opts.StateDir, w.opts.Host)} {
		if _, err := os.Stat(dir); err == nil {
			t.Errorf("%s is left", dir)
		}
	}
	w.in(func() error {
		conn, err := nftables.New()
		if err != nil {
			return err
		}
		tables, err := conn.ListTables()
		if err != nil || len(tables) != 0 {
			t.Errorf("nftables tables left: %v (%v)", tables, err)
		}
		all, err := listDevices()
		if err != nil {
			return err
		}
		if all[VXLANDevice] != nil {
			t.Errorf("device %s is left", VXLANDevice)
		}
		for _, name := range []string{"uplink0", "port1"} {
			result, err := link.QueryPrograms(link.QueryOptions{Target: all[name].Index, Attach: ebpf.AttachTCXIngress})
			if err != nil || len(result.Programs) != 0 {
				t.Errorf("%s: programs %v are left (%v)", name, result, err)
			}
		}
		if isUp(all["port1"]) {
			t.Error("a port is up without program and guard")
		}
		return nil
	})
}
