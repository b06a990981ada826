// SPDX-License-Identifier: Apache-2.0

package migrate

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/eniplane/eniplane/pkg/dataplane"
	"github.com/eniplane/eniplane/pkg/dataplane/flowtable"
)

// The pace of a source. A round reads the first line of every set of the tables, so it must not come too often.
const (
	roundWait   = 20 * time.Millisecond
	roundShare  = 4 // of the time that rounds take, at least so much is left to others
	dialTimeout = 3 * time.Second
	roundLimit  = 30 * time.Second
	dialAgain   = time.Second
	lifeStep    = 16 // ticks by which a deadline moves until it is told again
)

// source copies the flows of one ENI to its next host, until its context ends.
type source struct {
	m        *Manager
	out      Outgoing
	stop     context.CancelFunc
	departed bool // that is told
}

func (s *source) run(ctx context.Context) {
	for ctx.Err() == nil {
		err := s.session(ctx)
		if ctx.Err() != nil {
			return
		}
		s.m.noteOut(&s.out, func(st *Status) { st.Error = err.Error(); st.Rounds = 0 })
		s.m.log.Warn("flows are not copied", "eni", s.out.ENI, "to", s.out.To, "err", err)
		select {
		case <-ctx.Done():
		case <-time.After(dialAgain):
		}
	}
}

// session copies all flows, then in rounds those that have changed.
func (s *source) session(ctx context.Context) error {
	conn, err := s.dial(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	end := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer end()
	r := bufio.NewReader(conn)
	if err := s.greet(conn, r); err != nil {
		return err
	}
	tables, err := s.openTables()
	if err != nil {
		return err
	}
	defer closeTables(tables)
	sent := map[flowKey]flowMark{}
	for round := uint32(1); ; round++ {
		start := time.Now()
		if err := conn.SetDeadline(start.Add(roundLimit)); err != nil {
			return fmt.Errorf("round %d: %w", round, err)
		}
		if err := s.round(conn, r, tables, sent, round); err != nil {
			return fmt.Errorf("round %d: %w", round, err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(max(roundWait, roundShare*time.Since(start))):
		}
	}
}

func (s *source) dial(ctx context.Context) (net.Conn, error) {
	if !s.out.Addr.IsValid() {
		return nil, fmt.Errorf("the feed has no peer of Host/%s: give it the address of its agent", s.out.To)
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	conn, err := s.m.security.dial(ctx, s.out.Addr, s.out.To)
	if err != nil {
		return nil, fmt.Errorf("reach the agent of %s: %w", s.out.To, err)
	}
	return conn, nil
}

func (s *source) greet(conn net.Conn, r *bufio.Reader) error {
	if err := conn.SetDeadline(time.Now().Add(dialTimeout)); err != nil {
		return fmt.Errorf("greet %s: %w", s.out.To, err)
	}
	h := hello{Version: version, From: s.m.host, To: s.out.To, ENI: s.out.ENI, UID: s.out.UID, Epoch: s.out.Epoch}
	if err := writeJSON(conn, frameHello, h); err != nil {
		return fmt.Errorf("greet %s: %w", s.out.To, err)
	}
	var w welcome
	if err := readJSON(r, frameWelcome, &w); err != nil {
		return fmt.Errorf("greet %s: %w", s.out.To, err)
	}
	if w.Refused != "" {
		return fmt.Errorf("%s refuses: %s", s.out.To, w.Refused)
	}
	return nil
}

func (s *source) openTables() ([]*flowtable.Table, error) {
	var tables []*flowtable.Table
	for _, family := range []flowtable.Family{flowtable.IPv4, flowtable.IPv6} {
		t, err := s.m.flows.FlowTable(family, false)
		if err != nil {
			closeTables(tables)
			return nil, err
		}
		tables = append(tables, t)
	}
	return tables, nil
}

func closeTables(tables []*flowtable.Table) {
	for _, t := range tables {
		_ = t.Close() // only read
	}
}

// flowKey is what identifies a flow of one ENI, flowMark what of it others must know.
type flowKey struct {
	class      uint8
	local, rem netip.Addr
	lport, rpt uint16
}

type flowMark struct {
	state, flags, reason uint8
	seq                  [2]uint16
	opened, expires      uint32
}

// round sends what has changed since the last one, and waits until it is stored.
func (s *source) round(conn net.Conn, r *bufio.Reader, tables []*flowtable.Table, sent map[flowKey]flowMark, number uint32) error {
	now, err := flowtable.Now()
	if err != nil {
		return err
	}
	view := s.m.view.Load()
	var batch []Flow
	live := make(map[flowKey]struct{}, len(sent))
	for _, t := range tables {
		t.Each(now, func(f *flowtable.Flow) bool {
			if f.ENI != s.out.Index || f.Incarnation != s.out.Flows {
				return true
			}
			key := flowKey{f.Class, f.Local, f.Remote, f.LocalPort, f.RemotePort}
			live[key] = struct{}{}
			if !changed(sent, key, f) {
				return true
			}
			batch = append(batch, view.flow(f, now))
			if len(batch) == maxFlows {
				err = writeFrame(conn, frameFlows, encodeFlows(batch))
				batch = batch[:0]
			}
			return err == nil
		})
		if err != nil {
			return err
		}
	}
	if len(batch) > 0 {
		if err := writeFrame(conn, frameFlows, encodeFlows(batch)); err != nil {
			return err
		}
	}
	for key := range sent {
		if _, ok := live[key]; !ok {
			delete(sent, key)
		}
	}
	return s.finish(conn, r, number, len(live))
}

// changed tells whether a flow must be sent, and notes that it is.
func changed(sent map[flowKey]flowMark, key flowKey, f *flowtable.Flow) bool {
	mark := flowMark{state: f.State, flags: f.Flags, reason: f.Reason, seq: f.Seq, opened: f.Opened, expires: f.Expires}
	last, known := sent[key]
	if known {
		near := f.Expires-last.expires+lifeStep <= 2*lifeStep
		expires := mark.expires
		mark.expires = last.expires
		if near && mark == last {
			return false
		}
		mark.expires = expires
	}
	sent[key] = mark
	return true
}

// flow names what the flow knows by numbers.
func (v *View) flow(f *flowtable.Flow, now uint32) Flow {
	moved := Flow{MovedFlow: dataplane.NewMovedFlow(f, now), Rule: v.rules[f.Rule]}
	if h, ok := v.hops[f.Nexthop]; ok && dataplane.KnowsPeer(f, h.generation, h.since) {
		moved.Peer = h.peer
	}
	return moved
}

func (s *source) finish(conn net.Conn, r *bufio.Reader, number uint32, live int) error {
	if err := writeFrame(conn, frameRound, binary.BigEndian.AppendUint32(nil, number)); err != nil {
		return err
	}
	var d done
	if err := readJSON(r, frameDone, &d); err != nil {
		return err
	}
	if d.Round != number {
		return errors.New("the target answers another round")
	}
	s.depart(d.Here)
	s.m.noteOut(&s.out, func(st *Status) {
		st.Rounds, st.Flows, st.Error = number, live, ""
		for reason, n := range d.Refused {
			if st.Refused == nil {
				st.Refused = map[string]int{}
			}
			st.Refused[reason] += n
		}
	})
	return nil
}

// depart passes on that the ENI has arrived, once.
func (s *source) depart(epoch uint64) {
	if s.departed || epoch <= s.out.Epoch {
		return
	}
	select {
	case s.m.departures <- Departure{ENI: s.out.ENI, To: s.out.To, Epoch: epoch}:
		s.departed = true
	default: // with the next round
	}
}
