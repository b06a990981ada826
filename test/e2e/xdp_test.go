// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/eniplane/eniplane/pkg/compile"
	"github.com/eniplane/eniplane/pkg/dataplane"
	"github.com/eniplane/eniplane/pkg/lab"
)

// xdpPaths are the ways on which a host's uplink has something to deliver: by EIP, over the overlay both ways, and to
// an instance behind a wire.
var xdpPaths = []struct{ from, to, host string }{
	{internetNode, "b1", "host-b"},
	{"a1", "b1", "host-b"},
	{"b1", "a1", "host-a"},
	{"b1", "m", "host-a"},
}

const (
	xdpPort  = 8500
	xdpPause = time.Millisecond // between datagrams
	xdpRun   = 200 * time.Millisecond

	xdpStragglers = 3 // of some 150 datagrams in a run
)

// TestXDPDelivery: guests switch GRO, and with it whether their ports take XDP frames, on and off in the middle of
// streams. Whichever hook delivers, each datagram arrives once and as it was sent, and TCP goes on. Between the moment
// in which a port stops taking frames and the one in which the programs know it, frames from XDP are lost to it: the
// kernel says so to nobody. Only then.
func TestXDPDelivery(t *testing.T) {
	l := common(t)
	t.Cleanup(func() {
		setGRO(t, l, false)
		if err := l.SetUplinkOffload(false); err != nil {
			t.Error(err)
		}
	})
	for _, tx := range []bool{false, true} {
		for _, f := range []lab.Family{lab.IPv4, lab.IPv6} {
			t.Run(fmt.Sprintf("uplink tx %t/%s", tx, f), func(t *testing.T) {
				if err := l.SetUplinkOffload(tx); err != nil {
					t.Fatal(err)
				}
				deliverByBoth(t, l, f, tx)
			})
		}
	}
}

// deliverByBoth runs all streams while the ports change to and fro.
func deliverByBoth(t *testing.T, l *lab.Lab, f lab.Family, tx bool) {
	setGRO(t, l, false)
	waitXDP(t, l, false)
	var streams []*xdpStream
	var connections []*transfer
	for i, p := range xdpPaths {
		connections = append(connections, startTransfer(t, l, p.from, p.to, f, uint16(xdpPort+i)))
		streams = append(streams, startXDPStream(t, l, p.from, p.to, p.host, f, uint16(xdpPort+i)))
	}
	var blind []span
	for round := range 2 {
		for _, on := range []bool{true, false} {
			began := time.Now()
			setGRO(t, l, on)
			waitXDP(t, l, on)
			if !on && !tx {
				blind = append(blind, span{began.Add(-silence), time.Now()})
				t.Logf("round %d: the programs know %v after the first guest began that its port takes no frames", round, time.Since(began).Round(time.Millisecond))
			}
			time.Sleep(silence) // what was on its way
			seen := make([]int64, len(streams))
			for i, s := range streams {
				seen[i] = s.tap.seen()
			}
			time.Sleep(xdpRun)
			for i, s := range streams {
				// One that waited in a queue may come late: who delivers is what happens to the many.
				n := s.tap.seen() - seen[i]
				if byXDP := on && !tx; byXDP != (n <= xdpStragglers) {
					t.Errorf("round %d, GRO %t: %s: the kernel's stack of %s saw %d datagrams", round, on, s.name, s.host, n)
				}
			}
			for _, c := range connections {
				c.goesOn(t, fmt.Sprintf("with GRO %t", on))
			}
		}
	}
	for _, s := range streams {
		s.end(t, l, blind)
	}
	for _, c := range connections {
		c.end(t)
	}
}

// span is a time in which datagrams may be lost, counted by when they were sent.
type span struct{ from, to time.Time }

func (s span) has(at time.Time) bool { return at.After(s.from) && at.Before(s.to) }

// setGRO switches GRO of all that decide whether a port takes XDP frames: guests, and the legs of a wire.
func setGRO(t *testing.T, l *lab.Lab, on bool) {
	t.Helper()
	for _, end := range [][2]string{{"vm-a1", guestDevice}, {"vm-b1", guestDevice}, {"wire-vm-m", "l0-0"}} {
		if err := l.In(end[0], func(n *lab.Namespace) error { return n.SetOffload(end[1], on, lab.OffloadGRO) }); err != nil {
			t.Fatal(err)
		}
	}
}

// waitXDP waits until the programs know what the ports of the streams can do.
func waitXDP(t *testing.T, l *lab.Lab, on bool) {
	t.Helper()
	for _, p := range xdpPaths {
		waitXDPOf(t, l, p.host, p.to, on)
	}
}

