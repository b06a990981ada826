// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/eniplane/eniplane/pkg/compile"
	"github.com/eniplane/eniplane/pkg/dataplane"
)

// memory is a kernel of plain Go maps that can fail at its n-th operation, once or from then on.
type memory struct {
	tables  map[string]dataplane.Content
	active  uint64
	ops     int
	failAt  int // 0 = never
	forever bool
	onWrite func()
}

var errInjected = errors.New("injected")

func (m *memory) op() error {
	m.ops++
	if m.failAt != 0 && (m.ops == m.failAt || m.forever && m.ops > m.failAt) {
		return errInjected
	}
	return nil
}

type memoryTable struct {
	m    *memory
	name string
}

func (t memoryTable) read() ([]dataplane.Entry, error) {
	var all []dataplane.Entry
	for key, value := range t.m.tables[t.name] {
		all = append(all, dataplane.Entry{Key: []byte(key), Value: bytes.Clone(value)})
	}
	return all, t.m.op()
}

func (t memoryTable) get(key []byte) ([]byte, error) {
	return bytes.Clone(t.m.tables[t.name][string(key)]), t.m.op()
}

func (t memoryTable) verify(entries []dataplane.Entry) error {
	for _, e := range entries {
		got, err := t.get(e.Key)
		if err != nil {
			return err
		}
		if !bytes.Equal(got, e.Value) && !(got == nil && dataplane.IsZero(e.Value)) {
			return fmt.Errorf("read back: key %x holds %x, want %x", e.Key, got, e.Value)
		}
	}
	return nil
}

// write fails in the middle: the entries before the last are written.
func (t memoryTable) write(entries []dataplane.Entry) error {
	err := t.m.op()
	for i, e := range entries {
		if err != nil && i == len(entries)-1 {
			return err
		}
		t.m.tables[t.name][string(e.Key)] = bytes.Clone(e.Value)
		if t.m.onWrite != nil {
			t.m.onWrite()
		}
	}
	return err
}

func (t memoryTable) remove(keys [][]byte) error {
	if err := t.m.op(); err != nil {
		return err
	}
	for _, key := range keys {
		delete(t.m.tables[t.name], string(key))
	}
	return nil
}

func (m *memory) load() uint64 { return m.active }

func (m *memory) store(v uint64) error {
	if err := m.op(); err != nil {
		return err
	}
	m.active = v
	return nil
}

func newMemory() *memory {
	m := &memory{tables: map[string]dataplane.Content{}}
	for name := range dataplane.TableKinds() {
		m.tables[name] = dataplane.Content{}
	}
	return m
}

// engine makes an engine that knows nothing yet, as after a crash.
func (m *memory) engine() *engine {
	e := &engine{tables: map[string]table{}, word: m, grace: m.op}
	for name := range m.tables {
		e.tables[name] = memoryTable{m, name}
	}
	return e
}

func (m *memory) clone() *memory {
	c := &memory{tables: map[string]dataplane.Content{}, active: m.active}
	for name, content := range m.tables {
		c.tables[name] = maps.Clone(content)
	}
	return c
}

// seen is what a packet sees that reads the host word now: the slot in force, and of plain tables
// those entries that the revisions' own contents name.
func (m *memory) seen(revisions map[uint64]*dataplane.Tables) (uint64, error) {
	revision, slot := m.active>>1, int(m.active&1)
	want, err := revisions[revision].All()
	if err != nil {
		return revision, err
	}
	for name, kind := range dataplane.TableKinds() {
		for key, value := range want[name] {
			got := m.tables[name][key]
			if kind == dataplane.InPlace {
				continue
			}
			if kind == dataplane.Slotted && got != nil {
				got = got[slot*len(value):][:len(value)]
			}
			if !bytes.Equal(got, value) {
				return revision, fmt.Errorf("revision %d: table %s key %x is %x, want %x", revision, name, key, got, value)
			}
		}
		for key, got := range m.tables[name] {
			if kind != dataplane.Slotted || want[name][key] != nil {
				continue
			}
			if half := got[slot*len(got)/2:][:len(got)/2]; !dataplane.IsZero(half) {
				return revision, fmt.Errorf("revision %d: table %s has key %x of another revision", revision, name, key)
			}
		}
	}
	return revision, nil
}

// whole: at rest nothing is left of any other revision.
func (m *memory) whole(want *dataplane.Tables) string {
	contents, err := want.All()
	if err != nil {
		return err.Error()
	}
	got := map[string]dataplane.Content{}
	all := map[string]dataplane.Content{}
	for name, kind := range dataplane.TableKinds() {
		got[name], all[name] = m.tables[name], dataplane.Content{}
		for key, value := range contents[name] {
			if kind == dataplane.Slotted {
				value = append(bytes.Clone(value), value...)
			}
			all[name][key] = value
		}
	}
	return cmp.Diff(all, got)
}

