// SPDX-License-Identifier: Apache-2.0

// Package policy holds the promises about security groups against the clock: many rules and prefixes against one, for
// packets and for whoever edits them.
package policy

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/eniplane/eniplane/bench"
	"github.com/eniplane/eniplane/bench/cost"
	"github.com/eniplane/eniplane/bench/host"
	"github.com/eniplane/eniplane/bench/region"
	"github.com/eniplane/eniplane/pkg/api"
	"github.com/eniplane/eniplane/pkg/dataplane"
	"github.com/eniplane/eniplane/pkg/pkttest"
)

// Scenarios lists the scenarios of the group.
func Scenarios() []bench.Scenario {
	return []bench.Scenario{
		{Name: "policy/packet", Help: "established and first packet: 5 groups with 1000 rules and 100k prefixes against 1 rule", Quick: true, Run: packet},
		{Name: "policy/publish", Help: "compile and publish a group of 1000 rules, a list of 100k prefixes", Quick: true, Run: publish},
		{Name: "policy/effect", Help: "from the rename of the feed's file to the first packet with the new verdict", Quick: true, Run: effect},
	}
}

func atMost(limit float64) *bench.Goal {
	return &bench.Goal{Limit: limit, Better: bench.Lower, Source: "issue 3"}
}

// pair is one rule, and the most that there may be.
func pair(r *bench.Run) []region.Case {
	most := region.Case{Name: "most", Locals: 1, Endpoints: 1000, Hosts: 10, Groups: 5, Rules: 1000, Prefixes: 100000}
	if r.Size == bench.Tiny {
		most.Rules, most.Prefixes = 20, 100
	}
	one := most
	one.Name, one.Groups, one.Rules, one.Prefixes = "one", 1, 1, 0
	return []region.Case{one, most}
}

func packet(ctx context.Context, r *bench.Run) error {
	return cost.Sweep{
		Cases: pair(r), Shape: cost.OverRules, Axes: cost.RuleAxes(), Families: pkttest.Families(),
		Goals: map[string]*bench.Goal{"established": atMost(1.03), "first packet": atMost(2)},
	}.Run(ctx, r)
}

func milliseconds() bench.Metric { return bench.Metric{Name: "time", Unit: "ms", Better: bench.Lower} }

func ms(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e6 }

// edit is an object that changes back and forth, and what may not take longer than limit.
type edit struct {
	name   string
	limit  float64 // ms
	cases  []region.Case
	change func(o *api.Objects, n int)
}

func edits(r *bench.Run) []edit {
	both := pair(r)
	group := region.Case{Name: "group", Locals: 1, Endpoints: 1000, Hosts: 10, Rules: both[1].Rules}
	list := region.Case{Name: "list", Locals: 1, Endpoints: 1000, Hosts: 10, Rules: 20, Prefixes: both[1].Prefixes}
	return []edit{
		{"one group of " + strconv.Itoa(group.Rules) + " rules, one of them edited", 20, []region.Case{group}, editRule("group-g0")},
		{"a group of 1 rule, edited", 20, []region.Case{both[0]}, editRule("one-g0")},
		{"lists of " + strconv.Itoa(list.Prefixes) + " prefixes, one of them edited", 1000, []region.Case{list}, editList("list-l0")},
		{"5 groups with " + strconv.Itoa(both[1].Rules) + " rules and " + strconv.Itoa(both[1].Prefixes) + " prefixes, a rule edited", 1000,
			[]region.Case{both[1]}, editRule("most-g0")},
	}
}

// editRule gives the first rule of a group, in both directions, a port that it never had.
func editRule(group string) func(*api.Objects, int) {
	return func(o *api.Objects, n int) {
		g := o.SecurityGroups[group]
		port := api.PortRange{From: uint16(30000 + n), To: uint16(30000 + n)}
		for _, rules := range [][]api.Rule{g.Ingress, g.Egress} {
			rules[0].Protocol, rules[0].Ports = api.Protocol{Number: api.ProtoTCP}, []api.PortRange{port}
		}
	}
}

// editList gives a list an entry that it never had.
func editList(list string) func(*api.Objects, int) {
	return func(o *api.Objects, n int) {
		a := region.Outside(false, uint32(n)<<8)
		entries := o.PrefixLists[list].Entries
		p, err := a.Prefix(24)
		if err == nil { // 24 bits always fit an IPv4 address
			entries[len(entries)-1] = p
		}
	}
}

// publish measures each edit by itself: compile, then what the loader does until the revision is in force (write aside,
// read back, flip), and what it cleans up afterwards.
func publish(ctx context.Context, r *bench.Run) error {
	all := edits(r)
	if r.Size == bench.Tiny {
		all = all[3:]
	}
	for _, e := range all {
		if err := publishOne(ctx, r, e); err != nil {
			return fmt.Errorf("%s: %w", e.name, err)
		}
	}
	return nil
}

const bothParts = "compile and publish"

// flipped tells when a revision came into force, to 0.1 ms.
func flipped(m *dataplane.Maps, revision uint64) <-chan time.Time {
	at := make(chan time.Time, 1)
	go func() {
		for {
			now, _, err := m.Active()
			if err != nil || now >= revision {
				at <- time.Now()
				return
			}
			time.Sleep(50 * time.Microsecond)
		}
	}()
	return at
}

func publishOne(ctx context.Context, r *bench.Run, e edit) error {
	return host.Do(ctx, region.Devices(e.cases), 1<<16, func(h *host.Host) error {
		o := region.Build(e.cases)
		empty, err := h.MapMemory()
		if err != nil {
			return err
		}
		if err := h.Install(ctx, o); err != nil {
			return err
		}
		full, err := h.MapMemory()
		if err != nil {
			return err
		}
		parts := map[string][]float64{}
		for n := range r.Repeats + 1 {
			e.change(o, n)
			begin := time.Now()
			st, err := h.Compile(o)
			if err != nil {
				return err
			}
			compiled := time.Now()
			flip := flipped(h.Maps(), st.Revision)
			if err := h.Apply(ctx, st); err != nil {
				return err
			}
			done, inForce := time.Now(), <-flip
			if n == 0 {
				continue
			}
			for part, took := range map[string]time.Duration{
				"compile": compiled.Sub(begin), "publish": inForce.Sub(compiled), "clean up": done.Sub(inForce),
				bothParts: inForce.Sub(begin),
			} {
				parts[part] = append(parts[part], ms(took))
			}
		}
		var whole *bench.Result
		for _, part := range slices.Sorted(maps.Keys(parts)) {
			got := r.Record(bench.Result{Subject: bench.Ours, Params: bench.Params{"edit": e.name, "part": part}, Metric: milliseconds(), Values: parts[part]})
			if part == bothParts {
				whole = got
			}
		}
		r.Check("compile and publish: "+e.name, whole, atMost(e.limit))
		r.Record(bench.Result{Subject: bench.Ours, Params: bench.Params{"edit": e.name, "of": "maps, all of the case"},
			Metric: bench.Metric{Name: "memory", Unit: "bytes", Better: bench.Lower}, Values: []float64{full.Sum() - empty.Sum()}})
		return nil
	})
}
