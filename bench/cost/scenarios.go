// SPDX-License-Identifier: Apache-2.0

package cost

import (
	"context"
	"fmt"
	"strconv"

	"github.com/eniplane/eniplane/bench"
	"github.com/eniplane/eniplane/bench/region"
	"github.com/eniplane/eniplane/pkg/dataplane"
	"github.com/eniplane/eniplane/pkg/pkttest"
)

// Scenarios lists the scenarios of program cost.
func Scenarios() []bench.Scenario {
	return []bench.Scenario{
		{Name: "cost/established", Help: "a packet of a known flow, hot: each program, both families, with and without EIP", Quick: true, Run: established},
		{Name: "cost/eip", Help: "what an EIP adds to a packet of a known flow, against one of the overlay", Quick: true, Run: eipAdds},
		{Name: "cost/first", Help: "the first packet of a connection, hot, and cold with 64k flows and 100k routes", Quick: true, Run: first},
		{Name: "cost/denied", Help: "packets that the security groups deny, of random sources, with 64k live flows", Quick: true, Run: denied},
		{Name: "cost/uplink", Help: "what the uplink's programs cost packets that they pass on or drop: XDP and TC", Quick: true, Run: uplink},
		{Name: "cost/counters", Help: "a packet of a known flow, against programs that count nothing", Quick: true, Run: counters},
		{Name: "cost/flows", Help: "established, 1 to 1M flows in random order", Quick: true, Run: flows},
		{Name: "cost/enis", Help: "established, the same flows on 1 to 1000 ENIs", Run: enis},
		{Name: "cost/endpoints", Help: "established and first packet, 1 to 1M endpoints", Run: endpoints},
		{Name: "cost/routes", Help: "established and first packet, 1 to 100k routes", Quick: true, Run: routes},
		{Name: "cost/rules", Help: "established and first packet, 1 to 1000 rules with 1 to 100k prefixes", Run: rules},
	}
}

const source = "issue 4"

func atMost(limit float64) *bench.Goal {
	return &bench.Goal{Limit: limit, Better: bench.Lower, Source: source}
}

// families are both, or one where the sweep is long.
func families(r *bench.Run) []pkttest.Family {
	if r.Size == bench.Full {
		return pkttest.Families()
	}
	return []pkttest.Family{pkttest.V4}
}

// sweep is the values of a sweep: all of them, or only the ends.
func sweep(r *bench.Run, values ...int) []int {
	switch {
	case r.Size == bench.Full:
		return values
	case r.Size == bench.Tiny:
		return []int{values[0], min(values[len(values)-1], 20)}
	}
	return []int{values[0], values[len(values)-1]}
}

// probe is one established measurement.
type probe struct {
	traffic     Traffic
	opener, dir dataplane.Direction
	params      bench.Params
}

// play fills all flows, measures in turn, and returns the results in order.
func (b *Bench) play(probes []probe, more ...bench.Contender) ([]*bench.Result, error) {
	var contenders []bench.Contender
	for _, p := range probes {
		c, err := b.Established(p.traffic, p.opener, p.dir, p.params)
		if err != nil {
			return nil, err
		}
		contenders = append(contenders, c)
	}
	return b.InTurn(b.ctx, Metric(), nil, append(contenders, more...))
}

// established: 1 flow, which stays in the nearest cache, and 1024.
func established(ctx context.Context, r *bench.Run) error {
	cases := []region.Case{{Name: "base", Locals: 2, EIPs: true, Endpoints: 1}}
	return OnHost(ctx, r, cases, 1<<16, func(b *Bench) error {
		var probes []probe
		for _, family := range pkttest.Families() {
			for _, n := range []uint32{1, 1024} {
				for _, peer := range []Peer{Overlay, Internet} {
					t := Traffic{Peer: peer, Family: family, Flows: n}
					probes = append(probes,
						probe{traffic: t, opener: dataplane.Out, dir: dataplane.Out},
						probe{traffic: t, opener: dataplane.Out, dir: dataplane.In})
				}
			}
			probes = append(probes,
				probe{traffic: Traffic{Peer: SameHost, Family: family, Flows: 1}, opener: dataplane.Out, dir: dataplane.Out},
				probe{traffic: Traffic{Peer: Overlay, Family: family, Flows: 1, TCP: true}, opener: dataplane.Out, dir: dataplane.Out},
				probe{traffic: Traffic{Peer: Overlay, Family: family, Flows: 1, TCP: true}, opener: dataplane.Out, dir: dataplane.In})
		}
		results, err := b.play(probes)
		if err != nil {
			return err
		}
		for i, result := range results {
			p := &probes[i]
			limit := 60.0
			if p.traffic.Peer == Internet {
				limit = 90
			}
			if p.traffic.Flows == 1 && p.traffic.Peer != SameHost {
				b.Check("above an empty program, "+label(result.Params), result, atMost(limit))
			}
		}
		return nil
	})
}

