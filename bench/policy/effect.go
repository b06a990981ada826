// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
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

const (
	effectLimit = 30 * time.Second
	nap         = 50 * time.Microsecond  // between packets: one that never sleeps takes the agent's CPU
	rest        = 300 * time.Millisecond // between edits, so that the agent has done what follows one
)

// effect: the real agent on a directory. A packet is tried again and again while a rule is edited.
func effect(ctx context.Context, r *bench.Run) error {
	r.Missing(bench.Ours, nil, "under load: nothing but the probe sends packets here")
	cases := pair(r)
	if r.Size == bench.Tiny {
		cases = cases[1:]
	}
	for _, c := range cases {
		c.Closed = true
		if err := effectOf(ctx, r, c); err != nil {
			return fmt.Errorf("%s: %w", c.Name, err)
		}
	}
	return nil
}

func effectOf(ctx context.Context, r *bench.Run, c region.Case) error {
	enid, err := host.Enid()
	if err != nil {
		return err
	}
	cases := []region.Case{c}
	return host.Bare(region.Devices(cases), func(h *host.Host) error {
		o := region.Build(cases)
		group := o.SecurityGroups[c.Name+"-g0"]
		openFor(group, false)
		feed, err := h.NewFeed(o, group)
		if err != nil {
			return err
		}
		agent, err := h.StartAgent(enid, feed.Dir, "--max-flows", "65536")
		if err != nil {
			return err
		}
		err = agent.WaitReady(ctx)
		if err == nil {
			err = watch(ctx, r, h, feed, c, group)
		}
		return errors.Join(err, agent.Stop())
	})
}

// traffic is what the edited rule admits or not.
func traffic() cost.Traffic {
	return cost.Traffic{Peer: cost.Overlay, Family: pkttest.V4, TCP: true, Flows: 1}
}

// openFor makes the first rules of a group admit the traffic, or something else.
func openFor(group *api.SecurityGroup, admit bool) {
	port := uint16(cost.RemotePort)
	if !admit {
		port++
	}
	for _, rules := range [][]api.Rule{group.Ingress, group.Egress} {
		rules[0].Protocol, rules[0].Ports = api.Protocol{Number: api.ProtoTCP}, []api.PortRange{{From: port, To: port}}
		rules[0].Peers = []api.Peer{{Prefix: netip.MustParsePrefix("0.0.0.0/0")}}
	}
}

// watch measures edits in turn: to allow, to deny.
func watch(ctx context.Context, r *bench.Run, h *host.Host, feed *host.Feed, c region.Case, group *api.SecurityGroup) error {
	if err := h.OpenPinned(); err != nil {
		return err
	}
	m, err := cost.Open(h, r.Seed)
	if err != nil {
		return err
	}
	defer m.Close() //nolint:errcheck // it is only memory
	release, err := bench.Pin(r.CPU)
	if err != nil {
		return err
	}
	defer release()
	probe, err := m.Probe(traffic(), dataplane.Out)
	if err != nil {
		return err
	}
	times := map[bool][]float64{}
	for n := range 2*r.Repeats + 2 {
		admit := n%2 == 0
		openFor(group, admit)
		if err := feed.Stage(group); err != nil {
			return err
		}
		time.Sleep(rest)
		begin, err := feed.Mark()
		if err != nil {
			return err
		}
		took, err := until(ctx, begin, admit, probe)
		if err != nil {
			return err
		}
		if n > 1 {
			times[admit] = append(times[admit], ms(took))
		}
	}
	for admit, name := range map[bool]string{true: "allow", false: "deny"} {
		params := bench.Params{"edit": name, "rules": strconv.Itoa(c.Rules), "prefixes": strconv.Itoa(c.Prefixes), "from": "rename of REVISION", "to": "first new verdict"}
		result := r.Record(bench.Result{Subject: bench.Ours, Params: params, Metric: milliseconds(), Values: times[admit]})
		r.Check(fmt.Sprintf("effect of a rule that comes to %s, %d rules, %d prefixes", name, c.Rules, c.Prefixes), result, atMost(5))
	}
	return nil
}

// until tries packets until they are treated as said.
func until(ctx context.Context, begin time.Time, admit bool, probe func() (bool, error)) (time.Duration, error) {
	for ctx.Err() == nil {
		passes, err := probe()
		if err != nil {
			return 0, err
		}
		took := time.Since(begin)
		if passes == admit {
			return took, nil
		}
		if took > effectLimit {
			return 0, fmt.Errorf("an edit has no effect after %v", took)
		}
		time.Sleep(nap)
	}
	return 0, ctx.Err()
}
