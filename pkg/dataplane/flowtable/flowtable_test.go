// SPDX-License-Identifier: Apache-2.0

package flowtable

import (
	"encoding/binary"
	"fmt"
	"runtime"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/eniplane/eniplane/bench/flowtable/driver"
	"github.com/eniplane/eniplane/pkg/testroot"
)

// Values of the enums in bpf/types.h that the tests use.
const (
	classTCP   = 0
	classUDP   = 1
	classICMP  = 2
	classOther = 3

	opening     = 1
	established = 2
	closing     = 3
	blocked     = 4
)

// now is the flow clock of the tests: programs get their time from the run.
const now = 1_000_000

func seconds(n uint32) uint32 { return n*3725/1000 + 1 }

type fixture struct {
	t      *testing.T
	driver *driver.Driver
	tables map[Family]*Table
}

// newFixture makes prepared tables of so many sets, and programs for one family.
func newFixture(t *testing.T, sets uint32, family Family) *fixture {
	t.Helper()
	testroot.Require(t)
	var programs []string
	for _, operation := range []string{"find", "hit", "insert", "rewrite", "advance"} {
		programs = append(programs, program(operation, family))
	}
	d, err := driver.Load(sets, 64, programs...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Close)
	f := &fixture{t: t, driver: d, tables: map[Family]*Table{}}
	for family, name := range map[Family]string{IPv4: "flows4", IPv6: "flows6"} {
		if err := Prepare(d.Map("flow_tables"), d.Map(name), family, sets*ways); err != nil {
			t.Fatal(err)
		}
		table, err := Open(d.Map(name), d.Map("flow_due"+name[len("flows"):]), family)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := table.Close(); err != nil {
				t.Error(err)
			}
		})
		f.tables[family] = table
	}
	return f
}

func program(operation string, family Family) string {
	return operation + map[Family]string{IPv4: "4", IPv6: "6"}[family]
}

// do runs an operation on flows 0..count-1 of a family.
func (f *fixture) do(operation string, family Family, count uint32, run driver.Run) driver.Run {
	f.t.Helper()
	run.Stride, run.Mask, run.Count = 1, 1<<24-1, count
	if run.Now == 0 {
		run.Now = now
	}
	out, _, err := f.driver.Do(program(operation, family), run)
	if err != nil {
		f.t.Fatal(err)
	}
	return out
}

// want compares the outcome of a run.
func (f *fixture) want(what string, got driver.Run, ok, missing, full uint32) {
	f.t.Helper()
	if got.OK != ok || got.Missing != missing || got.Full != full || got.Busy != 0 || got.Wrong != 0 {
		f.t.Errorf("%s: %d ok, %d missing, %d full, %d busy, %d wrong; want %d, %d, %d, 0, 0",
			what, got.OK, got.Missing, got.Full, got.Busy, got.Wrong, ok, missing, full)
	}
}

// eachFamily runs a test for both families.
func eachFamily(t *testing.T, sets uint32, test func(t *testing.T, f *fixture, family Family)) {
	for _, family := range []Family{IPv4, IPv6} {
		t.Run(family.String(), func(t *testing.T) { test(t, newFixture(t, sets, family), family) })
	}
}

func TestFlowsAreFoundAsInserted(t *testing.T) {
	eachFamily(t, 1024, func(t *testing.T, f *fixture, family Family) {
		f.want("find in an empty table", f.do("find", family, 1000, driver.Run{}), 0, 1000, 0)
		f.want("insert", f.do("insert", family, 1000, driver.Run{State: opening, Mark: 7}), 1000, 0, 0)
		found := f.do("find", family, 1000, driver.Run{})
		f.want("find", found, 1000, 0, 0)
		if found.Sum != 7000 {
			t.Errorf("sum of ENIs is %d, want 7000", found.Sum)
		}
		f.want("find of another class", f.do("find", family, 1000, driver.Run{Class: classUDP}), 0, 1000, 0)
	})
}

