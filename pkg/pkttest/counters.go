// SPDX-License-Identifier: Apache-2.0

package pkttest

import (
	"fmt"
	"slices"
	"strings"

	"github.com/cilium/ebpf"

	"github.com/eniplane/eniplane/pkg/dataplane"
)

// counterKey is a counter by the index of its ENI.
type counterKey struct {
	eni       uint32
	direction dataplane.Direction
	reason    dataplane.Reason
}

type counterValue struct{ Packets, Bytes uint64 }

// reasonsPerSide is MAX_REASONS of bpf/types.h.
const reasonsPerSide = 64

// readCounters reads the packets of the host and all its ENIs.
func (w *World) readCounters() (map[counterKey]uint64, error) {
	counts := make(map[counterKey]uint64)
	for _, e := range w.state.ENIs {
		w.lastENI = max(w.lastENI, e.Index)
	}
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return nil, fmt.Errorf("count the CPUs: %w", err)
	}
	var cursor ebpf.MapBatchCursor
	keys := make([]uint32, (w.lastENI+1)*2*reasonsPerSide)
	values := make([]counterValue, len(keys)*cpus)
	if _, err := w.coll.Maps[dataplane.MapCounters].BatchLookup(&cursor, keys, values, nil); err != nil {
		return nil, fmt.Errorf("read counters: %w", err)
	}
	for i, index := range keys {
		var packets uint64
		for _, v := range values[i*cpus:][:cpus] {
			packets += v.Packets
		}
		if packets > 0 {
			side := index / reasonsPerSide
			key := counterKey{side / 2, dataplane.Direction(side % 2), dataplane.Reason(index % reasonsPerSide)}
			counts[key] = packets
		}
	}
	return counts, nil
}

// newCounts gives what was counted since the last call, by the names of the ENIs.
func (w *World) newCounts() ([]Count, error) {
	now, err := w.readCounters()
	if err != nil {
		return nil, err
	}
	var delta []Count
	for key, n := range now {
		if n -= w.counts[key]; n > 0 {
			delta = append(delta, Count{w.nameOf(key.eni), key.direction, key.reason, n})
		}
	}
	w.counts = now
	slices.SortFunc(delta, compareCounts)
	return delta, nil
}

func (w *World) nameOf(index uint32) string {
	for _, e := range w.state.ENIs {
		if e.Index == index {
			return e.Name
		}
	}
	return ""
}

func compareCounts(a, b Count) int {
	if c := strings.Compare(a.ENI, b.ENI); c != 0 {
		return c
	}
	if a.Direction != b.Direction {
		return int(a.Direction) - int(b.Direction)
	}
	return int(a.Reason) - int(b.Reason)
}

// withReceived adds, for every outcome that a row expects, the packet that came in: a packet has
// exactly one outcome at every ENI and direction that it enters. Two packets may enter the host's: one, and our answer.
func withReceived(want []Count) []Count {
	var all []Count
	for _, c := range want {
		c.Packets = max(c.Packets, 1)
		all = append(all, c)
		came := Count{c.ENI, c.Direction, dataplane.ReasonContinue, 0}
		at := slices.IndexFunc(all, func(o Count) bool { return compareCounts(o, came) == 0 })
		if at < 0 {
			at, all = len(all), append(all, came)
		}
		all[at].Packets += c.Packets
	}
	slices.SortFunc(all, compareCounts)
	return all
}

// diffCounts describes a difference, or nothing.
func diffCounts(want, got []Count) string {
	if slices.Equal(want, got) {
		return ""
	}
	return fmt.Sprintf("counted %s\n   want %s\n", list(got), list(want))
}

func list(counts []Count) string {
	if len(counts) == 0 {
		return "nothing"
	}
	var parts []string
	for _, c := range counts {
		parts = append(parts, c.String())
	}
	return strings.Join(parts, ", ")
}
