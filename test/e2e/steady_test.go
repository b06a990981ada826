// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/eniplane/eniplane/pkg/dataplane"
	"github.com/eniplane/eniplane/pkg/lab"
)

// steadyTick is the pace of the load: each tick sends a few datagrams of each flow and a block of each connection.
const (
	steadyTick  = 2 * time.Millisecond
	steadyBurst = 2
	steadyBlock = 4096
)

// steady is traffic that must not notice what happens beside it: numbered datagrams, connections whose content is compared
// by sha256, and datagrams that must be denied, without which the rest proves nothing.
type steady struct {
	begin   time.Time
	flows   []*steadyFlow
	refused *steadyFlow
	streams []*steadyStream
	before  lab.Counters
	ended   chan struct{}
	sending sync.WaitGroup
	reading sync.WaitGroup
}

// steadyFlow is a flow of numbered datagrams.
type steadyFlow struct {
	from, to       lab.Spot
	dst            netip.AddrPort
	client, server *net.UDPConn
	sent           uint64
	failed         error

	mu      sync.Mutex
	seen    []uint8 // how often a number arrived
	arrived uint64
}

// steadyStream is a connection.
type steadyStream struct {
	from, to lab.Spot
	ln       net.Listener
	client   net.Conn
	source   *rand.ChaCha8
	sent     int64
	failed   error
}

// steadyWay is from where to where something goes.
type steadyWay struct{ from, to lab.Spot }

// startSteady starts datagrams and connections on these ways, and datagrams to a closed port on the last.
func startSteady(t *testing.T, l *lab.Lab, ways, streams []steadyWay, refused steadyWay) *steady {
	t.Helper()
	s := &steady{ended: make(chan struct{}), before: counters(t, l)}
	for i, w := range ways {
		s.flows = append(s.flows, openSteadyFlow(t, l, w, uint16(plugOpen+100+i)))
	}
	s.refused = openSteadyFlow(t, l, refused, plugShut)
	for i, w := range streams {
		s.streams = append(s.streams, openSteadyStream(t, l, w, uint16(plugOpen+200+i)))
	}
	s.begin = time.Now()
	for _, f := range append(s.flows, s.refused) {
		s.reading.Go(f.receive)
	}
	s.sending.Go(s.send)
	for _, c := range s.streams {
		s.sending.Go(func() { c.failed = c.send(s.ended) })
	}
	return s
}

func openSteadyFlow(t *testing.T, l *lab.Lab, w steadyWay, port uint16) *steadyFlow {
	t.Helper()
	f := &steadyFlow{from: w.from, to: w.to, dst: netip.AddrPortFrom(w.to.Addr, port)}
	var err error
	if f.server, err = l.ListenUDP(w.to, port); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.server.Close() })
	if f.client, err = l.ListenUDP(w.from, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.client.Close() })
	raw, err := f.server.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var set error
	if err := raw.Control(func(fd uintptr) {
		set = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20)
	}); err != nil || set != nil {
		t.Fatal(err, set)
	}
	return f
}

func openSteadyStream(t *testing.T, l *lab.Lab, w steadyWay, port uint16) *steadyStream {
	t.Helper()
	c := &steadyStream{from: w.from, to: w.to, source: rand.NewChaCha8(sha256.Sum256([]byte(w.to.String())))}
	var err error
	if c.ln, err = l.Listen(w.to, port); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.ln.Close() })
	go c.serve()
	ctx, cancel := context.WithTimeout(context.Background(), answerWait)
	defer cancel()
	if c.client, err = l.Dial(ctx, w.from, w.to, port); err != nil {
		t.Fatalf("connect %s to %s: %v", w.from, w.to, err)
	}
	t.Cleanup(func() { _ = c.client.Close() })
	return c
}

// send keeps the pace; after a pause of this process it makes up for it slowly, so that no queue of a device is full.
func (s *steady) send() {
	tick := time.NewTicker(steadyTick)
	defer tick.Stop()
	for n := 0; ; n++ {
		select {
		case <-s.ended:
			return
		case <-tick.C:
		}
		late := int(time.Since(s.begin)/steadyTick) > n+1
		for _, f := range s.flows {
			for range steadyBurst {
				f.sendOne()
			}
			if late {
				f.sendOne()
			}
		}
		if n%4 == 0 {
			s.refused.sendOne()
		}
	}
}

func (f *steadyFlow) sendOne() {
	b := make([]byte, 200)
	binary.BigEndian.PutUint64(b, f.sent)
	if _, err := f.client.WriteToUDPAddrPort(b, f.dst); err != nil {
		f.failed = err
		return
	}
	f.sent++
}