func waitXDPOf(t *testing.T, l *lab.Lab, host, eni string, on bool) {
	t.Helper()
	for end := time.Now().Add(answerWait); xdpOf(t, l, host, eni) != on; time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("the port of %s: XDP is %t, want %t\n%s", eni, !on, on, l.LogTail(host))
		}
	}
}

// xdpOf is what `enictl map dump live` says about an ENI.
func xdpOf(t *testing.T, l *lab.Lab, host, eni string) (on bool) {
	t.Helper()
	found := false
	onMaps(t, l, host, func(m *dataplane.Maps, names compile.Names) error {
		return m.Dump(dataplane.MapLive, names, func(row any) error {
			if r, ok := row.(dataplane.LiveRow); ok && r.ENI == eni {
				on, found = r.XDP, true
			}
			return nil
		})
	})
	if !found {
		t.Fatalf("%s is not live on %s", eni, host)
	}
	return on
}

// xdpStream is datagrams of many sizes, each of other bytes, and an answer to each.
type xdpStream struct {
	name, host     string
	from, to       string
	tap            *sniffer // of the stack of the receiving host
	client, server *net.UDPConn
	stop           chan struct{}
	sending        sync.WaitGroup
	receiving      sync.WaitGroup
	largest        int

	mu       sync.Mutex
	sent     []time.Time
	arrived  map[uint64]int
	answered map[uint64]int
	wrong    []string
}

func startXDPStream(t *testing.T, l *lab.Lab, from, to, host string, f lab.Family, port uint16) *xdpStream {
	t.Helper()
	src, dst, err := l.Spots(from, to, f)
	if err != nil {
		t.Fatal(err)
	}
	s := &xdpStream{
		name: fmt.Sprintf("%s > %s", src, dst), host: host, from: from, to: to, stop: make(chan struct{}),
		largest: l.Plan.MTU - 50 - 28, arrived: map[uint64]int{}, answered: map[uint64]int{},
	}
	if f == lab.IPv6 {
		s.largest -= 20
	}
	if s.server, err = l.ListenUDP(dst, port); err != nil {
		t.Fatal(err)
	}
	s.client = connectUDP(t, l, src, dst.Addr, port)
	t.Cleanup(func() { _ = s.server.Close() })
	for _, c := range []*net.UDPConn{s.client, s.server} {
		raw, err := c.SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		var set error
		if err := errors.Join(raw.Control(func(fd uintptr) {
			set = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20)
		}), set); err != nil {
			t.Fatal(err)
		}
	}
	s.tap = sniffFor(t, l, host, internetDev, append(append([]byte(nil), marker...), byte(port)))
	s.receiving.Go(s.serve)
	s.receiving.Go(s.hear)
	s.sending.Go(s.send)
	return s
}

// datagram number n: the marker, which stream, the number, random bytes.
func (s *xdpStream) datagram(n uint64) []byte {
	head := len(marker) + 1 + 8
	numbers := rand.New(rand.NewPCG(n, uint64(len(s.name))))
	b := make([]byte, head+numbers.IntN(s.largest-head+1))
	at := copy(b, marker)
	b[at] = byte(s.server.LocalAddr().(*net.UDPAddr).Port)
	binary.BigEndian.PutUint64(b[at+1:], n)
	for i := head; i < len(b); i++ {
		b[i] = byte(numbers.Uint32())
	}
	return b
}

func (s *xdpStream) send() {
	tick := time.NewTicker(xdpPause)
	defer tick.Stop()
	for n := uint64(0); ; n++ {
		select {
		case <-s.stop:
			return
		case <-tick.C:
		}
		b := s.datagram(n)
		s.mu.Lock()
		s.sent = append(s.sent, time.Now())
		s.mu.Unlock()
		if _, err := s.client.Write(b); err != nil {
			s.broken("send number %d: %v", n, err)
		}
	}
}

func (s *xdpStream) broken(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wrong = append(s.wrong, fmt.Sprintf(format, args...))
}

