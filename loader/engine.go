// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/eniplane/eniplane/pkg/dataplane"
)

// engine brings the tables of a revision into force: staged beside what is in force, read back,
// flipped by one store, settled. It knows nothing of devices.
type engine struct {
	tables map[string]table
	word   word
	grace  func() error
	// current is what the tables hold, slotted ones with both halves. nil = unknown, to be read:
	// after a start and after any error.
	current map[string]dataplane.Content
	// sets are the rule sets and route tables that are whole in the tables; current leaves those out then.
	// nil = unknown.
	sets map[dataplane.SetID]dataplane.Set
}

// plan is all that one revision changes, in the order in which it happens.
type plan struct {
	revision uint64
	stage    []step // before the flip
	undo     []step // takes stage back
	moves    []step // at the flip
	edits    []step // when no packet sees the old slot any more
	settle   []step // last
	written  int
	deleted  int
	settled  map[string]dataplane.Content
	sets     map[dataplane.SetID]dataplane.Set
}

// step is a change of one table.
type step struct {
	table  string
	write  []dataplane.Entry
	remove [][]byte
}

func (s *step) empty() bool { return len(s.write) == 0 && len(s.remove) == 0 }

// refresh reads what the tables hold unless that is known.
func (e *engine) refresh() error {
	if e.current != nil {
		return nil
	}
	current := map[string]dataplane.Content{}
	for name := range dataplane.TableKinds() {
		entries, err := e.tables[name].read()
		if err != nil {
			return fmt.Errorf("table %s: %w", name, err)
		}
		content := make(dataplane.Content, len(entries))
		for _, entry := range entries {
			content[string(entry.Key)] = entry.Value
		}
		current[name] = content
	}
	e.current = current
	return nil
}

func (e *engine) revision() uint64 { return e.word.load() >> 1 }

func (e *engine) slot() int { return int(e.word.load() & 1) }

// plan compares what shall be with what is.
func (e *engine) plan(want *dataplane.Tables) (*plan, error) {
	p := &plan{revision: want.Revision, settled: map[string]dataplane.Content{}, sets: want.Sets}
	contents := want.Contents
	if e.sets == nil {
		var err error
		if contents, err = want.All(); err != nil {
			return nil, err
		}
	} else if err := e.planSets(p); err != nil {
		return nil, err
	}
	kinds := dataplane.TableKinds()
	for _, name := range slices.Sorted(maps.Keys(contents)) {
		d := differ{name: name, current: e.current[name], want: contents[name], slot: e.slot()}
		var err error
		switch kinds[name] {
		case dataplane.Slotted:
			d.slotted()
		case dataplane.InPlace:
			err = d.inPlace()
		case dataplane.Plain:
			err = d.plain()
		}
		if err != nil {
			return nil, fmt.Errorf("table %s: %w", name, err)
		}
		d.addTo(p)
	}
	return p, nil
}

// planSets adds the sets that are new and removes those that nobody names any more. A set that stays is not
// looked at: its id stands for its content.
func (e *engine) planSets(p *plan) error {
	err := eachEntry(p.sets, e.sets, func(name string, list []dataplane.Entry) {
		p.stage = append(p.stage, step{table: name, write: list})
		p.undo = append(p.undo, step{table: name, remove: keysOf(list)})
		p.written += len(list)
	})
	if err != nil {
		return err
	}
	return eachEntry(e.sets, p.sets, func(name string, list []dataplane.Entry) {
		p.settle = append(p.settle, step{table: name, remove: keysOf(list)})
		p.deleted += len(list)
	})
}

// eachEntry calls fn with the entries of each table of the sets that others do not have, in one order.
func eachEntry(sets, others map[dataplane.SetID]dataplane.Set, fn func(table string, list []dataplane.Entry)) error {
	for _, id := range slices.SortedFunc(maps.Keys(sets), dataplane.SetID.Compare) {
		if _, same := others[id]; same {
			continue
		}
		entries, err := sets[id].Entries()
		if err != nil {
			return fmt.Errorf("lay out a set of rules or routes: %w", err)
		}
		for _, name := range slices.Sorted(maps.Keys(entries)) {
			fn(name, entries[name])
		}
	}
	return nil
}

func keysOf(entries []dataplane.Entry) [][]byte {
	keys := make([][]byte, len(entries))
	for i := range entries {
		keys[i] = entries[i].Key
	}
	return keys
}

// prepare writes everything that no packet sees yet, and reads it back. On an error the old state
// is whole: what was added is taken back, and what cannot be is in nobody's way.
func (e *engine) prepare(p *plan) error {
	if err := e.run(p.stage); err != nil {
		return errors.Join(err, e.abandon(p))
	}
	return nil
}

// abandon takes a prepared revision back.
func (e *engine) abandon(p *plan) error {
	e.current, e.sets = nil, nil
	if err := e.change(p.undo); err != nil {
		return fmt.Errorf("take back: %w", err)
	}
	return nil
}

// flip is the moment from which the new revision judges.
func (e *engine) flip(p *plan) error {
	next := p.revision<<1 | uint64(1-e.slot())
	if err := e.word.store(next); err != nil {
		return fmt.Errorf("bring revision %d into force: %w", p.revision, err)
	}
	return nil
}

// move edits the next hops of what is elsewhere by now. After an error the revision is in force all the same; the
// next plan finishes it.
func (e *engine) move(p *plan) error {
	e.current, e.sets = nil, nil
	return e.run(p.moves)
}

// finish edits the other next hops, when no packet of the old slot is under way, and removes what is of no use any
// more.
func (e *engine) finish(p *plan) error {
	if err := e.grace(); err != nil {
		return err
	}
	return e.run(p.edits)
}

// clean is the last step: both slots become equal, what nobody uses goes.
func (e *engine) clean(p *plan) error {
	if err := e.run(p.settle); err != nil {
		return err
	}
	e.current, e.sets = p.settled, p.sets
	for _, name := range dataplane.SetTables() {
		delete(e.current, name)
	}
	return nil
}

// run makes changes and reads back what was written.
func (e *engine) run(steps []step) error {
	if err := e.change(steps); err != nil {
		return err
	}
	for i := range steps {
		s := &steps[i]
		if err := e.tables[s.table].verify(s.write); err != nil {
			return fmt.Errorf("table %s: %w", s.table, err)
		}
	}
	return nil
}

func (e *engine) change(steps []step) error {
	for i := range steps {
		s := &steps[i]
		if len(s.write) > 0 {
			if err := e.tables[s.table].write(s.write); err != nil {
				return fmt.Errorf("table %s: %w", s.table, err)
			}
		}
		if len(s.remove) > 0 {
			if err := e.tables[s.table].remove(s.remove); err != nil {
				return fmt.Errorf("table %s: %w", s.table, err)
			}
		}
	}
	return nil
}
