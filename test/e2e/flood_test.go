// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"golang.org/x/sys/unix"

	"github.com/eniplane/eniplane/pkg/dataplane"
	"github.com/eniplane/eniplane/pkg/lab"
)

// Ports of the flooded ENI, and how long each is flooded at least.
const (
	floodAnswers = 8300 // a listener: SYN+ACK, and datagrams come back
	floodSilent  = 8301 // a listener that hears nothing: silence
	floodClosed  = 8302 // nobody: RST, ICMP error
	floodTime    = 2 * time.Second
	floodEvery   = 40 * time.Microsecond // between packets: what two CPUs carry beside everything else
	floodIdle    = 64                    // connections of each pair that are open and say nothing
	floodProbes  = 16                    // connections that begin and end while the flows are counted, at most
)

// TestHalfOpenFlood: while random sources flood an ENI with connections that they never finish, connections of this ENI
// and of others live on, new ones come about, and the flood has no more flows than its ring has places.
func TestHalfOpenFlood(t *testing.T) {
	l := upFrom(t, "testdata/flood-lab.yaml", false)
	for _, f := range []lab.Family{lab.IPv4, lab.IPv6} {
		t.Run(f.String(), func(t *testing.T) { floodFamily(t, l, f) })
	}
	balanced(t, l)
}

func floodFamily(t *testing.T, l *lab.Lab, f lab.Family) {
	_, victim, err := l.Spots(internetNode, "a1", f)
	if err != nil {
		t.Fatal(err)
	}
	openFloodPorts(t, l, victim)
	var live []*transfer
	for i, pair := range [][2]string{{internetNode, "a1"}, {"a1", internetNode}, {internetNode, "a2"}, {"a2", "b1"}} {
		live = append(live, startTransfer(t, l, pair[0], pair[1], f, uint16(8310+i)))
		idle(t, l, pair[0], pair[1], f, uint16(8320+i))
	}
	for _, x := range live {
		x.goesOn(t, "before the flood")
	}
	before := establishedFlows(t, l)
	if len(before) < 5*(floodIdle+1) { // the last pair has both ends here
		t.Fatalf("only %d flows are established", len(before))
	}
	for _, row := range []struct {
		name string
		l4   gopacket.SerializableLayer
		both bool // in IPv6, too; the others differ in what the guest does
	}{
		{"SYN, answered", &layers.TCP{DstPort: floodAnswers, SYN: true, Window: 64000}, true},
		{"SYN, unanswered", &layers.TCP{DstPort: floodSilent, SYN: true, Window: 64000}, false},
		{"SYN, refused", &layers.TCP{DstPort: floodClosed, SYN: true, Window: 64000}, false},
		{"UDP, answered", &layers.UDP{DstPort: floodAnswers}, true},
		{"UDP, unanswered", &layers.UDP{DstPort: floodSilent}, false},
	} {
		if f == lab.IPv6 && !row.both {
			continue
		}
		t.Run(row.name, func(t *testing.T) { underFlood(t, l, f, victim.Addr, row.l4, live) })
	}
	after := establishedFlows(t, l)
	for flow := range before {
		if !after[flow] {
			t.Errorf("the established flow %s is gone", flow)
		}
	}
	t.Logf("%d established flows before and after", len(before))
	for _, x := range live {
		x.goesOn(t, "after the flood")
		x.end(t)
	}
}

// underFlood floods an address for as long as everything that must work meanwhile takes, and floodTime at least.
func underFlood(t *testing.T, l *lab.Lab, f lab.Family, victim netip.Addr, l4 gopacket.SerializableLayer, live []*transfer) {
	before := counters(t, l)
	g := startFlood(t, l, victim, l4)
	began := time.Now()
	places := flowUse(t, l, "host-a", "a1").HalfOpen
	var most uint32
	watch := func() {
		use, flows := flowUse(t, l, "host-a", "a1").Flows, flowsOf(t, l, "host-a", "a1")
		half := halfOpen(flows)
		most = max(most, half)
		// A listing is of no one moment: flows come and go while it is made. The number of the programs is exact.
		if others := uint32(len(flows)) - half; half > 3*places || use > 2*places+others+floodProbes {
			t.Errorf("the flooded ENI has %d flows, %d half-open and %d others: want %d half-open at most", use, half, others, 2*places)
		}
	}
	for first := true; first || time.Since(began) < floodTime; first = false {
		watch()
		for _, p := range []probe{
			{from: internetNode, to: "a2", protocol: "tcp", port: 8330}, {from: "a2", to: "b1", protocol: "tcp", port: 8330},
			{from: internetNode, to: "a2", protocol: "udp", port: 8330},
			{from: "a1", to: internetNode, protocol: "tcp", port: 8330}, {from: "a1", to: "b1", protocol: "tcp", port: 8330},
		} {
			p.family = f
			allowed(t, l, p)
		}
		denied(t, l, probe{from: internetNode, to: "a1", protocol: "tcp", port: 23, family: f}, "a1", dataplane.In, dataplane.ReasonNACLDenied)
		for _, x := range live {
			x.goesOn(t, "during the flood")
		}
	}
	watch()
	sent, err := g.end()
	if err != nil {
		t.Fatal(err)
	}
	if most < places/2 {
		t.Errorf("the flood had %d half-open flows at most, of %d places: it proves nothing", most, places)
	}
	in := counted(t, l, before, "a1", dataplane.In, dataplane.ReasonContinue)
	t.Logf("%d packets in %v, %d counted at the ENI; %d half-open flows at most, %d places per direction; dropped: %v",
		sent, time.Since(began).Round(10*time.Millisecond), in, most, places, lab.Drops(counters(t, l).Since(before)))
}

