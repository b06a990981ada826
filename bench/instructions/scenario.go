// SPDX-License-Identifier: Apache-2.0

package instructions

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/eniplane/eniplane/bench"
	"github.com/eniplane/eniplane/bench/cost"
	"github.com/eniplane/eniplane/pkg/dataplane"
)

// Scenarios lists the one scenario, which shows where the instructions are.
func Scenarios() []bench.Scenario {
	return []bench.Scenario{
		{Name: "cost/instructions", Help: "instructions that packets execute, by the header that they come from; sizes of the programs", Quick: true, Run: run},
	}
}

// run records the packets' instructions, and what this kernel makes of the programs.
func run(ctx context.Context, r *bench.Run) error {
	metric := bench.Metric{Name: "executed", Unit: "instructions", Better: bench.Lower}
	err := each(ctx, r, func(p packet, executed map[string]uint64) {
		record := func(header string, n uint64) {
			r.Record(bench.Result{Subject: bench.Ours, Params: bench.Params{"packet": p.name, "header": header}, Metric: metric, Values: []float64{float64(n)}})
		}
		record("all", sum(executed))
		for _, header := range slices.Sorted(maps.Keys(executed)) {
			record(header, executed[header])
		}
	})
	if err != nil {
		return err
	}
	r.Missing("", nil, "what the kernel's helpers execute: counted are the instructions of the object")
	return cost.OnHost(ctx, r, nil, 1<<10, func(b *cost.Bench) error {
		for _, slot := range dataplane.Slots() {
			info, err := b.Info(slot.Program)
			if err != nil {
				return err
			}
			verified, _ := info.VerifiedInstructions() // 0 where the kernel does not say it
			translated, err := info.Instructions()
			if err != nil {
				return fmt.Errorf("program %s: %w", slot.Program, err)
			}
			machine, _ := info.JitedSize() // as above
			for _, m := range []struct {
				name, unit string
				value      float64
			}{
				{"verified", "instructions", float64(verified)}, {"translated", "instructions", float64(len(translated))},
				{"machine code", "bytes", float64(machine)},
			} {
				r.Record(bench.Result{Subject: bench.Ours, Params: bench.Params{"program": slot.Program},
					Metric: bench.Metric{Name: m.name, Unit: m.unit, Better: bench.Lower}, Values: []float64{m.value}})
			}
		}
		return nil
	})
}
