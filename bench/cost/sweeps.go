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

// ratios holds each result of a sweep against the first one of its kind.
func (b *Bench) ratios(results []*bench.Result, axis string, goal *bench.Goal) {
	first := map[string]*bench.Result{}
	for _, r := range results {
		kind := r.Params["case"] + " " + label(r.Params)
		base := first[kind]
		if base == nil {
			first[kind] = r
			continue
		}
		var g *bench.Goal
		if r.Params["case"] == "established" {
			g = goal
		}
		b.Ratio(fmt.Sprintf("%s, %s %s / %s", kind, r.Params[axis], axis, base.Params[axis]), r, base, g)
	}
}

// flows: on one ENI, in the order that caches like least.
func flows(ctx context.Context, r *bench.Run) error {
	cases := []region.Case{{Name: "base", Locals: 1, EIPs: true, Endpoints: 1000, Hosts: 10}}
	numbers := sweep(r, 1, 1<<10, 1<<16, 1<<20)
	if r.Size == bench.Quick {
		numbers = []int{1, 1 << 16, 1 << 20}
	}
	if r.Size == bench.Tiny {
		numbers = []int{1, 1 << 10}
	}
	for _, family := range families(r) {
		err := OnHost(ctx, r, cases, 0, func(b *Bench) error {
			var contenders []bench.Contender
			most := Traffic{Peer: Overlay, Family: family, Flows: uint32(numbers[len(numbers)-1]), Remotes: 1000, Hosts: 10}
			if err := b.Fill(most, dataplane.In); err != nil {
				return err
			}
			for _, dir := range []dataplane.Direction{dataplane.Out, dataplane.In} {
				for _, n := range numbers {
					t := most
					t.Flows = uint32(n)
					contenders = append(contenders, b.contender(t, dir, ack, dataplane.ReasonDelivered, bench.Params{"case": "established"}))
				}
			}
			results, err := b.InTurn(b.ctx, Metric(), nil, contenders)
			if err != nil {
				return err
			}
			b.ratios(results, "flows", atMost(3))
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// enis: the port's program cannot be run for several ports in turn, so only what arrives is measured.
func enis(ctx context.Context, r *bench.Run) error {
	numbers := sweep(r, 1, 10, 100, 999)
	n := uint32(1 << 16)
	if r.Size == bench.Tiny {
		n = 1 << 10
	}
	if r.Size == bench.Quick {
		numbers = []int{1, 100}
	}
	most := numbers[len(numbers)-1]
	cases := []region.Case{
		{Name: "one", Locals: 1, EIPs: true, Endpoints: 1000, Hosts: 10},
		{Name: "many", Locals: most, EIPs: true, Endpoints: 1000, Hosts: 10},
	}
	r.Missing("", bench.Params{"direction": "out"}, "BPF_PROG_TEST_RUN gives all packets of a run one device, so packets out of many ports in turn are left to package wire")
	return OnHost(ctx, r, cases, 0, func(b *Bench) error {
		for _, family := range families(r) {
			for _, peer := range []Peer{Overlay, Internet} {
				var probes []probe
				for i, e := range numbers {
					t := Traffic{Case: min(i, 1), ENIs: e, Peer: peer, Family: family, Flows: n, Remotes: 1000, Hosts: 10, First: uint32(i) << 22}
					probes = append(probes, probe{traffic: t, opener: dataplane.In, dir: dataplane.In, params: bench.Params{"enis": strconv.Itoa(e)}})
				}
				results, err := b.play(probes)
				if err != nil {
					return err
				}
				b.ratios(results, "enis", atMost(1.03))
			}
		}
		return nil
	})
}

// versus measures a case against the first of several, established and first packets, over the same flows.
func versus(ctx context.Context, r *bench.Run, cases []region.Case, axis string, of func(region.Case) string, shape func(region.Case) Traffic) error {
	return OnHost(ctx, r, cases, 0, func(b *Bench) error {
		for _, family := range families(r) {
			var probes []probe
			var opens []bench.Contender
			for i, c := range cases {
				t := shape(c)
				t.Case, t.Family, t.Hosts = i, family, max(c.Hosts, 1)
				params := bench.Params{axis: of(c)}
				for _, dir := range []dataplane.Direction{dataplane.Out, dataplane.In} {
					probes = append(probes, probe{traffic: t, opener: dataplane.Out, dir: dir, params: params})
					t.First = 1 << 24
					opens = append(opens, b.First(t, dir, true, params))
					t.First = 0
				}
			}
			results, err := b.play(probes, opens...)
			if err != nil {
				return err
			}
			b.ratios(results, axis, atMost(1.03))
		}
		return nil
	})
}

func endpoints(ctx context.Context, r *bench.Run) error {
	numbers := sweep(r, 1, 1000, 100000, 1000000-3000)
	if r.Size == bench.Quick {
		numbers = []int{1, 100000}
	}
	var cases []region.Case
	for i, n := range numbers {
		if r.Size == bench.Full && i == 2 {
			n = 3000 // all cases together have room for 1M of each family; 100k is what the quick size measures
		}
		cases = append(cases, region.Case{Name: fmt.Sprintf("ep%d", n), Locals: 1, Endpoints: n, Hosts: min(n, 60)})
	}
	return versus(ctx, r, cases, "endpoints",
		func(c region.Case) string { return strconv.Itoa(c.Endpoints) },
		func(c region.Case) Traffic {
			return Traffic{Peer: Overlay, Flows: 1 << 10, Remotes: uint32(c.Endpoints)}
		})
}

func routes(ctx context.Context, r *bench.Run) error {
	numbers := sweep(r, 1, 100, 10000, 100000-2)
	var cases []region.Case
	for _, n := range numbers {
		cases = append(cases, region.Case{Name: fmt.Sprintf("rt%d", n), Locals: 1, EIPs: true, Routes: n})
	}
	return versus(ctx, r, cases, "routes",
		func(c region.Case) string { return strconv.Itoa(c.Routes) },
		func(c region.Case) Traffic { return Traffic{Peer: Internet, Flows: 1 << 10, Remotes: 1 << 10} })
}

// rules: all cases have five groups, if they have as many rules.
func rules(ctx context.Context, r *bench.Run) error {
	var cases []region.Case
	for _, n := range sweep(r, 1, 10, 100, 1000) {
		for _, p := range sweep(r, 1, 1000, 100000) {
			cases = append(cases, region.Case{
				Name: fmt.Sprintf("r%dp%d", n, p), Locals: 1, Endpoints: 1000, Hosts: 10,
				Groups: min(n, 5), Rules: n, Prefixes: p,
			})
		}
	}
	return versus(ctx, r, cases, "rules",
		func(c region.Case) string { return fmt.Sprintf("%d+%d prefixes", c.Rules, c.Prefixes) },
		func(c region.Case) Traffic { return Traffic{Peer: Overlay, Flows: 1 << 10, Remotes: 1000} })
}

// Policy is the pair of issue 3: one rule, and the most that there may be.
func Policy(r *bench.Run) (cases []region.Case, family pkttest.Family) {
	most := region.Case{Name: "most", Locals: 1, EIPs: true, Endpoints: 1000, Hosts: 10, Groups: 5, Rules: 1000, Prefixes: 100000}
	if r.Size == bench.Tiny {
		most.Rules, most.Prefixes = 20, 100
	}
	one := most
	one.Name, one.Groups, one.Rules, one.Prefixes = "one", 1, 1, 0
	return []region.Case{one, most}, pkttest.V4
}
