// SPDX-License-Identifier: Apache-2.0

package cost

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"

	"github.com/cilium/ebpf"

	"github.com/eniplane/eniplane/bench"
	"github.com/eniplane/eniplane/bench/host"
	"github.com/eniplane/eniplane/pkg/dataplane"
	"github.com/eniplane/eniplane/pkg/dataplane/flowtable"
)

// chunk bounds the packets of one call into the kernel, which runs with soft interrupts off. A call for XDP costs some
// 0.3 ms by itself (the kernel changes its own text), so it must do more.
const (
	chunk    = 1 << 15
	xdpChunk = 8 * chunk
)

// Meter runs packets through the programs of a host. Its methods must be called inside host.Do.
type Meter struct {
	host     *host.Host
	wrapper  *ebpf.Collection
	programs map[string]*ebpf.Program // under test, by name in the object
	random   *rand.Rand
}

// Open loads the wrappers beside the host's programs.
func Open(h *host.Host, seed uint64) (*Meter, error) {
	spec, err := loadCost()
	if err != nil {
		return nil, fmt.Errorf("read the object of the wrappers: %w", err)
	}
	m := &Meter{host: h, programs: map[string]*ebpf.Program{}, random: rand.New(rand.NewPCG(seed, seed))}
	if m.wrapper, err = ebpf.NewCollection(spec); err != nil {
		return nil, fmt.Errorf("load the wrappers: %w", err)
	}
	for _, slot := range dataplane.Slots() {
		var id uint32
		if err := h.Maps().Map(slot.Array).Lookup(slot.Index, &id); err != nil {
			return nil, errors.Join(fmt.Errorf("find program %s: %w", slot.Program, err), m.Close())
		}
		if m.programs[slot.Program], err = ebpf.NewProgramFromID(ebpf.ProgramID(id)); err != nil {
			return nil, errors.Join(fmt.Errorf("open program %s: %w", slot.Program, err), m.Close())
		}
	}
	return m, nil
}

// Info is what the kernel says of a program under test.
func (m *Meter) Info(program string) (*ebpf.ProgramInfo, error) {
	info, err := m.programs[program].Info()
	if err != nil {
		return nil, fmt.Errorf("look at program %s: %w", program, err)
	}
	return info, nil
}

// With returns a meter of other programs, by the names that they have in the object, on the same host. Close it not.
func (m *Meter) With(programs map[string]*ebpf.Program) *Meter {
	other := *m
	other.programs = programs
	return &other
}

// Close frees the wrappers.
func (m *Meter) Close() error {
	var errs []error
	for _, p := range m.programs {
		errs = append(errs, p.Close())
	}
	m.wrapper.Close()
	return errors.Join(errs...)
}

// aim puts a program, or an empty one, behind the wrapper of its kind, which it returns.
func (m *Meter) aim(program string, empty bool) (*ebpf.Program, error) {
	p := m.programs[program]
	if p == nil {
		p = m.wrapper.Programs[program]
	}
	if p == nil {
		return nil, fmt.Errorf("no program %s", program)
	}
	wrapper, target, nothing := costProgCostTc, costMapTargetTc, costProgEmptyTc
	if p.Type() == ebpf.XDP {
		wrapper, target, nothing = costProgCostXdp, costMapTargetXdp, costProgEmptyXdp
	}
	if empty {
		p = m.wrapper.Programs[nothing]
	}
	if err := m.wrapper.Maps[target].Put(uint32(0), p); err != nil {
		return nil, fmt.Errorf("put program %s behind the wrapper: %w", program, err)
	}
	return m.wrapper.Programs[wrapper], nil
}

// outcome is what a series of packets came to.
type outcome struct {
	ns   float64 // per packet, wrapper included
	code uint32  // what the last run returned
}

// fire runs n packets, the first of which has this number.
func (m *Meter) fire(s *shot, first uint32, n int, empty bool) (outcome, error) {
	for range 10 {
		o, whole, err := m.once(s, first, n, empty)
		if err != nil || whole {
			return o, err
		}
	}
	return outcome{}, fmt.Errorf("run %d packets through %s: signals interrupt it again and again", n, s.program)
}

// once is not whole if a signal made the kernel begin again.
func (m *Meter) once(s *shot, first uint32, n int, empty bool) (o outcome, whole bool, err error) {
	wrapper, err := m.aim(s.program, empty)
	if err != nil {
		return o, false, err
	}
	device, err := net.InterfaceByName(s.device)
	if err != nil {
		return o, false, fmt.Errorf("find device %s: %w", s.device, err)
	}
	s.path.Next, s.path.Failed = first, 0
	if err := m.wrapper.Maps[costMapPaths].Put(uint32(0), &s.path); err != nil {
		return o, false, fmt.Errorf("hand packets to the wrapper: %w", err)
	}
	whole = true
	opts, size := ebpf.RunOptions{Data: s.frame, Context: skbContext(uint32(device.Index)), Reset: func() { whole = false }}, chunk
	if wrapper.Type() == ebpf.XDP {
		opts.Context, size = xdpContext(uint32(device.Index), len(s.frame)), xdpChunk
	}
	begin := bench.ThreadTime()
	for left := n; left > 0; left -= size {
		opts.Repeat = uint32(min(left, size))
		if o.code, err = wrapper.Run(&opts); err != nil {
			return o, false, fmt.Errorf("run program %s: %w", s.program, err)
		}
	}
	o.ns = float64((bench.ThreadTime() - begin).Nanoseconds()) / float64(n)
	var after costPath
	if err := m.wrapper.Maps[costMapPaths].Lookup(uint32(0), &after); err != nil {
		return o, false, fmt.Errorf("ask the wrapper: %w", err)
	}
	if whole && (after.Failed > 0 || after.Next != first+uint32(n)) {
		return o, false, fmt.Errorf("of %d packets for %s the wrapper made %d and failed at %d", n, s.program, after.Next-first, after.Failed)
	}
	return o, whole, nil
}

