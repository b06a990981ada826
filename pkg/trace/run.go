// SPDX-License-Identifier: Apache-2.0

package trace

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"

	"github.com/cilium/ebpf"

	"github.com/eniplane/eniplane/pkg/dataplane"
	"github.com/eniplane/eniplane/pkg/dataplane/flowtable"
)

// Packet is a packet where a program meets it.
type Packet struct {
	Program string // dataplane.ProgramPort, ProgramVXLAN or ProgramUplink
	Ifindex uint32 // of the device that it comes in by
	Frame   []byte
	Mark    uint32
	GSO     uint32  // gso_size
	Tunnel  *Tunnel // through which it came, at the VXLAN device
}

// Tunnel is what a VXLAN device keeps of, or makes, the outer headers.
type Tunnel struct {
	VNI    uint32     `json:"vni"`
	Remote netip.Addr `json:"remote"` // the other VTEP
	Policy uint32     `json:"policy,omitzero"`
}

// Action is what a program tells the kernel.
type Action string

// The actions.
const (
	Drop     Action = "drop"
	Pass     Action = "pass" // to the host
	Redirect Action = "redirect"
)

// Crossing is a packet at an ENI, in a direction seen from the ENI, and what became of it there. ENI 0 is the host.
type Crossing struct {
	ENI       uint32
	Direction dataplane.Direction
	Reason    dataplane.Reason
	Packets   uint64
}

// Outcome is all that a program did with a packet.
type Outcome struct {
	Action    Action
	Frame     []byte // as it leaves
	Mark      uint32
	Priority  uint32
	Ifindex   uint32 // of the device to which it is redirected
	Neighbour bool   // the kernel looks for the next hop and writes its MAC
	Tunnel    *Tunnel
	Received  []Crossing // what came in, without a reason
	Crossings []Crossing // what became of it; the sending ENI first
	Hits      []uint32   // rules that decided a new connection, by id, as often as they did
	Judged    []dataplane.Judged
	Before    []flowtable.Flow // of the packet, if they were asked for
	After     []flowtable.Flow
}

// rounds is how often a run may find another ENI on its way, whose flows it must know.
const rounds = 6

// Run runs a packet, after those since the last Begin.
func (t *Twin) Run(p Packet) (*Outcome, error) {
	t.history = append(t.history, p)
	if err := t.expect(p); err != nil {
		return nil, err
	}
	for range rounds {
		before, err := t.flows(p)
		if err != nil {
			return nil, err
		}
		out, err := t.once(p)
		if err != nil {
			return nil, err
		}
		if !t.meet(out) {
			out.Before = before
			out.After, err = t.flows(p)
			return out, err
		}
		if err := t.again(); err != nil {
			return nil, err
		}
	}
	return nil, fmt.Errorf("trace the packet: after %d runs it still reaches other ENIs: the tables change all the time; try again", rounds)
}

// meet notes the ENIs that a run has come by. True: some were not known.
func (t *Twin) meet(out *Outcome) bool {
	more := false
	for _, c := range out.Received {
		if !slices.Contains(t.known, c.ENI) {
			t.known, more = append(t.known, c.ENI), true
		}
	}
	return more
}

// again begins anew, and runs all packets but the last.
func (t *Twin) again() error {
	if err := t.seed(); err != nil {
		return err
	}
	for _, p := range t.history {
		if err := t.seedFlows(p); err != nil {
			return err
		}
	}
	for _, p := range t.history[:len(t.history)-1] {
		if _, err := t.once(p); err != nil {
			return err
		}
	}
	return nil
}

// once runs a packet on what the twin's own maps hold, and notes what it did to them.
func (t *Twin) once(p Packet) (*Outcome, error) {
	program := t.programs[p.Program]
	if program == nil {
		return nil, fmt.Errorf("trace a packet: no twin of program %q", p.Program)
	}
	t.give(p.Tunnel)
	left := make([]byte, skbContextSize)
	opts := &ebpf.RunOptions{
		Data: p.Frame, DataOut: make([]byte, len(p.Frame)+512), Repeat: 1, Context: skbContext(p), ContextOut: left,
	}
	code, err := program.Run(opts)
	if err != nil {
		return nil, fmt.Errorf("run the trace twin of %s on %d bytes (in the network namespace of the host?): %w", p.Program, len(p.Frame), err)
	}
	out := &Outcome{
		Frame: opts.DataOut, Mark: binary.LittleEndian.Uint32(left[skbMark:]),
		Priority: binary.LittleEndian.Uint32(left[skbPriority:]),
	}
	switch int32(code) {
	case 0, -1:
		out.Action = Pass
	case 2:
		out.Action = Drop
	case tcRedirect:
		out.Action = Redirect
	default:
		return nil, fmt.Errorf("trace a packet: program %s returned %d, which is no verdict", p.Program, int32(code))
	}
	t.ask(out)
	t.count(out)
	return out, t.judged(out, p.Frame)
}

