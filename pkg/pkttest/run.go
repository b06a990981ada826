// SPDX-License-Identifier: Apache-2.0

package pkttest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/cilium/ebpf"
)

// Programs by their names in the object.
const (
	PortProgram      = "port"
	VXLANProgram     = "vxlan"
	UplinkProgram    = "uplink"
	UplinkXDPProgram = "uplink_xdp"
	ShaperProgram    = "shaper"
)

// By says which programs see what comes in at an uplink.
type By int

// The ways in.
const (
	ByTC     By = iota
	ByXDP       // and not by TC
	ByInTurn    // XDP, and TC what XDP leaves to it, as on a host
)

func (b By) String() string { return [...]string{"tc", "xdp", "xdp then tc"}[b] }

// Run runs a row in one family. What the row changed is as before when it returns, but for counters, revision and
// generations.
func (w *World) Run(t *testing.T, row *Row, family Family, by By) {
	t.Helper()
	if err := w.ns.Do(func() error { return w.run(t, row, family, by) }); err != nil {
		t.Fatalf("run row: %v", err)
	}
}

func (w *World) run(t *testing.T, row *Row, family Family, by By) (err error) {
	if err := errors.Join(w.clearFlows(), w.clearFragments(), w.clearTurns(), clearRates(w.coll.Maps[ratesMap], w.lastENI+1)); err != nil {
		return err
	}
	dirty := false
	defer func() {
		if dirty {
			err = errors.Join(err, w.Revise(nil))
		}
	}()
	var later time.Duration
	for i, step := range row.Steps {
		if by == ByXDP && step.isDecapsulated() {
			step = w.overlaid(step)
		}
		if step.Revise != nil {
			dirty = true
			if err := w.Revise(step.Revise); err != nil {
				return fmt.Errorf("step %d: %w", i+1, err)
			}
		}
		if step.Poke != nil {
			dirty = true
			if err := step.Poke(w); err != nil {
				return fmt.Errorf("step %d: %w", i+1, err)
			}
		}
		if err := w.sendAhead(step, family, by, later); err != nil {
			return fmt.Errorf("step %d: %w", i+1, err)
		}
		later += step.Later
		before, err := w.hits()
		if err != nil {
			return fmt.Errorf("step %d: %w", i+1, err)
		}
		got, err := w.send(step, family, by, later)
		if err != nil {
			return fmt.Errorf("step %d: %w", i+1, err)
		}
		now, err := w.hits()
		if err != nil {
			return fmt.Errorf("step %d: %w", i+1, err)
		}
		got.hits = newHits(before, now)
		if diff := w.compare(step, family, got); diff != "" {
			t.Errorf("step %d of %d, %v into %s:\n%s", i+1, len(row.Steps), family, step.At.Device, diff)
			return nil
		}
	}
	return nil
}

// sendAhead runs the packets that nobody looks at.
func (w *World) sendAhead(step Step, family Family, by By, later time.Duration) error {
	for _, p := range step.Ahead {
		ahead := step
		ahead.In = p
		if _, _, err := w.come(ahead, family, by, later); err != nil {
			return err
		}
	}
	if len(step.Ahead) == 0 {
		return nil
	}
	_, err := w.newCounts()
	return err
}

// result is what one run of a program left.
type result struct {
	verdict  Verdict
	frame    []byte
	mark     uint32
	priority uint32
	xdp      bool
	asked    helpersAsked
	counts   []Count
	flows    []Flow
	hits     []string
}

// come runs the programs that see the step's packet, up to the one that does not leave it to the next.
func (w *World) come(step Step, family Family, by By, later time.Duration) (result, uint32, error) {
	if by != ByInTurn || !step.passesXDP() {
		return w.runProgram(step, family, by == ByXDP, later)
	}
	first := step
	if step.isDecapsulated() {
		first = w.overlaid(step)
	}
	got, code, err := w.runProgram(first, family, true, later)
	if err != nil {
		return result{}, 0, err
	}
	if v, err := verdictOf(code, true); err != nil || v != Pass {
		return got, code, err
	}
	if in := first.In.Bytes(family); !bytes.Equal(in, got.frame) {
		return result{}, 0, fmt.Errorf("XDP leaves the packet to TC, but changed:\n%s", Diff(in, got.frame))
	}
	got, code, err = w.runProgram(step, family, false, later)
	if err != nil || w.setup.Refuses == nil {
		return got, code, err
	}
	if v, err := verdictOf(code, false); err != nil || v == Drop && w.setup.Refuses(step) {
		return result{}, 0, errors.Join(err, errors.New("TC drops a packet that XDP should have"))
	}
	return got, code, nil
}

// send runs the programs of the step's hook on its packet and gathers all that came of it.
func (w *World) send(step Step, family Family, by By, later time.Duration) (result, error) {
	got, code, err := w.come(step, family, by, later)
	if err != nil {
		return result{}, err
	}
	if got.verdict, err = verdictOf(code, got.xdp); err != nil {
		return result{}, err
	}
	if got.asked, err = w.unit.ask(); err != nil {
		return result{}, err
	}
	if got.xdp && code == xdpTX {
		got.asked.Ifindex = w.devices[step.At.Device]
	}
	if got.counts, err = w.newCounts(); err != nil {
		return result{}, err
	}
	got.flows, err = w.flows(later)
	return got, err
}

