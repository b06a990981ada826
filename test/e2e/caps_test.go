// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
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

// pump sends as fast as it can from one spot to another, UDP somewhat faster than a cap.
type pump struct {
	to      lab.Spot
	headers int          // of a packet
	payload int          // of a packet as on the wire
	sent    atomic.Int64 // UDP: bytes of layer 2
	got     atomic.Int64 // payload
	stop    chan struct{}
	close   []io.Closer
	wg      sync.WaitGroup
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

func (p *pump) receive(in io.Reader) {
	data := make([]byte, 256<<10)
	for {
		n, err := in.Read(data)
		p.got.Add(int64(n))
		if err != nil {
			return // the end
		}
	}
}

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
	p := &pump{
		to: to, headers: headers(to, 32), payload: segmentOf(t, out.(*net.TCPConn)),
		stop: make(chan struct{}), close: []io.Closer{ln, out, in},
	}
	p.wg.Go(func() {
		data := make([]byte, 256<<10)
		for {
			if _, err := out.Write(data); err != nil {
				return
			}
		}
	})
	p.wg.Go(func() { p.receive(in) })
	return p
}

// segmentOf is how much payload a connection's packets have on the wire.
func segmentOf(t *testing.T, c *net.TCPConn) (mss int) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	failed := raw.Control(func(fd uintptr) { mss, err = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_MAXSEG) })
	if err := errors.Join(failed, err); err != nil {
		t.Fatal(err)
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
	out, err := l.ListenUDP(from, 0)
	if err != nil {
		t.Fatal(err)
	}
	p := &pump{to: to, headers: headers(to, 8), payload: size, stop: make(chan struct{}), close: []io.Closer{in, out}}
	p.wg.Go(func() {
		data, begin := make([]byte, size), time.Now()
		for {
			select {
			case <-p.stop:
				return
			default:
			}
			if float64(p.sent.Load()*8) > time.Since(begin).Seconds()*float64(mbps)*1.5e6 {
				time.Sleep(time.Millisecond)
				continue
			}
			if _, err := out.WriteToUDPAddrPort(data, netip.AddrPortFrom(to.Addr, port)); errors.Is(err, net.ErrClosed) {
				return
			}
			p.sent.Add(int64(size + p.headers))
		}
	})
	p.wg.Go(func() { p.receive(in) })
	return p
}

