// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/eniplane/eniplane/pkg/compile"
	"github.com/eniplane/eniplane/pkg/dataplane"
	"github.com/eniplane/eniplane/pkg/testroot/sysfault"
)

// Ports of a datagram that one of two policies allows and the other denies.
const (
	evenPort = 1000
	oddPort  = 2000
)

// policy lets the ENIs of a state be reached at one port and no other, by ids that name this content.
func policy(st *compile.State, port uint16) {
	set := uint32(port)
	st.Rulesets[0].ID, st.Rulesets[0].Services, st.Services[0].ID = set, set+1, set+1
	st.Services[0].Prefixes = []compile.ServiceClass{{Protocol: unix.IPPROTO_UDP, Port: port, Bits: 24, Class: 1}}
	for i := range st.ENIs {
		st.ENIs[i].SGIn, st.ENIs[i].SGOut, st.ENIs[i].Generation = set, set, uint32(st.Revision)
	}
}

// fault is one edit of a host that is made again and again, with another system call failing each time.
type fault struct {
	*probe
	l        *Loader
	states   [2]func(revision uint64) *compile.State // the edit goes from the first to the second
	revision uint64
	inForce  map[uint64]uint16 // the port that a revision allows
	made     map[uint64]*compile.State
	ears     [2]int // sockets at the guests of the first two ENIs
	sent     uint64
}

func newFault(t *testing.T, states [2]func(revision uint64) *compile.State) *fault {
	w := newWorld(t)
	for _, name := range []string{"port1", "port2", "port3", "port9", "uplink1"} {
		w.veth(name)
	}
	f := &fault{probe: &probe{world: w}, l: w.open(), states: states, inForce: map[uint64]uint16{}, made: map[uint64]*compile.State{}}
	for i := range f.ears {
		f.ears[i] = w.listenAt(fmt.Sprintf("port%d", i+1))
	}
	return f
}

// listenAt opens a packet socket at a guest's device.
func (w *world) listenAt(device string) (fd int) {
	w.t.Helper()
	if err := w.guest.Do(func() error {
		l, err := netlink.LinkByName(device)
		if err != nil {
			return err
		}
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		w.t.Cleanup(func() { _ = unix.Close(fd) })
		return errors.Join(
			unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_IP), Ifindex: l.Attrs().Index}),
			unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 20000}))
	}); err != nil {
		w.t.Fatal(err)
	}
	return fd
}

// next makes the first or the second state of the edit, as a new revision.
func (f *fault) next(i int) *compile.State {
	f.revision++
	st := f.states[i](f.revision)
	port := []uint16{evenPort, oddPort}[i]
	policy(st, port)
	f.inForce[f.revision], f.made[f.revision] = port, st
	return st
}

// applyFailing is Apply with calls that fail.
func (f *fault) applyFailing(st *compile.State, judge func(sysfault.Call) unix.Errno) (report *Report, err error) {
	f.t.Helper()
	if fatal := sysfault.Run(judge, func() error {
		if err := netns.Set(f.host.Handle); err != nil {
			return err
		}
		report, err = f.l.Apply(context.Background(), st)
		return nil
	}); fatal != nil {
		f.t.Fatal(fatal)
	}
	return report, err
}

// datagrams are a packet of a flow that exists and one of a new one, from the first ENI to the second, both numbered.
func (f *fault) datagrams(port uint16) {
	f.t.Helper()
	for _, source := range []uint16{port + 1, uint16(10000 + f.sent%50000)} {
		f.sent++
		payload := binary.BigEndian.AppendUint64([]byte("numbered"), f.sent)
		frame := f.frame(
			&layers.Ethernet{SrcMAC: []byte{2, 0, 0, 0, 0, 1}, DstMAC: []byte{2, 0, 0, 0, 0, 2}, EthernetType: layers.EthernetTypeIPv4},
			&layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolUDP, SrcIP: ip("10.0.0.1"), DstIP: ip("10.0.0.2")},
			&layers.UDP{SrcPort: layers.UDPPort(source), DstPort: layers.UDPPort(port)}, gopacket.Payload(payload))
		if _, err := unix.Write(f.ears[0], frame); err != nil && !errors.Is(err, unix.ENOBUFS) { // ENOBUFS: the port is down
			f.t.Fatal(err)
		}
	}
}