func TestRewriteKeepsWhatWasCounted(t *testing.T) {
	eachFamily(t, 1024, func(t *testing.T, f *fixture, family Family) {
		f.do("insert", family, 100, driver.Run{State: established, Mark: 7})
		f.do("hit", family, 100, driver.Run{})
		f.want("rewrite", f.do("rewrite", family, 100, driver.Run{State: blocked, Now: now + 10}), 100, 0, 0)
		f.each(family, 100, func(flow *Flow) bool {
			return flow.State == blocked && flow.Generation == 1 && flow.Packets[0]+flow.Packets[1] == 1 &&
				flow.Bytes[0]+flow.Bytes[1] == 1500 && flow.Opened == now
		})
		again := driver.Run{State: opening, Mark: 8, Now: now + 20}
		f.want("insert of known keys", f.do("insert", family, 100, again), 100, 0, 0)
		f.each(family, 100, func(flow *Flow) bool {
			return flow.State == opening && flow.Generation == 0 && flow.ENI == 8 && flow.Incarnation == 8 &&
				flow.Packets == [2]uint64{} && flow.Bytes == [2]uint64{} && flow.Opened == now+20
		})
	})
}

// each wants so many flows, all of which satisfy a condition.
func (f *fixture) each(family Family, count int, ok func(*Flow) bool) {
	f.t.Helper()
	n := 0
	f.tables[family].Each(now, func(flow *Flow) bool {
		n++
		if !ok(flow) {
			f.t.Errorf("not as wanted: %+v", flow)
		}
		return !f.t.Failed()
	})
	if n != count {
		f.t.Errorf("%d flows, want %d", n, count)
	}
}

func TestTimeouts(t *testing.T) {
	eachFamily(t, 64, func(t *testing.T, f *fixture, family Family) {
		for _, tt := range []struct{ class, state, seconds uint32 }{
			{classTCP, opening, 30}, {classTCP, established, 7440}, {classTCP, closing, 40},
			{classTCP, blocked, 40}, {classUDP, opening, 30}, {classUDP, established, 180},
			{classUDP, blocked, 40}, {classICMP, opening, 30}, {classICMP, established, 30},
			{classOther, opening, 600}, {classOther, established, 600},
		} {
			run := driver.Run{Class: tt.class, State: tt.state, Mark: 1}
			f.do("insert", family, 1, run)
			run.Now = now + seconds(tt.seconds) - 4
			f.want(fmt.Sprintf("%+v, a second before", tt), f.do("find", family, 1, run), 1, 0, 0)
			run.Now = now + seconds(tt.seconds) + 4
			f.want(fmt.Sprintf("%+v, a second after", tt), f.do("find", family, 1, run), 0, 1, 0)
		}
	})
}

func TestTouchAndAdvanceMoveTheDeadline(t *testing.T) {
	eachFamily(t, 64, func(t *testing.T, f *fixture, family Family) {
		f.do("insert", family, 1, driver.Run{State: opening, Mark: 1})
		f.do("hit", family, 1, driver.Run{Now: now + seconds(20)})
		f.want("30 s after the packet of second 20",
			f.do("find", family, 1, driver.Run{Now: now + seconds(48)}), 1, 0, 0)
		f.do("advance", family, 1, driver.Run{Now: now + seconds(48), State: established})
		f.want("established", f.do("find", family, 1, driver.Run{Now: now + seconds(7000)}), 1, 0, 0)
		f.do("advance", family, 1, driver.Run{Now: now + seconds(7000), State: closing})
		f.want("closing", f.do("find", family, 1, driver.Run{Now: now + seconds(7039)}), 1, 0, 0)
		f.want("closed", f.do("find", family, 1, driver.Run{Now: now + seconds(7042)}), 0, 1, 0)
	})
}

