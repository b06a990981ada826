// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"fmt"
	"sync/atomic"

	"github.com/eniplane/eniplane/pkg/dataplane"
)

// wayTable is the map `vtep_ways`. A way's MAC and exit are one store; its place is given to another VTEP only when no packet
// is under way that has read it.
type wayTable struct {
	memory *mapping
	at     map[[4]byte]wayPlace // of all that have a place, with or without a way
}

type wayPlace struct {
	bucket uint32
	i      int
}

func (t *wayTable) words(p wayPlace) [2]*uint64 {
	return [2]*uint64{t.memory.word(p.bucket, 2*p.i), t.memory.word(p.bucket, 2*p.i+1)}
}

func (t *wayTable) load(p wayPlace) dataplane.Way {
	w := t.words(p)
	return dataplane.WayOf([2]uint64{atomic.LoadUint64(w[0]), atomic.LoadUint64(w[1])})
}

// adopt learns what an earlier agent has left.
func (t *wayTable) adopt() {
	t.at = map[[4]byte]wayPlace{}
	for bucket := range uint32(dataplane.WayBuckets) {
		for i := range dataplane.WaysPerBucket {
			p := wayPlace{bucket, i}
			if w := t.load(p); w.VTEP != [4]byte{} {
				t.at[w.VTEP] = p
			}
		}
	}
}

// set makes the table hold these ways and no others. Who finds no place takes the kernel's way.
func (t *wayTable) set(want map[[4]byte]dataplane.Way) error {
	for vtep, p := range t.at {
		words := want[vtep].Words() // of a way that is not wanted: no exit
		if at := t.words(p)[1]; atomic.LoadUint64(at) != words[1] {
			atomic.StoreUint64(at, words[1])
		}
	}
	fresh := map[wayPlace]dataplane.Way{}
	reused := false
	for vtep, w := range want {
		if _, has := t.at[vtep]; has {
			continue
		}
		p, found := t.place(vtep, want, fresh)
		if !found {
			continue
		}
		if old := t.load(p).VTEP; old != [4]byte{} {
			reused = true
			delete(t.at, old)
		}
		fresh[p] = w
	}
	if reused {
		if err := grace(); err != nil {
			return fmt.Errorf("give the place of a way to another: %w", err)
		}
	}
	for p, w := range fresh {
		words, at := w.Words(), t.words(p)
		atomic.StoreUint64(at[0], words[0])
		atomic.StoreUint64(at[1], words[1])
		t.at[w.VTEP] = p
	}
	return nil
}

// place finds one in the VTEP's bucket that nobody has or wants.
func (t *wayTable) place(vtep [4]byte, want map[[4]byte]dataplane.Way, fresh map[wayPlace]dataplane.Way) (p wayPlace, found bool) {
	p.bucket = dataplane.WayBucket(vtep)
	for p.i = range dataplane.WaysPerBucket {
		_, taken := fresh[p]
		_, wanted := want[t.load(p).VTEP]
		if !taken && !wanted {
			return p, true
		}
	}
	return p, false
}

// exitTable is the map `exits`. An exit becomes another device's only when no way leads there and no packet is under way.
type exitTable struct {
	memory *mapping
	all    [dataplane.MaxExits]dataplane.Exit // Ifindex 0 = nobody's; Until counts in the map alone
	open   map[int]bool                       // by ifindex: those whose lease is renewed
}

func (t *exitTable) adopt() {
	for i := 1; i < len(t.all); i++ {
		t.all[i] = dataplane.ExitOf([2]uint64{atomic.LoadUint64(t.memory.word(uint32(i), 0)), atomic.LoadUint64(t.memory.word(uint32(i), 1))})
	}
}

// index is the exit by a device; 0 = there is none.
func (t *exitTable) index(ifindex int) uint16 {
	for i := 1; i < len(t.all); i++ {
		if t.open[ifindex] && t.all[i].Ifindex == uint32(ifindex) {
			return uint16(i)
		}
	}
	return 0
}

// set makes these devices, with their MACs, the exits.
func (t *exitTable) set(want map[int][6]byte, ways *wayTable) error {
	t.open = map[int]bool{}
	var fresh []dataplane.Exit
	for ifindex, mac := range want {
		t.open[ifindex] = true
		exit := dataplane.Exit{Ifindex: uint32(ifindex), MAC: mac}
		if i := t.index(ifindex); i == 0 || t.all[i].MAC != mac {
			fresh = append(fresh, exit)
		}
	}
	for i := 1; i < len(t.all); i++ {
		if !t.open[int(t.all[i].Ifindex)] {
			t.store(i, 0)
		}
	}
	if len(fresh) == 0 {
		return nil
	}
	if err := ways.set(nil); err != nil {
		return err
	}
	if err := grace(); err != nil {
		return fmt.Errorf("change the exits to the underlay: %w", err)
	}
	for _, exit := range fresh {
		i := int(t.index(int(exit.Ifindex)))
		for j := len(t.all) - 1; i == 0 && j > 0; j-- {
			if !t.open[int(t.all[j].Ifindex)] {
				i = j
			}
		}
		if i == 0 {
			t.open[int(exit.Ifindex)] = false // more uplinks than places: the kernel's way
			continue
		}
		t.store(i, 0)
		t.all[i] = exit
		atomic.StoreUint64(t.memory.word(uint32(i), 1), exit.Words()[1])
	}
	return nil
}

// renew lets the ways by all open exits count up to a tick.
func (t *exitTable) renew(until uint32) {
	for i := 1; i < len(t.all); i++ {
		if t.open[int(t.all[i].Ifindex)] {
			t.store(i, until)
		}
	}
}

// shut ends all leases.
func (t *exitTable) shut() {
	for i := 1; i < len(t.all); i++ {
		t.store(i, 0)
	}
}

func (t *exitTable) store(i int, until uint32) {
	exit := t.all[i]
	exit.Until = until
	atomic.StoreUint64(t.memory.word(uint32(i), 0), exit.Words()[0])
}
