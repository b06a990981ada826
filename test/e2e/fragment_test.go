// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/eniplane/eniplane/pkg/lab"
)

// fragmentPaths are the ways that a packet may take.
var fragmentPaths = []struct{ name, client, server string }{
	{"same host", "a1", "a2"},
	{"across hosts", "a1", "b1"},
	{"into an EIP", internetNode, "b1"},
	{"out of an EIP", "b1", internetNode},
}

// TestFragments: datagrams that are too big for one packet, there and back.
func TestFragments(t *testing.T) {
	l := common(t)
	for _, p := range fragmentPaths {
		for _, f := range []lab.Family{lab.IPv4, lab.IPv6} {
			t.Run(fmt.Sprintf("%s/%s", p.name, f), func(t *testing.T) {
				from, to, err := l.Spots(p.client, p.server, f)
				if err != nil {
					t.Fatal(err)
				}
				exchangeFragments(t, l, from, to)
			})
		}
	}
}

func exchangeFragments(t *testing.T, l *lab.Lab, from, to lab.Spot) {
	t.Helper()
	const port = 8006
	server, err := l.ListenUDP(to, port)
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	client, err := l.ListenUDP(from, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	discoverMTU(t, client, to.Addr, false)
	discoverMTU(t, server, to.Addr, false)
	for _, size := range []int{3000, 8000, 1500, 40000} {
		back := sendUntilSeen(t, client, server, netip.AddrPortFrom(to.Addr, port), random(size))
		if !back.IsValid() {
			return
		}
		sendUntilSeen(t, server, client, back, random(size+1))
	}
}

// discoverMTU makes a socket send no packet that a router may fragment (or fragment itself).
func discoverMTU(t *testing.T, c *net.UDPConn, peer netip.Addr, on bool) {
	t.Helper()
	level, option, value := unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DONT
	if peer.Is6() {
		level, option = unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER
	}
	if on {
		value = unix.IP_PMTUDISC_DO
	}
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var set error
	if err := raw.Control(func(fd uintptr) { set = unix.SetsockoptInt(int(fd), level, option, value) }); err != nil {
		t.Fatal(err)
	}
	if set != nil {
		t.Fatal(set)
	}
}

// sendUntilSeen sends a datagram until it arrives whole, and returns whom the receiver saw. The first
// one may end at a link that carries less, of which the sender is told.
func sendUntilSeen(t *testing.T, from, to *net.UDPConn, dst netip.AddrPort, data []byte) netip.AddrPort {
	t.Helper()
	buf := make([]byte, 1<<16)
	for end := time.Now().Add(answerWait); time.Now().Before(end); {
		if _, err := from.WriteToUDPAddrPort(data, dst); err != nil {
			t.Fatalf("send %d bytes: %v", len(data), err)
		}
		if err := to.SetReadDeadline(time.Now().Add(300 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		for {
			n, seen, err := to.ReadFromUDPAddrPort(buf)
			if err != nil {
				break
			}
			if bytes.Equal(buf[:n], data) {
				return seen
			}
		}
	}
	t.Errorf("a datagram of %d bytes to %s did not arrive", len(data), dst)
	return netip.AddrPort{}
}
