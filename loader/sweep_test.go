// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"context"
	"encoding/binary"
	"errors"
	"os"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"github.com/eniplane/eniplane/pkg/dataplane"
	"github.com/eniplane/eniplane/pkg/dataplane/flowtable"
)

// flowMaps are the maps of the flow tables, as the agent or, without one, their pins hold them.
type flowMaps struct {
	t    testing.TB
	maps *dataplane.Maps
}

// pinned opens the maps as somebody without the agent does.
func (w *world) pinned() flowMaps {
	w.t.Helper()
	maps, err := dataplane.OpenPinned(dataplane.PinDir(w.opts.BPFFS, w.opts.Host), false)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = maps.Close() })
	return flowMaps{w.t, maps}
}

func (m flowMaps) put(name string, key uint32, value any) {
	m.t.Helper()
	if err := m.maps.Map(name).Put(key, value); err != nil {
		m.t.Fatal(err)
	}
}

// flow writes an IPv4 flow of an ENI into a set, as the programs do, that expires after this time. It does not count.
func (m flowMaps) flow(set, eni, flows uint32, lives time.Duration) {
	m.t.Helper()
	const slot, body, opening = 64, 32, 1
	now, err := flowtable.Now()
	if err != nil {
		m.t.Fatal(err)
	}
	value := make([]byte, m.maps.Map(dataplane.MapFlows4).ValueSize())
	deadline := now + uint32(lives/flowtable.Ticks(1))
	value[0] = 77 // tag
	binary.LittleEndian.PutUint32(value[8:], deadline)
	binary.LittleEndian.PutUint32(value[slot:], opening<<1)
	binary.LittleEndian.PutUint32(value[slot+body:], eni)
	binary.LittleEndian.PutUint32(value[slot+body+4:], flows)
	m.put(dataplane.MapFlows4, set, value)
	var due [16]uint32
	due[set%16] = deadline + 2
	m.put(dataplane.MapFlowDue4, set/16, due)
}

// count makes the number of an ENI's flows be this.
func (m flowMaps) count(eni, flows, n uint32) {
	m.t.Helper()
	value := make([]byte, 64)
	binary.LittleEndian.PutUint64(value, uint64(flows)<<32|uint64(n))
	m.put(dataplane.MapFlowUsage, eni, value)
}

func (m flowMaps) counted(eni, flows uint32) uint32 {
	m.t.Helper()
	u, err := flowtable.ReadUsage(m.maps.Map(dataplane.MapFlowUsage))
	if err != nil {
		m.t.Fatal(err)
	}
	return u.Flows(eni, flows)
}

// alive lists the ENIs of all flows.
func (m flowMaps) alive() map[uint32]int {
	m.t.Helper()
	n := map[uint32]int{}
	if err := m.maps.Flows(func(f dataplane.Flow) bool { n[f.ENI]++; return true }); err != nil {
		m.t.Fatal(err)
	}
	return n
}

// eventually waits for what the sweep does, however busy the machine is.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for range 300 {
		if ok() {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Fatalf("%s: not within 30 s", what)
}

// Flows expire and stop counting with the agent dead.
func TestSweepNeedsNoAgent(t *testing.T) {
	w := newWorld(t)
	l := w.open()
	w.apply(l, testState(1, 2))
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	m := w.pinned()
	m.flow(5, 1, 1, 2*time.Second)
	m.flow(40, 2, 2, time.Hour)
	m.count(1, 1, 1)
	m.count(2, 2, 1)
	if n := m.counted(1, 1); n != 1 {
		t.Fatalf("%d flows count at once", n)
	}
	eventually(t, "the flow that expires", func() bool { return m.counted(1, 1) == 0 })
	if got := m.alive(); got[1] != 0 || got[2] != 1 || m.counted(2, 2) != 1 {
		t.Errorf("flows by ENI: %v, %d counted for the second; want the other one only", got, m.counted(2, 2))
	}
}

// A new agent finds numbers that are wrong, and flows that are nobody's: the next pass makes both right.
func TestRestartRepairsTheNumbers(t *testing.T) {
	w := newWorld(t)
	l := w.open()
	w.apply(l, testState(1, 2))
	eventually(t, "the first pass", func() bool { return l.sweep.state.Answered(1) })
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	m := w.pinned()
	m.flow(5, 1, 1, time.Hour)
	m.flow(21, 2, 2, time.Hour)
	m.flow(37, 2, 999, time.Hour)
	m.flow(53, 3, 3, time.Hour)
	m.count(1, 1, 50)
	m.count(2, 2, 0)
	w.open()
	eventually(t, "the numbers", func() bool { return m.counted(1, 1) == 1 && m.counted(2, 2) == 1 })
	if got := m.alive(); got[1] != 1 || got[2] != 1 || got[3] != 0 {
		t.Errorf("flows by ENI: %v, want one each of those that are there", got)
	}
}

