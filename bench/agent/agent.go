// SPDX-License-Identifier: Apache-2.0

// Package agent measures what the agent costs: its start, its memory, and the memory of the maps that it fills.
package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/eniplane/eniplane/bench"
	"github.com/eniplane/eniplane/bench/host"
	"github.com/eniplane/eniplane/bench/region"
)

// Scenarios lists the scenarios of the agent.
func Scenarios() []bench.Scenario {
	return []bench.Scenario{
		{Name: "agent/start", Help: "from the start of enid to its readiness, with and without maps and ENIs; its memory", Quick: true, Run: start},
		{Name: "agent/memory", Help: "memory of the maps and of enid by endpoints, rules and ENIs", Run: memory},
		{Name: "agent/maps", Help: "memory of each map at the default size, empty", Quick: true, Run: empty},
	}
}

func bytesOf() bench.Metric { return bench.Metric{Name: "memory", Unit: "bytes", Better: bench.Lower} }

func seconds() bench.Metric { return bench.Metric{Name: "start", Unit: "s", Better: bench.Lower} }

// start: each round on a host of its own. "first" makes maps, ports' programs and pins; "again" finds them.
func start(ctx context.Context, r *bench.Run) error {
	numbers := []int{0, 100}
	if r.Size == bench.Tiny {
		numbers = []int{3}
	}
	if r.Size == bench.Full {
		numbers = []int{0, 100, 1000}
	}
	for _, n := range numbers {
		var first, again, now, most []float64
		for range max(r.Repeats/2, 1) {
			m, err := startOnce(ctx, n, flags(r))
			if err != nil {
				return fmt.Errorf("%d ENIs: %w", n, err)
			}
			first, again = append(first, m.first), append(again, m.again)
			now, most = append(now, m.now), append(most, m.most)
		}
		params := func(what string) bench.Params { return bench.Params{"enis": strconv.Itoa(n), "what": what} }
		r.Record(bench.Result{Subject: bench.Ours, Params: params("first start"), Metric: seconds(), Values: first})
		r.Record(bench.Result{Subject: bench.Ours, Params: params("start with all in place"), Metric: seconds(), Values: again})
		r.Record(bench.Result{Subject: bench.Ours, Params: params("enid, resident"), Metric: bytesOf(), Values: now})
		r.Record(bench.Result{Subject: bench.Ours, Params: params("enid, resident at most"), Metric: bytesOf(), Values: most})
	}
	return nil
}

// flags are those of the agent: none, but where nothing is measured in earnest.
func flags(r *bench.Run) []string {
	if r.Size == bench.Tiny {
		return []string{"--max-flows", "16384"}
	}
	return nil
}

// measured is what one start took, in seconds and bytes.
type measured struct{ first, again, now, most float64 }

func startOnce(ctx context.Context, enis int, flags []string) (m measured, err error) {
	cases := []region.Case{{Name: "base", Locals: enis, EIPs: true, Endpoints: 1000, Hosts: 10, Rules: 10}}
	err = host.Bare(region.Devices(cases), func(h *host.Host) error {
		return withAgent(ctx, h, cases, flags, func(feed *host.Feed, enid string, a *host.Agent, took float64) error {
			m.first = took
			if err := a.Stop(); err != nil {
				return err
			}
			begin := time.Now()
			b, err := h.StartAgent(enid, feed.Dir, flags...)
			if err != nil {
				return err
			}
			if err := b.WaitReady(ctx); err != nil {
				return errors.Join(err, b.Stop())
			}
			m.again = time.Since(begin).Seconds()
			m.now, m.most, err = b.Memory()
			return errors.Join(err, b.Stop())
		})
	})
	return m, err
}

// withAgent starts an agent on a feed of cases, waits until it is ready and stops it in the end.
func withAgent(ctx context.Context, h *host.Host, cases []region.Case, flags []string, fn func(*host.Feed, string, *host.Agent, float64) error) error {
	enid, err := host.Enid()
	if err != nil {
		return err
	}
	feed, err := h.NewFeed(region.Build(cases))
	if err != nil {
		return err
	}
	begin := time.Now()
	a, err := h.StartAgent(enid, feed.Dir, flags...)
	if err != nil {
		return err
	}
	err = a.WaitReady(ctx)
	if err == nil {
		err = fn(feed, enid, a, time.Since(begin).Seconds())
	}
	return errors.Join(err, a.Stop())
}

// sizes are the regions whose memory is measured.
func sizes(r *bench.Run) []region.Case {
	base := region.Case{Name: "base", Locals: 1, Endpoints: 1000, Hosts: 60}
	if r.Size == bench.Tiny {
		return []region.Case{base}
	}
	more, most, rules, enis := base, base, base, base
	more.Name, more.Endpoints = "endpoints", 100000
	most.Name, most.Endpoints = "endpoints", 1000000
	rules.Name, rules.Groups, rules.Rules, rules.Prefixes = "rules", 5, 1000, 100000
	enis.Name, enis.Locals, enis.EIPs = "enis", 100, true
	if r.Size == bench.Full {
		return []region.Case{base, more, most, rules, enis}
	}
	return []region.Case{base, more, rules, enis}
}

// memory: with the agent's own process, so that what its decoder and compiler keep is part of it.
func memory(ctx context.Context, r *bench.Run) error {
	for _, c := range sizes(r) {
		params := func(what string) bench.Params {
			return bench.Params{"what": what, "enis": strconv.Itoa(c.Locals), "endpoints": strconv.Itoa(c.Endpoints),
				"rules": strconv.Itoa(max(c.Rules, 1)), "prefixes": strconv.Itoa(c.Prefixes)}
		}
		cases := []region.Case{c}
		err := host.Bare(region.Devices(cases), func(h *host.Host) error {
			return withAgent(ctx, h, cases, flags(r), func(_ *host.Feed, _ string, a *host.Agent, took float64) error {
				if err := h.OpenPinned(); err != nil {
					return err
				}
				used, err := h.MapMemory()
				if err != nil {
					return err
				}
				now, most, err := a.Memory()
				if err != nil {
					return err
				}
				r.Record(bench.Result{Subject: bench.Ours, Params: params("maps"), Metric: bytesOf(), Values: []float64{used.Sum()}})
				r.Record(bench.Result{Subject: bench.Ours, Params: params("enid, resident after its first revision"), Metric: bytesOf(), Values: []float64{now}})
				r.Record(bench.Result{Subject: bench.Ours, Params: params("enid, resident at most"), Metric: bytesOf(), Values: []float64{most}})
				r.Record(bench.Result{Subject: bench.Ours, Params: params("first start"), Metric: seconds(), Values: []float64{took}})
				return nil
			})
		})
		if err != nil {
			return fmt.Errorf("%s: %w", c.Name, err)
		}
	}
	return nil
}

// empty: what an array takes it takes at once.
func empty(ctx context.Context, r *bench.Run) error {
	return host.Do(ctx, nil, 0, func(h *host.Host) error {
		used, err := h.MapMemory()
		if err != nil {
			return err
		}
		for _, name := range slices.Sorted(maps.Keys(used)) {
			r.Record(bench.Result{Subject: bench.Ours, Params: bench.Params{"map": name}, Metric: bytesOf(), Values: []float64{used[name]}})
		}
		r.Record(bench.Result{Subject: bench.Ours, Params: bench.Params{"map": "all"}, Metric: bytesOf(), Values: []float64{used.Sum()}})
		return nil
	})
}
