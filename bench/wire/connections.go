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

// newConnections measures packets each of which opens a connection to an ENI: first packets, as they come.
func newConnections(ctx context.Context, r *bench.Run) error {
	lines := []plan{{enis: 64, rules: rulesUsual}}
	families := []peer.Family{peer.V4}
	each := 1 << 16
	switch r.Size {
	case bench.Tiny:
		lines, each = []plan{{enis: 2, rules: 10}}, 256
	case bench.Full:
		lines = append(lines, plan{enis: 64, rules: 1}, plan{enis: 64, rules: 900})
		families = append(families, peer.V6)
	}
	for _, p := range lines {
		for _, family := range families {
			if err := openConnections(ctx, r, p, family, each); err != nil {
				return err
			}
		}
	}
	return nil
}

// openConnections opens so many connections in each round, others every time.
func openConnections(ctx context.Context, r *bench.Run, p plan, family peer.Family, each int) (err error) {
	p.flows, p.closed = each, true
	for p.flows < each*(r.Repeats+1) {
		p.flows *= 2
	}
	k := kind{family: family, protocol: frames.UDP}
	c, err := newContest(ctx, r, p, k, []peer.Subject{
		floor{frames.XDP, false, k, in}, Ours{}, peer.Forward{}, peer.NFTables{}, peer.IPTables{}, peer.OVS{},
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	done := map[*entrant]int{}
	err = c.rounds(ctx, func(e *entrant) (shot, error) {
		b := frames.Batch{First: done[e], Flows: int(e.traffic.few(uint64(each))), Seed: uint32(r.Seed)}
		if e.traffic.process {
			b.Flows, b.Rate = each/16, patientRate
		}
		done[e] += each
		s, err := e.traffic.send(ctx, in, b, e.at)
		if err == nil && !e.traffic.process && s.received != s.sent {
			return s, fmt.Errorf("%d of %d first packets arrived%s", s.received, s.sent, e.why())
		}
		return s, err
	})
	if err != nil {
		return err
	}
	params := c.params()
	params["open"] = fmt.Sprint(each) // in each round
	delete(params, "flows")
	results := c.record(params)
	c.ratio(results[perCPUMetric.Name], "nftables", atLeast(4))
	above := c.above("floor-xdp-drop", params)
	for _, other := range []string{"nftables", "iptables-ipset", "ovs-userspace"} {
		c.ratio(above, other, nil)
	}
	return nil
}
