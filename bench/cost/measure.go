// SPDX-License-Identifier: Apache-2.0

package cost

import (
	"context"
	"errors"
	"fmt"

	"github.com/eniplane/eniplane/bench"
	"github.com/eniplane/eniplane/bench/host"
	"github.com/eniplane/eniplane/bench/region"
	"github.com/eniplane/eniplane/pkg/dataplane"
)

// Bench is a scenario under way, on a host with these cases in force.
type Bench struct {
	*bench.Run
	*Meter
	ctx    context.Context
	series uint32 // of first packets, each with flows of its own
}

// The cases in parameters.
const (
	caseEstablished = "established"
	caseFirst       = "first packet"
)

// Metric is what these scenarios measure.
func Metric() bench.Metric { return bench.Metric{Name: "cost", Unit: "ns", Better: bench.Lower} }

// OnHost runs a scenario on a host that has these cases, on one CPU.
func OnHost(ctx context.Context, r *bench.Run, cases []region.Case, maxFlows uint32, fn func(*Bench) error) error {
	if r.Size == bench.Tiny {
		maxFlows = 1 << 14 // the kernel clears what a table takes
	}
	return host.Do(ctx, region.Devices(cases), maxFlows, func(h *host.Host) error {
		release, err := bench.Pin(r.CPU)
		if err != nil {
			return err
		}
		defer release()
		if err := h.Install(ctx, region.Build(cases)); err != nil {
			return err
		}
		m, err := Open(h, r.Seed)
		if err != nil {
			return err
		}
		return errors.Join(fn(&Bench{Run: r, Meter: m, ctx: ctx}), m.Close())
	})
}

// packets is how many make one round.
func (b *Bench) packets() int {
	switch b.Size {
	case bench.Tiny:
		return 256
	case bench.Quick:
		return chunk
	}
	return 4 * chunk
}

// contender measures packets of one direction of traffic, each of which must come to this.
func (b *Bench) contender(t Traffic, dir dataplane.Direction, flags uint8, want dataplane.Reason, params bench.Params) bench.Contender {
	s := t.shot(dir, flags)
	checked, n := false, b.packets()
	return bench.Contender{
		Subject: bench.Ours, Params: t.params(with(params, bench.Params{"direction": dir.String()})),
		Measure: func(context.Context) (float64, error) {
			if !checked {
				checked = true
				if err := b.expect(&s, want, n); err != nil {
					return 0, err
				}
			}
			o, err := b.fire(&s, b.random.Uint32(), n, false)
			return o.ns, err
		},
		Frame: func(context.Context) (float64, error) {
			o, err := b.fire(&s, b.random.Uint32(), n, true)
			return o.ns, err
		},
	}
}

// Established makes the traffic's flows, opened from the ENI's side or the other, and returns a contender for packets
// of one direction.
func (b *Bench) Established(t Traffic, opener, dir dataplane.Direction, params bench.Params) (bench.Contender, error) {
	if err := b.Fill(t, opener); err != nil {
		return bench.Contender{}, fmt.Errorf("open %s: %w", t.params(params), err)
	}
	return b.contender(t, dir, ACK, dataplane.ReasonDelivered, with(params, bench.Params{"case": caseEstablished})), nil
}

// firsts is how many connections one round opens.
func (b *Bench) firsts() uint32 {
	if b.Size == bench.Tiny {
		return 64
	}
	return 1024
}

// Flows of first packets: behind all others, so many for each series.
const (
	firstFlows  = 1 << 24
	seriesFlows = 1 << 20
)

// First measures packets that open a TCP connection each, never seen before. warm: packets with the same addresses
// that open nothing go ahead, so that what the look-ups touch is in the caches.
func (b *Bench) First(t Traffic, dir dataplane.Direction, warm bool, params bench.Params) bench.Contender {
	t.TCP = true
	n := b.firsts()
	open, nothing := t.shot(dir, SYN), t.shot(dir, ACK)
	next := firstFlows + b.series*seriesFlows
	b.series++
	aim := func(s *shot) *shot {
		s.path.Base, s.path.Mask, s.path.Shift, s.path.Ordered = next, 0, 0, 1
		return s
	}
	temperature := "cold"
	if warm {
		temperature = "hot"
	}
	p := with(params, bench.Params{"case": caseFirst, "caches": temperature, "direction": dir.String()})
	params = t.params(p)
	delete(params, "flows")
	return bench.Contender{
		Subject: bench.Ours, Params: params,
		Measure: func(ctx context.Context) (float64, error) {
			for ctx.Err() == nil {
				for range map[bool]int{true: 2}[warm] {
					if _, err := b.fire(aim(&nothing), 0, int(n), false); err != nil {
						return 0, err
					}
				}
				ns, whole, err := b.opened(aim(&open), n)
				next += n
				if err != nil || whole {
					return ns, err
				}
			}
			return 0, ctx.Err()
		},
		Frame: func(context.Context) (float64, error) {
			o, err := b.fire(aim(&open), 0, int(n), true)
			return o.ns, err
		},
	}
}

// opened runs first packets and sees to it that all were admitted. It is not whole if a signal interrupted it: what
// was opened cannot be opened again.
func (b *Bench) opened(s *shot, n uint32) (ns float64, whole bool, err error) {
	before, err := b.counted(dataplane.ReasonDelivered)
	if err != nil {
		return 0, false, err
	}
	o, whole, err := b.once(s, 0, int(n), false)
	if err != nil || !whole {
		return 0, false, err
	}
	after, err := b.counted(dataplane.ReasonDelivered)
	if err != nil {
		return 0, false, err
	}
	if after-before < uint64(n) {
		return 0, false, fmt.Errorf("of %d first packets %d were delivered; all counters: %s", n, after-before, b.allCounters())
	}
	return o.ns, true, nil
}

// with adds parameters.
func with(p, more bench.Params) bench.Params {
	sum := bench.Params{}
	for _, from := range []bench.Params{p, more} {
		for key, value := range from {
			sum[key] = value
		}
	}
	return sum
}
