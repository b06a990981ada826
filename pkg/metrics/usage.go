// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"errors"
	"fmt"
	"reflect"
	"sync"
	"time"

	"github.com/cilium/ebpf"

	"github.com/eniplane/eniplane/pkg/dataplane"
	"github.com/eniplane/eniplane/pkg/dataplane/flowtable"
)

// countEvery bounds the cost of counting entries: big maps are walked once per that time, however
// often somebody scrapes.
const countEvery = 30 * time.Second

// Usage says how full a map is.
type Usage struct {
	Map        string
	Entries    uint64
	MaxEntries uint64
}

// Live is a Maps over the maps of a host.
type Live struct {
	*dataplane.Maps

	mu      sync.Mutex
	counted time.Time
	usage   []Usage
}

// Usage implements Maps.
func (l *Live) Usage(fn func(Usage) bool) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.counted.IsZero() || time.Since(l.counted) > countEvery {
		usage, err := countAll(l.Maps)
		if err != nil {
			return err
		}
		l.usage, l.counted = usage, time.Now()
	}
	for _, u := range l.usage {
		if !fn(u) {
			return nil
		}
	}
	return nil
}

// countAll counts the entries of the maps that can be more or less full: an array always is, but
// for the flow tables, which are arrays of slots.
func countAll(m *dataplane.Maps) ([]Usage, error) {
	spec, err := dataplane.LoadSpec()
	if err != nil {
		return nil, err
	}
	all, err := countFlows(m)
	if err != nil {
		return nil, err
	}
	for _, name := range dataplane.PinnedMaps(spec) {
		bpf := m.Map(name)
		if bpf == nil || bpf.Type() != ebpf.Hash && bpf.Type() != ebpf.LPMTrie {
			continue
		}
		n, err := countEntries(bpf)
		if err != nil {
			return nil, fmt.Errorf("count the entries of %s: %w", name, err)
		}
		all = append(all, Usage{Map: name, Entries: n, MaxEntries: uint64(bpf.MaxEntries())})
	}
	return all, nil
}

func countFlows(m *dataplane.Maps) ([]Usage, error) {
	now, err := flowtable.Now()
	if err != nil {
		return nil, err
	}
	var all []Usage
	for family, name := range []string{flowtable.IPv4: dataplane.MapFlows4, flowtable.IPv6: dataplane.MapFlows6} {
		table, err := m.FlowTable(flowtable.Family(family), false)
		if err != nil {
			return nil, err
		}
		all = append(all, Usage{Map: name, Entries: uint64(table.Count(now)), MaxEntries: uint64(table.Slots())})
		if err := table.Close(); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// countEntries walks a map in batches. What comes or goes meanwhile may or may not be counted.
func countEntries(m *ebpf.Map) (uint64, error) {
	const batch = 4096
	keys, values := slots(batch, m.KeySize()), slots(batch, m.ValueSize())
	var cursor ebpf.MapBatchCursor
	var total uint64
	for {
		n, err := m.BatchLookup(&cursor, keys, values, nil)
		total += uint64(n)
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			return total, nil
		}
		if err != nil {
			return 0, err
		}
	}
}

// slots returns a slice of n arrays of size bytes: the library takes the number from its length.
func slots(n int, size uint32) any {
	return reflect.MakeSlice(reflect.SliceOf(reflect.ArrayOf(int(size), reflect.TypeFor[byte]())), n, n).Interface()
}
