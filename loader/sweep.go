// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"fmt"
	"time"

	"github.com/cilium/ebpf"

	"github.com/eniplane/eniplane/pkg/dataplane"
	"github.com/eniplane/eniplane/pkg/dataplane/flowtable"
)

// sweeper is the agent's side of the sweep, which runs in the kernel by a timer: that lives in a pinned map, with or
// without an agent, and calls the program that set it going last.
type sweeper struct {
	state   *flowtable.Sweep
	turns   uint32    // when it was looked at last
	looked  time.Time // when that was
	orphans bool      // flows may be there that are nobody's in the revision in force
}

// sweepSilence is how long the sweep, which comes several times a second, may be silent.
const sweepSilence = 5 * time.Second

// startSweep sets the timer going, or gives the one that runs the text of this version. The first pass looks at
// everything: whoever worked here before may have died in the middle.
func (l *Loader) startSweep() error {
	state, err := flowtable.OpenSweep(l.maps.Map(dataplane.MapFlowSweep))
	if err != nil {
		return err
	}
	l.sweep.state = state
	l.closers = append(l.closers, state.Close)
	if err := l.runSweep(); err != nil {
		return err
	}
	state.Ask()
	return nil
}

func (l *Loader) runSweep() error {
	prog := l.slots.Programs[dataplane.SweepStart]
	if prog == nil {
		return fmt.Errorf("the BPF object has no program %s", dataplane.SweepStart)
	}
	code, err := prog.Run(&ebpf.RunOptions{Data: make([]byte, 14)})
	if err != nil {
		return fmt.Errorf("start the sweep of the flow tables: %w", err)
	}
	if code != 0 {
		return fmt.Errorf("start the sweep of the flow tables: the kernel's timer refuses with %d", int32(code))
	}
	l.sweep.turns, l.sweep.looked = l.sweep.state.Turns(), time.Now()
	return nil
}

// keepSweeping starts the timer again if it has been silent.
func (l *Loader) keepSweeping(report *Report) error {
	s := &l.sweep
	turns := s.state.Turns()
	switch {
	case turns != s.turns:
		s.turns, s.looked = turns, time.Now()
	case time.Since(s.looked) > sweepSilence:
		report.repaired(l.log, "the sweep of the flow tables stood still and runs again")
		return l.runSweep()
	}
	return nil
}

// flowFacts reads for how many flows the tables were made.
func (l *Loader) flowFacts(facts *dataplane.HostFacts) (err error) {
	facts.HalfOpen = flowtable.RingPlaces(l.maps.Map(dataplane.MapHalfOpen).MaxEntries())
	facts.MaxFlows, err = flowtable.MaxFlows(l.maps.Map(dataplane.MapFlowTables))
	return err
}

// findOrphans compares whose flows count now, in either slot, with whose will count.
func (l *Loader) findOrphans(want *dataplane.Tables) error {
	next := want.Contents[dataplane.MapENIs]
	for key, both := range l.engine.current[dataplane.MapENIs] {
		var wanted uint32
		if half := next[key]; half != nil {
			id, err := dataplane.FlowsID(half)
			if err != nil {
				return err
			}
			wanted = id
		}
		for _, half := range [][]byte{both[:len(both)/2], both[len(both)/2:]} {
			id, err := dataplane.FlowsID(half)
			if err != nil {
				return err
			}
			l.sweep.orphans = l.sweep.orphans || id != 0 && id != wanted
		}
	}
	return nil
}

// endOrphans: from now on no program takes flows for an ENI's that are not, and the sweep ends them.
func (l *Loader) endOrphans() {
	if l.sweep.orphans {
		l.sweep.state.Ask()
		l.sweep.orphans = false
	}
}