func (f *steadyFlow) receive() {
	b := make([]byte, 2048)
	for {
		n, err := f.server.Read(b)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil || n != 200 {
			continue
		}
		number := binary.BigEndian.Uint64(b)
		f.mu.Lock()
		for uint64(len(f.seen)) <= number {
			f.seen = append(f.seen, 0)
		}
		f.seen[number]++
		if f.seen[number] == 1 {
			f.arrived++
		}
		f.mu.Unlock()
	}
}

// lost says how many did not arrive and which was the first, and how many came twice.
func (f *steadyFlow) lost() (lost, first, twice uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for n := range f.sent {
		seen := n < uint64(len(f.seen)) && f.seen[n] > 0
		if !seen && lost == 0 {
			first = n
		}
		if !seen {
			lost++
		} else if f.seen[n] > 1 {
			twice++
		}
	}
	return lost, first, twice
}

func (c *steadyStream) send(ended chan struct{}) error {
	tick := time.NewTicker(steadyTick)
	defer tick.Stop()
	block, sum := make([]byte, steadyBlock), sha256.New()
	for {
		select {
		case <-ended:
			return c.compare(sum.Sum(nil))
		case <-tick.C:
		}
		_, _ = c.source.Read(block) // never fails
		if _, err := c.client.Write(block); err != nil {
			return fmt.Errorf("after %d bytes: %w", c.sent, err)
		}
		_, _ = sum.Write(block) // never fails
		c.sent += steadyBlock
	}
}

// compare ends the connection in order and wants the other side's sum.
func (c *steadyStream) compare(want []byte) error {
	if err := errors.Join(c.client.(*net.TCPConn).CloseWrite(), c.client.SetReadDeadline(time.Now().Add(transferLimit))); err != nil {
		return err
	}
	got, err := io.ReadAll(c.client)
	if err != nil || string(got) != string(want) {
		return fmt.Errorf("of %d bytes another sha256 arrived (%x, %w)", c.sent, got, err)
	}
	return nil
}

// serve answers a connection with the sha256 of what came.
func (c *steadyStream) serve() {
	conn, err := c.ln.Accept()
	if err != nil {
		return
	}
	defer conn.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, conn); err == nil {
		_, _ = conn.Write(sum.Sum(nil)) // the other side misses it
	}
}

// stop ends the load and wants nothing lost, doubled or broken, and of what is denied all counted and nothing arrived.
func (s *steady) stop(t *testing.T, l *lab.Lab, deniedAt string) {
	t.Helper()
	close(s.ended)
	s.sending.Wait()
	took := time.Since(s.begin)
	for end := time.Now().Add(2 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		missing := uint64(0)
		for _, f := range s.flows {
			lost, _, _ := f.lost()
			missing += lost
		}
		if missing == 0 {
			break
		}
	}
	var sent, lostAll uint64
	for _, f := range s.flows {
		lost, first, twice := f.lost()
		sent, lostAll = sent+f.sent, lostAll+lost
		if f.failed != nil || lost > 0 || twice > 0 || f.sent == 0 {
			t.Errorf("UDP %s > %s: %d sent, %d lost, the first is number %d, %d came twice (%v)", f.from, f.to, f.sent, lost, first, twice, f.failed)
		}
	}
	var bytes int64
	for _, c := range s.streams {
		bytes += c.sent
		if c.failed != nil || c.sent == 0 {
			t.Errorf("TCP %s > %s: %v (%d bytes)", c.from, c.to, c.failed, c.sent)
		}
	}
	s.denied(t, l, deniedAt)
	for _, f := range append(s.flows, s.refused) {
		_ = f.server.Close()
	}
	s.reading.Wait()
	t.Logf("%d datagrams on %d ways in %v (%.0f/s), %d lost; %d connections with %d bytes; %d denied datagrams",
		sent, len(s.flows), took.Round(time.Millisecond), float64(sent)/took.Seconds(), lostAll, len(s.streams), bytes, s.refused.sent)
}

func (s *steady) denied(t *testing.T, l *lab.Lab, at string) {
	t.Helper()
	var counted uint64
	for end := time.Now().Add(answerWait); counted != s.refused.sent && time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		counted = 0
		for _, m := range counters(t, l).Since(s.before) {
			if m.ENI == at && m.Direction == dataplane.In && m.Reason == dataplane.ReasonSGDenied {
				counted += m.Packets
			}
		}
		if counted > s.refused.sent { // others are denied there too
			break
		}
	}
	s.refused.mu.Lock()
	defer s.refused.mu.Unlock()
	if s.refused.sent == 0 || counted < s.refused.sent || s.refused.arrived != 0 {
		t.Errorf("the run is void: %d datagrams to a closed port of %s were sent, %d counted as %s, %d arrived",
			s.refused.sent, at, counted, dataplane.ReasonSGDenied, s.refused.arrived)
	}
}
