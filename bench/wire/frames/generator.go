// SPDX-License-Identifier: Apache-2.0

package frames

import (
	"errors"
	"fmt"
	"math/bits"
	"net/netip"
	"time"

	"github.com/cilium/ebpf"
)

// chunk is how many frames one call into the kernel sends; between two, a stop is heard.
const chunk = 1 << 15

// liveFrames is BPF_F_TEST_XDP_LIVE_FRAMES.
const liveFrames = 1 << 1

// Generator sends the packets of a set of flows out of devices.
type Generator struct {
	collection *ebpf.Collection
	frame      []byte
	flows      Flows
}

// NewGenerator loads a generator. The packets of ENI i leave by devices[i] if ENIs send, else all by devices[0].
// Generators live in the network namespace of the devices: this and Send must be called from inside it.
func NewGenerator(flows Flows, devices []int) (_ *Generator, err error) {
	frame, at, err := flows.build()
	if err != nil {
		return nil, err
	}
	if flows.FromENI && len(devices) != flows.ENIs {
		return nil, fmt.Errorf("generator of %d ENIs: %d devices", flows.ENIs, len(devices))
	}
	spec, err := specOf("generate")
	if err != nil {
		return nil, err
	}
	if err := spec.Variables[framesVarLayout].Set(at); err != nil {
		return nil, fmt.Errorf("set the layout of frames: %w", err)
	}
	header := make([]byte, maxHeader)
	copy(header, frame)
	if err := spec.Variables[framesVarHeader].Set(header); err != nil {
		return nil, fmt.Errorf("set the header of frames: %w", err)
	}
	g := &Generator{frame: frame, flows: flows}
	if g.collection, err = load(spec); err != nil {
		return nil, err
	}
	if err := fillDevices(g.collection.Maps[framesMapOutputs], devices); err != nil {
		return nil, errors.Join(err, g.Close())
	}
	return g, nil
}

// Close frees the generator.
func (g *Generator) Close() error {
	g.collection.Close()
	return nil
}

// Batch says what to send.
type Batch struct {
	First    int     // the first flow
	Flows    int     // how many of them, a power of two; each gets its turn before one comes again
	Seed     uint32  // of their order
	Packets  uint64  // 0: one of each flow
	Rate     float64 // packets per second; 0 = as fast as it goes
	StopSoon func() bool
}

// Sent is what came of it.
type Sent struct {
	Packets uint64
	Took    time.Duration
}

// Send sends a batch. The caller is bound to one thread.
func (g *Generator) Send(b Batch) (Sent, error) {
	if !powerOfTwo(b.Flows) || b.First < 0 || b.First+b.Flows > g.flows.Count {
		return Sent{}, fmt.Errorf("send flows %d to %d: there are %d, and it must be a power of two at a time", b.First, b.First+b.Flows, g.flows.Count)
	}
	if b.Packets == 0 {
		b.Packets = uint64(b.Flows)
	}
	n := bits.Len(uint(b.Flows)) - 1
	set := map[string]any{
		framesVarOrderBase: uint32(b.First), framesVarOrderMask: uint32(b.Flows - 1), framesVarOrderShift: uint32((n + 1) / 2),
		framesVarOrderSeed: b.Seed, framesVarNextStep: uint64(0), framesVarWanted: b.Packets, framesVarSent: uint64(0),
		framesVarInterval: uint64(0), framesVarDue: uint64(0),
	}
	if b.Rate > 0 {
		set[framesVarInterval] = uint64(1e9 / b.Rate)
	}
	for name, value := range set {
		if err := g.collection.Variables[name].Set(value); err != nil {
			return Sent{}, fmt.Errorf("prepare a batch: set %s: %w", name, err)
		}
	}
	begin := time.Now()
	var sent uint64
	for sent < b.Packets && (b.StopSoon == nil || !b.StopSoon()) {
		before := sent
		if err := g.once(min(chunk, b.Packets-sent)); err != nil {
			return Sent{}, err
		}
		if err := g.collection.Variables[framesVarSent].Get(&sent); err != nil {
			return Sent{}, fmt.Errorf("read how many frames were sent: %w", err)
		}
		if sent == before && b.Rate == 0 {
			return Sent{}, fmt.Errorf("the generator sends nothing: a frame of %d bytes is refused", len(g.frame))
		}
	}
	return Sent{Packets: sent, Took: time.Since(begin)}, nil
}

// once runs the generator at most so often.
func (g *Generator) once(times uint64) error {
	_, err := g.collection.Programs["generate"].Run(&ebpf.RunOptions{
		Data: g.frame, Repeat: uint32(times), Flags: liveFrames,
	})
	if err != nil {
		return fmt.Errorf("run the generator: %w", err)
	}
	return nil
}

// Tuple is what a flow's packets carry: the addresses and ports of both ends.
type Tuple struct {
	ENI, Peer         netip.Addr
	ENIPort, PeerPort uint16
}

// Tuple tells what flow number n is.
func (f *Flows) Tuple(n int) Tuple {
	rest := n / f.ENIs
	return Tuple{
		ENI: plus(f.ENI.Addr, n%f.ENIs), Peer: plus(f.Peer.Addr, rest%f.Peers),
		ENIPort: f.Port, PeerPort: f.PeerPort + uint16(rest/f.Peers),
	}
}

// plus is the address n further on; only its lowest 32 bits change.
func plus(a netip.Addr, n int) netip.Addr {
	b := a.AsSlice()
	low := low32(a) + uint32(n)
	for i := range 4 {
		b[len(b)-1-i] = byte(low >> (8 * i))
	}
	moved, _ := netip.AddrFromSlice(b) // as long as before
	return moved
}

// Plus is End number n.
func (e End) Plus(n int) End {
	m := e.MAC
	low := uint32(m[2])<<24 | uint32(m[3])<<16 | uint32(m[4])<<8 | uint32(m[5])
	low += uint32(n)
	m[2], m[3], m[4], m[5] = byte(low>>24), byte(low>>16), byte(low>>8), byte(low)
	return End{Addr: plus(e.Addr, n), MAC: m}
}

// specOf returns the object with one of its programs and the maps that it needs.
func specOf(program string) (*ebpf.CollectionSpec, error) {
	spec, err := loadFrames()
	if err != nil {
		return nil, fmt.Errorf("read the object of the generator: %w", err)
	}
	for name := range spec.Programs {
		if name != program {
			delete(spec.Programs, name)
		}
	}
	return spec, nil
}

func load(spec *ebpf.CollectionSpec) (*ebpf.Collection, error) {
	c, err := ebpf.NewCollection(spec)
	if err != nil {
		return nil, fmt.Errorf("load the programs of the measurement: %+w", err)
	}
	return c, nil
}

// fillDevices puts devices of the present namespace into a map, in their order.
func fillDevices(m *ebpf.Map, devices []int) error {
	for i, ifindex := range devices {
		if err := m.Put(uint32(i), uint32(ifindex)); err != nil {
			return fmt.Errorf("name device %d as number %d: %w", ifindex, i, err)
		}
	}
	return nil
}
