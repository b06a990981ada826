// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/eniplane/eniplane/pkg/lab"
)

// Where the load goes, and the flows of each sender: some are used again and again, so that each edit finds them with
// an outdated verdict, and now and then comes a new one.
const (
	editPort      = 7000
	editFlows     = 64
	editBurst     = 8 // packets, one of them of a new flow; then a pause
	editPause     = time.Millisecond
	editFirstPort = 10000
)

// editLoad is numbered datagrams of all probes to b2, and what arrived of them.
type editLoad struct {
	begin   time.Time
	pause   time.Duration // between bursts
	server  *net.UDPConn
	ended   chan struct{}
	sending sync.WaitGroup
	reading sync.WaitGroup
	senders []*editSender

	mu     sync.Mutex
	waits  int           // for a packet of this kind
	since  time.Duration // that was sent after this
	first  chan time.Duration
	wanted bool
}

// editSender is one probe.
type editSender struct {
	eni     string
	what    int
	fd      int
	to      unix.Sockaddr
	sent    atomic.Uint64
	arrived atomic.Uint64
	seen    []bool // by number, of the reading goroutine
	twice   uint64
	err     error
}

// editMessage is the payload: whose it is, its number, when it was sent.
const editMessage = 1 + 8 + 8

func startEditLoad(t *testing.T, l *lab.Lab, family lab.Family) *editLoad {
	t.Helper()
	load := newEditLoad(editPause)
	for _, p := range editProbes {
		from, to, err := l.Spots(p.eni, "b2", family)
		if err != nil {
			t.Fatal(err)
		}
		if load.server == nil {
			load.listen(t, l, to)
		}
		load.add(t, l, p.eni, p.what, from, to)
	}
	load.start()
	return load
}

func newEditLoad(pause time.Duration) *editLoad {
	return &editLoad{begin: time.Now(), pause: pause, ended: make(chan struct{}), first: make(chan time.Duration, 1)}
}

// listen opens the one socket to which everybody sends.
func (load *editLoad) listen(t *testing.T, l *lab.Lab, at lab.Spot) {
	t.Helper()
	var err error
	if load.server, err = l.ListenUDP(at, editPort); err != nil {
		t.Fatal(err)
	}
	roomy(t, load.server)
}

func (load *editLoad) add(t *testing.T, l *lab.Lab, name string, what int, from, to lab.Spot) {
	t.Helper()
	s := &editSender{eni: name, what: what}
	if err := l.In(from.Node, func(*lab.Namespace) error { return s.open(from, to) }); err != nil {
		t.Fatalf("open a raw socket on %s: %v", from, err)
	}
	t.Cleanup(func() { _ = unix.Close(s.fd) })
	load.senders = append(load.senders, s)
}

func (load *editLoad) start() {
	load.reading.Go(load.receive)
	for i, s := range load.senders {
		load.sending.Go(func() { s.err = s.run(load, byte(i)) })
	}
}

// open makes a raw socket: it sends from any port without a socket for each.
func (s *editSender) open(from, to lab.Spot) (err error) {
	if !to.Addr.Is6() {
		if s.fd, err = unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_UDP); err != nil {
			return err
		}
		s.to = &unix.SockaddrInet4{Addr: to.Addr.As4()}
		return unix.Bind(s.fd, &unix.SockaddrInet4{Addr: from.Local.As4()})
	}
	if s.fd, err = unix.Socket(unix.AF_INET6, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_UDP); err != nil {
		return err
	}
	s.to = &unix.SockaddrInet6{Addr: to.Addr.As16()}
	return errors.Join(unix.Bind(s.fd, &unix.SockaddrInet6{Addr: from.Local.As16()}),
		unix.SetsockoptInt(s.fd, unix.SOL_IPV6, unix.IPV6_CHECKSUM, 6))
}