// runProgram runs the program of the step's hook on its packet.
func (w *World) runProgram(step Step, family Family, xdp bool, later time.Duration) (result, uint32, error) {
	ifindex, ok := w.devices[step.At.Device]
	if !ok {
		return result{}, 0, fmt.Errorf("no device %s in this world", step.At.Device)
	}
	if err := w.unit.give(step.Tunnel, w.base.Host.VTEP, later); err != nil {
		return result{}, 0, err
	}
	name := step.At.Program
	if xdp && name == UplinkProgram {
		name = UplinkXDPProgram
	}
	p := w.coll.Programs[name]
	if p == nil {
		return result{}, 0, fmt.Errorf("the object has no program %s", name)
	}
	xdp = p.Type() == ebpf.XDP
	if step.Bound != "" {
		mark, err := w.markOf(step.Bound)
		if err != nil {
			return result{}, 0, err
		}
		step.Mark = mark
	}
	in := step.In.Bytes(family)
	opts := &ebpf.RunOptions{Data: in, DataOut: make([]byte, len(in)+512), Repeat: 1}
	out := make([]byte, skbContextSize)
	if xdp {
		ctx := make([]byte, xdpContextSize)
		xdpContext(ctx, len(in), ifindex)
		opts.Context = ctx
	} else {
		ctx := make([]byte, skbContextSize)
		skbContext(ctx, ifindex, step.Mark, step.GSO, len(in))
		opts.Context = ctx
		opts.ContextOut = out
	}
	code, err := p.Run(opts)
	if err != nil {
		return result{}, 0, fmt.Errorf("run program %s on %d bytes: %w", name, len(in), err)
	}
	return result{
		frame: opts.DataOut, xdp: xdp, mark: binary.LittleEndian.Uint32(out[skbMark:]),
		priority: binary.LittleEndian.Uint32(out[skbPriority:]),
	}, code, nil
}

// Offsets in struct __sk_buff, which is kernel ABI.
const (
	skbMark        = 8
	skbPriority    = 32
	skbIngress     = 36
	skbIfindex     = 40
	skbWireLen     = 160
	skbGSOSegments = 164
	skbGSOSize     = 176
	skbContextSize = 192
	xdpContextSize = 24
)

func skbContext(ctx []byte, ifindex, mark, gso uint32, length int) {
	clear(ctx)
	binary.LittleEndian.PutUint32(ctx[skbMark:], mark)
	binary.LittleEndian.PutUint32(ctx[skbIngress:], ifindex)
	binary.LittleEndian.PutUint32(ctx[skbIfindex:], ifindex)
	if gso > 0 {
		binary.LittleEndian.PutUint32(ctx[skbWireLen:], uint32(length))
		binary.LittleEndian.PutUint32(ctx[skbGSOSegments:], (uint32(length)+gso-1)/gso)
		binary.LittleEndian.PutUint32(ctx[skbGSOSize:], gso)
	}
}

// xdpContext is struct xdp_md: data, data_end, data_meta, ingress_ifindex, rx_queue_index,
// egress_ifindex.
func xdpContext(ctx []byte, length int, ifindex uint32) {
	clear(ctx)
	binary.LittleEndian.PutUint32(ctx[4:], uint32(length))
	binary.LittleEndian.PutUint32(ctx[12:], ifindex)
}

// xdpTX sends a packet out by the device that it came in by.
const xdpTX = 3

// verdictOf names the return code of a hook.
func verdictOf(code uint32, xdp bool) (Verdict, error) {
	switch {
	case !xdp && (code == 0 || code == 0xffffffff), xdp && code == 2: // tcx: also "next"
		return Pass, nil
	case !xdp && code == 2, xdp && code == 1:
		return Drop, nil
	case !xdp && code == 7, xdp && (code == xdpTX || code == 4):
		return Redirect, nil
	}
	return 0, fmt.Errorf("the program returned %d, which is no verdict (XDP: %v)", int32(code), xdp)
}

// Repeat runs XDP n times in a row on a packet that it does not change, and says what was counted. It all happens on one
// CPU, or on very few.
func (w *World) Repeat(device string, p Packet, family Family, n int) (counts []Count, err error) {
	err = w.ns.Do(func() error {
		in, ctx := p.Bytes(family), make([]byte, xdpContextSize)
		xdpContext(ctx, len(in), w.devices[device])
		if _, err := w.coll.Programs[UplinkXDPProgram].Run(&ebpf.RunOptions{Data: in, Context: ctx, Repeat: uint32(n)}); err != nil {
			return fmt.Errorf("run program %s %d times: %w", UplinkXDPProgram, n, err)
		}
		var err error
		counts, err = w.newCounts()
		return err
	})
	return counts, err
}

// Cost is the time that one run of the step's program takes, of n. The packet must be dropped: a run sees the
// packet as the one before has left it.
func (w *World) Cost(step Step, family Family, n int) (cost time.Duration, err error) {
	err = w.ns.Do(func() error {
		in := step.In.Bytes(family)
		ctx := make([]byte, skbContextSize)
		skbContext(ctx, w.devices[step.At.Device], step.Mark, step.GSO, len(in))
		opts := &ebpf.RunOptions{Data: in, Repeat: uint32(n), Context: ctx}
		if err := w.unit.give(step.Tunnel, w.base.Host.VTEP, 0); err != nil {
			return err
		}
		begin := time.Now()
		code, err := w.coll.Programs[step.At.Program].Run(opts)
		cost = time.Since(begin) / time.Duration(n)
		if err != nil {
			return fmt.Errorf("run program %s: %w", step.At.Program, err)
		}
		v, err := verdictOf(code, false)
		if err == nil && v != Drop {
			err = fmt.Errorf("what the packet came to is %v, not %v", v, Drop)
		}
		return err
	})
	return cost, err
}
