// SPDX-License-Identifier: Apache-2.0

package instructions

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"

	"github.com/eniplane/eniplane/bench"
	"github.com/eniplane/eniplane/bench/cost"
	"github.com/eniplane/eniplane/bench/region"
	"github.com/eniplane/eniplane/pkg/dataplane"
	"github.com/eniplane/eniplane/pkg/pkttest"
)

// Table is numbers of instructions by what they are of.
type Table map[string]uint64

// samples is how many packets of each kind are counted; the median stands for them. In a table of flows with a random
// seed a few find their place taken.
const samples = 15

// Sizes counts the instructions of each program with all its functions, and of each function.
func Sizes(spec *ebpf.CollectionSpec) Table {
	t := Table{}
	for name, p := range spec.Programs {
		function := ""
		functions := map[string]uint64{}
		for i := range p.Instructions {
			ins := &p.Instructions[i]
			function = cmp.Or(ins.Symbol(), function)
			functions[function] += ins.Size() / asm.InstructionSize
		}
		for f, n := range functions {
			t["program "+name] += n
			if f != name {
				t["function "+f] = n
			}
		}
	}
	return t
}

// packet is a kind of packets.
type packet struct {
	name    string
	traffic cost.Traffic
	dir     dataplane.Direction
	flags   uint8
	filled  bool // its flows are established
}

// packets are what is counted.
func packets() []packet {
	var all []packet
	for _, family := range pkttest.Families() {
		for _, dir := range []dataplane.Direction{dataplane.Out, dataplane.In} {
			for _, peer := range []cost.Peer{cost.Overlay, cost.Internet, cost.SameHost} {
				if peer == cost.SameHost && dir == dataplane.In {
					continue // the other ENI's out
				}
				t := cost.Traffic{Peer: peer, Family: family, Flows: 16}
				tcp, closed, fresh := t, t, t
				tcp.TCP, closed.TCP, fresh.TCP = true, true, true
				closed.Case, fresh.First = 1, 1<<20
				if dir == dataplane.In {
					fresh.First = 1 << 21
				}
				where := fmt.Sprintf(" %s %v %v", peer, dir, family)
				all = append(all,
					packet{"established udp" + where, t, dir, cost.ACK, true},
					packet{"established tcp" + where, tcp, dir, cost.ACK, true},
					packet{"first tcp" + where, fresh, dir, cost.SYN, false},
					packet{"denied tcp" + where, closed, dir, cost.SYN, false})
			}
		}
	}
	return all
}

// Executed counts what packets of each kind execute.
func Executed(ctx context.Context) (Table, error) {
	table := Table{}
	run := &bench.Run{Settings: bench.Settings{Size: bench.Tiny, Repeats: 1, Seed: 1}}
	err := each(ctx, run, func(p packet, executed map[string]uint64) { table["executed "+p.name] = sum(executed) })
	return table, err
}

// each counts packets of each kind, by headers.
func each(ctx context.Context, r *bench.Run, fn func(packet, map[string]uint64)) error {
	cases := []region.Case{
		{Name: "base", Locals: 2, EIPs: true, Endpoints: 1},
		{Name: "closed", Locals: 2, EIPs: true, Endpoints: 1, Closed: true},
	}
	return cost.OnHost(ctx, r, cases, 1<<14, func(b *cost.Bench) error {
		spec, err := dataplane.LoadSpec()
		if err != nil {
			return err
		}
		counter, err := Instrument(spec)
		if err != nil {
			return err
		}
		if counter.Blind*50 > counter.Total {
			return fmt.Errorf("%d of %d instructions are in blocks without room for counting: the counts would mean little", counter.Blind, counter.Total)
		}
		coll, err := b.Load(spec)
		if err != nil {
			return err
		}
		defer coll.Close()
		for _, p := range packets() {
			executed, err := count(b.Meter, counter, coll, p)
			if err != nil {
				return fmt.Errorf("%s: %w", p.name, err)
			}
			fn(p, executed)
		}
		return nil
	})
}

// count takes the median over packets of different flows.
func count(m *cost.Meter, c *Counter, coll *ebpf.Collection, p packet) (map[string]uint64, error) {
	if p.filled {
		if err := m.Fill(p.traffic, dataplane.Out); err != nil {
			return nil, err
		}
	}
	counting := m.With(coll.Programs)
	var counts []map[string]uint64
	for n := range uint32(samples) {
		if err := c.Reset(coll); err != nil {
			return nil, err
		}
		if _, err := counting.Fire(p.traffic, p.dir, p.flags, n); err != nil {
			return nil, err
		}
		executed, err := c.Executed(coll)
		if err != nil {
			return nil, err
		}
		counts = append(counts, executed)
	}
	slices.SortFunc(counts, func(a, b map[string]uint64) int { return cmp.Compare(sum(a), sum(b)) })
	return counts[samples/2], nil
}

// String writes the table, a line per number.
func (t Table) String() string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(t)) {
		fmt.Fprintf(&b, "%s\t%d\n", name, t[name])
	}
	return b.String()
}

// Parse reads what String has written. Lines that begin with # are for people.
func Parse(text []byte) (Table, error) {
	t := Table{}
	for lines := bufio.NewScanner(bytes.NewReader(text)); lines.Scan(); {
		line := lines.Text()
		if strings.HasPrefix(line, "#") {
			continue
		}
		name, number, ok := strings.Cut(line, "\t")
		n, err := strconv.ParseUint(number, 10, 64)
		if !ok || err != nil {
			return nil, fmt.Errorf("table of instructions: this is not a name, a tab and a number: %s", line)
		}
		t[name] = n
	}
	return t, nil
}

// Compare returns an error for each number that has grown by more than a tenth, and for programs and packets that only
// one table has. Numbers below the old ones are fine; functions may come and go, their programs count them.
func Compare(committed, now Table) error {
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(now)) {
		was, known := committed[name]
		switch {
		case !known && !isFunction(name):
			errs = append(errs, fmt.Errorf("%s: %d instructions, not in the table", name, now[name]))
		case known && now[name]*10 > was*11:
			errs = append(errs, fmt.Errorf("%s: %d instructions, were %d: %+.0f %%", name, now[name], was, 100*(float64(now[name])/float64(was)-1)))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(committed)) {
		if _, still := now[name]; !still && !isFunction(name) {
			errs = append(errs, fmt.Errorf("%s: in the table, but there is nothing of this name any more", name))
		}
	}
	return errors.Join(errs...)
}

func isFunction(name string) bool { return strings.HasPrefix(name, "function ") }