// arrived counts the datagrams later than a number that arrive at the second ENI by their destination ports, until there
// are want of them or a time has passed.
func (f *fault) arrived(after uint64, want int, limit time.Duration) map[uint16]int {
	n := map[uint16]int{}
	frame := make([]byte, 2048)
	for end, sum := time.Now().Add(limit), 0; sum < want && time.Now().Before(end); {
		size, err := unix.Read(f.ears[1], frame)
		if err == nil && size >= 58 && string(frame[42:50]) == "numbered" && binary.BigEndian.Uint64(frame[50:]) > after {
			n[binary.BigEndian.Uint16(frame[36:])]++
			sum++
		}
	}
	return n
}

// denied counts the packets of the first ENI that its rules denied, with or without an agent.
func (f *fault) denied() (n uint64) {
	f.t.Helper()
	m, err := dataplane.OpenPinned(f.l.place.pins, false)
	if err != nil {
		f.t.Fatal(err)
	}
	defer m.Close()
	if err := m.Counters(func(c dataplane.Counter) bool {
		if c.Reason == dataplane.ReasonSGDenied && c.Direction == dataplane.Out {
			n += c.Packets
		}
		return true
	}, 1); err != nil {
		f.t.Fatal(err)
	}
	return n
}

// judges wants packets to be judged by one revision: what it allows arrives, what only the other one allows is denied.
func (f *fault) judges(revision uint64, when string) {
	f.t.Helper()
	allow, known := f.inForce[revision]
	if !known {
		f.t.Fatalf("%s: revision %d is in force, which nobody has made", when, revision)
	}
	deny := uint16(evenPort + oddPort - allow)
	before, first := f.denied(), f.sent
	f.datagrams(deny)
	f.datagrams(allow)
	got := f.arrived(first, 2, 5*time.Second)
	if got[allow] != 2 || got[deny] != 0 {
		f.t.Errorf("%s: revision %d is in force; of 2 packets that it allows %d arrive, of 2 that it denies %d", when, revision, got[allow], got[deny])
	}
	if n := f.denied() - before; n != 2 {
		f.t.Errorf("%s: revision %d is in force; %d packets are counted as denied, want 2", when, revision, n)
	}
}

// closed wants no device to be open that must not be: READY is who has a program, and what is up without a program has
// both guards.
func (f *fault) closed(when string) {
	f.t.Helper()
	for _, row := range rows[dataplane.LiveRow](f.t, f.l, dataplane.MapLive) {
		if serves, err := linkServes(f.l.place.link(rolePort, int(row.Ifindex)), int(row.Ifindex)); err != nil || !serves {
			f.t.Errorf("%s: ENI %d is READY at device %d, which has no program (%v)", when, row.Index, row.Ifindex, err)
		}
	}
	f.in(func() error {
		all, err := listDevices()
		if err != nil {
			return err
		}
		conn, err := nftables.New()
		if err != nil {
			return err
		}
		chains, err := f.l.guard.ingress(conn)
		if err != nil {
			return err
		}
		names, err := f.l.guard.names()
		if err != nil {
			return err
		}
		for name, device := range all {
			if !strings.HasPrefix(name, "port") || !isUp(device) {
				continue
			}
			serves, err := linkServes(f.l.place.link(rolePort, device.Index), device.Index)
			if err != nil {
				return err
			}
			guarded := slices.Contains(chains, ingressChain(name)) && slices.Contains(names, name)
			if !serves && !guarded {
				f.t.Errorf("%s: %s is up, has no program and not both guards", when, name)
			}
		}
		return nil
	})
}

// served wants the uplinks of a revision to have our programs, and its ports' names to be guarded.
func (f *fault) served(revision uint64, when string) {
	f.t.Helper()
	st := f.made[revision]
	f.in(func() error {
		all, err := listDevices()
		if err != nil {
			return err
		}
		for _, name := range st.Host.Uplinks {
			for _, r := range []role{roleUplink, roleXDP} {
				if serves, err := linkServes(f.l.place.link(r, all[name].Index), all[name].Index); err != nil || !serves {
					f.t.Errorf("%s: revision %d is in force and its uplink %s has no %s program (%v)", when, revision, name, r, err)
				}
			}
		}
		names, err := f.l.guard.names()
		for _, name := range st.PortNames {
			if !slices.Contains(names, name) {
				f.t.Errorf("%s: revision %d is in force and the name %s of a port is not guarded", when, revision, name)
			}
		}
		return err
	})
}