// run sends until the load is stopped.
func (s *editSender) run(load *editLoad, who byte) error {
	b := make([]byte, 8+editMessage)
	binary.BigEndian.PutUint16(b[2:], editPort)
	binary.BigEndian.PutUint16(b[4:], uint16(len(b)))
	b[8] = who
	for n := uint64(0); ; n++ {
		port := editFirstPort + n%editFlows
		if n%editBurst == 0 {
			port = editFirstPort + editFlows + n/editBurst%40000
			select {
			case <-load.ended:
				return nil
			case <-time.After(load.pause):
			}
		}
		binary.BigEndian.PutUint16(b, uint16(port))
		binary.BigEndian.PutUint64(b[9:], n)
		binary.BigEndian.PutUint64(b[17:], uint64(load.now()))
		if err := unix.Sendto(s.fd, b, 0, s.to); err != nil {
			return fmt.Errorf("send number %d of %s: %w", n, s.eni, err)
		}
		s.sent.Store(n + 1)
	}
}

func (load *editLoad) now() time.Duration { return time.Since(load.begin) }

func (load *editLoad) receive() {
	buf := make([]byte, 2048)
	for {
		n, err := load.server.Read(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil || n != editMessage || int(buf[0]) >= len(load.senders) {
			continue
		}
		s := load.senders[buf[0]]
		number, sent := binary.BigEndian.Uint64(buf[1:]), time.Duration(binary.BigEndian.Uint64(buf[9:]))
		for uint64(len(s.seen)) <= number {
			s.seen = append(s.seen, false)
		}
		if s.seen[number] {
			s.twice++
			continue
		}
		s.seen[number] = true
		s.arrived.Add(1)
		load.mu.Lock()
		if load.wanted && s.what == load.waits && sent >= load.since {
			load.wanted = false
			load.first <- sent - load.since
		}
		load.mu.Unlock()
	}
}

// firstArrival waits for a packet of a kind that was sent after a moment, and says how long after.
func (load *editLoad) firstArrival(what int, since, limit time.Duration) (time.Duration, bool) {
	load.mu.Lock()
	load.waits, load.since, load.wanted = what, since, true
	load.mu.Unlock()
	select {
	case d := <-load.first:
		return d, true
	case <-time.After(limit):
		return 0, false
	}
}

// stop ends the load when all that is allowed has arrived, or nothing does any more.
func (load *editLoad) stop() {
	close(load.ended)
	load.sending.Wait()
	for last, calm := uint64(0), 0; calm < 20; time.Sleep(10 * time.Millisecond) {
		now := load.total() - load.missing()
		if calm++; now != last {
			last, calm = now, 0
		}
	}
	_ = load.server.Close()
	load.reading.Wait()
}

// total is how many packets were sent.
func (load *editLoad) total() (n uint64) {
	for _, s := range load.senders {
		n += s.sent.Load()
	}
	return n
}

// missing is how many of them did not arrive.
func (load *editLoad) missing() (n uint64) {
	for _, s := range load.senders {
		n += s.sent.Load() - s.arrived.Load()
	}
	return n
}

// check: what both revisions allow arrived, all of it; what both deny did not; the rest did sometimes.
func (load *editLoad) check(t *testing.T) {
	t.Helper()
	for _, s := range load.senders {
		sent, arrived := s.sent.Load(), s.arrived.Load()
		t.Logf("%s: %d sent, %d arrived", s.eni, sent, arrived)
		switch {
		case s.err != nil || s.twice > 0:
			t.Errorf("%v; %d came twice", s.err, s.twice)
		case s.what == always && arrived != sent:
			t.Errorf("%s: both revisions allow it, but of %d packets %d were lost: they were judged by neither", s.eni, sent, sent-arrived)
		case s.what == never && arrived != 0:
			t.Errorf("%s: both revisions deny it, but of %d packets %d arrived: they were judged by neither", s.eni, sent, arrived)
		case s.what > never && (arrived == 0 || arrived == sent):
			t.Errorf("%s: of %d packets %d arrived, want some", s.eni, sent, arrived)
		}
	}
}

// roomy lets a socket hold what arrives while this process has no CPU, so that only the network can lose it.
func roomy(t *testing.T, c *net.UDPConn) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var set error
	if err := raw.Control(func(fd uintptr) {
		set = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20)
	}); err != nil || set != nil {
		t.Fatal(err, set)
	}
}
