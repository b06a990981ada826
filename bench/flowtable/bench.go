// SPDX-License-Identifier: Apache-2.0

// Package flowbench measures the flow table of bpf/flow.h against a preallocated kernel hash. It prints the tables
// that bpf/README.md keeps. All variants of one line run in turn, several rounds, on one CPU; what is printed is the
// median, less that of the same loop without a table.
package flowbench

import (
	"fmt"
	"io"
	"runtime"
	"slices"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/eniplane/eniplane/bench/flowtable/driver"
	"github.com/eniplane/eniplane/pkg/dataplane/flowtable"
)

// maxFlows is what the tables are made for.
const maxFlows = 1 << 20

// established is FLOW_ESTABLISHED, start the flow clock of the first insert, later one at which all have expired.
const (
	established = 2
	start       = 1_000_000
	later       = start + 100_000
)

// shuffle is odd, so that number*shuffle visits all numbers, and large, so that it does so out of order.
const shuffle = 0x9e3779b1

// Run measures both families: each program so many rounds, of so many operations.
func Run(w io.Writer, rounds int, steps uint32) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var before, cpu unix.CPUSet
	if err := unix.SchedGetaffinity(0, &before); err != nil {
		return fmt.Errorf("ask for the CPUs: %w", err)
	}
	cpu.Set(0)
	if err := unix.SchedSetaffinity(0, &cpu); err != nil {
		return fmt.Errorf("bind to CPU 0: %w", err)
	}
	defer unix.SchedSetaffinity(0, &before) //nolint:errcheck // these were its CPUs
	for _, family := range []flowtable.Family{flowtable.IPv4, flowtable.IPv6} {
		b := bench{out: w, family: family, rounds: rounds, steps: steps}
		if err := b.all(); err != nil {
			return err
		}
	}
	return nil
}

type bench struct {
	out    io.Writer
	family flowtable.Family
	rounds int
	steps  uint32
	driver *driver.Driver
}

// name returns the name of a program or map of the family.
func (b *bench) name(stem string) string {
	return stem + map[flowtable.Family]string{flowtable.IPv4: "4", flowtable.IPv6: "6"}[b.family]
}

func (b *bench) all() error {
	d, err := driver.Load(flowtable.Sets(maxFlows), maxFlows)
	if err != nil {
		return err
	}
	defer d.Close()
	b.driver = d
	if err := flowtable.Prepare(d.Map("flow_tables"), d.Map(b.name("flows")), b.family, maxFlows); err != nil {
		return err
	}
	fmt.Fprintf(b.out, "\n%s, ns per operation\n\n", b.family)
	fmt.Fprintln(b.out, "| operation | flows | loop | own table | kernel hash | own/hash |")
	fmt.Fprintln(b.out, "|---|---|---|---|---|---|")
	for _, flows := range []uint32{1, 1 << 16, maxFlows} {
		if err := b.hits(flows); err != nil {
			return err
		}
	}
	if err := b.inserts(); err != nil {
		return err
	}
	return b.dumps()
}

// must runs a program over the flows and wants each operation to succeed.
func (b *bench) must(program string, run driver.Run) (time.Duration, error) {
	out, took, err := b.driver.Do(b.name(program), run)
	if err != nil {
		return 0, err
	}
	if out.OK+4 < run.Count || out.Wrong != 0 {
		return 0, fmt.Errorf("%s: %+v, want %d ok", b.name(program), out, run.Count)
	}
	return took, nil
}

// hits measures the established path over so many flows.
func (b *bench) hits(flows uint32) error {
	fill := driver.Run{Mask: flows - 1, Stride: 1, Count: flows, Now: start, State: established, Mark: 1}
	for _, program := range []string{"insert", "hash_insert"} {
		if _, err := b.must(program, fill); err != nil {
			return err
		}
	}
	look := driver.Run{Mask: flows - 1, Stride: shuffle, Count: b.steps, Now: start}
	programs := []string{"empty", "find", "hash_find", "hit", "hash_hit"}
	ns, err := b.inTurn(programs, look)
	if err != nil {
		return err
	}
	b.line("find", flows, ns["empty"], ns["find"], ns["hash_find"])
	b.line("find and touch", flows, ns["empty"], ns["hit"], ns["hash_hit"])
	return nil
}

// inTurn runs the programs one after the other, several times, and returns the median of each.
func (b *bench) inTurn(programs []string, run driver.Run) (map[string]float64, error) {
	took := map[string][]float64{}
	for range b.rounds {
		for _, program := range programs {
			d, err := b.must(program, run)
			if err != nil {
				return nil, err
			}
			took[program] = append(took[program], float64(d.Nanoseconds())/float64(run.Count))
		}
	}
	ns := map[string]float64{}
	for program, all := range took {
		ns[program] = median(all)
	}
	return ns, nil
}

