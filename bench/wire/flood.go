// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"context"
	"errors"
	"fmt"

	"github.com/eniplane/eniplane/bench"
	"github.com/eniplane/eniplane/bench/peer"
	"github.com/eniplane/eniplane/bench/wire/frames"
)

// keptMetric is which share of live flows still passes after a flood.
var keptMetric = bench.Metric{Name: "live flows kept", Unit: "share", Better: bench.Higher}

// floodCase is packets that nobody wants.
type floodCase struct {
	name string  // as a parameter
	kind kind    // of the flood
	live kind    // of the flows that are open meanwhile
	goal float64 // 0 = none
}

// floods measures packets that must be dropped, beside flows that must live on.
func floods(ctx context.Context, r *bench.Run) error {
	p := plan{enis: 64, flows: 1 << 16, rules: rulesUsual}
	families := []peer.Family{peer.V4}
	switch r.Size {
	case bench.Tiny:
		p = plan{enis: 2, flows: 64, rules: 10}
	case bench.Full:
		families = append(families, peer.V6)
	}
	const sources = 1 << 16
	for _, f := range families {
		live, fabric := kind{family: f, protocol: frames.UDP}, kind{family: f, protocol: frames.UDP, overlay: true}
		nobody, noVNI, denied := live, fabric, live
		nobody.nobody, noVNI.nobody = true, true
		denied.port, denied.peers, denied.shift, denied.count = deniedPort, sources, sources, p.enis*sources
		syn := denied
		syn.protocol, syn.flags = frames.TCP, frames.SYN
		stray := syn
		stray.flags = frames.ACK
		for _, line := range []floodCase{
			{"unknown VNI", noVNI, fabric, 0.85},
			{"denied by group, 64k random sources", denied, live, 0.50},
			{"denied by group, TCP SYN, 64k random sources", syn, live, 0.50},
			{"TCP ACK without a connection, 64k random sources", stray, live, 0},
			{"address in no table, left to the host", nobody, live, 0},
		} {
			if err := line.measure(ctx, r, p); err != nil {
				return err
			}
		}
	}
	return nil
}

func (line floodCase) measure(ctx context.Context, r *bench.Run, p plan) (err error) {
	subjects := []peer.Subject{floor{frames.XDP, false, line.live, in}, Ours{}}
	if line.live.overlay {
		p.remotes = 16
		subjects = append(subjects, peer.Bridge{Filter: true})
	} else {
		subjects = append(subjects, peer.NFTables{}, peer.IPTables{})
	}
	c, err := newContest(ctx, r, p, line.live, subjects)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	guns := map[*entrant]*frames.Generator{}
	for _, e := range c.entrants {
		if guns[e], err = e.traffic.extra(line.kind, in); err != nil {
			return err
		}
	}
	number := max(line.kind.count, p.flows)
	if err := c.rounds(ctx, func(e *entrant) (shot, error) {
		if err := e.refresh(ctx); err != nil {
			return shot{}, err
		}
		return e.traffic.repel(ctx, guns[e], frames.Batch{Flows: number, Packets: packetsOf(r.Size), Seed: uint32(r.Seed)})
	}); err != nil {
		return err
	}
	params := c.params()
	params["flood"] = line.name
	results := c.record(params)
	var goal *bench.Goal
	if line.goal > 0 {
		goal = atLeast(line.goal)
	}
	c.ratio(results[perCPUMetric.Name], "floor-xdp-drop", goal)
	above := c.above("floor-xdp-drop", params)
	for _, other := range []string{"nftables", "iptables-ipset", "linux-vxlan-bridge-nft"} {
		c.ratio(above, other, nil)
	}
	return c.kept(ctx, params, nil)
}

// kept sends one packet of each live flow and records how many of them arrive; by the usual generator if none is given.
func (c *contest) kept(ctx context.Context, params bench.Params, by map[*entrant]*frames.Generator) error {
	for _, e := range c.entrants {
		if _, bare := e.site.running.(*floored); bare {
			continue
		}
		g := e.traffic.in
		if by != nil {
			g = by[e]
		}
		s, err := e.traffic.fire(ctx, g, in, frames.Batch{Flows: c.plan.flows}, nil)
		if err != nil {
			return err
		}
		result := c.run.Record(bench.Result{Subject: e.name, Params: params, Metric: keptMetric, Values: []float64{1 - s.lost()}})
		if e.name == bench.Ours {
			c.run.Check(fmt.Sprintf("%s (%s)", keptMetric.Name, params), result, atLeast(1))
		}
	}
	return nil
}