// allReady wants all ENIs of a report Ready and nothing else to tell of them.
func (f *fault) allReady(report *Report, when string) {
	f.t.Helper()
	for name, s := range report.ENIs {
		if s.Phase != Ready {
			f.t.Errorf("%s: ENI %s is %s: %s", when, name, s.Phase, s.Message)
		}
	}
}

// points are the calls that fail, one after the other, in a random order: all, or one of each kind.
func points(calls []sysfault.Call, each bool) []int {
	var all []int
	seen := map[string]bool{}
	asked := ""
	for _, c := range calls {
		kind := c.Kind
		if kind == "receive" {
			kind += " the answer to " + asked
		} else if strings.HasPrefix(kind, "send ") {
			asked = kind
		}
		if each || !seen[kind] {
			all = append(all, c.Number)
		}
		seen[kind] = true
	}
	rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	return all
}

// soak tells whether `make soak` runs the tests.
func soak() bool { return os.Getenv("ENIPLANE_SOAK") != "" }

// enough is how long a short run goes on: on an emulated machine it does not get to all kinds.
const enough = 10 * time.Second

// once makes the edit with the n-th call failing, and looks at what has become of it.
func (f *fault) once(n int, errno unix.Errno) (hit bool) {
	f.t.Helper()
	f.apply(f.l, f.next(0))
	old := f.revision
	failed := sysfault.Call{}
	report, err := f.applyFailing(f.next(1), func(c sysfault.Call) unix.Errno {
		if c.Number != n {
			return 0
		}
		failed = c
		return errno
	})
	if failed.Number == 0 {
		return false
	}
	when := fmt.Sprintf("%v failed with %v", failed, errno)
	switch {
	case report.Revision != old && report.Revision != f.revision:
		f.t.Errorf("%s: the report names revision %d as in force", when, report.Revision)
	case err == nil && report.Revision != f.revision:
		f.t.Errorf("%s: no error, but revision %d is in force", when, report.Revision)
	}
	f.judges(report.Revision, when)
	f.closed(when)
	f.served(report.Revision, when)
	if err == nil {
		f.nothingMissing(report, when)
	}
	report, err = f.tryApply(f.l, f.next(1))
	if err != nil {
		f.t.Errorf("%s: the next apply: %v", when, err)
		return true
	}
	f.allReady(report, when+", then applied")
	f.judges(f.revision, when+", then applied")
	if report = f.reconcile(f.l); len(report.Repairs) > 0 {
		f.t.Errorf("%s: an apply after that left something to repair: %q", when, report.Repairs)
	}
	return true
}

// nothingMissing: what is reported as applied is whole, or the report says of what it is not.
func (f *fault) nothingMissing(report *Report, when string) {
	f.t.Helper()
	told := len(report.Problems) > f.problems()
	for _, s := range report.ENIs {
		told = told || s.Phase != Ready
	}
	if after := f.reconcile(f.l); len(after.Repairs) > 0 && !told {
		f.t.Errorf("%s: applied without an error or a word of what was missing: %q", when, after.Repairs)
	}
}

// problems are those that such a host has anyway: its uplinks are down and have no address.
func (f *fault) problems() int { return 1 + len(f.made[f.revision].Host.Uplinks) }