func median(values []float64) float64 {
	slices.Sort(values)
	return values[len(values)/2]
}

func (b *bench) line(what string, flows uint32, loop, own, hash float64) {
	fmt.Fprintf(b.out, "| %s | %d | %.1f | %.1f | %.1f | %.2f |\n", what, flows, loop, own-loop, hash-loop, (own-loop)/(hash-loop))
}

// inserts measures new flows: into a table where all flows have expired (each round takes new keys), and of keys
// that are there. The hash has to be swept before it takes anything.
func (b *bench) inserts() error {
	var loop, reuse, afterSweep, again, hashAgain, sweep []float64
	for round := range uint32(b.rounds) {
		run := driver.Run{Base: (round + 1) << 20, Mask: 1<<30 - 1, Stride: 1, Count: maxFlows,
			Now: start + (later-start)*(round+1), State: established, Mark: 1}
		perOperation := func(to *[]float64, program string) error {
			took, err := b.must(program, run)
			*to = append(*to, float64(took.Nanoseconds())/maxFlows)
			return err
		}
		took, err := b.sweep(run.Now)
		if err != nil {
			return err
		}
		sweep = append(sweep, float64(took.Nanoseconds())/maxFlows)
		for _, step := range []struct {
			to      *[]float64
			program string
		}{
			{&loop, "empty"}, {&reuse, "insert"}, {&afterSweep, "hash_insert"},
			{&again, "insert"}, {&hashAgain, "hash_insert"},
		} {
			if err := perOperation(step.to, step.program); err != nil {
				return err
			}
		}
	}
	b.line("insert, all else expired (hash: swept)", maxFlows, median(loop), median(reuse), median(afterSweep))
	b.line("insert of a key that is there", maxFlows, median(loop), median(again), median(hashAgain))
	fmt.Fprintf(b.out, "| sweep, per flow | %d | - | not needed | %.1f | - |\n", maxFlows, median(sweep))
	return nil
}

// sweep deletes what has expired from the hash, in the kernel, as it would have to be done without the agent.
func (b *bench) sweep(now uint32) (time.Duration, error) {
	_, took, err := b.driver.Do(b.name("hash_sweep"), driver.Run{Count: 1, Now: now})
	return took, err
}

// dumps measures the list of all flows from user space.
func (b *bench) dumps() error {
	table, err := flowtable.Open(b.driver.Map(b.name("flows")), nil, b.family)
	if err != nil {
		return err
	}
	defer table.Close() //nolint:errcheck // the process ends soon
	now := uint32(start + (later-start)*b.rounds)
	var list, count, batch []float64
	for range b.rounds {
		begin := time.Now()
		n := 0
		table.Each(now, func(*flowtable.Flow) bool { n++; return true })
		list = append(list, float64(time.Since(begin).Milliseconds()))
		begin = time.Now()
		if c := table.Count(now); n+4 < maxFlows || c != n {
			return fmt.Errorf("listed %d flows, counted %d, want %d", n, c, maxFlows)
		}
		count = append(count, float64(time.Since(begin).Microseconds())/1000)
		dump := batchDump[[16]byte, [80]byte]
		if b.family == flowtable.IPv6 {
			dump = batchDump[[40]byte, [88]byte]
		}
		took, err := dump(b.driver.Map(b.name("hash")))
		if err != nil {
			return err
		}
		batch = append(batch, float64(took.Milliseconds()))
	}
	fmt.Fprintf(b.out, "\n%s, ms for %d flows: list %.0f, count %.1f; kernel hash by batches %.0f (%.2f)\n",
		b.family, maxFlows, median(list), median(count), median(batch), median(list)/median(batch))
	return nil
}

// batchDump reads a whole kernel hash, without decoding it. K and V have the sizes of its keys and values.
func batchDump[K, V any](m *ebpf.Map) (time.Duration, error) {
	const size = 1 << 16
	keys, values := make([]K, size), make([]V, size)
	var cursor ebpf.MapBatchCursor
	begin, n := time.Now(), 0
	for n < maxFlows {
		got, err := m.BatchLookup(&cursor, keys, values, nil)
		n += got
		if err != nil && n < maxFlows {
			return 0, fmt.Errorf("dump the kernel hash: %d of %d: %w", n, maxFlows, err)
		}
	}
	return time.Since(begin), nil
}
