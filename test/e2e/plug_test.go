// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/eniplane/eniplane/pkg/dataplane"
	"github.com/eniplane/eniplane/pkg/lab"
)

// TestHotPlug: an instance with 8 ENIs and 21 addresses of each family at each. All work at once. One ENI is plugged in
// and out in every order of feed and device; the traffic of the others notices nothing.
func TestHotPlug(t *testing.T) {
	l := upPlug(t)
	t.Run("all addresses at once", func(t *testing.T) {
		for _, f := range []lab.Family{lab.IPv4, lab.IPv6} {
			allAddresses(t, l, f)
		}
	})
	t.Run("in every order", func(t *testing.T) { everyOrder(t, l) })
	t.Run("reuse", func(t *testing.T) { reuse(t, l) })
}

// allAddresses exchanges datagrams with every address of the instance, and keeps a connection to each open until all are.
func allAddresses(t *testing.T, l *lab.Lab, f lab.Family) {
	t.Helper()
	peer := farSpot(f)
	far, err := l.ListenUDP(peer, plugOpen)
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	var back, there atomic.Int64
	go countEchoes(far, &there)
	var each sync.WaitGroup
	var conns []net.Conn
	ln, err := l.Listen(peer, plugOpen+1)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	go echoConnections(ln)
	for eni := range plugENIs {
		for i := range plugIPs {
			at := manySpot(eni, i, f)
			c, err := l.ListenUDP(at, plugOpen)
			if err != nil {
				t.Fatalf("listen on %s: %v", at, err)
			}
			defer c.Close()
			each.Go(func() {
				if exchangeNumbers(c, netip.AddrPortFrom(peer.Addr, plugOpen), 5) == 5 {
					back.Add(1)
				}
			})
			ctx, cancel := context.WithTimeout(context.Background(), answerWait)
			conn, err := l.Dial(ctx, at, peer, plugOpen+1)
			cancel()
			if err != nil {
				t.Errorf("connect %s to %s: %v", at, peer, err)
				continue
			}
			defer conn.Close()
			conns = append(conns, conn)
		}
	}
	each.Wait()
	const all = plugENIs * plugIPs
	if back.Load() != all || len(conns) != all {
		t.Errorf("%s: of %d addresses %d have all datagrams back, %d are connected", f, all, back.Load(), len(conns))
	}
	for _, c := range conns {
		if !answers(c) {
			t.Errorf("%s: the connection from %s does not carry anything any more", f, c.LocalAddr())
		}
	}
	reachAll(t, l, f)
	denied(t, l, probe{from: "far", to: "m3", protocol: "udp", port: plugShut, family: f}, "m3", dataplane.In, dataplane.ReasonSGDenied)
	t.Logf("%s: %d addresses of %d ENIs exchanged datagrams and kept a connection at once", f, all, plugENIs)
}

// reachAll sends to every address from outside, as flows of their own.
func reachAll(t *testing.T, l *lab.Lab, f lab.Family) {
	t.Helper()
	client, err := l.ListenUDP(farSpot(f), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	for eni := range plugENIs {
		for i := range plugIPs {
			at := manySpot(eni, i, f)
			c, err := l.ListenUDP(at, plugOpen+2)
			if err != nil {
				t.Fatalf("listen on %s: %v", at, err)
			}
			go countEchoes(c, new(atomic.Int64))
			if exchangeNumbers(client, netip.AddrPortFrom(at.Addr, plugOpen+2), 1) != 1 {
				t.Errorf("%s is not reached", at)
			}
			_ = c.Close()
		}
	}
}

// countEchoes sends back what comes until the socket is closed.
func countEchoes(c *net.UDPConn, n *atomic.Int64) {
	b := make([]byte, 2048)
	for {
		size, from, err := c.ReadFromUDPAddrPort(b)
		if err != nil {
			return
		}
		n.Add(1)
		_, _ = c.WriteToUDPAddrPort(b[:size], from) // what is lost is missed
	}
}

// exchangeNumbers sends numbered datagrams one by one and counts those that come back, each tried for some time.
func exchangeNumbers(c *net.UDPConn, to netip.AddrPort, count int) (back int) {
	b, got := make([]byte, 8), make([]byte, 2048)
	for n := range count {
		binary.BigEndian.PutUint64(b, uint64(n))
		for end := time.Now().Add(answerWait); time.Now().Before(end); {
			if _, err := c.WriteToUDPAddrPort(b, to); err != nil {
				return back
			}
			_ = c.SetReadDeadline(time.Now().Add(time.Second))
			size, from, err := c.ReadFromUDPAddrPort(got)
			if err == nil && size == 8 && from == to && binary.BigEndian.Uint64(got) == uint64(n) {
				back++
				break
			}
		}
	}
	return back
}

func echoConnections(ln net.Listener) {
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			b := make([]byte, 64)
			for {
				n, err := c.Read(b)
				if err != nil {
					return
				}
				if _, err := c.Write(b[:n]); err != nil {
					return
				}
			}
		}()
	}
}