// Offsets in struct __sk_buff, which is kernel ABI.
const (
	skbIngress = 36
	skbIfindex = 40
	skbSize    = 192
)

func skbContext(ifindex uint32) []byte {
	ctx := make([]byte, skbSize)
	binary.LittleEndian.PutUint32(ctx[skbIngress:], ifindex)
	binary.LittleEndian.PutUint32(ctx[skbIfindex:], ifindex)
	return ctx
}

// xdpContext is struct xdp_md: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
func xdpContext(ifindex uint32, length int) []byte {
	ctx := make([]byte, 24)
	binary.LittleEndian.PutUint32(ctx[4:], uint32(length))
	binary.LittleEndian.PutUint32(ctx[12:], ifindex)
	return ctx
}

// together is how many connections are opened before they are answered: half of those that may be half-open.
func (m *Meter) together() int {
	places := flowtable.RingPlaces(m.host.Maps().Map(dataplane.MapHalfOpen).MaxEntries())
	return min(max(int(places)/2, 1), 1024)
}

// Fill makes the flows, established: the opener's packet, an answer, the opener's again.
func (m *Meter) Fill(t Traffic, opener dataplane.Direction) error {
	enis := max(t.ENIs, 1)
	each := (int(t.Flows) + enis - 1) / enis
	for e := range enis {
		one := t
		one.ENI, one.ENIs = t.ENI+e, 1
		series := []shot{one.shot(opener, SYN), one.shot(1-opener, SYN|ACK), one.shot(opener, ACK)}
		batch := m.together()
		for first := 0; first < each; first += batch {
			n := min(batch, each-first)
			for i := range series {
				series[i].path.Ordered = 1
				if _, err := m.fire(&series[i], uint32(first), n, false); err != nil {
					return err
				}
			}
		}
	}
	last := t.shot(opener, ACK)
	return m.expect(&last, dataplane.ReasonDelivered, min(int(t.Flows), chunk))
}

// expect runs packets and wants this to become of each.
func (m *Meter) expect(s *shot, want dataplane.Reason, n int) error {
	before, err := m.counted(want)
	if err != nil {
		return err
	}
	if _, err := m.fire(s, 0, n, false); err != nil {
		return err
	}
	after, err := m.counted(want)
	if err != nil {
		return err
	}
	if got := after - before; got < uint64(n) {
		return fmt.Errorf("of %d packets for %s %d were counted as %v; all counters: %s", n, s.program, got, want, m.allCounters())
	}
	return nil
}

func (m *Meter) counted(reason dataplane.Reason) (n uint64, err error) {
	err = m.host.Maps().Counters(func(c dataplane.Counter) bool {
		if c.Reason == reason {
			n += c.Packets
		}
		return true
	}, m.few()...)
	return n, err
}

// few lists the ENIs of the host if they are few: reading the counters of all that could be takes long.
func (m *Meter) few() []uint32 {
	var indexes []uint32
	if st := m.host.State; st != nil && len(st.ENIs) <= 16 {
		for i := range st.ENIs {
			indexes = append(indexes, st.ENIs[i].Index)
		}
	}
	return indexes
}

// allCounters is for errors.
func (m *Meter) allCounters() string {
	sums := map[string]uint64{}
	_ = m.host.Maps().Counters(func(c dataplane.Counter) bool { // it is an error already
		sums[fmt.Sprintf("%v %v", c.Direction, c.Reason)] += c.Packets
		return true
	})
	return fmt.Sprint(sums)
}

// The flags of TCP packets.
const (
	SYN = 0x02
	ACK = 0x10
)

// Fire runs one packet of the traffic, that of flow number n, and tells what the program returned.
func (m *Meter) Fire(t Traffic, dir dataplane.Direction, flags uint8, n uint32) (code uint32, err error) {
	s := t.shot(dir, flags)
	s.path.Ordered = 1
	o, err := m.fire(&s, n, 1, false)
	return o.code, err
}

// redirected is what a program of TC returns for a packet that it delivers: TCX_REDIRECT.
const redirected = 7

// Probe returns a function that runs one packet of the traffic, a SYN, through its program, without a wrapper, and
// tells whether it passes.
func (m *Meter) Probe(t Traffic, dir dataplane.Direction) (func() (bool, error), error) {
	s := t.shot(dir, SYN)
	device, err := net.InterfaceByName(s.device)
	if err != nil {
		return nil, fmt.Errorf("find device %s: %w", s.device, err)
	}
	opts := ebpf.RunOptions{Data: s.frame, Context: skbContext(uint32(device.Index)), Repeat: 1}
	return func() (bool, error) {
		code, err := m.programs[s.program].Run(&opts)
		if err != nil {
			return false, fmt.Errorf("run program %s: %w", s.program, err)
		}
		return code == redirected, nil
	}, nil
}
