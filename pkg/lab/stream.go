// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// StreamInterval is the pace of the streams: what a gap can be told from.
const StreamInterval = 2 * time.Millisecond

const streamBlock = 1000 // bytes of a datagram or TCP block, the first 8 are its number

// UDPReport says what became of a stream of numbered datagrams and their echoes.
type UDPReport struct {
	Sent     int
	Arrived  int           // distinct numbers that the far end saw
	Returned int           // distinct numbers that came back
	Repeated int           // numbers that came back more than once
	Gap      time.Duration // the longest time between two that came back
	First    int           // the number of the first that did not come back, if one is lost
}

// Lost is how many round trips failed.
func (r UDPReport) Lost() int { return r.Sent - r.Returned }

// String tells it in a few words.
func (r UDPReport) String() string {
	text := fmt.Sprintf("%d sent, %d lost (%d on the way there, %d on the way back), longest gap %d ms",
		r.Sent, r.Lost(), r.Sent-r.Arrived, r.Arrived-r.Returned, r.Gap.Milliseconds())
	if r.Lost() > 0 {
		text += fmt.Sprintf(", the first lost is number %d", r.First)
	}
	return text
}

// UDPStream sends numbered datagrams at a steady pace; the far end sends each back.
type UDPStream struct {
	client, server *net.UDPConn
	stop           chan struct{}
	sending        sync.WaitGroup
	receiving      sync.WaitGroup

	mu       sync.Mutex
	sent     uint64
	arrived  map[uint64]bool
	returned map[uint64]int
	last     time.Time
	gap      time.Duration
}

// StartUDP starts a stream between two spots.
func (l *Lab) StartUDP(from, to Spot, port uint16) (*UDPStream, error) {
	server, err := l.ListenUDP(to, port)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", to, err)
	}
	client, err := l.dialUDP(from, to, port)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open a socket on %s: %w", from, err), server.Close())
	}
	if err := errors.Join(buffer(server, streamBuffer), buffer(client, streamBuffer)); err != nil {
		return nil, errors.Join(err, client.Close(), server.Close())
	}
	s := &UDPStream{
		client: client, server: server, stop: make(chan struct{}),
		arrived: map[uint64]bool{}, returned: map[uint64]int{}, last: time.Now(),
	}
	s.receiving.Go(func() { echoUDP(server, s.sawArrival) })
	s.receiving.Go(s.receive)
	s.sending.Go(s.send)
	return s, nil
}

// streamBuffer is what a socket holds of a stream while this process has no CPU, so that only the network can lose it.
const streamBuffer = 8 << 20

// buffer gives a socket room for what arrives.
func buffer(c *net.UDPConn, size int) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return fmt.Errorf("reach a socket: %w", err)
	}
	var set error
	err = raw.Control(func(fd uintptr) {
		set = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, size)
	})
	if err = errors.Join(err, set); err != nil {
		return fmt.Errorf("enlarge the buffer of a socket: %w", err)
	}
	return nil
}

func (s *UDPStream) sawArrival(b []byte) {
	if len(b) == streamBlock {
		s.mu.Lock()
		s.arrived[binary.BigEndian.Uint64(b)] = true
		s.mu.Unlock()
	}
}

func (s *UDPStream) send() {
	tick := time.NewTicker(StreamInterval)
	defer tick.Stop()
	block := make([]byte, streamBlock)
	for {
		select {
		case <-s.stop:
			return
		case <-tick.C:
		}
		s.mu.Lock()
		binary.BigEndian.PutUint64(block, s.sent)
		s.sent++
		s.mu.Unlock()
		_, _ = s.client.Write(block) // what is not sent does not come back, and is counted so
	}
}

func (s *UDPStream) receive() {
	buf := make([]byte, 2*streamBlock)
	for {
		n, err := s.client.Read(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil || n != streamBlock {
			continue
		}
		now := time.Now()
		s.mu.Lock()
		s.returned[binary.BigEndian.Uint64(buf)]++
		s.gap = max(s.gap, now.Sub(s.last))
		s.last = now
		s.mu.Unlock()
	}
}

// Returned is how many datagrams came back so far.
func (s *UDPStream) Returned() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.returned)
}