func answers(c net.Conn) bool {
	_ = c.SetDeadline(time.Now().Add(answerWait))
	if _, err := c.Write([]byte("?")); err != nil {
		return false
	}
	_, err := c.Read(make([]byte, 1))
	return err == nil
}

// hot is the ENI that comes and goes.
type hot struct {
	t        *testing.T
	l        *lab.Lab
	attached bool // by the feed
	present  bool // its device
}

// plugOrders are orders of attaching (F+) and detaching (F-) in the feed and of the device's coming (D+) and going (D-).
// They begin and end without both. All of them are for a soak.
var plugOrders = []string{
	"F+ D+ D- F-",
	"D+ F+ F- D-",
	"F+ D+ F- F+ D- D+ F- D-",
	"D+ F+ D- D+ D- F- D+ D-",
	"F+ F- D+ F+ D- F-",
}

// everyOrder plays the orders, then a random one as fast as it can, beside traffic of the other ENIs.
func everyOrder(t *testing.T, l *lab.Lab) {
	h := &hot{t: t, l: l, attached: true, present: true}
	h.do("F-")
	h.do("D-")
	load := startSteady(t, l,
		[]steadyWay{
			{farSpot(lab.IPv4), manySpot(0, 3, lab.IPv4)}, {manySpot(1, 0, lab.IPv6), farSpot(lab.IPv6)},
			{nearSpot(lab.IPv6), manySpot(6, 20, lab.IPv6)}, {manySpot(2, 7, lab.IPv4), nearSpot(lab.IPv4)},
		},
		[]steadyWay{{farSpot(lab.IPv6), manySpot(5, 1, lab.IPv6)}, {manySpot(6, 0, lab.IPv4), nearSpot(lab.IPv4)}},
		steadyWay{farSpot(lab.IPv4), manySpot(0, 0, lab.IPv4)})
	orders, hurried := plugOrders[:3], 15
	if soak() {
		orders, hurried = plugOrders, 200
	}
	for _, order := range orders {
		for _, step := range strings.Fields(order) {
			h.do(step)
			h.check(order + " at " + step)
		}
	}
	h.hurry(hurried)
	load.stop(t, l, "m0")
}

// hurry changes feed and device in a random order without waiting for anybody, and ends with both.
func (h *hot) hurry(steps int) {
	h.t.Helper()
	for range steps {
		step := map[bool]string{true: "F", false: "D"}[rand.IntN(2) == 0]
		sign := map[bool]string{true: "-", false: "+"}[step == "F" && h.attached || step == "D" && h.present]
		h.step(step + sign)
		time.Sleep(time.Duration(rand.IntN(80)) * time.Millisecond)
	}
	if !h.attached {
		h.step("F+")
	}
	if !h.present {
		h.step("D+")
	}
	h.wait()
	h.check("after a random order")
}

// do makes one step and waits until all agents know of it.
func (h *hot) do(step string) {
	h.t.Helper()
	h.step(step)
	h.wait()
}

