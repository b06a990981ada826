// SPDX-License-Identifier: Apache-2.0

package flowbench

import (
	"context"
	"fmt"
	"time"

	"github.com/eniplane/eniplane/bench"
	"github.com/eniplane/eniplane/bench/flowtable/driver"
)

// sweeps measures passes of the sweep: over an empty table, over one full of live flows, and when all expire at once;
// the last also in turns, as the timer runs them.
func (t *table) sweeps(context.Context) error {
	whole := bench.Metric{Name: "time", Unit: "ms", Better: bench.Lower}
	result := func(what string, metric bench.Metric) *bench.Result {
		return &bench.Result{Subject: bench.Ours, Params: t.params(what, t.max), Metric: metric}
	}
	empty, live, expired := result("pass, empty", whole), result("pass, all live", whole), result("pass, all expired", whole)
	longest := result("longest turn, all expired", whole)
	turns := result("turns, all expired", bench.Metric{Name: "turns", Unit: "turns", Better: bench.Lower})
	pass := func(to *bench.Result, now uint32) error {
		_, took, err := t.driver.Do("sweep", driver.Run{Count: 1, Now: now})
		to.Values = append(to.Values, inMS(took))
		return err
	}
	for round := range uint32(t.Repeats) {
		now := start + 2*(later-start)*round
		if err := pass(empty, now); err != nil {
			return err
		}
		for _, inTurns := range []bool{false, true} {
			fill := driver.Run{Base: (2*round + 1) << 20, Mask: 1<<30 - 1, Stride: 1, Count: t.max, Now: now, State: established, Mark: 1}
			if inTurns {
				fill.Base += 1 << 20
			}
			if _, err := t.must("insert", fill); err != nil {
				return err
			}
			if err := pass(live, now); err != nil {
				return err
			}
			now += later - start
			if !inTurns {
				if err := pass(expired, now); err != nil {
					return err
				}
				continue
			}
			n, most, err := t.turns(now)
			if err != nil {
				return err
			}
			turns.Values, longest.Values = append(turns.Values, n), append(longest.Values, inMS(most))
		}
	}
	for _, r := range []*bench.Result{empty, live, expired, longest, turns} {
		t.Record(*r)
	}
	return nil
}

// turns runs a pass as the timer does.
func (t *table) turns(now uint32) (n float64, longest time.Duration, err error) {
	for range 1 << 20 {
		run, took, err := t.driver.Do("sweep", driver.Run{Count: 2, Now: now})
		if err != nil {
			return 0, 0, err
		}
		n, longest = n+1, max(longest, took)
		if run.OK == 1 {
			return n, longest, nil
		}
	}
	return 0, 0, fmt.Errorf("sweep %d flows: the pass does not end", t.max)
}

func inMS(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e6 }