// wire is how many bytes of layer 2 the devices of the receiver have got, as on the wire: of a packet that stands for
// several they count the headers once.
func (p *pump) wire(t *testing.T, l *lab.Lab) (n int64) {
	t.Helper()
	err := l.In(p.to.Node, func(*lab.Namespace) error {
		links, err := netlink.LinkList()
		for _, link := range links {
			s := link.Attrs().Statistics
			if s == nil || link.Attrs().Name == "lo" {
				continue
			}
			payload := int64(s.RxBytes) - int64(s.RxPackets)*int64(p.headers)
			n += payload + payload*int64(p.headers)/int64(p.payload)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// measured is what pumps to one receiver carry, in Mbit/s.
type measured struct {
	sum  float64   // on the wire, in the longest time that it may have taken to look
	most float64   // in the shortest
	each []float64 // payload, by pump
	sent float64   // UDP
}

func measure(t *testing.T, l *lab.Lab, pumps ...*pump) (m measured) {
	t.Helper()
	time.Sleep(capWarm)
	got, sent := make([]int64, len(pumps)), int64(0)
	for i, p := range pumps {
		got[i] = p.got.Load()
		sent += p.sent.Load()
	}
	outer := time.Now()
	wire := pumps[0].wire(t, l)
	inner := time.Now()
	time.Sleep(capTime)
	short := time.Since(inner)
	more := pumps[0].wire(t, l)
	long := time.Since(outer)
	mbps := func(bytes int64, took time.Duration) float64 { return float64(bytes) * 8 / took.Seconds() / 1e6 }
	m.sum, m.most = mbps(more-wire, long), mbps(more-wire, short)
	for i, p := range pumps {
		m.each = append(m.each, mbps(p.got.Load()-got[i], long))
		sent -= p.sent.Load()
	}
	m.sent = mbps(-sent, long)
	return m
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
func within(t *testing.T, what string, m measured, mbps int) {
	t.Helper()
	t.Logf("%s: %.2f of %d Mbit/s (%.3f)", what, m.sum, mbps, m.sum/float64(mbps))
	if most := float64(mbps) * capMost; m.sum > most {
		t.Errorf("%s: %.2f Mbit/s, want at most %.2f", what, m.sum, most)
	}
	least := float64(mbps) * capLeast
	if mbps >= 1000 {
		least = float64(mbps) / 5 // the CPU may have no more
	}
	if m.sent > 0 {
		least = min(least, m.sent/2)
	}
	if m.most < least {
		t.Errorf("%s: %.2f Mbit/s, want at least %.2f", what, m.most, least)
	}
}

// capCase is a cap and a way on which it must hold.
type capCase struct {
	name, from, to    string
	f                 lab.Family
	kind, object, key string
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
	for _, c := range []capCase{
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
				m := measure(t, l, tcp)
				tcp.end()
				within(t, fmt.Sprintf("tcp %d", mbps), m, mbps)
				udp := pumpUDP(t, l, src, dst, capPort, mbps)
				m = measure(t, l, udp)
				udp.end()
				within(t, fmt.Sprintf("udp %d", mbps), m, mbps)
			}
			putGood(t, l, good)
		})
	}
	t.Run("both caps", func(t *testing.T) { bothCaps(t, l, good) })
	t.Run("flows share", func(t *testing.T) { flowsShare(t, l, good) })
	t.Run("repair", func(t *testing.T) { capsRepaired(t, l, good) })
}

// bothCaps: an EIP's and its ENI's apply together, and the ENI's alone to what leaves otherwise.
func bothCaps(t *testing.T, l *lab.Lab, good []byte) {
	edit(t, l, []lab.Edit{capped("ENI", "a1", map[string]any{"egressMbps": 60}), capped("EIP", "a1-v4", map[string]any{"egressMbps": 20})})
	src, dst := spots(t, l, "a1", "internet", lab.IPv4)
	out := pumpTCP(t, l, src, dst, capPort)
	within(t, "by the EIP", measure(t, l, out), 20)
	src, dst = spots(t, l, "a1", "b1", lab.IPv4)
	inside := pumpTCP(t, l, src, dst, capPort+1)
	beside := measure(t, l, inside)
	inside.end()
	out.end()
	if beside.sum < 20 || beside.sum > 60*capMost {
		t.Errorf("beside what leaves by the EIP %.1f Mbit/s pass, want about 40", beside.sum)
	}
	edit(t, l, []lab.Edit{capped("EIP", "a1-v4", map[string]any{"egressMbps": 200})})
	src, dst = spots(t, l, "a1", "internet", lab.IPv4)
	out = pumpTCP(t, l, src, dst, capPort)
	within(t, "by an EIP with a greater cap", measure(t, l, out), 60)
	out.end()
	putGood(t, l, good)
}

// flowsShare: of four flows none has less than half its share, and a neighbour without a cap is as fast as it can.
func flowsShare(t *testing.T, l *lab.Lab, good []byte) {
	const flows, mbps = 4, 100
	edit(t, l, []lab.Edit{capped("ENI", "a1", map[string]any{"egressMbps": mbps})})
	src, dst := spots(t, l, "a1", "b1", lab.IPv4)
	var pumps []*pump
	for i := range flows {
		pumps = append(pumps, pumpTCP(t, l, src, dst, capPort+uint16(i)))
	}
	m := measure(t, l, pumps...)
	for i, r := range m.each {
		t.Logf("flow %d: %.1f Mbit/s", i, r)
		if r < mbps/flows/2*0.9 {
			t.Errorf("flow %d has %.1f Mbit/s of %d for %d flows, less than half its share", i, r, mbps, flows)
		}
	}
	within(t, "four flows", m, mbps)
	src, dst = spots(t, l, "a2", "a1-back", lab.IPv4)
	neighbour := pumpTCP(t, l, src, dst, capPort+100)
	free := measure(t, l, neighbour)
	t.Logf("a neighbour without a cap: %.0f Mbit/s", free.sum)
	if free.sum < 2*mbps {
		t.Errorf("a neighbour without a cap has %.0f Mbit/s, as if it had one of %d", free.sum, mbps)
	}
	neighbour.end()
	for _, p := range pumps {
		p.end()
	}
	putGood(t, l, good)
}

// capsRepaired: queues and devices that somebody removes come back, also if the agent was away; those of a cap that is
// gone go.
func capsRepaired(t *testing.T, l *lab.Lab, good []byte) {
	edit(t, l, []lab.Edit{capped("ENI", "a1", map[string]any{"egressMbps": 50, "ingressMbps": 50})})
	shaper := shaperOf(t, l, "host-a")
	if shaper == "" {
		t.Fatal("an ENI with a cap has no shaper")
	}
	execOn(t, l, "tc", "qdisc", "del", "dev", "eni-a1", "root")
	execOn(t, l, "ip", "link", "del", shaper)
	for end := time.Now().Add(15 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		if shaperOf(t, l, "host-a") != "" && isShaped(t, l, "eni-a1") {
			break
		}
		if time.Now().After(end) {
			t.Fatal("queues that were removed did not come back")
		}
	}
	for _, ends := range [][2]string{{"a1", "b1"}, {"b1", "a1"}} {
		src, dst := spots(t, l, ends[0], ends[1], lab.IPv4)
		p := pumpTCP(t, l, src, dst, capPort)
		within(t, "from "+ends[0]+" after a repair", measure(t, l, p), 50)
		p.end()
	}
	if err := l.StopAgent("host-a"); err != nil {
		t.Fatal(err)
	}
	revive(t, l, "host-a")
	if got := shaperOf(t, l, "host-a"); got == "" || !isShaped(t, l, "eni-a1") {
		t.Error("the caps did not outlive a restart of the agent")
	}
	putGood(t, l, good)
	if got := shaperOf(t, l, "host-a"); got != "" || isShaped(t, l, "eni-a1") {
		t.Errorf("the caps are gone, and shaper %q or queues are left", got)
	}
}

func execOn(t *testing.T, l *lab.Lab, command ...string) {
	t.Helper()
	var out bytes.Buffer
	if err := l.Exec(t.Context(), "host-a", command, nil, &out, &out); err != nil {
		t.Fatalf("%v: %v\n%s", command, err, out.String())
	}
}

// shaperOf is the near end of a shaper on a host, "" if there is none.
func shaperOf(t *testing.T, l *lab.Lab, host string) (name string) {
	t.Helper()
	err := l.In(host, func(*lab.Namespace) error {
		links, err := netlink.LinkList()
		for _, link := range links {
			if strings.HasPrefix(link.Attrs().Name, "eniplane-q") {
				name = link.Attrs().Name
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return name
}

// isShaped tells whether a device of host-a has queues by class.
func isShaped(t *testing.T, l *lab.Lab, device string) (shaped bool) {
	t.Helper()
	err := l.In("host-a", func(*lab.Namespace) error {
		link, err := netlink.LinkByName(device)
		if err != nil {
			return err
		}
		all, err := netlink.QdiscList(link)
		shaped = slices.ContainsFunc(all, func(q netlink.Qdisc) bool { return q.Type() == "htb" })
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return shaped
}