func (h *hot) step(step string) {
	h.t.Helper()
	var err error
	switch step {
	case "F+", "F-":
		h.attached = step == "F+"
		_, err = h.l.EditFeed(attach(plugHot, h.attached, "vm-many", plugENIs-1, "eni-"+plugHot))
	case "D+":
		h.present = true
		err = h.l.PlugPort(plugHot)
	case "D-":
		h.present = false
		err = h.l.UnplugPort(plugHot)
	}
	if err != nil {
		h.t.Fatalf("%s: %v", step, err)
	}
}

// wait waits until the hosts are where the feed and the devices are.
func (h *hot) wait() {
	h.t.Helper()
	revision, err := h.l.Revision()
	if err != nil {
		h.t.Fatal(err)
	}
	if err := h.l.WaitRevisionAll(context.Background(), revision); err != nil {
		h.t.Fatal(err)
	}
	switch {
	case h.attached && h.present:
		waitPhase(h.t, h.l, "host-a", plugHot, "Ready")
	case h.attached:
		waitPhase(h.t, h.l, "host-a", plugHot, "Waiting")
	}
}

// attach is the edit that attaches or detaches an ENI.
func attach(eni string, attached bool, instance string, index int, device string) lab.Edit {
	return lab.Edit{Kind: "ENI", Name: eni, Change: func(spec *yaml.Node) error {
		if attached {
			return lab.Set(spec, "attachment", map[string]any{"instance": instance, "index": index, "device": device})
		}
		for i := 0; i+1 < len(spec.Content); i += 2 {
			if spec.Content[i].Value == "attachment" {
				spec.Content = append(spec.Content[:i], spec.Content[i+2:]...)
				return nil
			}
		}
		return fmt.Errorf("%s is not attached", eni)
	}}
}

// check: with both, packets pass that may and only those; else nothing does.
func (h *hot) check(when string) {
	h.t.Helper()
	failed := h.t.Failed()
	if h.attached && h.present {
		for _, f := range []lab.Family{lab.IPv4, lab.IPv6} {
			allowed(h.t, h.l, probe{from: "far", to: plugHot, protocol: "tcp", port: plugOpen + 3, family: f})
			allowed(h.t, h.l, probe{from: plugHot, to: "near", protocol: "udp", port: plugOpen + 3, family: f})
		}
		denied(h.t, h.l, probe{from: "near", to: plugHot, protocol: "udp", port: plugShut}, plugHot, dataplane.In, dataplane.ReasonSGDenied)
	} else if h.present {
		nothingPasses(h.t, h.l, "vm-many", "eth7")
	}
	if h.t.Failed() && !failed {
		h.t.Fatalf("%s: see above\n%s", when, h.l.LogTail("host-a"))
	}
}

// nothingPasses sends as the ENI m7 out of a device and to it from far, and wants nothing to arrive anywhere.
func nothingPasses(t *testing.T, l *lab.Lab, node, device string) {
	t.Helper()
	watched := []*sniffer{sniff(t, l, "vm-far", guestDevice), sniff(t, l, "vm-near", guestDevice), sniff(t, l, node, device)}
	own := watched[2]
	hot4 := plugAddr(7, 0, lab.IPv4).String()
	for _, to := range []lab.Spot{farSpot(lab.IPv4), nearSpot(lab.IPv4)} {
		if err := l.SendFrame(node, device, datagram(t, plugMAC(7), gatewayMAC, hot4, to.Addr.String(), plugOpen)); err != nil {
			t.Fatal(err)
		}
	}
	time.Sleep(silence)
	sentOwn := own.seen() // it sees what it sends
	if err := l.SendFrame("vm-far", guestDevice, datagram(t, plugMAC(100), gatewayMAC, farSpot(lab.IPv4).Addr.String(), hot4, plugOpen)); err != nil {
		t.Fatal(err)
	}
	time.Sleep(2 * silence)
	if n := watched[0].seen() + watched[1].seen(); n != 1 { // far's own frame
		t.Errorf("%d frames with the identity of an ENI that is not plugged in arrived", n-1)
	}
	if n := own.seen() - sentOwn; n != 0 {
		t.Errorf("%d frames to an ENI that is not plugged in arrived at %s of %s", n, device, node)
	}
}
