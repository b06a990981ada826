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

// openedMetric is which share of honest new connections comes about.
var openedMetric = bench.Metric{Name: "new connections", Unit: "share", Better: bench.Higher}

// Sequence numbers of all connections: the first of the peer, the first of the ENI.
const (
	peerISN = 1000
	eniISN  = 5000
)

// handshake is the three packets that open a TCP connection, and one with data.
type handshake struct{ syn, synAck, ack, data *frames.Generator }

// newHandshake makes generators for connections from clients to ENIs.
func newHandshake(t *traffic, k kind) (h handshake, err error) {
	k.protocol = frames.TCP
	for _, p := range []struct {
		to       **frames.Generator
		d        direction
		flags    uint8
		seq, ack uint32
		size     int
	}{
		{&h.syn, in, frames.SYN, peerISN, 0, 0},
		{&h.synAck, out, frames.SYN | frames.ACK, eniISN, peerISN + 1, 0},
		{&h.ack, in, frames.ACK, peerISN + 1, eniISN + 1, 0},
		{&h.data, in, frames.ACK | frames.PSH, peerISN + 1, eniISN + 1, 120},
	} {
		k.flags, k.seq, k.ack, k.size = p.flags, p.seq, p.ack, p.size
		if *p.to, err = t.extra(k, p.d); err != nil {
			return h, err
		}
	}
	return h, nil
}

// open opens connections and returns how many packets of the last step, data, arrived.
func (h handshake) open(ctx context.Context, t *traffic, first, count int) (uint64, error) {
	var arrived uint64
	step := min(count, t.atOnce())
	for at := first; at < first+count; at += step {
		for _, p := range []struct {
			g *frames.Generator
			d direction
		}{{h.syn, in}, {h.synAck, out}, {h.ack, in}, {h.data, in}} {
			s, err := t.fire(ctx, p.g, p.d, frames.Batch{First: at, Flows: step}, nil)
			if err != nil {
				return 0, err
			}
			if p.g == h.data {
				arrived += s.received
			}
		}
	}
	return arrived, nil
}

// synFlood opens connections half from as many sources as a table has room for, four times over, beside live
// connections; then honest clients try to open new ones.
func synFlood(ctx context.Context, r *bench.Run) (err error) {
	p := plan{enis: 64, flows: 1 << 15, rules: rulesUsual, room: 1 << 17, closed: true}
	newcomers := 1 << 12
	if r.Size == bench.Tiny {
		p, newcomers = plan{enis: 2, flows: 64, rules: 10, room: 1 << 13, closed: true}, 16
	}
	flood := uint64(4 * p.room)
	k := kind{family: peer.V4, protocol: frames.TCP, flags: frames.SYN, seq: peerISN}
	spoofed := k
	spoofed.peers, spoofed.shift, spoofed.count = 1<<16, 1<<16, p.enis<<16
	honest := k
	honest.shift = clientsUsual
	c, err := newContest(ctx, r, p, k, []peer.Subject{floor{frames.XDP, false, k, in}, Ours{}, peer.NFTables{}, peer.IPTables{}})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	guns, data, shakes := map[*entrant]*frames.Generator{}, map[*entrant]*frames.Generator{}, map[*entrant]handshake{}
	for _, e := range c.entrants {
		if guns[e], err = e.traffic.extra(spoofed, in); err != nil {
			return err
		}
		live, err := newHandshake(e.traffic, k)
		if err != nil {
			return err
		}
		data[e] = live.data
		if shakes[e], err = newHandshake(e.traffic, honest); err != nil {
			return err
		}
		if _, bare := e.site.running.(*floored); bare {
			continue
		}
		if n, err := live.open(ctx, e.traffic, 0, p.flows); err != nil || n != uint64(p.flows) {
			return fmt.Errorf("%s: open %d connections: %d passed data: %w%s", e.name, p.flows, n, err, e.why())
		}
	}
	if err := c.rounds(ctx, func(e *entrant) (shot, error) {
		s, err := e.traffic.fire(ctx, guns[e], in, frames.Batch{Flows: spoofed.count, Packets: flood, Seed: uint32(r.Seed)}, e.at)
		s.received = s.sent // who drops because the table is full has done so at the same price
		return s, err
	}); err != nil {
		return err
	}
	params := c.params()
	params["room"], params["flood"] = fmt.Sprint(p.room), fmt.Sprintf("%d SYNs", flood)
	c.record(params)
	if err := c.kept(ctx, params, data); err != nil {
		return err
	}
	return c.opened(ctx, params, shakes, newcomers)
}

// opened records which share of honest clients opens a connection right after the flood.
func (c *contest) opened(ctx context.Context, params bench.Params, shakes map[*entrant]handshake, clients int) error {
	for _, e := range c.entrants {
		if _, bare := e.site.running.(*floored); bare {
			continue
		}
		n, err := shakes[e].open(ctx, e.traffic, 0, clients)
		if err != nil {
			return err
		}
		result := c.run.Record(bench.Result{Subject: e.name, Params: params, Metric: openedMetric, Values: []float64{float64(n) / float64(clients)}})
		if e.name == bench.Ours {
			c.run.Check(fmt.Sprintf("%s after the flood (%s)", openedMetric.Name, params), result, atLeast(1))
		}
	}
	return nil
}
