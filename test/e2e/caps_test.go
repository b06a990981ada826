// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
	"golang.org/x/sys/unix"

	"github.com/eniplane/eniplane/pkg/lab"
)

const (
	capPort = 8600
	// capWarm is how long a measurement waits for its flows to find their rate, capTime how long it takes.
	capWarm = 700 * time.Millisecond
	capTime = 1500 * time.Millisecond
	// What a flow may have too much in capTime: 5 %, and nothing else. How much less it may have depends on who else
	// wants the CPU: queues that are served late lose their turn.
	capMost  = 1.05
	capLeast = 0.6
)

// pump sends as fast as it can from one spot to another, and counts at the other end what arrives on the wire: bytes of
// layer 2.
type pump struct {
	wire  atomic.Int64
	stop  chan struct{}
	close []io.Closer
	wg    sync.WaitGroup
}

func (p *pump) end() {
	close(p.stop)
	for _, c := range p.close {
		_ = c.Close()
	}
	p.wg.Wait()
}

// headers are those of Ethernet and IP, and of TCP with timestamps or of UDP.
func headers(s lab.Spot, transport int) int {
	if s.Addr.Is6() {
		return 14 + 40 + transport
	}
	return 14 + 20 + transport
}

// pumpTCP counts payload, and for each segment its headers.
func pumpTCP(t *testing.T, l *lab.Lab, from, to lab.Spot, port uint16) *pump {
	t.Helper()
	ln, err := l.Listen(to, port)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), answerWait)
	defer cancel()
	out, err := l.Dial(ctx, from, to, port)
	if err != nil {
		t.Fatal(err)
	}
	in, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	mss := segmentOf(t, out.(*net.TCPConn))
	p := &pump{stop: make(chan struct{}), close: []io.Closer{ln, out, in}}
	p.wg.Go(func() {
		data := make([]byte, 256<<10)
		for {
			if _, err := out.Write(data); err != nil {
				return // the end
			}
		}
	})
	p.wg.Go(func() {
		data := make([]byte, 256<<10)
		var payload int64
		for {
			n, err := in.Read(data)
			payload += int64(n)
			p.wire.Store(payload + payload*int64(headers(to, 32))/int64(mss))
			if err != nil {
				return
			}
		}
	})
	return p
}

// segmentOf is how much payload a connection's packets have on the wire.
func segmentOf(t *testing.T, c *net.TCPConn) (mss int) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if failed := raw.Control(func(fd uintptr) { mss, err = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_MAXSEG) }); failed != nil || err != nil {
		t.Fatal(failed, err)
	}
	return mss
}

// pumpUDP sends datagrams, a half more than the cap lets through.
func pumpUDP(t *testing.T, l *lab.Lab, from, to lab.Spot, port uint16, mbps int) *pump {
	t.Helper()
	const size = 1200
	in, err := l.ListenUDP(to, port)
	if err != nil {
		t.Fatal(err)
	}
	_ = in.SetReadBuffer(8 << 20)
	out, err := l.ListenUDP(from, 0)
	if err != nil {
		t.Fatal(err)
	}
	frame := size + headers(to, 8)
	p := &pump{stop: make(chan struct{}), close: []io.Closer{in, out}}
	p.wg.Go(func() {
		data, begin, sent := make([]byte, size), time.Now(), 0
		for {
			select {
			case <-p.stop:
				return
			default:
			}
			if float64(sent*frame*8) > time.Since(begin).Seconds()*float64(mbps)*1.5e6 {
				time.Sleep(time.Millisecond)
				continue
			}
			if _, err := out.WriteToUDPAddrPort(data, netip.AddrPortFrom(to.Addr, port)); errors.Is(err, net.ErrClosed) {
				return
			}
			sent++
		}
	})
	p.wg.Go(func() {
		data := make([]byte, 2048)
		for {
			if _, err := in.Read(data); err != nil {
				return
			}
			p.wire.Add(int64(frame))
		}
	})
	return p
}

// rate is what the pumps carry together, and each of them, in Mbit/s.
func rate(pumps ...*pump) (sum float64, each []float64) {
	time.Sleep(capWarm)
	before := make([]int64, len(pumps))
	begin := time.Now()
	for i, p := range pumps {
		before[i] = p.wire.Load()
	}
	time.Sleep(capTime)
	took := time.Since(begin).Seconds()
	for i, p := range pumps {
		r := float64(p.wire.Load()-before[i]) * 8 / took / 1e6
		each = append(each, r)
		sum += r
	}
	return sum, each
}

// capped changes the caps of an ENI or EIP.
func capped(kind, name string, limits map[string]any) lab.Edit {
	return lab.Edit{Kind: kind, Name: name, Change: func(spec *yaml.Node) error {
		if kind == "ENI" {
			return lab.Set(spec, "limits", limits)
		}
		for key, value := range limits {
			if err := lab.Set(spec, key, value); err != nil {
				return err
			}
		}
		return nil
	}}
}

// within wants a rate to keep a cap.
func within(t *testing.T, what string, got float64, mbps int) {
	t.Helper()
	t.Logf("%s: %.2f of %d Mbit/s (%.3f)", what, got, mbps, got/float64(mbps))
	if most := float64(mbps) * capMost; got > most {
		t.Errorf("%s: %.2f Mbit/s, want at most %.2f", what, got, most)
	}
	least := float64(mbps) * capLeast
	if mbps >= 1000 {
		least = float64(mbps) / 5 // the CPU may have no more
	}
	if got < least {
		t.Errorf("%s: %.2f Mbit/s, want at least %.2f", what, got, least)
	}
}

// Caps in Mbit/s hold whatever is sent and wherever it goes, TCP lives with them, its flows share them, and who has none
// notices nothing.
func TestCaps(t *testing.T) {
	l := common(t)
	good, err := os.ReadFile(filepath.Join(l.FeedDir(), objectsFile))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { putGood(t, l, good) })
	for _, c := range []struct {
		name, from, to string
		f              lab.Family
		kind, object   string
		key            string
	}{
		{"out, same host", "a1", "a2", lab.IPv4, "ENI", "a1", "egressMbps"},
		{"out, another host", "a1", "b1", lab.IPv6, "ENI", "a1", "egressMbps"},
		{"out, internet", "a1", "internet", lab.IPv4, "ENI", "a1", "egressMbps"},
		{"in, same host", "a2", "a1", lab.IPv6, "ENI", "a1", "ingressMbps"},
		{"in, another host", "b1", "a1", lab.IPv4, "ENI", "a1", "ingressMbps"},
		{"EIP", "a1", "internet", lab.IPv4, "EIP", "a1-v4", "egressMbps"},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, mbps := range []int{10, 100, 1000} {
				edit(t, l, []lab.Edit{capped(c.kind, c.object, map[string]any{c.key: mbps})})
				src, dst := spots(t, l, c.from, c.to, c.f)
				tcp := pumpTCP(t, l, src, dst, capPort)
				got, _ := rate(tcp)
				tcp.end()
				within(t, fmt.Sprintf("tcp %d", mbps), got, mbps)
				udp := pumpUDP(t, l, src, dst, capPort, mbps)
				got, _ = rate(udp)
				udp.end()
				within(t, fmt.Sprintf("udp %d", mbps), got, mbps)
			}
			putGood(t, l, good)
		})
	}
}
