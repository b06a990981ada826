// SPDX-License-Identifier: Apache-2.0

// Package flowbench measures the flow table of bpf/flow.h against a preallocated kernel hash, without packets: each
// operation runs inside the kernel on one CPU, on flows in an order that has nothing to do with that of the insert.
package flowbench

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/cilium/ebpf"

	"github.com/eniplane/eniplane/bench"
	"github.com/eniplane/eniplane/bench/flowtable/driver"
	"github.com/eniplane/eniplane/pkg/dataplane/flowtable"
)

// established is FLOW_ESTABLISHED, start the flow clock of the first insert, later one at which all have expired.
const (
	established = 2
	start       = 1_000_000
	later       = start + 100_000
)

// shuffle is odd, so that number*shuffle visits all numbers, and large, so that it does so out of order.
const shuffle = 0x9e3779b1

// hash is the subject that the table is measured against.
const hash = "kernel hash"

// Scenarios lists the scenarios of the flow table.
func Scenarios() []bench.Scenario {
	return []bench.Scenario{
		{Name: "flowtable/find", Help: "find, and find and touch, against a kernel hash", Quick: true, Run: each((*table).finds)},
		{Name: "flowtable/insert", Help: "insert over expired flows and of known keys, against a kernel hash", Run: each((*table).inserts)},
		{Name: "flowtable/sweep", Help: "passes of the sweep over an empty, a live and an expired table", Run: each((*table).sweeps)},
		{Name: "flowtable/list", Help: "list and count all flows from Go, against a kernel hash", Run: each((*table).lists)},
	}
}

// table is the table and the hash of one family, for one scenario.
type table struct {
	*bench.Run
	family flowtable.Family
	max    uint32 // flows
	steps  uint32 // operations per round
	driver *driver.Driver
}

// each runs a measurement for both families.
func each(measure func(*table, context.Context) error) func(context.Context, *bench.Run) error {
	return func(ctx context.Context, r *bench.Run) error {
		release, err := bench.Pin(r.CPU)
		if err != nil {
			return err
		}
		defer release()
		for _, family := range []flowtable.Family{flowtable.IPv4, flowtable.IPv6} {
			if err := one(ctx, r, family, measure); err != nil {
				return fmt.Errorf("%s: %w", family, err)
			}
		}
		return nil
	}
}

func one(ctx context.Context, r *bench.Run, family flowtable.Family, measure func(*table, context.Context) error) error {
	t := &table{Run: r, family: family, max: 1 << 20, steps: 1 << 20}
	switch r.Size {
	case bench.Tiny:
		t.max, t.steps = 1<<10, 1<<10
	case bench.Quick:
		t.steps = 1 << 18
	}
	var err error
	if t.driver, err = driver.Load(flowtable.Sets(t.max), t.max); err != nil {
		return err
	}
	defer t.driver.Close()
	if err := flowtable.Prepare(t.driver.Map("flow_tables"), t.driver.Map(t.name("flows")), family, t.max); err != nil {
		return err
	}
	return measure(t, ctx)
}

// name returns the name of a program or map of the family.
func (t *table) name(stem string) string {
	return stem + map[flowtable.Family]string{flowtable.IPv4: "4", flowtable.IPv6: "6"}[t.family]
}

func (t *table) params(operation string, flows uint32) bench.Params {
	return bench.Params{"operation": operation, "flows": strconv.Itoa(int(flows)), "family": t.family.String()}
}

func cost() bench.Metric { return bench.Metric{Name: "cost", Unit: "ns", Better: bench.Lower} }

// must runs a program over the flows, wants each operation to succeed, and returns ns per operation.
func (t *table) must(program string, run driver.Run) (float64, error) {
	out, took, err := t.driver.Do(t.name(program), run)
	if err != nil {
		return 0, err
	}
	if out.OK+4 < run.Count || out.Wrong != 0 {
		return 0, fmt.Errorf("%s: %+v, want %d ok", t.name(program), out, run.Count)
	}
	return float64(took.Nanoseconds()) / float64(run.Count), nil
}

// measures makes the measurement of a program out of what it runs on.
func (t *table) measures(program string, run driver.Run) func(context.Context) (float64, error) {
	return func(context.Context) (float64, error) { return t.must(program, run) }
}

// finds measures the established path over few and many flows.
func (t *table) finds(ctx context.Context) error {
	for _, flows := range []uint32{1, 1 << 16, t.max} {
		flows = min(flows, t.max)
		fill := driver.Run{Mask: flows - 1, Stride: 1, Count: flows, Now: start, State: established, Mark: 1}
		for _, program := range []string{"insert", "hash_insert"} {
			if _, err := t.must(program, fill); err != nil {
				return err
			}
		}
		look := driver.Run{Mask: flows - 1, Stride: shuffle, Count: t.steps, Now: start}
		find, touch := t.params("find", flows), t.params("find and touch", flows)
		results, err := t.InTurn(ctx, cost(), t.measures("empty", look), []bench.Contender{
			{Subject: bench.Ours, Params: find, Measure: t.measures("find", look)},
			{Subject: hash, Params: find, Measure: t.measures("hash_find", look)},
			{Subject: bench.Ours, Params: touch, Measure: t.measures("hit", look)},
			{Subject: hash, Params: touch, Measure: t.measures("hash_hit", look)},
		})
		if err != nil {
			return err
		}
		t.against(results)
		if flows == t.max {
			break
		}
	}
	return nil
}

