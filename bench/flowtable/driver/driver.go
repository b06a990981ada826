// SPDX-License-Identifier: Apache-2.0

// Package driver runs bpf/flow.h without packets: whole series of operations on numbered flows, for the tests
// and the benchmark of the flow table. Beside the table it holds the kernel hash that the table is measured
// against.
package driver

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// chunk bounds the steps of one call into the kernel, which runs with soft interrupts off.
const chunk = 1 << 15

// done is what the programs return: XDP_DROP.
const done = 1

// Run is a series of operations, and what came of it. Step i is about flow (Base + i*Stride) & Mask; an odd
// Stride visits all flows once.
type Run struct {
	Base    uint32
	Mask    uint32 // number of flows - 1, a power of two less one
	First   uint32
	Stride  uint32
	Count   uint32
	Now     uint32 // flow clock
	Class   uint32 // enum flow_class
	State   uint32 // enum flow_state: of inserted flows, or to advance to
	Mark    uint32 // ENI and incarnation of inserted flows
	OK      uint32
	Missing uint32
	Full    uint32
	Busy    uint32
	Wrong   uint32 // found flows that are not the one asked for, or torn
	Peers   uint32 // CPUs that take each step at the same moment; 0 = alone
	Apart   uint32 // steps at which the others did not come
	Delay   uint32 // how long to hang back then, in turns of an empty loop
	Quota   uint32 // flows refused for it
	Sum     uint64 // of the ENIs of the flows found

	Flags      uint32 // enum flow_flag of inserted flows
	Limit      uint32 // flows that an ENI may have, 0 = any number
	Guaranteed uint32 // of them, with a limit
	Pool       uint32 // flows that all ENIs may have beyond that
	HalfOpen   uint32 // of a direction; needs LoadRings
	Pad        uint32
}

// Driver is the loaded programs and their tables.
type Driver struct {
	collection *ebpf.Collection
}

// Spec returns the object: maps and programs before they are loaded.
func Spec() (*ebpf.CollectionSpec, error) {
	spec, err := loadDriver()
	if err != nil {
		return nil, fmt.Errorf("read the driver's object: %w", err)
	}
	return spec, nil
}

// Load loads programs of the driver, by default all, with own tables of so many sets and kernel hashes of so many
// entries. Half-open flows are not limited.
func Load(sets, hashEntries uint32, programs ...string) (*Driver, error) {
	return load(sets, hashEntries, 0, programs)
}

// LoadRings loads programs like Load, with rings for so many half-open flows per ENI and direction.
func LoadRings(sets, places uint32, programs ...string) (*Driver, error) {
	return load(sets, 64, places, programs)
}

// rings is how many rings there are: two per ENI.
const rings = 2 * 1024

func load(sets, hashEntries, places uint32, programs []string) (*Driver, error) {
	spec, err := Spec()
	if err != nil {
		return nil, err
	}
	for name := range spec.Programs {
		if len(programs) > 0 && !slices.Contains(programs, name) {
			delete(spec.Programs, name)
		}
	}
	for _, name := range []string{"flows4", "flows6"} {
		spec.Maps[name].MaxEntries = sets
	}
	for _, name := range []string{"flow_due4", "flow_due6"} {
		spec.Maps[name].MaxEntries = (sets + 15) / 16
	}
	for _, name := range []string{"hash4", "hash6"} {
		spec.Maps[name].MaxEntries = hashEntries
	}
	if places > 0 {
		if err := spec.Variables["half_open_slots"].Set(places); err != nil {
			return nil, fmt.Errorf("set the size of the rings: %w", err)
		}
	}
	spec.Maps["half_open"].MaxEntries = max(1, rings*places)
	maps.DeleteFunc(spec.Maps, func(name string, _ *ebpf.MapSpec) bool { return !uses(spec, name) })
	collection, err := ebpf.NewCollection(spec)
	if err != nil {
		return nil, fmt.Errorf("load the driver: %+w", err)
	}
	return &Driver{collection: collection}, nil
}

// uses tells whether a map is of the flow table or some program uses it: the headers know all maps of the dataplane.
func uses(spec *ebpf.CollectionSpec, name string) bool {
	if strings.HasPrefix(name, "flow") || strings.HasPrefix(name, "hash") || strings.HasPrefix(name, ".") || name == "gate" || name == "driver_work" {
		return true
	}
	for _, p := range spec.Programs {
		for i := range p.Instructions {
			if p.Instructions[i].IsLoadFromMap() && p.Instructions[i].Reference() == name {
				return true
			}
		}
	}
	return false
}

// Close frees programs and tables.
func (d *Driver) Close() { d.collection.Close() }

// Map returns a map of the driver by its name in C.
func (d *Driver) Map(name string) *ebpf.Map { return d.collection.Maps[name] }

// Meet makes ready for a run on several CPUs at once (Run.Peers).
func (d *Driver) Meet() error {
	if err := d.Map("gate").Put(uint32(0), [16]byte{}); err != nil {
		return fmt.Errorf("open the gate: %w", err)
	}
	return nil
}

// Do runs a program on a series and returns what came of it and how long it took: CPU time of the calling
// thread, so that other work on the machine does not count. Lock the thread to use the time.
func (d *Driver) Do(program string, run Run) (Run, time.Duration, error) {
	var took time.Duration
	total := run.Count
	for run.First = 0; run.First < total; run.First += chunk {
		run.Count = min(chunk, total-run.First)
		out, lasted, err := d.once(program, run)
		if err != nil {
			return run, 0, err
		}
		took += lasted
		run = out
	}
	run.Count = total
	return run, took, nil
}

func (d *Driver) once(program string, run Run) (Run, time.Duration, error) {
	p := d.collection.Programs[program]
	if p == nil {
		return run, 0, fmt.Errorf("run %s: no such program", program)
	}
	in, err := binary.Append(nil, binary.LittleEndian, run)
	if err != nil {
		return run, 0, fmt.Errorf("encode a run: %w", err)
	}
	out := make([]byte, len(in))
	begin := cpuTime()
	result, err := p.Run(&ebpf.RunOptions{Data: in, DataOut: out})
	end := cpuTime()
	if err != nil {
		return run, 0, fmt.Errorf("run %s: %w", program, err)
	}
	if result != done {
		return run, 0, fmt.Errorf("run %s: the program ended with %d, want %d", program, result, done)
	}
	if err := binary.Read(bytes.NewReader(out), binary.LittleEndian, &run); err != nil {
		return run, 0, fmt.Errorf("decode a run: %w", err)
	}
	return run, end - begin, nil
}

// cpuTime returns what the calling thread has used of its CPU. The clock is always there.
func cpuTime() time.Duration {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts)
	return time.Duration(ts.Nano())
}
