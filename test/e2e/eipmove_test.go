// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/eniplane/eniplane/pkg/lab"
)

const (
	streamPort = 7100
	streamPace = time.Millisecond
	lineIn     = 8443 // of connections to an EIP that moves
	lineOut    = 8444 // and from behind it
)

// eipStream is numbered datagrams of one flow from the internet to an EIP, which whoever gets them sends back.
type eipStream struct {
	family lab.Family
	client *net.UDPConn
	sent   atomic.Uint64 // numbers below it have been sent
	ended  chan struct{}
	all    sync.WaitGroup

	mu   sync.Mutex
	got  map[seat][]uint64
	back uint64 // the highest number that came back
}

func startEIPStream(t *testing.T, l *lab.Lab, to netip.Addr, f lab.Family, seats []seat) *eipStream {
	t.Helper()
	s := &eipStream{family: f, ended: make(chan struct{}), got: map[seat][]uint64{}}
	var open []*net.UDPConn
	for _, at := range seats {
		c, err := l.ListenUDP(at.spot(to, f), streamPort)
		if err != nil {
			t.Fatal(err)
		}
		roomy(t, c)
		open = append(open, c)
		s.all.Go(func() { s.receive(c, at) })
	}
	client, _ := spots(t, l, internetNode, internetNode, f)
	s.client = connectUDP(t, l, client, to, streamPort)
	roomy(t, s.client)
	s.all.Go(s.send)
	s.all.Go(s.hear)
	t.Cleanup(func() {
		close(s.ended)
		for _, c := range append(open, s.client) {
			_ = c.Close()
		}
		s.all.Wait()
	})
	return s
}

func (s *eipStream) send() {
	tick := time.NewTicker(streamPace)
	defer tick.Stop()
	var b [8]byte
	for {
		select {
		case <-s.ended:
			return
		case <-tick.C:
		}
		binary.BigEndian.PutUint64(b[:], s.sent.Load())
		_, _ = s.client.Write(b[:]) // fails while nobody answers for the EIP
		s.sent.Add(1)
	}
}

func (s *eipStream) receive(c *net.UDPConn, at seat) {
	b := make([]byte, 64)
	for {
		n, from, err := c.ReadFromUDPAddrPort(b)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil || n != 8 {
			continue
		}
		s.mu.Lock()
		s.got[at] = append(s.got[at], binary.BigEndian.Uint64(b))
		s.mu.Unlock()
		_, _ = c.WriteToUDPAddrPort(b[:n], from)
	}
}

func (s *eipStream) hear() {
	b := make([]byte, 64)
	for {
		n, err := s.client.Read(b)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil || n != 8 {
			continue // nobody answers for the EIP
		}
		s.mu.Lock()
		s.back = max(s.back, binary.BigEndian.Uint64(b))
		s.mu.Unlock()
	}
}

// answered waits until something comes back that was sent behind number n.
func (s *eipStream) answered(n uint64) bool {
	for end := time.Now().Add(answerWait); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		s.mu.Lock()
		back := s.back
		s.mu.Unlock()
		if back > n {
			return true
		}
	}
	return false
}

// since is what each seat got of the numbers from n on, in their order.
func (s *eipStream) since(n uint64) map[seat][]uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	got := map[seat][]uint64{}
	for at, numbers := range s.got {
		var later []uint64
		for _, number := range numbers {
			if number >= n {
				later = append(later, number)
			}
		}
		if len(later) > 0 {
			slices.Sort(later)
			got[at] = later
		}
	}
	return got
}

// eipMove is one step of an EIP's way. The EIPs of number 0 are those that move.
type eipMove struct {
	name     string
	from, to *seat // nil = nobody
	also     []lab.Edit
	atOnce   bool // old and new owner are on one host, so that one word decides
}

// eipMoves: the EIPs of number 0 go from one to the next while datagrams and connections use them. With the next packet
// everything is the new owner's, what was open before ends, the other EIPs notice nothing, and another tenant gets no
// packet but while the EIP is its own, which a capture in its guests shows.
func eipMoves(t *testing.T, l *lab.Lab) {
	home, second := manySeat(0), manySeat(1)
	moves := []eipMove{
		{name: "to another private IP", from: &home, to: &second, also: bind(1, nil), atOnce: true},
		{name: "to another ENI", from: &second, to: &nearSeat, atOnce: true},
		{name: "to another host", from: &nearSeat, to: &farSeat},
		{name: "to another tenant", from: &farSeat, to: &blueASeat},
		{name: "to nobody", from: &blueASeat},
		{name: "back", to: &home, also: bind(1, &second)},
	}
	var still []line
	streams := map[lab.Family]*eipStream{}
	strangers := map[string][]*sniffer{}
	for _, f := range []lab.Family{lab.IPv4, lab.IPv6} {
		streams[f] = startEIPStream(t, l, eipAddr(0, f), f, []seat{home, second, nearSeat, farSeat, blueASeat, blueBSeat})
		client, _ := spots(t, l, internetNode, internetNode, f)
		for i := 2; i < eips; i++ {
			still = append(still, call(t, l, client, manySeat(i).spot(eipAddr(i, f), f), 443))
		}
		for _, at := range []seat{blueASeat, blueBSeat} {
			strangers[at.node] = append(strangers[at.node], sniffFor(t, l, at.node, guestDevice, client.Addr.AsSlice()))
		}
	}
	capturesWork(t, l, strangers)
	quiet := map[string]int64{}
	for node, s := range strangers {
		quiet[node] = seenBy(s)
	}
	for _, m := range moves {
		ok := t.Run(m.name, func(t *testing.T) {
			m.run(t, l, streams, still)
			time.Sleep(silence)
			for node, s := range strangers {
				own := node == blueASeat.node && (m.to == &blueASeat || m.from == &blueASeat)
				switch n := seenBy(s); {
				case own && m.to != nil && n == quiet[node]:
					t.Errorf("the capture in %s sees no packet of its EIP's: it proves nothing", node)
				case !own && n != quiet[node]:
					t.Errorf("%s got %d packets from the internet, and the EIP is not its own", node, n-quiet[node])
				}
				quiet[node] = seenBy(s)
			}
		})
		if !ok {
			return
		}
	}
}

