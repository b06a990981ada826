// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// LoadPlan says how much goes between two spots.
type LoadPlan struct {
	Port        uint16 // of UDP and TCP, at both
	Rate        int    // datagrams per second in each direction
	Connections int    // in each direction
	OneSide     bool   // the far end opens none
}

// The sizes of what a load sends, and its pace.
const (
	loadDatagram = 64
	loadBlock    = 64
	loadEvery    = 100 * time.Millisecond // between the blocks of a connection
	loadBuffer   = 64 << 20               // of a socket: what arrives while this process has no CPU
	loadLast     = 2 * time.Second        // what is on its way has, at the end
	loadBurst    = 100                    // datagrams at once after a wait: what queues of the kernel hold
)

// OneWay says what became of the datagrams of one direction.
type OneWay struct {
	Sent, Arrived, Repeated int
	First                   int           // the number of the first that did not arrive, if one is lost
	Gap, Delay              time.Duration // the longest between two that arrived; the longest on the way
}

// Lost is how many did not arrive.
func (o OneWay) Lost() int { return o.Sent - o.Arrived }

// String tells it in a few words.
func (o OneWay) String() string {
	text := fmt.Sprintf("%d sent, %d lost, %d repeated, longest gap %.1f ms, longest on the way %.1f ms", o.Sent, o.Lost(), o.Repeated,
		o.Gap.Seconds()*1000, o.Delay.Seconds()*1000)
	if o.Lost() > 0 {
		text += fmt.Sprintf(", the first lost is number %d", o.First)
	}
	return text
}

// LoadReport says what became of a load.
type LoadReport struct {
	There, Back OneWay
	Connections int
	Blocks      int     // of TCP that came back, in order
	Broken      []error // connections
}

// String tells it in a few words.
func (r LoadReport) String() string {
	return fmt.Sprintf("UDP there %s; back %s; %d of %d TCP connections broken after %d blocks", r.There, r.Back, len(r.Broken), r.Connections, r.Blocks)
}

// Load is traffic between two spots, with numbers, so that nothing can be lost or repeated without being seen.
type Load struct {
	start     time.Time
	stop      chan struct{}
	client    *lane
	server    *lane
	listeners []net.Listener
	streams   []*loadStream
	sending   sync.WaitGroup
	receiving sync.WaitGroup
}

// StartLoad starts datagrams in both directions of one flow, and connections opened by either side.
func (l *Lab) StartLoad(ctx context.Context, from, to Spot, plan LoadPlan) (_ *Load, err error) {
	load := &Load{start: time.Now(), stop: make(chan struct{})}
	defer func() {
		if err != nil {
			load.Stop()
		}
	}()
	if err := load.connect(ctx, l, from, to, plan); err != nil {
		return nil, err
	}
	if !plan.OneSide {
		if err := load.connect(ctx, l, to, from, plan); err != nil {
			return nil, err
		}
	}
	server, err := l.ListenUDP(to, plan.Port)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", to, err)
	}
	load.server = newLane(server)
	client, err := l.dialUDP(from, to, plan.Port)
	if err != nil {
		return nil, fmt.Errorf("open a socket on %s: %w", from, err)
	}
	load.client = newLane(client)
	if err := errors.Join(buffer(server, loadBuffer), buffer(client, loadBuffer)); err != nil {
		return nil, err
	}
	load.receiving.Go(func() { load.client.receive(load.start) })
	load.receiving.Go(func() { load.server.receive(load.start) })
	load.sending.Go(func() { load.client.send(load, plan.Rate) })
	load.sending.Go(func() { load.server.send(load, plan.Rate) })
	return load, nil
}

// Stop ends the load, waits for what is on its way and reports.
func (l *Load) Stop() LoadReport {
	close(l.stop)
	l.sending.Wait()
	var r LoadReport
	if l.client != nil {
		for end := time.Now().Add(loadLast); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
			if l.server.arrived() == l.client.sent.Load() && l.client.arrived() == l.server.sent.Load() {
				break
			}
		}
	}
	for _, lane := range []*lane{l.client, l.server} {
		if lane != nil {
			_ = lane.conn.Close()
		}
	}
	for _, s := range l.streams {
		r.Connections++
		blocks, err := s.end()
		r.Blocks += blocks
		if err != nil {
			r.Broken = append(r.Broken, err)
		}
	}
	for _, ln := range l.listeners {
		_ = ln.Close()
	}
	l.receiving.Wait()
	if l.client != nil {
		r.There, r.Back = l.server.report(l.client), l.client.report(l.server)
	}
	return r
}

// lane is one end of the datagrams.
type lane struct {
	conn *net.UDPConn
	peer atomic.Pointer[netip.AddrPort] // of an end that was not connected: who has sent to it
	sent atomic.Uint64

	mu       sync.Mutex
	seen     []uint64 // bits
	distinct uint64
	repeated int
	last     time.Duration
	gap      time.Duration
	delay    time.Duration
}

func newLane(conn *net.UDPConn) *lane { return &lane{conn: conn} }