// serve compares what arrives and answers with its number.
func (s *xdpStream) serve() {
	buf := make([]byte, 65536)
	for {
		n, from, err := s.server.ReadFromUDPAddrPort(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		head := len(marker) + 1 + 8
		if err != nil || n < head {
			s.broken("a datagram of %d bytes: %v", n, err)
			continue
		}
		number := binary.BigEndian.Uint64(buf[head-8:])
		if !bytes.Equal(buf[:n], s.datagram(number)) {
			s.broken("number %d arrived as another", number)
		}
		s.mu.Lock()
		s.arrived[number]++
		s.mu.Unlock()
		_, _ = s.server.WriteToUDPAddrPort(buf[head-8:head], from)
	}
}

func (s *xdpStream) hear() {
	buf := make([]byte, 65536)
	for {
		n, err := s.client.Read(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil || n != 8 {
			s.broken("an answer of %d bytes: %v", n, err)
			continue
		}
		s.mu.Lock()
		s.answered[binary.BigEndian.Uint64(buf)]++
		s.mu.Unlock()
	}
}

// end wants each datagram and each answer to have arrived once, but for those of blind moments, and to be counted once
// at both ends.
func (s *xdpStream) end(t *testing.T, l *lab.Lab, blind []span) {
	t.Helper()
	close(s.stop)
	s.sending.Wait()
	for last, calm := -1, 0; calm < 20; time.Sleep(10 * time.Millisecond) {
		s.mu.Lock()
		now, all := len(s.arrived)+len(s.answered), len(s.answered) == len(s.sent)
		s.mu.Unlock()
		if calm++; all {
			break
		}
		if now != last {
			last, calm = now, 0
		}
	}
	s.checkFlows(t, l)
	_ = s.client.Close()
	_ = s.server.Close()
	s.receiving.Wait()
	var lost, unanswered, twice, excused int
	for n, at := range s.sent {
		got, back := s.arrived[uint64(n)], s.answered[uint64(n)]
		switch {
		case got > 1 || back > 1:
			twice++
		case got+back < 2 && slices.ContainsFunc(blind, func(b span) bool { return b.has(at) }):
			excused++
		case got == 0:
			lost++
		case back == 0:
			unanswered++
		}
	}
	if lost+unanswered+twice > 0 || len(s.wrong) > 0 || len(s.sent) == 0 {
		t.Errorf("%s: of %d datagrams %d did not arrive, %d were not answered, %d came twice; %q", s.name, len(s.sent), lost, unanswered, twice, s.wrong)
	}
	t.Logf("%s: %d datagrams, %d of them lost while ports stopped taking frames", s.name, len(s.sent), excused)
}

// checkFlows compares the counters of the flow at its ENIs with what was sent at the other end.
func (s *xdpStream) checkFlows(t *testing.T, l *lab.Lab) {
	t.Helper()
	port := uint16(s.server.LocalAddr().(*net.UDPAddr).Port)
	client := s.client.LocalAddr().(*net.UDPAddr).AddrPort()
	same := func(a, b netip.AddrPort) bool { return a.Port() == b.Port() }
	for _, end := range []string{s.from, s.to} {
		inst, _ := l.Plan.Port(end)
		if inst == nil {
			continue // the internet counts nothing
		}
		sent, back, found := uint64(0), uint64(0), 0
		for _, f := range flowsOf(t, l, inst.Host, end) {
			local, remote := f.Local, f.Remote
			if f.Protocol == "udp" && end == s.from && same(local, client) && remote.Port() == port {
				sent, back, found = f.PacketsOut, f.PacketsIn, found+1
			}
			if f.Protocol == "udp" && end == s.to && local.Port() == port && same(remote, client) {
				sent, back, found = f.PacketsIn, f.PacketsOut, found+1
			}
		}
		if found != 1 || sent != uint64(len(s.sent)) || back != uint64(len(s.arrived)) {
			t.Errorf("%s: %d flows at %s counted %d datagrams and %d answers, want %d and %d",
				s.name, found, end, sent, back, len(s.sent), len(s.arrived))
		}
	}
}

// TestXDPEndsWithTheAgent: with the agent dead nobody hears that a port takes no XDP frames any more, so XDP must have
// stopped delivering there by then.
func TestXDPEndsWithTheAgent(t *testing.T) {
	l := common(t)
	gro := func(on bool) {
		t.Helper()
		if err := l.In("vm-b1", func(n *lab.Namespace) error { return n.SetOffload(guestDevice, on, lab.OffloadGRO) }); err != nil {
			t.Fatal(err)
		}
	}
	gro(true)
	waitXDPOf(t, l, "host-b", "b1", true)
	if err := l.KillAgent("host-b"); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := errors.Join(l.StartAgent("host-b"), l.WaitReady(context.Background(), "host-b")); err != nil {
			t.Error(err)
		}
		waitXDPOf(t, l, "host-b", "b1", false)
	}()
	time.Sleep(3 * time.Second) // the lease of 2 s
	gro(false)
	for _, f := range []lab.Family{lab.IPv4, lab.IPv6} {
		from, to, err := l.Spots(internetNode, "vm-b1", f)
		if err != nil {
			t.Fatal(err)
		}
		exchangeUDP(t, l, from, to, func() {})
	}
}