// Stop ends the stream, waits for what is on its way and reports.
func (s *UDPStream) Stop() UDPReport {
	close(s.stop)
	s.sending.Wait()
	for end := time.Now().Add(time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		s.mu.Lock()
		all := uint64(len(s.returned)) == s.sent
		s.mu.Unlock()
		if all {
			break
		}
	}
	_ = s.client.Close()
	_ = s.server.Close()
	s.receiving.Wait()
	r := UDPReport{Sent: int(s.sent), Arrived: len(s.arrived), Returned: len(s.returned), Gap: s.gap}
	for _, n := range s.returned {
		if n > 1 {
			r.Repeated++
		}
	}
	for s.returned[uint64(r.First)] > 0 {
		r.First++
	}
	return r
}

// TCPReport says what became of a connection that carried numbered blocks there and back.
type TCPReport struct {
	Blocks int           // that came back, in order
	Gap    time.Duration // the longest time between two
	Broken error         // nil = all blocks came back and the connection ended in order
}

// String tells it in a few words.
func (r TCPReport) String() string {
	if r.Broken != nil {
		return fmt.Sprintf("%d blocks, then broken: %v", r.Blocks, r.Broken)
	}
	return fmt.Sprintf("%d blocks, all back, longest gap %d ms", r.Blocks, r.Gap.Milliseconds())
}

// TCPStream is a connection on which every block is sent back.
type TCPStream struct {
	client net.Conn
	ln     net.Listener
	stop   chan struct{}
	sent   chan error // result of the sending side
	report chan TCPReport
}

// StartTCP connects two spots and starts the stream.
func (l *Lab) StartTCP(ctx context.Context, from, to Spot, port uint16) (*TCPStream, error) {
	ln, err := l.Listen(to, port)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", to, err)
	}
	go func() {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		_, _ = io.Copy(c, c)
		_ = c.Close()
	}()
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	client, err := l.Dial(ctx, from, to, port)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("connect %s to %s: %w", from, to, err), ln.Close())
	}
	s := &TCPStream{
		client: client, ln: ln, stop: make(chan struct{}),
		sent: make(chan error, 1), report: make(chan TCPReport, 1),
	}
	go func() { s.sent <- s.send() }()
	go func() { s.report <- s.receive() }()
	return s, nil
}

func (s *TCPStream) send() error {
	tick := time.NewTicker(StreamInterval)
	defer tick.Stop()
	block := make([]byte, streamBlock)
	for n := uint64(0); ; n++ {
		select {
		case <-s.stop:
			if c, ok := s.client.(*net.TCPConn); ok {
				return c.CloseWrite()
			}
			return nil
		case <-tick.C:
		}
		binary.BigEndian.PutUint64(block, n)
		if _, err := s.client.Write(block); err != nil {
			return fmt.Errorf("send: %w", err)
		}
	}
}

func (s *TCPStream) receive() (r TCPReport) {
	block := make([]byte, streamBlock)
	for last := time.Now(); ; r.Blocks++ {
		_, err := io.ReadFull(s.client, block)
		if errors.Is(err, io.EOF) {
			return r
		}
		if err != nil {
			r.Broken = fmt.Errorf("nothing came back for %d ms", time.Since(last).Milliseconds())
			return r
		}
		if n := binary.BigEndian.Uint64(block); n != uint64(r.Blocks) {
			r.Broken = fmt.Errorf("block %d came back in place of %d", n, r.Blocks)
			return r
		}
		now := time.Now()
		r.Gap, last = max(r.Gap, now.Sub(last)), now
	}
}

// Stop ends the stream and gives what is on its way two seconds.
func (s *TCPStream) Stop() TCPReport {
	_ = s.client.SetDeadline(time.Now().Add(2 * time.Second))
	close(s.stop)
	sent := <-s.sent
	r := <-s.report
	if r.Broken == nil && sent != nil {
		r.Broken = sent
	}
	_ = s.client.Close()
	_ = s.ln.Close()
	return r
}