// capturesWork: a packet between the other tenant's ENIs that holds what the captures look for is seen by them.
func capturesWork(t *testing.T, l *lab.Lab, strangers map[string][]*sniffer) {
	t.Helper()
	for _, f := range []lab.Family{lab.IPv4, lab.IPv6} {
		client, _ := spots(t, l, internetNode, internetNode, f)
		to := blueBSeat.spot(blueBSeat.addr(f), f)
		c := connectUDP(t, l, blueASeat.spot(blueASeat.addr(f), f), to.Addr, 7106)
		for end := time.Now().Add(answerWait); ; time.Sleep(20 * time.Millisecond) {
			_, _ = c.Write(client.Addr.AsSlice()) // nobody listens, which a later one is told
			seen := true
			for _, s := range strangers {
				seen = seen && s[map[lab.Family]int{lab.IPv4: 0, lab.IPv6: 1}[f]].seen() > 0
			}
			if seen {
				break
			}
			if time.Now().After(end) {
				t.Fatal("the captures of another tenant's ENIs see nothing")
			}
		}
	}
	time.Sleep(10 * silence) // the last ones, and the errors about them
}

// run makes the move under traffic.
func (m *eipMove) run(t *testing.T, l *lab.Lab, streams map[lab.Family]*eipStream, still []line) {
	var open []line
	begun := map[lab.Family]uint64{}
	for f, s := range streams {
		if m.from != nil {
			open = append(open, eipLines(t, l, *m.from, 0, f)...)
		}
		begun[f] = s.sent.Load()
	}
	each(t, open, func(x line) error { return x.carries(1 << 10) })
	edit(t, l, append(bind(0, m.to), m.also...))
	for f, s := range streams {
		m.arrivals(t, s, begun[f])
	}
	each(t, open, line.silent)
	each(t, still, func(x line) error { return x.carries(1 << 10) })
	for _, x := range open {
		x.hangUp()
	}
	for _, f := range []lab.Family{lab.IPv4, lab.IPv6} {
		if m.to != nil {
			each(t, eipLines(t, l, *m.to, 0, f), func(x line) error { return x.carries(64 << 10) })
		}
		if m.from != nil {
			noEIP(t, l, *m.from, f)
		}
	}
}

// eipLines is a connection from the internet and one to it. Both ends see the EIP.
func eipLines(t *testing.T, l *lab.Lab, at seat, number int, f lab.Family) []line {
	t.Helper()
	client, _ := spots(t, l, internetNode, internetNode, f)
	s := at.spot(eipAddr(number, f), f)
	in, out := call(t, l, client, s, lineIn), call(t, l, s, client, lineOut)
	if in.caller() != client.Addr || out.caller() != s.Addr {
		t.Errorf("%s sees %s, want %s; and is seen as %s, want %s", at.eni, in.caller(), client.Addr, out.caller(), s.Addr)
	}
	return []line{in, out}
}

// arrivals: from a number on which lies between two owners, all datagrams are the new one's; nobody else gets any.
func (m *eipMove) arrivals(t *testing.T, s *eipStream, begun uint64) {
	t.Helper()
	known := s.sent.Load() + 1 // all hosts have the revision, and what is sent from now on knows it
	if m.to != nil && !s.answered(known) {
		t.Errorf("%s: nothing comes back from %s", s.family, m.to.eni)
	}
	time.Sleep(10 * silence)
	var last, first uint64 // of the old owner, of the new one
	got := s.since(begun)
	for at, numbers := range got {
		switch {
		case m.to != nil && at == *m.to:
			first = numbers[0]
		case m.from != nil && at == *m.from:
			if last = numbers[len(numbers)-1]; last >= known {
				t.Errorf("%s: %s got number %d, sent after %d, when the EIP was not its own any more", s.family, at.eni, last, known)
			}
		default:
			t.Errorf("%s: %d datagrams came to %s %s, which is neither old nor new owner", s.family, len(numbers), at.eni, at.addr(s.family))
		}
	}
	if m.from == nil || m.to == nil {
		return
	}
	t.Logf("%s: of the datagrams from %d on the last to %s is %d, the first to %s is %d", s.family, begun, m.from.eni, last, m.to.eni, first)
	if m.atOnce && (last >= first || first-last > 1) {
		t.Errorf("%s: the last datagram to the old owner is %d, the first to the new one is %d, want the next", s.family, last, first)
	}
}