func TestExpiredSlotsAreReused(t *testing.T) {
	eachFamily(t, 1024, func(t *testing.T, f *fixture, family Family) {
		const load = 1024 * ways * 2 / 3
		for round := range uint32(4) {
			at := now + round*seconds(32)
			run := driver.Run{Base: round << 16, State: opening, Mark: round + 1, Now: at}
			f.want(fmt.Sprintf("insert of round %d", round), f.do("insert", family, load, run), load, 0, 0)
			f.want(fmt.Sprintf("find of round %d", round), f.do("find", family, load, run), load, 0, 0)
			if n := f.tables[family].Count(at); n != load {
				t.Errorf("round %d: %d flows, want %d", round, n, load)
			}
		}
	})
}

func TestFloodDisplacesNothing(t *testing.T) {
	eachFamily(t, 1024, func(t *testing.T, f *fixture, family Family) {
		const load = 1024 * ways / 2
		f.want("insert", f.do("insert", family, load, driver.Run{State: established, Mark: 1}), load, 0, 0)
		flood := f.do("insert", family, 100_000, driver.Run{Base: 1 << 20, State: opening, Mark: 2})
		if flood.Full == 0 || flood.OK+flood.Full != 100_000 || flood.OK < load*9/10 {
			t.Errorf("flood: %+v, want most slots filled and the rest refused as full", flood)
		}
		f.want("find after the flood", f.do("find", family, load, driver.Run{}), load, 0, 0)
		f.want("insert of known flows into the full table",
			f.do("insert", family, load, driver.Run{State: established, Mark: 3}), load, 0, 0)
		late := f.do("insert", family, load/3, driver.Run{Base: 2 << 20, State: opening, Now: now + seconds(32)})
		f.want("insert after the flood has expired", late, load/3, 0, 0)
	})
}

func TestLoadOfSevenTenths(t *testing.T) {
	if testing.Short() {
		t.Skip("1M flows")
	}
	f := newFixture(t, 187_246, IPv4)
	const flows = 1 << 20
	run := f.do("insert", IPv4, flows, driver.Run{State: established, Mark: 1})
	if run.Full > 16 || run.OK+run.Full != flows { // 0.85 are expected
		t.Errorf("insert: %+v, want at most a few refused of %d", run, flows)
	}
	run = f.do("find", IPv4, flows, driver.Run{})
	if run.OK < flows-16 || run.Wrong != 0 {
		t.Errorf("find: %+v, want nearly all of %d", run, flows)
	}
}

// race runs an operation on each of two CPUs, step by step at the same moment, and returns what came of both.
func (f *fixture) race(family Family, count uint32, operations [2]string, runs [2]driver.Run) [2]driver.Run {
	f.t.Helper()
	if runtime.NumCPU() < 2 {
		f.t.Skip("needs two CPUs")
	}
	if err := f.driver.Meet(); err != nil {
		f.t.Fatal(err)
	}
	var done sync.WaitGroup
	for cpu := range 2 {
		done.Go(func() {
			runtime.LockOSThread() // never unlocked: the thread with its affinity ends here
			var set unix.CPUSet
			set.Set(cpu)
			if err := unix.SchedSetaffinity(0, &set); err != nil {
				f.t.Errorf("bind to CPU %d: %v", cpu, err)
				return
			}
			run := runs[cpu]
			run.Stride, run.Mask, run.Count, run.Peers = 1, 1<<24-1, count, 2
			out, _, err := f.driver.Do(program(operations[cpu], family), run)
			if err != nil {
				f.t.Error(err)
			}
			runs[cpu] = out
		})
	}
	done.Wait()
	if f.t.Failed() {
		f.t.FailNow()
	}
	return runs
}

// duplicates counts the flows that are stored more than once.
func (f *fixture) duplicates(family Family, at uint32) int {
	seen := map[uint32]bool{}
	n := 0
	f.tables[family].Each(at, func(flow *Flow) bool {
		if seen[flow.Rule] { // the driver stores the number of the flow as its rule
			n++
		}
		seen[flow.Rule] = true
		return true
	})
	return n
}

