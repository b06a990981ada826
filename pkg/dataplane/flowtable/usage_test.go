// SPDX-License-Identifier: Apache-2.0

package flowtable

import (
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cilium/ebpf/btf"

	"github.com/eniplane/eniplane/bench/flowtable/driver"
	"github.com/eniplane/eniplane/pkg/testroot"
)

// openedByPeer is FLOW_OPENED_BY_PEER.
const openedByPeer = 1

// newCounting is a fixture of both families with rings of so many places, and the sweep.
func newCounting(t *testing.T, sets, places uint32) *fixture {
	t.Helper()
	testroot.Require(t)
	d, err := driver.LoadRings(sets, places, "insert4", "insert6", "rewrite4", "advance4", "hit4", "find4", "sweep")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Close)
	f := &fixture{t: t, driver: d, tables: map[Family]*Table{}}
	for family, stem := range map[Family]string{IPv4: "4", IPv6: "6"} {
		flows := d.Map("flows" + stem)
		if err := Prepare(d.Map("flow_tables"), flows, family, sets*ways); err != nil {
			t.Fatal(err)
		}
		table, err := Open(flows, d.Map("flow_due"+stem), family)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = table.Close() })
		f.tables[family] = table
	}
	return f
}

// sweep runs a whole pass at a time.
func (f *fixture) sweep(at uint32) {
	f.t.Helper()
	if _, _, err := f.driver.Do("sweep", driver.Run{Count: 1, Now: at}); err != nil {
		f.t.Fatal(err)
	}
}

// held is what counts for an ENI under an id, and what slots hold for it, alive or not: FLOW_NONE is none.
func (f *fixture) held(eni, id uint32) (counted, found uint32) {
	f.t.Helper()
	u, err := ReadUsage(f.driver.Map("flow_usage"))
	if err != nil {
		f.t.Fatal(err)
	}
	var flow Flow
	for _, table := range f.tables {
		for set := range table.sets {
			for i := range ways {
				if table.read(set, i, &flow) && flow.State != 0 && flow.ENI == eni && flow.Incarnation == id {
					found++
				}
			}
		}
	}
	return u.Flows(eni, id), found
}

func (f *fixture) wantHeld(what string, id, want uint32) {
	f.t.Helper()
	counted, found := f.held(id%maxENIs, id)
	if counted != want || found != want {
		f.t.Errorf("%s: %d flows count for %d, %d are there; want %d", what, counted, id, found, want)
	}
}

func TestFlowsCountUntilTheyAreSwept(t *testing.T) {
	f := newCounting(t, 256, 64)
	run := driver.Run{State: established, Mark: 7, Class: classUDP}
	f.do("insert", IPv4, 40, run)
	run.Mark, run.Base = 8, 1<<16
	f.do("insert", IPv6, 30, run)
	f.wantHeld("both families", 7, 40)
	f.wantHeld("both families", 8, 30)
	f.sweep(now + seconds(180) + grace - 1)
	f.wantHeld("before its time", 7, 40)
	f.sweep(now + seconds(180) + grace)
	f.wantHeld("at its time", 7, 0)
	f.wantHeld("at its time", 8, 0)
	f.do("insert", IPv4, 5, driver.Run{State: established, Mark: 7, Now: now + seconds(200)})
	f.wantHeld("again", 7, 5)
}

// A deadline that moves closer is met, one that moves away is not taken for its first one.
func TestSweepFollowsDeadlines(t *testing.T) {
	f := newCounting(t, 64, 64)
	f.do("insert", IPv4, 10, driver.Run{State: established, Mark: 1})
	f.do("advance", IPv4, 5, driver.Run{State: closing})
	f.sweep(now + seconds(40) + grace)
	f.wantHeld("the closing half is gone", 1, 5)
	f.do("insert", IPv4, 4, driver.Run{Base: 1 << 16, State: established, Class: classUDP, Mark: 2})
	f.do("hit", IPv4, 4, driver.Run{Base: 1 << 16, Class: classUDP, Now: now + seconds(170)})
	f.sweep(now + seconds(181) + grace)
	f.wantHeld("kept alive", 2, 4)
	f.sweep(now + seconds(351) + grace)
	f.wantHeld("let go", 2, 0)
	f.wantHeld("not at all touched", 1, 5)
}