func (m *memory) apply(e *engine, want *dataplane.Tables) error {
	if err := e.refresh(); err != nil {
		return err
	}
	p, err := e.plan(want)
	if err != nil {
		return err
	}
	if err := e.prepare(p); err != nil {
		return err
	}
	if err := e.flip(p); err != nil {
		return errors.Join(err, e.abandon(p))
	}
	if err := e.move(p); err != nil {
		return err
	}
	if err := e.finish(p); err != nil {
		return err
	}
	return e.clean(p)
}

// twoRevisions differ in all ways: an ENI goes, one comes at its index, a next hop moves, one is
// judged again, one is given to another ENI, rules and routes are replaced.
func twoRevisions(t *testing.T) map[uint64]*dataplane.Tables {
	t.Helper()
	one, two := testState(1, 3), testState(2, 2)
	addENI(two, 3, 9)
	two.NextHops[0].Generation = 2
	two.NextHops[2].VTEP = one.VTEPs[0].Addr.Next()
	two.Rulesets[0].ID, two.Rulesets[0].Services, two.Services[0].ID = 4, 33, 33 // the addresses stay
	two.Groups = []compile.GroupTable{{ID: 34, Groups: []compile.GroupClass{{GroupSet: 1, Class: 1}}}}
	two.Rulesets[0].Groups = 34
	two.Routes[1].Table = 5
	for i := range two.ENIs {
		two.ENIs[i].SGIn, two.ENIs[i].SGOut, two.ENIs[i].Routes, two.ENIs[i].Generation = 4, 4, 5, 2
	}
	all := map[uint64]*dataplane.Tables{}
	for _, st := range []*compile.State{one, two} {
		tables, err := dataplane.Encode(st, dataplane.HostFacts{VXLANIfindex: 3, OverlayMTU: 1450})
		if err != nil {
			t.Fatal(err)
		}
		all[st.Revision] = tables
	}
	return all
}

// Every operation fails once, and from then on for ever (a crash); what packets see is always one
// whole revision, and the next apply, by an engine that knows nothing, brings the new one.
func TestEngineSurvivesEveryFault(t *testing.T) {
	t.Run("as after a start", func(t *testing.T) {
		engineSurvives(t, func(m *memory, _ *dataplane.Tables) *engine { return m.engine() })
	})
	t.Run("by the engine that applied the last revision", func(t *testing.T) {
		engineSurvives(t, func(m *memory, last *dataplane.Tables) *engine {
			e := m.engine()
			if err := m.apply(e, last); err != nil {
				t.Fatal(err)
			}
			m.ops = 0
			return e
		})
	})
}

func engineSurvives(t *testing.T, engineOf func(m *memory, last *dataplane.Tables) *engine) {
	revisions := twoRevisions(t)
	rest := newMemory()
	if err := rest.apply(rest.engine(), revisions[1]); err != nil {
		t.Fatal(err)
	}
	if diff := rest.whole(revisions[1]); diff != "" {
		t.Fatalf("at rest (-want +got):\n%s", diff)
	}
	clean := rest.clone()
	if err := clean.apply(engineOf(clean, revisions[1]), revisions[2]); err != nil {
		t.Fatal(err)
	}
	if diff := clean.whole(revisions[2]); diff != "" {
		t.Fatalf("applied (-want +got):\n%s", diff)
	}
	if clean.ops < 40 {
		t.Fatalf("only %d operations: the revisions hardly differ", clean.ops)
	}
	for _, crash := range []bool{false, true} {
		for n := 1; n <= clean.ops; n++ {
			m := rest.clone()
			e := engineOf(m, revisions[1])
			m.failAt, m.forever = n, crash
			m.onWrite = func() {
				if _, err := m.seen(revisions); err != nil {
					t.Errorf("crash %v at operation %d: %v", crash, n, err)
				}
			}
			err := m.apply(e, revisions[2])
			if !errors.Is(err, errInjected) {
				t.Fatalf("crash %v at operation %d: %v, want the injected error", crash, n, err)
			}
			revision, err := m.seen(revisions)
			if err != nil {
				t.Errorf("crash %v at operation %d: %v", crash, n, err)
			}
			if revision == 1 && !crash {
				if diff := m.whole(revisions[1]); diff != "" {
					t.Errorf("fault at operation %d left the old state changed (-want +got):\n%s", n, diff)
				}
			}
			m.failAt = 0
			if err := m.apply(m.engine(), revisions[2]); err != nil {
				t.Errorf("apply after a fault at operation %d: %v", n, err)
			}
			if diff := m.whole(revisions[2]); diff != "" {
				t.Errorf("crash %v at operation %d, then applied (-want +got):\n%s", crash, n, diff)
			}
		}
	}
}