func TestRacingInsertsStoreEachKeyOnce(t *testing.T) {
	eachFamily(t, 4096, func(t *testing.T, f *fixture, family Family) {
		const flows = 4096 * ways / 2
		apart := uint32(0)
		for round := range uint32(10) {
			at := now + round*seconds(32)
			run := driver.Run{State: opening, Mark: 1, Now: at}
			both := f.race(family, flows, [2]string{"insert", "insert"}, [2]driver.Run{run, run})
			if n := f.duplicates(family, at); n != 0 {
				t.Fatalf("round %d: %d of %d keys are stored twice", round, n, flows)
			}
			for cpu, run := range both {
				apart += run.Apart
				if run.OK+run.Busy != flows {
					t.Errorf("round %d, CPU %d: %+v, want no flow refused as full", round, cpu, run)
				}
			}
			found := f.do("find", family, flows, driver.Run{Now: at})
			if found.OK != flows || found.Wrong != 0 {
				t.Errorf("round %d: %+v, want all of %d found", round, found, flows)
			}
		}
		t.Logf("%d of %d steps were not taken at the same moment", apart/2, 10*flows)
	})
}

// TestRacingInsertsTakeNoSlotTwice lets two CPUs fill the same few sets with different flows: what was stored
// must be found.
func TestRacingInsertsTakeNoSlotTwice(t *testing.T) {
	eachFamily(t, 2, func(t *testing.T, f *fixture, family Family) {
		const flows = 12
		for round := range uint32(4000) {
			at := now + round*seconds(32)
			runs := [2]driver.Run{
				{State: opening, Mark: 1, Now: at, Delay: round % 64},
				{State: opening, Mark: 2, Now: at, Base: 1 << 20, Delay: 32},
			}
			both := f.race(family, flows, [2]string{"insert", "insert"}, runs)
			for cpu, run := range both {
				found := f.do("find", family, flows, driver.Run{Now: at, Base: runs[cpu].Base})
				if found.OK != run.OK || found.Wrong != 0 {
					t.Fatalf("round %d, CPU %d: stored %+v, found %+v", round, cpu, run, found)
				}
			}
		}
	})
}

func TestReadersSeeWholeFlows(t *testing.T) {
	eachFamily(t, 64, func(t *testing.T, f *fixture, family Family) {
		const flows = 64
		f.do("insert", family, flows, driver.Run{State: established, Mark: 1})
		apart, busy := uint32(0), uint32(0)
		for round := range uint32(1000) {
			runs := [2]driver.Run{{State: established, Mark: round, Now: now}, {Now: now}}
			both := f.race(family, flows, [2]string{"insert", "hit"}, runs)
			if both[1].Wrong != 0 || both[1].Missing != 0 {
				t.Fatalf("round %d: %+v, want every flow found and whole while it is rewritten", round, both[1])
			}
			apart += both[1].Apart
			busy += both[1].Busy
		}
		t.Logf("%d reads, %d not at the moment of a write, %d given up", 1000*flows, apart, busy)
	})
}

// TestNoStateIsLost moves flows forward on one CPU while another judges them anew: each move that is reported as
// done must be there in the end.
func TestNoStateIsLost(t *testing.T) {
	eachFamily(t, 64, func(t *testing.T, f *fixture, family Family) {
		const flows = 32
		for round := range 300 {
			f.do("insert", family, flows, driver.Run{State: opening, Mark: 1})
			runs := [2]driver.Run{{State: established, Now: now}, {Now: now}}
			moved := f.race(family, flows, [2]string{"advance", "rewrite"}, runs)[0]
			n := uint32(0)
			f.tables[family].Each(now, func(flow *Flow) bool {
				if flow.State == established {
					n++
				}
				return true
			})
			if n != moved.OK || moved.Missing != 0 || moved.Wrong != 0 {
				t.Fatalf("round %d: %+v, but %d flows are established", round, moved, n)
			}
		}
	})
}