// halfOpen counts the flows that never were more than that.
func halfOpen(flows []dataplane.Flow) (n uint32) {
	for _, f := range flows {
		if f.State == "opening" || f.Refused {
			n++
		}
	}
	return n
}

// establishedFlows are those of all ENIs.
func establishedFlows(t *testing.T, l *lab.Lab) map[string]bool {
	t.Helper()
	all := map[string]bool{}
	for _, i := range l.Plan.Instances {
		for _, p := range i.Ports {
			for _, f := range flowsOf(t, l, i.Host, p.ENI) {
				if f.State == "established" {
					all[fmt.Sprintf("%s: %s %s %s", p.ENI, f.Protocol, f.Local, f.Remote)] = true
				}
			}
		}
	}
	return all
}

// openFloodPorts listens on the ports that a flood goes to.
func openFloodPorts(t *testing.T, l *lab.Lab, at lab.Spot) {
	t.Helper()
	answers, err := l.Listen(at, floodAnswers)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = answers.Close() })
	deaf := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) (err error) {
		nothing := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K}
		return errors.Join(c.Control(func(fd uintptr) {
			err = unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &nothing})
		}), err)
	}}
	var silent net.Listener
	if err := l.In(at.Node, func(*lab.Namespace) (err error) {
		silent, err = deaf.Listen(context.Background(), "tcp", netip.AddrPortFrom(at.Local, floodSilent).String())
		return err
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = silent.Close() })
	hole, err := l.ListenUDP(at, floodSilent)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = hole.Close() })
	echo, err := l.ListenUDP(at, floodAnswers)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = echo.Close() })
	go echoDatagrams(echo)
}

// echoDatagrams sends back what comes until the socket is closed.
func echoDatagrams(c *net.UDPConn) {
	buf := make([]byte, 2048)
	for {
		n, from, err := c.ReadFromUDPAddrPort(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil {
			_, _ = c.WriteToUDPAddrPort(buf[:n], from)
		}
	}
}

// idle opens connections that stay, and say nothing.
func idle(t *testing.T, l *lab.Lab, from, to string, f lab.Family, port uint16) {
	t.Helper()
	src, dst, err := l.Spots(from, to, f)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := l.Listen(dst, port)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	for range floodIdle {
		ctx, cancel := context.WithTimeout(context.Background(), answerWait)
		c, err := l.Dial(ctx, src, dst, port)
		cancel()
		if err != nil {
			t.Fatalf("connect %s to %s: %v", src, dst, err)
		}
		t.Cleanup(func() { _ = c.Close() })
	}
}

// flood sends one frame from ever other sources, as fast as it can.
type flood struct {
	stop  atomic.Bool
	ended chan error
	sent  uint64
}

// startFlood starts a flood from the internet.
func startFlood(t *testing.T, l *lab.Lab, victim netip.Addr, l4 gopacket.SerializableLayer) *flood {
	t.Helper()
	source := netip.MustParseAddr("20.0.0.0")
	if victim.Is6() {
		source = netip.MustParseAddr("2600::")
	}
	frame, err := l.FrameFromInternet(context.Background(), victim, network(source, victim, l4), l4)
	if err != nil {
		t.Fatal(err)
	}
	fd := -1
	if err := l.In(internetNode, func(*lab.Namespace) error {
		device, err := net.InterfaceByName(internetDev)
		if err != nil {
			return err
		}
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		return errors.Join(unix.Bind(fd, &unix.SockaddrLinklayer{Ifindex: device.Index}),
			unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, 1))
	}); err != nil {
		t.Fatalf("open a packet socket: %v", err)
	}
	g := &flood{ended: make(chan error, 1)}
	go func() { g.ended <- errors.Join(g.run(fd, frame, victim.Is6()), unix.Close(fd)) }()
	t.Cleanup(func() { g.stop.Store(true) })
	return g
}

func (g *flood) end() (uint64, error) {
	g.stop.Store(true)
	err := <-g.ended
	return g.sent, err
}

// run changes the source address, 24 of its bits, and the source port.
func (g *flood) run(fd int, frame []byte, v6 bool) error {
	const eth = 14
	source, ports, ipSum := eth+12, eth+20, eth+10
	if v6 {
		source, ports, ipSum = eth+8, eth+40, 0
	}
	sum := ports + 6 // of UDP
	if frame[eth+9] == unix.IPPROTO_TCP && !v6 || frame[eth+6] == unix.IPPROTO_TCP && v6 {
		sum = ports + 16
	}
	began := time.Now()
	for numbers := rand.New(rand.NewPCG(1, uint64(sum))); !g.stop.Load(); {
		n := numbers.Uint64()
		for at, word := range map[int]uint16{source + 2: uint16(n), source: uint16(frame[source])<<8 | uint16(n>>16&0xff), ports: uint16(n>>32) | 1024} {
			was := binary.BigEndian.Uint16(frame[at:])
			binary.BigEndian.PutUint16(frame[at:], word)
			adjust(frame[sum:], was, word)
			if ipSum > 0 && at != ports {
				adjust(frame[ipSum:], was, word)
			}
		}
		for time.Since(began) < time.Duration(g.sent)*floodEvery {
			time.Sleep(time.Millisecond)
		}
		err := unix.Send(fd, frame, 0)
		switch {
		case err == nil:
			g.sent++
		case !errors.Is(err, unix.ENOBUFS) && !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR):
			return fmt.Errorf("send a frame: %w", err)
		}
	}
	return nil
}

// adjust makes a checksum right for another word (RFC 1624).
func adjust(sum []byte, was, word uint16) {
	s := uint32(^binary.BigEndian.Uint16(sum)) + uint32(^was) + uint32(word)
	s = s>>16 + s&0xffff
	s = s>>16 + s&0xffff
	binary.BigEndian.PutUint16(sum, ^uint16(s))
}