// What user space ends counts until its slot is free, and no longer.
func TestEndedFlowsAreSwept(t *testing.T) {
	f := newCounting(t, 64, 64)
	f.do("insert", IPv4, 10, driver.Run{State: established, Mark: 1})
	var flows []Flow
	f.tables[IPv4].Each(now, func(flow *Flow) bool { flows = append(flows, *flow); return true })
	for i := range flows[:6] {
		if ok, err := f.tables[IPv4].End(&flows[i], now); !ok || err != nil {
			t.Fatal(ok, err)
		}
	}
	f.sweep(now + grace)
	f.wantHeld("ended", 1, 4)
}

func TestQuotaIsExact(t *testing.T) {
	f := newCounting(t, 256, 64)
	run := driver.Run{State: established, Mark: 5, Limit: 30, Guaranteed: 30}
	got := f.do("insert", IPv4, 50, run)
	if got.OK != 30 || got.Quota != 20 {
		t.Errorf("%+v, want 30 stored and 20 refused", got)
	}
	f.wantHeld("at the limit", 5, 30)
	if again := f.do("insert", IPv4, 30, run); again.OK != 30 {
		t.Errorf("known keys again: %+v, want all stored", again)
	}
	// Three ENIs with 10 guaranteed each share a pool of 15.
	stored := uint32(0)
	for mark := uint32(11); mark <= 13; mark++ {
		got := f.do("insert", IPv6, 30, driver.Run{Base: mark << 16, State: established, Mark: mark, Limit: 25, Guaranteed: 10, Pool: 15})
		stored += got.OK
		if got.OK < 10 {
			t.Errorf("ENI %d: %+v, want what is guaranteed", mark, got)
		}
	}
	if stored != 45 {
		t.Errorf("%d flows of three ENIs, want 3 × 10 and 15 borrowed", stored)
	}
}

// Half-open flows are displaced in the order in which they came, per direction, and never an established one.
func TestRingDisplacesTheOldest(t *testing.T) {
	f := newCounting(t, 256, 16)
	f.do("insert", IPv4, 20, driver.Run{State: established, Mark: 3, HalfOpen: 16})
	out := driver.Run{Base: 1 << 16, State: opening, Mark: 3, HalfOpen: 16}
	in := driver.Run{Base: 2 << 16, State: opening, Mark: 3, HalfOpen: 16, Flags: openedByPeer}
	f.do("insert", IPv4, 16, out)
	f.do("insert", IPv4, 1000, in)
	f.wantHeld("after the flood", 3, 20+16+16)
	f.want("established", f.do("find", IPv4, 20, driver.Run{}), 20, 0, 0)
	f.want("the other direction", f.do("find", IPv4, 16, driver.Run{Base: 1 << 16}), 16, 0, 0)
	in.Base += 1000 - 16
	f.want("the youngest", f.do("find", IPv4, 16, driver.Run{Base: in.Base}), 16, 0, 0)
}

// A number that is wrong is right after a full pass.
func TestFullPassRepairs(t *testing.T) {
	f := newCounting(t, 256, 64)
	f.do("insert", IPv4, 40, driver.Run{State: established, Mark: 7})
	enis(t, f, 7)
	m := f.driver.Map("flow_usage")
	var u usage
	if err := m.Lookup(uint32(7), &u); err != nil {
		t.Fatal(err)
	}
	for _, wrong := range []uint64{3, 900} {
		u.Held = [2]uint64{7<<32 | wrong, 7<<32 | wrong}
		if err := m.Put(uint32(7), &u); err != nil {
			t.Fatal(err)
		}
		f.ask()
		f.sweep(now + 10)
		f.wantHeld("repaired", 7, 40)
		if err := m.Lookup(uint32(7), &u); err != nil {
			t.Fatal(err)
		}
	}
}

func (f *fixture) ask() {
	f.t.Helper()
	s, err := OpenSweep(f.driver.Map("flow_sweep"))
	if err != nil {
		f.t.Fatal(err)
	}
	s.Ask()
	if err := s.Close(); err != nil {
		f.t.Fatal(err)
	}
}