func TestListingWhileFlowsChange(t *testing.T) {
	f := newFixture(t, 1024, IPv4)
	const flows = 2000
	f.do("insert", IPv4, flows, driver.Run{State: established, Mark: 1})
	stop := make(chan struct{})
	var writer sync.WaitGroup
	writer.Go(func() {
		for mark := uint32(2); ; mark++ {
			select {
			case <-stop:
				return
			default:
				f.do("insert", IPv4, flows, driver.Run{State: established, Mark: mark})
			}
		}
	})
	for range 200 {
		n := 0
		f.tables[IPv4].Each(now, func(flow *Flow) bool {
			n++
			nat := flow.NAT.As4()
			if binary.LittleEndian.Uint32(nat[:]) != ^flow.Rule || flow.ENI != flow.Incarnation%maxENIs {
				t.Errorf("torn flow: %+v", flow)
			}
			return !t.Failed()
		})
		if n != flows {
			t.Errorf("listed %d flows, want %d", n, flows)
		}
		if t.Failed() {
			break
		}
	}
	close(stop)
	writer.Wait()
}

func TestEnd(t *testing.T) {
	eachFamily(t, 64, func(t *testing.T, f *fixture, family Family) {
		f.do("insert", family, 10, driver.Run{State: established, Mark: 1})
		var flows []Flow
		f.tables[family].Each(now, func(flow *Flow) bool {
			flows = append(flows, *flow)
			return true
		})
		f.do("insert", family, 1, driver.Run{State: established, Mark: 2})
		ended := 0
		for i := range flows {
			ok, err := f.tables[family].End(&flows[i], now)
			if err != nil {
				t.Fatal(err)
			}
			if ok {
				ended++
			}
		}
		if ended != 9 {
			t.Errorf("%d flows ended, want 9: one was rewritten since it was listed", ended)
		}
		f.want("find afterwards", f.do("find", family, 10, driver.Run{}), 1, 9, 0)
	})
}

func TestPrepareKeepsTheSeed(t *testing.T) {
	f := newFixture(t, 64, IPv4)
	f.do("insert", IPv4, 10, driver.Run{State: established, Mark: 1})
	if err := Prepare(f.driver.Map("flow_tables"), f.driver.Map("flows4"), IPv4, 64); err != nil {
		t.Fatal(err)
	}
	f.want("find after a restart", f.do("find", IPv4, 10, driver.Run{}), 10, 0, 0)
	other := newFixture(t, 128, IPv4)
	if err := Prepare(f.driver.Map("flow_tables"), other.driver.Map("flows4"), IPv4, 64); err == nil {
		t.Error("a seed for 64 sets was taken for a table of 128")
	}
}

func TestUnpreparedTableTakesNothing(t *testing.T) {
	testroot.Require(t)
	d, err := driver.Load(64, 64, "insert4", "find4")
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	f := &fixture{t: t, driver: d}
	f.want("insert", f.do("insert", IPv4, 10, driver.Run{State: established}), 0, 0, 10)
	f.want("find", f.do("find", IPv4, 10, driver.Run{}), 0, 10, 0)
}

func TestReadOnly(t *testing.T) {
	f := newFixture(t, 64, IPv4)
	table, err := Open(f.driver.Map("flows4"), nil, IPv4)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := table.Close(); err != nil {
			t.Error(err)
		}
	}()
	if _, err := table.End(&Flow{}, now); err != ErrReadOnly {
		t.Errorf("End says %v, want %v", err, ErrReadOnly)
	}
	if _, err := Open(f.driver.Map("flows6"), nil, IPv4); err == nil {
		t.Error("an IPv6 table was opened as an IPv4 one")
	}
}