// against makes ratios of results that come in pairs: ours, the hash's.
func (t *table) against(results []*bench.Result) {
	for i := 0; i+1 < len(results); i += 2 {
		p := results[i].Params
		t.Ratio(fmt.Sprintf("%s, %s flows, %s: own / hash", p["operation"], p["flows"], p["family"]), results[i], results[i+1], nil)
	}
}

// inserts measures new flows: into a table where all flows have expired (each round takes new keys), and of keys
// that are there. The hash has to be swept before it takes anything.
func (t *table) inserts(context.Context) error {
	fresh := func(subject, operation string) *bench.Result {
		return &bench.Result{Subject: subject, Params: t.params(operation, t.max), Metric: cost()}
	}
	const reuse, again = "insert, all others expired (hash: swept)", "insert of a known key"
	results := []*bench.Result{fresh(bench.Ours, reuse), fresh(hash, reuse), fresh(bench.Ours, again), fresh(hash, again)}
	sweep := fresh(hash, "sweep before anything can be reused, per flow")
	for round := range uint32(t.Repeats) {
		run := driver.Run{Base: (round + 1) << 20, Mask: 1<<30 - 1, Stride: 1, Count: t.max,
			Now: start + (later-start)*(round+1), State: established, Mark: 1}
		_, took, err := t.driver.Do(t.name("hash_sweep"), driver.Run{Count: 1, Now: run.Now})
		if err != nil {
			return err
		}
		sweep.Values = append(sweep.Values, float64(took.Nanoseconds())/float64(t.max))
		loop, err := t.must("empty", run)
		if err != nil {
			return err
		}
		for i, program := range []string{"insert", "hash_insert", "insert", "hash_insert"} {
			ns, err := t.must(program, run)
			if err != nil {
				return err
			}
			results[i].Values = append(results[i].Values, ns-loop)
		}
	}
	for i, r := range results {
		results[i] = t.Record(*r)
	}
	t.Record(*sweep)
	t.against(results)
	return nil
}

// lists measures the list of all flows from user space.
func (t *table) lists(ctx context.Context) error {
	fill := driver.Run{Mask: t.max - 1, Stride: 1, Count: t.max, Now: start, State: established, Mark: 1}
	for _, program := range []string{"insert", "hash_insert"} {
		if _, err := t.must(program, fill); err != nil {
			return err
		}
	}
	own, err := flowtable.Open(t.driver.Map(t.name("flows")), nil, t.family)
	if err != nil {
		return err
	}
	defer own.Close() //nolint:errcheck // nothing is left to do about it
	dump := batchDump[[16]byte, [80]byte]
	if t.family == flowtable.IPv6 {
		dump = batchDump[[40]byte, [88]byte]
	}
	metric := bench.Metric{Name: "time", Unit: "ms", Better: bench.Lower}
	list, count := t.params("list", t.max), t.params("count", t.max)
	results, err := t.InTurn(ctx, metric, nil, []bench.Contender{
		{Subject: bench.Ours, Params: list, Measure: func(context.Context) (float64, error) {
			n, begin := uint32(0), time.Now()
			own.Each(start, func(*flowtable.Flow) bool { n++; return true })
			return ms(begin), t.complete(n)
		}},
		{Subject: hash, Params: list, Measure: func(context.Context) (float64, error) {
			begin := time.Now()
			err := dump(t.driver.Map(t.name("hash")), t.max)
			return ms(begin), err
		}},
		{Subject: bench.Ours, Params: count, Measure: func(context.Context) (float64, error) {
			begin := time.Now()
			n := own.Count(start)
			return ms(begin), t.complete(uint32(n))
		}},
	})
	if err != nil {
		return err
	}
	t.against(results[:2])
	return nil
}

// complete is an error if flows were overlooked; a few may have found no slot.
func (t *table) complete(n uint32) error {
	if n+4 < t.max {
		return fmt.Errorf("saw %d flows, want %d", n, t.max)
	}
	return nil
}

func ms(begin time.Time) float64 { return float64(time.Since(begin).Microseconds()) / 1000 }

// batchDump reads a whole kernel hash, without decoding it. K and V have the sizes of its keys and values.
func batchDump[K, V any](m *ebpf.Map, flows uint32) error {
	size := min(int(flows), 1<<16)
	keys, values := make([]K, size), make([]V, size)
	var cursor ebpf.MapBatchCursor
	for n := 0; n+4 < int(flows); {
		got, err := m.BatchLookup(&cursor, keys, values, nil)
		n += got
		if err != nil && n+4 < int(flows) {
			return fmt.Errorf("dump the kernel hash: %d of %d: %w", n, flows, err)
		}
	}
	return nil
}