// run lets every chosen call fail in turn.
func (f *fault) run() {
	f.apply(f.l, f.next(0))
	f.apply(f.l, f.next(1))
	f.judges(f.revision, "before any fault")
	f.apply(f.l, f.next(0))
	var calls []sysfault.Call
	if _, err := f.applyFailing(f.next(1), func(c sysfault.Call) unix.Errno { calls = append(calls, c); return 0 }); err != nil {
		f.t.Fatal(err)
	}
	errnos := []unix.Errno{unix.ENOMEM, unix.EPERM, unix.EBUSY}
	begin, hits := time.Now(), 0
	for i, n := range points(calls, soak()) {
		if f.once(n, errnos[i%len(errnos)]) {
			hits++
		}
		if !soak() && time.Since(begin) > enough {
			break
		}
	}
	if len(calls) < 50 || hits < 3 {
		f.t.Errorf("of %d calls %d failed: too few to prove anything", len(calls), hits)
	}
	f.t.Logf("%d calls, %d of them failed in turn", len(calls), hits)
}

// Whatever system call of an apply fails: no failure is reported as applied, packets are judged by one whole revision, the
// one that the report names, nothing is open that must not be, and the next apply does what was asked.
func TestApplySurvivesEveryFailingCall(t *testing.T) {
	base := func(revision uint64) *compile.State { return testState(revision, 2) }
	with := func(index, incarnation uint32) func(uint64) *compile.State {
		return func(revision uint64) *compile.State {
			st := base(revision)
			addENI(st, index, incarnation)
			return st
		}
	}
	uplinks := func(names ...string) func(uint64) *compile.State {
		return func(revision uint64) *compile.State {
			st := base(revision)
			st.Host.Uplinks = names
			return st
		}
	}
	for _, tt := range []struct {
		name   string
		states [2]func(uint64) *compile.State
	}{
		{"another ENI", [2]func(uint64) *compile.State{with(3, 3), with(3, 9)}},
		{"rules", [2]func(uint64) *compile.State{base, base}},
		{"an uplink less", [2]func(uint64) *compile.State{uplinks("uplink0", "uplink1"), uplinks("uplink0")}},
		{"caps", [2]func(uint64) *compile.State{base, func(revision uint64) *compile.State { return cappedState(revision, 100, 50, 0) }}},
	} {
		t.Run(tt.name, func(t *testing.T) { newFault(t, tt.states).run() })
	}
}

// Whatever system call of a start fails: what is in force stays in force, and the next start finds it.
func TestOpenSurvivesEveryFailingCall(t *testing.T) {
	base := func(revision uint64) *compile.State { return testState(revision, 2) }
	f := newFault(t, [2]func(uint64) *compile.State{base, base})
	f.apply(f.l, f.next(0))
	f.judges(f.revision, "before any fault")
	open := func(judge func(sysfault.Call) unix.Errno) (l *Loader, err error) {
		if fatal := sysfault.Run(judge, func() error {
			if err := netns.Set(f.host.Handle); err != nil {
				return err
			}
			l, err = Open(t.Context(), f.opts)
			return nil
		}); fatal != nil {
			t.Fatal(fatal)
		}
		return l, err
	}
	again := func(judge func(sysfault.Call) unix.Errno) {
		if err := f.l.Close(); err != nil {
			t.Fatal(err)
		}
		l, err := open(judge)
		if err == nil {
			f.l = l
		}
	}
	var calls []sysfault.Call
	again(func(c sysfault.Call) unix.Errno { calls = append(calls, c); return 0 })
	begin, hits := time.Now(), 0
	for _, n := range points(calls, false) {
		var failed sysfault.Call
		again(func(c sysfault.Call) unix.Errno {
			if c.Number != n {
				return 0
			}
			failed = c
			return unix.ENOMEM
		})
		if failed.Number == 0 {
			continue
		}
		hits++
		when := fmt.Sprintf("a start in which %v failed", failed)
		f.judges(f.revision, when)
		if err := f.l.Close(); err != nil {
			t.Fatal(err)
		}
		f.l = f.open()
		when += ", and the next"
		f.judges(f.revision, when)
		f.closed(when)
		f.served(f.revision, when)
		if report := f.apply(f.l, f.made[f.revision]); len(report.Repairs) > 0 {
			t.Errorf("%s: the same revision again had to repair %q", when, report.Repairs)
		}
		if !soak() && time.Since(begin) > enough {
			break
		}
	}
	if len(calls) < 100 || hits < 3 {
		t.Errorf("of %d calls %d failed: too few to prove anything", len(calls), hits)
	}
	t.Logf("%d calls, %d of them failed in turn", len(calls), hits)
}
