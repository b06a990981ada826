// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"bytes"
	"fmt"
	"maps"
	"slices"

	"github.com/eniplane/eniplane/pkg/dataplane"
)

// differ finds what a revision changes in one table.
type differ struct {
	name    string
	current dataplane.Content
	want    dataplane.Content
	slot    int // in force

	stage, undo, moves, edits, settle step
	settled                           dataplane.Content
}

func (d *differ) addTo(p *plan) {
	for _, s := range []struct {
		from *step
		to   *[]step
	}{{&d.stage, &p.stage}, {&d.undo, &p.undo}, {&d.moves, &p.moves}, {&d.edits, &p.edits}, {&d.settle, &p.settle}} {
		if s.from.empty() {
			continue
		}
		s.from.table = d.name
		*s.to = append(*s.to, *s.from)
	}
	p.written += len(d.stage.write) + len(d.moves.write) + len(d.edits.write)
	p.deleted += len(d.settle.remove)
	p.settled[d.name] = d.settled
}

// changed lists the keys whose entries are not yet as they must be in the end, sorted: equal input
// gives equal writes. Most revisions change little of much.
func (d *differ) changed(atRest func(now, want []byte) bool) []string {
	var keys []string
	for key, want := range d.want {
		if !atRest(d.current[key], want) {
			keys = append(keys, key)
		}
	}
	for key := range d.current {
		if d.want[key] == nil {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	return keys
}

func (s *step) put(key string, value []byte) {
	s.write = append(s.write, dataplane.Entry{Key: []byte(key), Value: value})
}

func (s *step) drop(key string) { s.remove = append(s.remove, []byte(key)) }

// slotted writes the half that no packet reads, and makes both halves equal in the end.
func (d *differ) slotted() {
	d.settled = maps.Clone(d.current)
	for _, key := range d.changed(bothHalves) {
		now, half := d.current[key], d.want[key]
		size := max(len(half), len(now)/2)
		staged := make([]byte, 2*size)
		copy(staged, now)
		next := staged[(1-d.slot)*size:][:size]
		clear(next)
		copy(next, half)
		if !bytes.Equal(staged, now) {
			d.stage.put(key, staged)
			if now == nil {
				d.undo.drop(key)
			} else {
				d.undo.put(key, now)
			}
		}
		if half == nil {
			d.settle.drop(key)
			delete(d.settled, key)
			continue
		}
		both := slices.Concat(half, half)
		if !bytes.Equal(both, staged) {
			d.settle.put(key, both)
		}
		d.settled[key] = both
	}
}

// bothHalves tells whether an entry holds a value in both slots.
func bothHalves(now, want []byte) bool {
	return len(now) == 2*len(want) && bytes.Equal(now[:len(want)], want) && bytes.Equal(now[len(want):], want)
}

// plain adds before and removes after. Such entries are content-addressed: a key with another value
// would change the revision in force.
func (d *differ) plain() error {
	d.settled = d.want
	for _, key := range d.changed(bytes.Equal) {
		now, value := d.current[key], d.want[key]
		switch {
		case now == nil:
			d.stage.put(key, value)
			d.undo.drop(key)
		case value == nil:
			d.settle.drop(key)
		default:
			return fmt.Errorf("key %x is in force with %x and the revision wants %x: ids were given out twice, which happens if the agent's state directory was lost; enictl teardown this host", key, now, value)
		}
	}
	return nil
}

// inPlace is for next hops: new ones before the flip, a mere move at the flip, what makes flows be
// judged again when none is judged by the old revision any more, removals last.
func (d *differ) inPlace() error {
	d.settled = d.want
	for _, key := range d.changed(bytes.Equal) {
		now, value := d.current[key], d.want[key]
		switch {
		case now == nil:
			d.stage.put(key, value)
			d.undo.drop(key)
		case value == nil:
			d.settle.drop(key)
		default:
			if err := d.edit(key, now, value); err != nil {
				return err
			}
		}
	}
	return nil
}

// edit: a hop that becomes another ENI's leads nowhere between the revisions.
func (d *differ) edit(key string, now, value []byte) error {
	change, err := dataplane.CompareNextHops(now, value)
	if err != nil {
		return err
	}
	switch change {
	case dataplane.NextHopMoved:
		d.moves.put(key, value)
	case dataplane.NextHopJudge:
		d.edits.put(key, value)
	case dataplane.NextHopReused:
		closed := slices.Clone(now)
		clear(closed[:8])
		d.stage.put(key, closed)
		d.undo.put(key, now)
		d.edits.put(key, value)
	}
	return nil
}
