// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/eniplane/eniplane/bench"
	"github.com/eniplane/eniplane/bench/peer"
	"github.com/eniplane/eniplane/bench/wire/frames"
)

// Direction of measured packets, seen from the ENIs.
type direction string

const (
	in  direction = "in"
	out direction = "out"
)

// kind is what the packets are like.
type kind struct {
	family   peer.Family
	overlay  bool // from and to the other host; else from and to the internet
	protocol uint8
	port     uint16 // of the ENIs; 0 = the service
	flags    uint8  // of TCP
	seq, ack uint32
	size     int  // of the inner frame; 0 = the smallest
	peers    int  // how many clients; 0 = as many as is usual
	shift    int  // which clients: other numbers are other flows
	count    int  // how many flows; 0 = as many as the site is made for
	nobody   bool // addressed to an EIP or a VNI that there is not
}

// clientsUsual is how many clients share the flows of an ENI.
const clientsUsual = 256

// nobodys is how far from ENI 0 there are EIPs that nobody has.
const nobodys = 1 << 11

// flowsOf describes the flows of a site in one direction.
func (s *site) flowsOf(k kind, d direction) frames.Flows {
	v := 0
	if k.family == peer.V6 {
		v = 1
	}
	parse := func(bases [2]string, mac [6]byte) frames.End {
		return frames.End{Addr: netip.MustParseAddr(bases[v]), MAC: mac}
	}
	f := frames.Flows{
		Count: s.flows, ENIs: s.enis, Peers: clientsUsual, ENI: parse(eniEnd, eniMAC), Peer: parse(clientEnd, outsideMAC).Plus(k.shift),
		Protocol: k.protocol, Port: servicePort, PeerPort: 1024, FromENI: d == out, Size: k.size, Flags: k.flags, Seq: k.seq, Ack: k.ack,
	}
	if k.port != 0 {
		f.Port = k.port
	}
	if k.peers != 0 {
		f.Peers = k.peers
	}
	if k.count != 0 {
		f.Count = k.count
	}
	f.Gateway, f.HostMAC = gatewayMAC, s.job.Uplink.MAC
	switch {
	case k.overlay:
		f.Peers, f.Peer, f.PeerMACs = s.remotes, parse(remoteEnd, remoteMAC), true
		if d == in {
			f.Overlay = &frames.Overlay{VNI: s.job.VNI, Src: otherVTEP, Dst: s.job.VTEP(), SrcMAC: outsideMAC, DstMAC: s.job.Uplink.MAC}
		}
	case d == in:
		f.ENI, f.Gateway = parse(eipEnd, eniMAC), outsideMAC
	}
	switch {
	case k.nobody && f.Overlay != nil:
		f.Overlay.VNI++
	case k.nobody:
		f.ENI = f.ENI.Plus(nobodys)
	}
	return f
}

// traffic is the generators and sinks of a site.
type traffic struct {
	*site
	kind           kind
	cpu            int
	process        bool // the subject moves packets by a process
	clock          *cpuClock
	in, out        *frames.Generator
	inside, beyond *frames.Sink // at the guests, and outside
	undo           []func() error
}

