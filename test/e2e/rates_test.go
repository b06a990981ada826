// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/binary"
	"errors"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/eniplane/eniplane/pkg/dataplane"
	"github.com/eniplane/eniplane/pkg/lab"
)

// TestRates: packets and new flows per second, of what an ENI sends and of what it gets. As with caps, nothing may be
// more than 5 % above; how much less there is depends on who else wants the CPU.
func TestRates(t *testing.T) {
	l := common(t)
	good, err := os.ReadFile(filepath.Join(l.FeedDir(), objectsFile))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { putGood(t, l, good) })
	for _, r := range []struct {
		name, from, to string
		f              lab.Family
		at             dataplane.Direction
	}{
		{"out", "a1", "b1", lab.IPv4, dataplane.Out}, {"out to a neighbour", "a1", "a2", lab.IPv6, dataplane.Out},
		{"in", "b1", "a1", lab.IPv6, dataplane.In}, {"in by EIP", internetNode, "a1", lab.IPv4, dataplane.In},
	} {
		t.Run("packets "+r.name, func(t *testing.T) {
			edit(t, l, []lab.Edit{capped("ENI", "a1", map[string]any{"packetsPerSecond": 1000})})
			defer putGood(t, l, good)
			src, dst := spots(t, l, r.from, r.to, r.f)
			before := counters(t, l)
			p := pumpUDP(t, l, src, dst, capPort, 20) // 3000 packets a second
			m := measure(t, l, p)
			p.end()
			perSecond(t, m.each[0]*1e6/8/float64(p.payload), 1000)
			if counted(t, l, before, "a1", r.at, dataplane.ReasonPacketRate) == 0 {
				t.Errorf("PACKET_RATE is not counted; dropped: %v", lab.Drops(counters(t, l).Since(before)))
			}
		})
		t.Run("new flows "+r.name, func(t *testing.T) {
			edit(t, l, []lab.Edit{capped("ENI", "a1", map[string]any{"newFlowsPerSecond": 100})})
			defer putGood(t, l, good)
			src, dst := spots(t, l, r.from, r.to, r.f)
			before := counters(t, l)
			perSecond(t, openedPerSecond(t, l, src, dst), 100)
			if counted(t, l, before, "a1", r.at, dataplane.ReasonFlowRate) == 0 {
				t.Errorf("FLOW_RATE is not counted; dropped: %v", lab.Drops(counters(t, l).Since(before)))
			}
		})
	}
}

func perSecond(t *testing.T, got float64, limit int) {
	t.Helper()
	t.Logf("%.1f of %d per second (%.3f)", got, limit, got/float64(limit))
	if most, least := float64(limit)*capMost, float64(limit)*capLeast; got > most || got < least {
		t.Errorf("%.1f per second, want %.0f to %.0f", got, least, most)
	}
}

// openedPerSecond sends a datagram of a new flow every 3 ms, and says how many arrive in a second.
func openedPerSecond(t *testing.T, l *lab.Lab, from, to lab.Spot) float64 {
	t.Helper()
	server, err := l.ListenUDP(to, editPort)
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	var arrived atomic.Int64
	go func() {
		b := make([]byte, 64)
		for {
			if _, err := server.Read(b); errors.Is(err, net.ErrClosed) {
				return
			}
			arrived.Add(1)
		}
	}()
	s := &editSender{}
	if err := l.In(from.Node, func(*lab.Namespace) error { return s.open(from, to) }); err != nil {
		t.Fatalf("open a raw socket on %s: %v", from, err)
	}
	defer unix.Close(s.fd)
	b := make([]byte, 8+4)
	binary.BigEndian.PutUint16(b[2:], editPort)
	binary.BigEndian.PutUint16(b[4:], uint16(len(b)))
	var begin time.Time
	var first int64
	for i, start := 0, time.Now(); time.Since(start) < capWarm+capTime; i++ {
		if begin.IsZero() && time.Since(start) > capWarm {
			begin, first = time.Now(), arrived.Load()
		}
		binary.BigEndian.PutUint16(b, uint16(20000+i))
		if err := unix.Sendto(s.fd, b, 0, s.to); err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * time.Millisecond)
	}
	return float64(arrived.Load()-first) / time.Since(begin).Seconds()
}