// label names a measurement in a ratio.
func label(p bench.Params) string {
	return fmt.Sprintf("%s %s %s %s", p["peer"], p["direction"], p["family"], p["protocol"])
}

func first(ctx context.Context, r *bench.Run) error {
	cases := []region.Case{
		{Name: "base", Locals: 1, EIPs: true, Endpoints: 1},
		{Name: "routes", Locals: 1, EIPs: true, Endpoints: 1000, Hosts: 10, Routes: manyRoutes(r)},
	}
	background := uint32(1 << 16)
	if r.Size == bench.Tiny {
		background = 1 << 10
	}
	return OnHost(ctx, r, cases, 0, func(b *Bench) error {
		var hot, cold []bench.Contender
		for _, family := range pkttest.Families() {
			fill := Traffic{Case: 1, Peer: Overlay, Family: family, Flows: background, Remotes: 1000, Hosts: 10}
			if err := b.Fill(fill, dataplane.In); err != nil {
				return err
			}
			for _, dir := range []dataplane.Direction{dataplane.Out, dataplane.In} {
				for _, peer := range []Peer{Overlay, Internet} {
					hot = append(hot, b.First(Traffic{Peer: peer, Family: family, Flows: 1}, dir, true, nil))
					t := Traffic{Case: 1, Peer: peer, Family: family, Flows: 1, Remotes: 1000, Hosts: 10}
					if peer == Internet {
						t.Remotes = 1 << 20
					}
					cold = append(cold, b.First(t, dir, false, bench.Params{
						"routes": strconv.Itoa(manyRoutes(r)), "background": strconv.Itoa(int(background))}))
				}
			}
		}
		for limit, contenders := range map[float64][]bench.Contender{700: hot, 1500: cold} {
			results, err := b.InTurn(b.ctx, Metric(), nil, contenders)
			if err != nil {
				return err
			}
			for _, result := range results {
				b.Check("first packet, "+result.Params["caches"]+", "+label(result.Params), result, atMost(limit))
			}
		}
		return nil
	})
}

func manyRoutes(r *bench.Run) int {
	if r.Size == bench.Tiny {
		return 100
	}
	return region.MostRoutes
}

func denied(ctx context.Context, r *bench.Run) error {
	cases := []region.Case{
		{Name: "base", Locals: 1, EIPs: true, Endpoints: 1000, Hosts: 10},
		{Name: "closed", Locals: 1, EIPs: true, Endpoints: 1000, Hosts: 10, Groups: 5, Rules: 100, Closed: true},
	}
	n := uint32(1 << 16)
	if r.Size == bench.Tiny {
		n = 1 << 10
	}
	return OnHost(ctx, r, cases, 0, func(b *Bench) error {
		if err := b.Fill(Traffic{Peer: Overlay, Family: pkttest.V4, Flows: n, Remotes: 1000, Hosts: 10}, dataplane.In); err != nil {
			return err
		}
		var contenders []bench.Contender
		for _, family := range families(r) {
			for _, dir := range []dataplane.Direction{dataplane.Out, dataplane.In} {
				for _, peer := range []Peer{Overlay, Internet} {
					t := Traffic{Case: 1, Peer: peer, Family: family, Flows: n, Remotes: 1000, Hosts: 10, TCP: true}
					if peer == Internet {
						t.Remotes = 1 << 16
					}
					contenders = append(contenders, b.contender(t, dir, SYN, dataplane.ReasonSGDenied, bench.Params{"case": "denied"}))
				}
			}
		}
		_, err := b.InTurn(b.ctx, Metric(), nil, contenders)
		return err
	})
}
