// SPDX-License-Identifier: Apache-2.0

package cost

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/eniplane/eniplane/bench"
	"github.com/eniplane/eniplane/bench/region"
	"github.com/eniplane/eniplane/pkg/dataplane"
	"github.com/eniplane/eniplane/pkg/pkttest"
)

// ratios holds each result of a sweep over some parameters against the first one of its kind. goals are by case.
func (b *Bench) ratios(results []*bench.Result, goals map[string]*bench.Goal, axes ...string) {
	first := map[string]*bench.Result{}
	for _, r := range results {
		kind := r.Params["case"] + " " + label(r.Params)
		base := first[kind]
		if base == nil {
			first[kind] = r
			continue
		}
		b.Ratio(fmt.Sprintf("%s, %s / %s", kind, point(r.Params, axes), point(base.Params, axes)), r, base, goals[r.Params["case"]])
	}
}

// point names a point of a sweep: "1000 rules 100000 prefixes".
func point(p bench.Params, axes []string) string {
	var words []string
	for _, axis := range axes {
		words = append(words, p[axis]+" "+axis)
	}
	return strings.Join(words, " ")
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
					contenders = append(contenders, b.contender(t, dir, ACK, dataplane.ReasonDelivered, bench.Params{"case": caseEstablished}))
				}
			}
			results, err := b.InTurn(b.ctx, Metric(), nil, contenders)
			if err != nil {
				return err
			}
			b.ratios(results, steady(3), "flows")
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
				b.ratios(results, steady(1.03), "enis")
			}
		}
		return nil
	})
}

// steady is a goal for established packets.
func steady(limit float64) map[string]*bench.Goal {
	return map[string]*bench.Goal{caseEstablished: atMost(limit)}
}

// Axis is a parameter of cases over which a sweep goes.
type Axis struct {
	Name string
	Of   func(region.Case) int
}

// Sweep holds cases against the first of them.
type Sweep struct {
	Cases    []region.Case
	Shape    func(region.Case) Traffic // what its ENI has; case, family and hosts are filled in
	Axes     []Axis
	Goals    map[string]*bench.Goal // by "established" and "first packet"
	Families []pkttest.Family
}

// Run measures established and first packets of all cases in turn.
func (s Sweep) Run(ctx context.Context, r *bench.Run) error {
	var names []string
	for _, a := range s.Axes {
		names = append(names, a.Name)
	}
	return OnHost(ctx, r, s.Cases, 0, func(b *Bench) error {
		for _, family := range s.Families {
			var probes []probe
			var opens []bench.Contender
			for i, c := range s.Cases {
				t, params := s.Shape(c), bench.Params{}
				t.Case, t.Family, t.Hosts = i, family, max(c.Hosts, 1)
				for _, a := range s.Axes {
					params[a.Name] = strconv.Itoa(a.Of(c))
				}
				for _, dir := range []dataplane.Direction{dataplane.Out, dataplane.In} {
					probes = append(probes, probe{traffic: t, opener: dataplane.Out, dir: dir, params: params})
					opens = append(opens, b.First(t, dir, true, params))
				}
			}
			results, err := b.play(probes, opens...)
			if err != nil {
				return err
			}
			b.ratios(results, s.Goals, names...)
		}
		return nil
	})
}

// endpoints: the map has room for 1,048,576 of each family, those of all cases together.
func endpoints(ctx context.Context, r *bench.Run) error {
	numbers := sweep(r, 1, 1000, 40000, 1000000)
	if r.Size == bench.Quick {
		numbers = []int{1, 100000}
	}
	var cases []region.Case
	for _, n := range numbers {
		cases = append(cases, region.Case{Name: fmt.Sprintf("ep%d", n), Locals: 1, Endpoints: n, Hosts: min(n, 60)})
	}
	return Sweep{
		Cases: cases, Families: families(r), Goals: steady(1.03),
		Shape: func(c region.Case) Traffic {
			return Traffic{Peer: Overlay, Flows: 1 << 10, Remotes: uint32(c.Endpoints)}
		},
		Axes: []Axis{{"endpoints", func(c region.Case) int { return c.Endpoints }}},
	}.Run(ctx, r)
}

func routes(ctx context.Context, r *bench.Run) error {
	numbers := sweep(r, 1, 100, 10000, region.MostRoutes)
	var cases []region.Case
	for _, n := range numbers {
		cases = append(cases, region.Case{Name: fmt.Sprintf("rt%d", n), Locals: 1, EIPs: true, Routes: n})
	}
	return Sweep{
		Cases: cases, Families: families(r), Goals: map[string]*bench.Goal{caseEstablished: promised(1.03)},
		Shape: func(region.Case) Traffic { return Traffic{Peer: Internet, Flows: 1 << 10, Remotes: 1 << 10} },
		Axes:  []Axis{{"routes", func(c region.Case) int { return c.Routes }}},
	}.Run(ctx, r)
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
	return Sweep{
		Cases: cases, Families: families(r), Goals: steady(1.03), Shape: OverRules, Axes: RuleAxes(),
	}.Run(ctx, r)
}

// OverRules is traffic for cases with rules: what the rules and lists of region.Case are about.
func OverRules(region.Case) Traffic { return Traffic{Peer: Overlay, Flows: 1 << 10, Remotes: 1000} }

// RuleAxes are the parameters of such cases.
func RuleAxes() []Axis {
	return []Axis{
		{"rules", func(c region.Case) int { return c.Rules }},
		{"prefixes", func(c region.Case) int { return c.Prefixes }},
	}
}