// A plain entry is never changed: its id would mean two things within one revision.
func TestEngineRefusesChangedPlainEntry(t *testing.T) {
	m := newMemory()
	revisions := twoRevisions(t)
	if err := m.apply(m.engine(), revisions[1]); err != nil {
		t.Fatal(err)
	}
	st := testState(2, 3)
	st.Routes[1].Kind = compile.RouteInternet
	tables, err := dataplane.Encode(st, dataplane.HostFacts{VXLANIfindex: 3, OverlayMTU: 1450})
	if err != nil {
		t.Fatal(err)
	}
	if err := m.apply(m.engine(), tables); err == nil {
		t.Error("a route of a table in force was changed without an error")
	}
	if diff := m.whole(revisions[1]); diff != "" {
		t.Errorf("the refused revision changed something (-want +got):\n%s", diff)
	}
}

// faultyTable is a table of the kernel that fails at the n-th operation of the loader.
type faultyTable struct {
	table
	ops *memory
}

func (t faultyTable) write(entries []dataplane.Entry) error {
	if err := t.ops.op(); err != nil {
		return err
	}
	return t.table.write(entries)
}

func (t faultyTable) remove(keys [][]byte) error {
	if err := t.ops.op(); err != nil {
		return err
	}
	return t.table.remove(keys)
}

func (t faultyTable) verify(entries []dataplane.Entry) error {
	if err := t.ops.op(); err != nil {
		return err
	}
	return t.table.verify(entries)
}

func (t faultyTable) get(key []byte) ([]byte, error) {
	if err := t.ops.op(); err != nil {
		return nil, err
	}
	return t.table.get(key)
}

// The same in the kernel, with devices: whatever fails, either the old or the new revision is in
// force with its ENIs READY or closed, none is READY that must not be, and the next Apply succeeds.
func TestApplySurvivesEveryFault(t *testing.T) {
	w := newWorld(t)
	for _, name := range []string{"port1", "port2", "port3", "port9"} {
		w.veth(name)
	}
	l := w.open()
	faults := &memory{}
	for name, kernel := range l.tables {
		l.tables[name] = faultyTable{kernel, faults}
	}
	revision := uint64(1)
	next := func(changed bool) *compile.State {
		revision++
		st := testState(revision, 2)
		if changed {
			addENI(st, 3, 9)
		} else {
			addENI(st, 3, 3)
		}
		return st
	}
	w.apply(l, next(false))
	faults.ops = 0
	w.apply(l, next(true))
	total := faults.ops
	if total < 20 {
		t.Fatalf("only %d operations between the revisions", total)
	}
	old, other := map[uint32]uint32{1: 1, 2: 2, 3: 3}, map[uint32]uint32{1: 1, 2: 2, 3: 9}
	for n := 1; n <= total; n++ {
		faults.ops, faults.failAt = 0, 0
		w.apply(l, next(false))
		before := l.engine.revision()
		faults.ops, faults.failAt = 0, n
		report, err := w.tryApply(l, next(true))
		if !errors.Is(err, errInjected) {
			t.Fatalf("fault at operation %d of %d: error %v", n, total, err)
		}
		faults.failAt = 0
		ready := readyENIs(t, l)
		want := old
		if report.Revision != before {
			want = other
		}
		for index, incarnation := range ready {
			if want[index] != incarnation {
				t.Errorf("fault at operation %d: ENI %d is READY as incarnation %d, revision %d has %d", n, index, incarnation, report.Revision, want[index])
			}
		}
		if report.Revision == before && len(ready) != len(old) {
			t.Errorf("fault at operation %d before the flip: READY are %v, want %v", n, ready, old)
		}
		w.apply(l, next(true))
		if diff := cmp.Diff(other, readyENIs(t, l)); diff != "" {
			t.Errorf("apply after a fault at operation %d, READY (-want +got):\n%s", n, diff)
		}
	}
}

// An engine that knows what is in the tables lays out, writes and removes only the sets that change.
func TestEngineLeavesSetsAlone(t *testing.T) {
	m := newMemory()
	e := m.engine()
	revisions := twoRevisions(t)
	for _, n := range []uint64{1, 2} {
		if err := m.apply(e, revisions[n]); err != nil {
			t.Fatal(err)
		}
	}
	st := testState(3, 2)
	st.Rulesets[0].ID, st.Rulesets[0].Verdicts[0].Rule = 4, 0 // cannot be laid out, and nobody asks
	st.Rulesets[0].Services, st.Services[0].ID = 33, 33
	st.Routes[1].Table = 6
	for i := range st.ENIs {
		st.ENIs[i].SGIn, st.ENIs[i].SGOut, st.ENIs[i].Routes = 4, 4, 6
	}
	tables, err := dataplane.Encode(st, dataplane.HostFacts{VXLANIfindex: 3, OverlayMTU: 1450})
	if err != nil {
		t.Fatal(err)
	}
	if err := e.refresh(); err != nil {
		t.Fatal(err)
	}
	p, err := e.plan(tables)
	if err != nil {
		t.Fatal(err)
	}
	touched := map[string]bool{}
	for _, steps := range [][]step{p.stage, p.settle} {
		for _, s := range steps {
			touched[s.table] = true
		}
	}
	if touched["addrs4"] || touched["services"] || touched["verdicts"] || !touched["routes4"] {
		t.Errorf("the revision changes routes only, but touches %v", touched)
	}
}
