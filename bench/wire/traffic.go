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
	size     int // of the inner frame; 0 = the smallest
	peers    int // how many clients; 0 = as many as is usual
	shift    int // which clients: other numbers are other flows
}

// clientsUsual and establishAtOnce: half-open flows are few per ENI, so flows are opened so many at a time.
const (
	clientsUsual    = 256
	establishAtOnce = 1 << 10
)

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
	return f
}

// traffic is the generators and sinks of a site.
type traffic struct {
	*site
	kind           kind
	cpu            int
	clock          *cpuClock
	in, out        *frames.Generator
	inside, beyond *frames.Sink // at the guests, and outside
	undo           []func() error
}

// newTraffic attaches sinks to a site and loads its generators.
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
	beyond := uint16(servicePort)
	if k.overlay {
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
		if t.inside, err = frames.NewSink(servicePort, s.guests); err == nil {
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

// rate is packets per second that arrived, cost ns of CPU per packet sent, lost the share that did not arrive.
func (s shot) rate() float64 { return float64(s.received) / s.took.Seconds() }
func (s shot) cost() float64 { return float64(s.cpu.Nanoseconds()) / float64(s.sent) }
func (s shot) lost() float64 { return 1 - float64(s.received)/float64(s.sent) }

// counter is what knows how many packets arrived.
type counter interface{ Seen() (frames.Seen, error) }

// send sends a batch in a direction and counts what arrives at the sink of that direction, or at another counter.
func (t *traffic) send(ctx context.Context, d direction, b frames.Batch, at counter) (s shot, err error) {
	ns, g := t.outside, t.in
	if d == out {
		ns, g = t.guest, t.out
	}
	if at == nil {
		at = t.inside
		if d == out {
			at = t.beyond
		}
	}
	b.StopSoon = func() bool { return ctx.Err() != nil }
	before, err := at.Seen()
	if err != nil {
		return s, err
	}
	used, err := t.running.CPUTime()
	if err != nil {
		return s, err
	}
	if err := ns.Do(func() error {
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
	}); err != nil {
		return s, fmt.Errorf("send %s: %w", d, err)
	}
	if err := ctx.Err(); err != nil {
		return s, err
	}
	if s.received, err = settled(at, before, s.sent); err != nil {
		return s, err
	}
	after, err := t.running.CPUTime()
	s.cpu += after - used
	return s, err
}

// settled waits until no more packets arrive and returns how many did.
func settled(at counter, before frames.Seen, sent uint64) (uint64, error) {
	const quiet = 10 * time.Millisecond
	var last uint64
	for first := true; ; first = false {
		now, err := at.Seen()
		if err != nil {
			return 0, err
		}
		n := now.Measured - before.Measured
		if n >= sent || !first && n == last {
			return n, nil
		}
		last = n
		time.Sleep(quiet)
	}
}

// establish opens all flows: both sides are heard, and the opener once more.
func (t *traffic) establish(ctx context.Context) error {
	step := min(t.flows, establishAtOnce*t.enis)
	for first := 0; first < t.flows; first += step {
		for _, d := range []direction{in, out, in} {
			s, err := t.send(ctx, d, frames.Batch{First: first, Flows: step}, nil)
			if err != nil {
				return err
			}
			if s.received != s.sent {
				return fmt.Errorf("open flows %d to %d, %s: %d of %d packets arrived", first, first+step, d, s.received, s.sent)
			}
		}
	}
	return nil
}