// send keeps the pace: what a short wait cost is made up for.
func (e *lane) send(l *Load, rate int) {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	frame := make([]byte, loadDatagram)
	connected := e.conn.RemoteAddr() != nil
	begin := time.Now()
	for {
		select {
		case <-l.stop:
			return
		case <-tick.C:
		}
		peer := e.peer.Load()
		if !connected && peer == nil {
			begin = time.Now()
			continue
		}
		due := uint64(time.Since(begin).Seconds() * float64(rate))
		if late := int64(due-e.sent.Load()) - loadBurst; late > 0 {
			begin, due = begin.Add(time.Duration(float64(late)/float64(rate)*float64(time.Second))), due-uint64(late)
		}
		for e.sent.Load() < due {
			binary.BigEndian.PutUint64(frame, e.sent.Load())
			binary.BigEndian.PutUint64(frame[8:], uint64(time.Since(l.start)))
			e.sent.Add(1)
			// What cannot be sent does not arrive, and is counted so.
			if connected {
				_, _ = e.conn.Write(frame)
			} else {
				_, _ = e.conn.WriteToUDPAddrPort(frame, *peer)
			}
		}
	}
}

func (e *lane) receive(start time.Time) {
	buf := make([]byte, 2*loadDatagram)
	for {
		n, from, err := e.conn.ReadFromUDPAddrPort(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil || n != loadDatagram {
			continue
		}
		if e.peer.Load() == nil {
			e.peer.Store(&from)
		}
		e.note(binary.BigEndian.Uint64(buf), time.Since(start), time.Duration(binary.BigEndian.Uint64(buf[8:])))
	}
}

func (e *lane) note(number uint64, now, sent time.Duration) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for uint64(len(e.seen)) <= number/64 {
		e.seen = append(e.seen, 0)
	}
	if bit := uint64(1) << (number % 64); e.seen[number/64]&bit != 0 {
		e.repeated++
	} else {
		e.seen[number/64] |= bit
		e.distinct++
	}
	if e.last != 0 {
		e.gap = max(e.gap, now-e.last)
	}
	e.last, e.delay = now, max(e.delay, now-sent)
}

func (e *lane) arrived() uint64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.distinct
}

// report says what came of what the other end has sent.
func (e *lane) report(other *lane) OneWay {
	o := OneWay{Sent: int(other.sent.Load()), Arrived: int(e.distinct), Repeated: e.repeated, Gap: e.gap, Delay: e.delay}
	for n := uint64(0); n/64 < uint64(len(e.seen)) && e.seen[n/64]&(1<<(n%64)) != 0; n++ {
		o.First = int(n) + 1
	}
	return o
}

// connect opens the connections of one direction; the far end sends all back.
func (l *Load) connect(ctx context.Context, lab *Lab, from, to Spot, plan LoadPlan) error {
	ln, err := lab.Listen(to, plan.Port)
	if err != nil {
		return fmt.Errorf("listen on %s: %w", to, err)
	}
	l.listeners = append(l.listeners, ln)
	l.receiving.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			l.receiving.Go(func() {
				_, _ = io.Copy(c, c)
				_ = c.Close()
			})
		}
	})
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for i := range plan.Connections {
		c, err := lab.Dial(ctx, from, to, plan.Port)
		if err != nil {
			return fmt.Errorf("connection %d from %s to %s: %w", i, from, to, err)
		}
		s := &loadStream{conn: c, name: fmt.Sprintf("%s > %s, connection %d", from, to, i), sent: make(chan uint64, 1), received: make(chan error, 1)}
		l.streams = append(l.streams, s)
		go s.send(l.stop, time.Duration(i)*loadEvery/time.Duration(plan.Connections))
		go func() { s.received <- s.receive() }()
	}
	return nil
}

// loadStream is one connection whose blocks come back.
type loadStream struct {
	conn     net.Conn
	name     string
	blocks   int
	sent     chan uint64
	received chan error
}

func (s *loadStream) send(stop <-chan struct{}, wait time.Duration) {
	block := make([]byte, loadBlock)
	next := time.NewTimer(wait)
	defer next.Stop()
	for n := uint64(0); ; n++ {
		select {
		case <-stop:
			s.sent <- n
			return
		case <-next.C:
		}
		next.Reset(loadEvery)
		binary.BigEndian.PutUint64(block, n)
		if _, err := s.conn.Write(block); err != nil {
			<-stop
			s.sent <- n + 1 // which did not come back
			return
		}
	}
}

func (s *loadStream) receive() error {
	block := make([]byte, loadBlock)
	for ; ; s.blocks++ {
		if _, err := io.ReadFull(s.conn, block); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("%s: after block %d: %w", s.name, s.blocks, err)
		}
		if n := binary.BigEndian.Uint64(block); n != uint64(s.blocks) {
			return fmt.Errorf("%s: block %d came back in place of %d", s.name, n, s.blocks)
		}
	}
}

// end closes the connection in order and says how many blocks came back, and why not all.
func (s *loadStream) end() (int, error) {
	sent := <-s.sent
	_ = s.conn.SetDeadline(time.Now().Add(5 * time.Second))
	if c, ok := s.conn.(*net.TCPConn); ok {
		_ = c.CloseWrite()
	}
	err := <-s.received
	_ = s.conn.Close()
	if err == nil && uint64(s.blocks) != sent {
		err = fmt.Errorf("%s: %d of %d blocks came back", s.name, s.blocks, sent)
	}
	return s.blocks, err
}