// give writes what helpers give, and forgets what was noted before.
func (t *Twin) give(tunnel *Tunnel) {
	clear(t.io)
	clear(t.events[:eventSize])
	if tunnel != nil {
		remote := tunnel.Remote.As4()
		binary.LittleEndian.PutUint32(t.io[givenVNI:], tunnel.VNI)
		binary.LittleEndian.PutUint32(t.io[givenRemote:], binary.BigEndian.Uint32(remote[:]))
		binary.LittleEndian.PutUint32(t.io[givenPolicy:], tunnel.Policy)
	}
}

// ask reads what helpers were asked for.
func (t *Twin) ask(out *Outcome) {
	word := func(at int) uint32 { return binary.LittleEndian.Uint32(t.io[at:]) }
	if out.Action == Redirect {
		out.Ifindex, out.Neighbour = word(askedIfindex), word(askedHow) == 2
	}
	if word(askedVNI)|word(askedRemote) != 0 {
		remote := [4]byte(binary.BigEndian.AppendUint32(nil, word(askedRemote)))
		out.Tunnel = &Tunnel{VNI: word(askedVNI), Remote: netip.AddrFrom4(remote), Policy: word(askedPolicy)}
	}
}

// count reads the counters, which were zero, and makes them zero again.
func (t *Twin) count(out *Outcome) {
	const size, perENI = 16, dataplane.CountersPerENI * 16
	eachUsed(t.counters, perENI, func(eni int, side []byte) {
		for i := range dataplane.CountersPerENI {
			packets, _ := dataplane.DecodeCounter(side[i*size:])
			if packets == 0 {
				continue
			}
			c := Crossing{
				ENI: uint32(eni), Direction: dataplane.Direction(i / (dataplane.CountersPerENI / 2)),
				Reason: dataplane.Reason(i % (dataplane.CountersPerENI / 2)), Packets: packets,
			}
			if c.Reason == dataplane.ReasonContinue {
				out.Received = append(out.Received, c)
			} else {
				out.Crossings = append(out.Crossings, c)
			}
		}
		clear(side)
	})
	// What an ENI sends reaches another one afterwards; what the host itself sends, an error, comes last.
	slices.SortStableFunc(out.Crossings, func(a, b Crossing) int { return order(a) - order(b) })
	const hits = 512
	eachUsed(t.hits, hits*8, func(block int, memory []byte) {
		for i := range hits {
			if n := binary.LittleEndian.Uint64(memory[i*8:]); n > 0 {
				out.Hits = append(out.Hits, slices.Repeat([]uint32{uint32(block*hits + i)}, int(n))...)
			}
		}
		clear(memory)
	})
}

// eachUsed calls fn with each block of memory that is not zero.
func eachUsed(memory []byte, size int, fn func(n int, block []byte)) {
	zero := make([]byte, size)
	for n := 0; (n+1)*size <= len(memory); n++ {
		if block := memory[n*size:][:size]; !bytes.Equal(block, zero) {
			fn(n, block)
		}
	}
}

func order(c Crossing) int {
	if c.ENI == 0 {
		return 2
	}
	return int(c.Direction)
}

// judged reads the judgements that were noted.
func (t *Twin) judged(out *Outcome, frame []byte) error {
	place := (eventSize + 7) &^ 7
	n := int(binary.LittleEndian.Uint32(t.events[eventCount:]))
	v6 := len(frame) >= ethLen && binary.BigEndian.Uint16(frame[12:]) == etherIP6
	for i := range min(n, maxEvents) {
		e := t.events[(i+1)*place:][:eventSize]
		j, err := dataplane.DecodeJudged(dataplane.Reason(binary.LittleEndian.Uint32(e[eventResult:])), e[eventWork:], v6)
		if err != nil {
			return fmt.Errorf("read a judgement: %w", err)
		}
		out.Judged = append(out.Judged, j)
	}
	return nil
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
)

func skbContext(p Packet) []byte {
	ctx := make([]byte, skbContextSize)
	put := func(at int, v uint32) { binary.LittleEndian.PutUint32(ctx[at:], v) }
	put(skbMark, p.Mark)
	put(skbIngress, p.Ifindex)
	put(skbIfindex, p.Ifindex)
	if p.GSO > 0 {
		put(skbWireLen, uint32(len(p.Frame)))
		put(skbGSOSegments, (uint32(len(p.Frame))+p.GSO-1)/p.GSO)
		put(skbGSOSize, p.GSO)
	}
	return ctx
}