// newTraffic attaches sinks to a site and loads its generators.
//
// Floors change no packet, so what reaches the guests by them still has what was around it.
func newTraffic(s *site, k kind, cpu int) (_ *traffic, err error) {
	t := &traffic{site: s, kind: k, cpu: cpu}
	defer func() {
		if err != nil {
			err = errors.Join(err, t.Close())
		}
	}()
	if t.clock, err = newCPUClock(cpu); err != nil {
		return nil, err
	}
	used, err := s.running.CPUTime()
	if err != nil {
		return nil, err
	}
	t.process = used > 0
	inside, beyond := s.flowsOf(k, in).Port, uint16(servicePort)
	if _, bare := s.running.(*floored); k.overlay && bare {
		inside = vxlanPort
	} else if k.overlay {
		beyond = vxlanPort
	}
	if err := s.outside.Do(func() (err error) {
		if t.in, err = frames.NewGenerator(s.flowsOf(k, in), []int{s.wire}); err != nil {
			return err
		}
		t.undo = append(t.undo, t.in.Close)
		if t.beyond, err = frames.NewSink(beyond, []int{s.wire}); err == nil {
			t.undo = append(t.undo, t.beyond.Close)
		}
		return err
	}); err != nil {
		return nil, err
	}
	return t, s.guest.Do(func() (err error) {
		if t.out, err = frames.NewGenerator(s.flowsOf(k, out), s.guests); err != nil {
			return err
		}
		t.undo = append(t.undo, t.out.Close)
		if t.inside, err = frames.NewSink(inside, s.guests); err == nil {
			t.undo = append(t.undo, t.inside.Close)
		}
		return err
	})
}

// Close takes generators and sinks off.
func (t *traffic) Close() error {
	var errs []error
	for i := len(t.undo) - 1; i >= 0; i-- {
		errs = append(errs, t.undo[i]())
	}
	t.undo = nil
	return errors.Join(errs...)
}

// shot is one measurement.
type shot struct {
	sent, received uint64
	took           time.Duration
	cpu            time.Duration // of the path; with what the subject's processes used
}

// rate is packets per second that arrived, cost ns of CPU per packet that arrived, lost the share that did not arrive.
func (s shot) rate() float64 { return float64(s.received) / s.took.Seconds() }
func (s shot) cost() float64 { return float64(s.cpu.Nanoseconds()) / float64(max(s.received, 1)) }
func (s shot) lost() float64 { return 1 - float64(s.received)/float64(s.sent) }

// counter is what knows how many packets arrived.
type counter interface{ Seen() (frames.Seen, error) }

// send sends a batch in a direction and counts what arrives at the sink of that direction, or at another counter.
func (t *traffic) send(ctx context.Context, d direction, b frames.Batch, at counter) (shot, error) {
	g := t.in
	if d == out {
		g = t.out
	}
	return t.fire(ctx, g, d, b, at)
}

// extra is a generator of other packets than the usual ones. The traffic closes it.
func (t *traffic) extra(k kind, d direction) (g *frames.Generator, err error) {
	ns, devices := t.outside, []int{t.wire}
	if d == out {
		ns, devices = t.guest, t.guests
	}
	err = ns.Do(func() (err error) {
		g, err = frames.NewGenerator(t.flowsOf(k, d), devices)
		return err
	})
	if err == nil {
		t.undo = append(t.undo, g.Close)
	}
	return g, err
}

// fire sends a batch by a generator.
func (t *traffic) fire(ctx context.Context, g *frames.Generator, d direction, b frames.Batch, at counter) (s shot, err error) {
	if at == nil {
		at = t.inside
		if d == out {
			at = t.beyond
		}
	}
	before, err := at.Seen()
	if err != nil {
		return s, err
	}
	used, err := t.running.CPUTime()
	if err != nil {
		return s, err
	}
	if s, err = t.run(ctx, g, d, b); err != nil {
		return s, err
	}
	quiet := quietKernel
	if t.process {
		quiet = quietProcess
	}
	if s.received, err = settled(at, before, s.sent, quiet); err != nil {
		return s, err
	}
	after, err := t.running.CPUTime()
	s.cpu += after - used
	return s, err
}

// run sends a batch from the CPU of measurements; nobody has counted yet what arrived.
func (t *traffic) run(ctx context.Context, g *frames.Generator, d direction, b frames.Batch) (s shot, err error) {
	ns := t.outside
	if d == out {
		ns = t.guest
	}
	b.StopSoon = func() bool { return ctx.Err() != nil }
	err = ns.Do(func() error {
		release, err := bench.Pin(t.cpu)
		if err != nil {
			return err
		}
		defer release()
		begin, err := t.clock.now()
		if err != nil {
			return err
		}
		sent, err := g.Send(b)
		if err != nil {
			return err
		}
		end, err := t.clock.now()
		s = shot{sent: sent.Packets, took: sent.Took, cpu: end - begin}
		return err
	})
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return s, fmt.Errorf("send %s: %w", d, err)
	}
	return s, nil
}