// A cut, and an ENI that goes: the sweep ends their flows.
func TestFlipEndsOrphans(t *testing.T) {
	w := newWorld(t)
	l := w.open()
	w.apply(l, testState(1, 3))
	m := w.pinned()
	eventually(t, "the first pass", func() bool { return l.sweep.state.Answered(1) })
	for i := uint32(1); i <= 3; i++ {
		m.flow(16*i, i, i, time.Hour)
		m.count(i, i, 1)
	}
	st := testState(2, 2)
	st.ENIs[1].Flows = 7
	w.apply(l, st)
	eventually(t, "the orphans", func() bool { return m.alive()[2] == 0 && m.alive()[3] == 0 })
	if got := m.alive(); got[1] != 1 || m.counted(1, 1) != 1 {
		t.Errorf("flows by ENI: %v, want that of the first one only", got)
	}
	asked := l.sweep.state.Ask() // is answered, so nothing else is outstanding
	eventually(t, "a pass that was asked for", func() bool { return l.sweep.state.Answered(asked) })
}

// sweepProgram is the id of the program that this loader gave the timer.
func sweepProgram(t *testing.T, l *Loader) ebpf.ProgramID {
	t.Helper()
	info, err := l.slots.Programs[dataplane.SweepStart].Info()
	if err != nil {
		t.Fatal(err)
	}
	id, _ := info.ID()
	return id
}

func programLives(id ebpf.ProgramID) bool {
	p, err := ebpf.NewProgramFromID(id)
	if err != nil {
		return !errors.Is(err, os.ErrNotExist)
	}
	_ = p.Close()
	return true
}

// The timer has the text of the last agent and no other, and ends with the pins.
func TestUpgradeAndTeardownOfTheSweep(t *testing.T) {
	w := newWorld(t)
	l := w.open()
	first := sweepProgram(t, l)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if !programLives(first) {
		t.Fatal("the program of the timer went with its agent")
	}
	w.forgetPrograms() // as if another build came
	l = w.open()
	second := sweepProgram(t, l)
	eventually(t, "the end of the old program", func() bool { return !programLives(first) })
	before := l.sweep.state.Passes()
	eventually(t, "a pass of the new one", func() bool { return l.sweep.state.Passes() != before })
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	w.in(func() error { return Teardown(context.Background(), w.opts) })
	eventually(t, "the end of the timer", func() bool { return !programLives(second) })
}

// A sweep that stands still is started again.
func TestReconcileStartsTheSweep(t *testing.T) {
	w := newWorld(t)
	l := w.open()
	w.apply(l, testState(1, 1))
	pin := w.opts.BPFFS + "/" + w.opts.Host + "/maps/" + dataplane.PinnedName(dataplane.MapSweepTimer)
	if _, err := os.Stat(pin); err != nil {
		t.Fatal(err)
	}
	// An update of the timer's map from outside ends the timer.
	if err := l.Maps().Map(dataplane.MapSweepTimer).Put(uint32(0), make([]byte, 16)); err != nil {
		t.Fatal(err)
	}
	turns := l.sweep.state.Turns()
	eventually(t, "the stop", func() bool {
		before := turns
		turns = l.sweep.state.Turns()
		time.Sleep(time.Second)
		return before == turns && turns == l.sweep.state.Turns()
	})
	w.reconcile(l) // notes that it stands
	l.sweep.looked = l.sweep.looked.Add(-time.Minute)
	if report := w.reconcile(l); len(report.Repairs) == 0 {
		t.Errorf("report %+v, want the repair", report)
	}
	eventually(t, "a turn", func() bool { return l.sweep.state.Turns() != turns })
}

// The tables' size is known without being said again.
func TestFlowFacts(t *testing.T) {
	w := newWorld(t)
	w.opts.MaxFlows = 10_000
	l := w.open()
	w.apply(l, testState(1, 2))
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	w.opts.MaxFlows = 0
	l = w.open()
	w.apply(l, testState(2, 2))
	quota, err := l.Maps().FlowQuota()
	if err != nil {
		t.Fatal(err)
	}
	want := dataplane.ENIFlows{ENI: 1, Limit: 100, Guaranteed: 100, HalfOpen: 39}
	if quota.Max != 10_000 || quota.Pool != 9800 || len(quota.ENIs) != 2 || quota.ENIs[0] != want {
		t.Errorf("%+v, want 10000 flows, a pool of 9800 and %+v", quota, want)
	}
	_ = l.Close()
	w.opts.MaxFlows = 1<<30 + 1
	if err := w.host.Do(func() error { _, err := Open(context.Background(), w.opts); return err }); err == nil {
		t.Error("more flows than slots have numbers were accepted")
	}
}
