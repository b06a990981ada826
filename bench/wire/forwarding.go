// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/eniplane/eniplane/bench"
	"github.com/eniplane/eniplane/bench/peer"
	"github.com/eniplane/eniplane/bench/wire/frames"
)

// forwardingCase is one line of a sweep, with the goal that its packet rate has against a floor that redirects.
type forwardingCase struct {
	plan
	family peer.Family
	size   int
	goal   float64 // 0 = none
}

// rulesUsual is how many rules a policy has if the sweep does not say otherwise: iptables has 100 in the goals.
const rulesUsual = 100

// sweepOf is what a size of run measures; the tiny one has a single family, the quick one many flows only if there is a
// goal for them.
func sweepOf(size bench.Size, tinyFamily peer.Family, goalFew, goalMany float64) []forwardingCase {
	few := plan{enis: 1, flows: 1 << 10, rules: rulesUsual}
	many := plan{enis: 64, flows: 1 << 15, rules: rulesUsual}
	switch size {
	case bench.Tiny:
		return []forwardingCase{{plan{enis: 2, flows: 64, rules: 10}, tinyFamily, 0, goalFew}}
	case bench.Quick:
		if goalMany == 0 {
			return []forwardingCase{{few, peer.V4, 0, goalFew}}
		}
		return []forwardingCase{{few, peer.V4, 0, goalFew}, {many, peer.V4, 0, goalMany}}
	}
	all := []forwardingCase{{few, peer.V4, 0, goalFew}, {many, peer.V4, 0, goalMany}, {few, peer.V6, 0, 0}, {many, peer.V6, 0, 0}}
	for _, frame := range []int{512, 1400} {
		all = append(all, forwardingCase{few, peer.V4, frame, 0})
	}
	for _, p := range []plan{
		{enis: 1, flows: 1, rules: rulesUsual}, {enis: 512, flows: 1 << 15, rules: rulesUsual},
		{enis: 64, flows: 1 << 18, rules: rulesUsual}, {enis: 64, flows: 1 << 20, rules: rulesUsual},
		{enis: 1, flows: 1 << 10, rules: 1}, {enis: 1, flows: 1 << 10, rules: 900},
	} {
		all = append(all, forwardingCase{p, peer.V4, 0, 0})
	}
	return all
}

// packetsOf is how many packets a round sends.
func packetsOf(size bench.Size) uint64 {
	return map[bench.Size]uint64{bench.Tiny: 2000, bench.Quick: 300_000, bench.Full: 1_000_000}[size]
}

// forwardingIn measures packets to ENIs.
func forwardingIn(overlay bool) func(context.Context, *bench.Run) error {
	return func(ctx context.Context, r *bench.Run) error {
		for _, line := range sweepOf(r.Size, peer.V4, 0.80, 0.60) {
			if err := line.measure(ctx, r, overlay, in); err != nil {
				return err
			}
		}
		return nil
	}
}

// forwardingOut measures packets from ENIs.
func forwardingOut(overlay bool) func(context.Context, *bench.Run) error {
	return func(ctx context.Context, r *bench.Run) error {
		for _, line := range sweepOf(r.Size, peer.V6, 0.85, 0) {
			if err := line.measure(ctx, r, overlay, out); err != nil {
				return err
			}
		}
		return nil
	}
}

// rivals are those who can do the job beside us, the floors first.
func rivals(k kind, d direction) []peer.Subject {
	all := []peer.Subject{
		floor{frames.XDP, false, k, d}, floor{frames.XDP, true, k, d}, floor{frames.TC, false, k, d}, floor{frames.TC, true, k, d}, Ours{},
	}
	if k.overlay {
		return append(all, peer.Bridge{}, peer.Bridge{Filter: true}, peer.OVS{})
	}
	return append(all, peer.Forward{}, peer.NFTables{}, peer.IPTables{}, peer.IPTables{Eager: true}, peer.OVS{})
}

// tooManyForOVS are flows that its userspace takes minutes to open over and over.
func tooManyForOVS(size bench.Size) int {
	if size == bench.Full {
		return 1 << 16
	}
	return 1 << 13
}

// manageable leaves out who cannot open so many flows in a reasonable time.
func manageable(r *bench.Run, p plan, subjects []peer.Subject) []peer.Subject {
	if p.flows < tooManyForOVS(r.Size) {
		return subjects
	}
	r.Missing(peer.OVS{}.Name(), bench.Params{"flows": fmt.Sprint(p.flows)}, "its userspace datapath takes too long to open %d flows again and again", p.flows)
	return slices.DeleteFunc(subjects, func(s peer.Subject) bool { return s == peer.Subject(peer.OVS{}) })
}

func (line forwardingCase) measure(ctx context.Context, r *bench.Run, overlay bool, d direction) (err error) {
	k := kind{family: line.family, overlay: overlay, protocol: frames.UDP, size: line.size}
	if overlay {
		line.remotes = 16
	}
	c, err := newContest(ctx, r, line.plan, k, manageable(r, line.plan, rivals(k, d)))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	if err := c.inTurn(ctx, d, packetsOf(r.Size)); err != nil {
		return err
	}
	params := c.params()
	results := c.record(params)
	rate, redirect, drop := results[perCPUMetric.Name], "floor-xdp-redirect", "floor-xdp-drop"
	nft, linear := atMost(1.0/5), atMost(1.0/8)
	if d == out {
		redirect, drop = "floor-tc-redirect", "floor-tc-drop"
		nft, linear = atMost(1/1.8), nil
	}
	var goal *bench.Goal
	if line.goal > 0 {
		goal = atLeast(line.goal)
	} else {
		nft, linear = nil, nil
	}
	c.ratio(rate, redirect, goal)
	above := c.above(drop, params)
	c.ratio(above, "nftables", nft)
	c.ratio(above, "iptables-ipset-linear", linear)
	for _, other := range []string{"iptables-ipset", "linux-forward", "linux-vxlan-bridge-nft", "linux-vxlan-bridge", "ovs-userspace"} {
		c.ratio(above, other, nil)
	}
	return c.zeroLoss(ctx, d, params)
}

// zeroLoss searches for each subject the highest rate at which nothing is lost.
func (c *contest) zeroLoss(ctx context.Context, d direction, params bench.Params) error {
	if c.run.Size != bench.Full {
		return nil
	}
	for _, e := range c.entrants {
		var values []float64
		for range c.run.Repeats {
			rate, err := c.search(ctx, e, d)
			if err != nil {
				return err
			}
			values = append(values, rate)
		}
		c.run.Record(bench.Result{Subject: e.name, Params: params, Metric: zeroLossMetric, Values: values})
	}
	return nil
}

// search halves the interval between a rate without loss and one with, starting from the highest.
func (c *contest) search(ctx context.Context, e *entrant, d direction) (float64, error) {
	const steps, share = 7, 5
	try := func(rate float64) (shot, error) {
		b := c.batch(e.traffic.few(packetsOf(c.run.Size)) / share)
		b.Rate = rate
		return e.traffic.send(ctx, d, b, e.at)
	}
	s, err := try(0)
	if err != nil || s.received == s.sent {
		return s.rate(), err
	}
	low, high := 0.0, float64(s.sent)/s.took.Seconds()
	for range steps {
		rate := (low + high) / 2
		s, err := try(rate)
		if err != nil {
			return 0, err
		}
		if s.received == s.sent {
			low = min(rate, s.rate())
		} else {
			high = rate
		}
	}
	return low, nil
}