// repel sends a batch of which nothing may reach the guests. What arrived is what the wire did not lose.
func (t *traffic) repel(ctx context.Context, g *frames.Generator, b frames.Batch) (s shot, err error) {
	before, err := t.inside.Seen()
	if err != nil {
		return s, err
	}
	lost, err := t.lostOnWire()
	if err != nil {
		return s, err
	}
	if s, err = t.run(ctx, g, in, b); err != nil {
		return s, err
	}
	time.Sleep(quietKernel)
	after, err := t.inside.Seen()
	if err != nil {
		return s, err
	}
	if n := after.Measured - before.Measured + after.Unwanted - before.Unwanted; n > 0 {
		return s, fmt.Errorf("%d of %d packets that must be dropped reached the guests", n, s.sent)
	}
	now, err := t.lostOnWire()
	s.received = s.sent - (now - lost)
	return s, err
}

// lostOnWire is what found no room in the ring of the uplink.
func (t *traffic) lostOnWire() (uint64, error) {
	l, err := t.outside.Netlink().LinkByName(outsideDevice)
	if err != nil {
		return 0, fmt.Errorf("read the statistics of the wire: %w", err)
	}
	return l.Attrs().Statistics.TxDropped, nil
}

// How long no packet may arrive until nothing more is expected: of the kernel, and of a process that wants a CPU first.
const (
	quietKernel  = 10 * time.Millisecond
	quietProcess = 300 * time.Millisecond
)

// settled waits until no more packets arrive and returns how many did.
func settled(at counter, before frames.Seen, sent uint64, quiet time.Duration) (uint64, error) {
	const look = 5 * time.Millisecond
	var last uint64
	for since := time.Duration(0); ; since += look {
		now, err := at.Seen()
		if err != nil {
			return 0, err
		}
		n := now.Measured - before.Measured
		if n >= sent || n == last && since >= quiet {
			return n, nil
		}
		if n != last {
			last, since = n, 0
		}
		time.Sleep(look)
	}
}

// patientRate is how fast flows are opened through processes, which lose bursts, and patience how often it is tried.
const (
	patientRate = 20_000
	patience    = 3
)

// atOnce is how many flows may be half-open at the same time. Of those an ENI has few, a share of the table.
func (t *traffic) atOnce() int {
	const share, most = 512, 1 << 10
	return min(roomOf(&t.job)/share, most) * t.enis
}

// establish opens all flows: both sides are heard, and the opener once more.
func (t *traffic) establish(ctx context.Context) error {
	step := min(t.flows, t.atOnce())
	for first := 0; first < t.flows; first += step {
		for _, d := range []direction{in, out, in} {
			if err := t.reach(ctx, d, frames.Batch{First: first, Flows: step}); err != nil {
				return fmt.Errorf("open flows %d to %d, %s: %w", first, first+step, d, err)
			}
		}
	}
	return nil
}

// reach sends a batch all of which must arrive. Only processes may need several tries, and may go on without one flow
// in ten: its next packet opens it as well.
func (t *traffic) reach(ctx context.Context, d direction, b frames.Batch) error {
	tries := 1
	if t.process {
		tries, b.Rate = patience, patientRate
	}
	for {
		s, err := t.send(ctx, d, b, nil)
		if err != nil {
			return err
		}
		if s.received == s.sent {
			return nil
		}
		if tries--; tries == 0 && t.process && s.received*10 >= s.sent*9 {
			return nil
		}
		if tries == 0 {
			return fmt.Errorf("%d of %d packets arrived", s.received, s.sent)
		}
	}
}