// offsetOf is where a field of a struct of the ABI is, by the BTF of the driver.
func offsetOf(t *testing.T, name, field string) uint32 {
	t.Helper()
	spec, err := driver.Spec()
	if err != nil {
		t.Fatal(err)
	}
	var s *btf.Struct
	if err := spec.Types.TypeByName(name, &s); err != nil {
		t.Fatal(err)
	}
	for _, m := range s.Members {
		if m.Name == field {
			return m.Offset.Bytes()
		}
	}
	t.Fatalf("struct %s has no %s", name, field)
	return 0
}

// enis makes these ENIs, whose flows have their own index as id, be there for the sweep.
func enis(t *testing.T, f *fixture, ids ...uint32) {
	t.Helper()
	m := f.driver.Map("enis")
	const present = 1
	flows := offsetOf(t, "eni_conf", "flows")
	for _, id := range ids {
		half := make([]byte, m.ValueSize()/2)
		half[0] = present
		half[flows], half[flows+1] = byte(id), byte(id>>8)
		if err := m.Put(id, append(half, half...)); err != nil {
			t.Fatal(err)
		}
	}
}

// TestRacesCountEachFlowOnce lets threads insert, displace, rewrite, prolong, end and sweep the same flows of the same
// ENIs at once. In the end what counts is what is there: without a full pass, which would repair it, and with many.
func TestRacesCountEachFlowOnce(t *testing.T) {
	for name, full := range map[string]bool{"short passes": false, "full passes": true} {
		t.Run(name, func(t *testing.T) { raceForCounts(t, full) })
	}
}

func raceForCounts(t *testing.T, full bool) {
	f := newCounting(t, 256, 16)
	ids := []uint32{1, 2, 3}
	enis(t, f, ids...)
	var clock atomic.Uint32
	clock.Store(now)
	stop := time.Now().Add(4 * time.Second)
	var threads sync.WaitGroup
	do := func(what string, runs func(turn uint32) (string, driver.Run)) {
		threads.Go(func() {
			runtime.LockOSThread()
			for turn := uint32(0); time.Now().Before(stop) && !t.Failed(); turn++ {
				program, run := runs(turn)
				run.Stride, run.Mask, run.Now = 1, 1<<24-1, clock.Load()
				if _, _, err := f.driver.Do(program, run); err != nil {
					t.Errorf("%s: %v", what, err)
				}
			}
		})
	}
	for cpu := range uint32(3) {
		do("insert", func(turn uint32) (string, driver.Run) {
			run := driver.Run{Base: turn % 7 * 50, Count: 60, Mark: ids[turn%3], State: opening, HalfOpen: 16, Limit: 500, Guaranteed: 100, Pool: 200}
			if turn%2 == cpu%2 {
				run.State, run.Class = established, classUDP
			}
			if turn%5 == 0 {
				run.Flags = openedByPeer
			}
			return []string{"insert4", "insert6"}[turn/3%2], run
		})
	}
	do("rewrite", func(turn uint32) (string, driver.Run) {
		return "rewrite4", driver.Run{Base: turn % 400, Count: 50, Mark: ids[turn%3], State: []uint32{opening, blocked, established}[turn%3], HalfOpen: 16, Limit: 500, Guaranteed: 100}
	})
	do("advance", func(turn uint32) (string, driver.Run) {
		return "advance4", driver.Run{Base: turn % 400, Count: 50, State: []uint32{established, closing}[turn%2]}
	})
	do("sweep", func(turn uint32) (string, driver.Run) {
		clock.Add(seconds(5))
		if full && turn%3 == 0 {
			f.ask()
		}
		return "sweep", driver.Run{Count: 1}
	})
	threads.Go(func() {
		for time.Now().Before(stop) {
			at := clock.Load()
			f.tables[IPv4].Each(at, func(flow *Flow) bool {
				if flow.Rule%16 == 0 {
					if _, err := f.tables[IPv4].End(flow, at); err != nil {
						t.Error(err)
					}
				}
				return true
			})
		}
	})
	threads.Wait()
	for _, id := range ids {
		if counted, found := f.held(id, id); counted != found {
			t.Errorf("ENI %d: %d flows count, %d are there", id, counted, found)
		}
	}
	f.sweep(clock.Load() + seconds(8000))
	for _, id := range ids {
		f.wantHeld("when all have expired", id, 0)
	}
}
