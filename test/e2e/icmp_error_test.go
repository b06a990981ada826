// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/eniplane/eniplane/pkg/lab"
	"github.com/eniplane/eniplane/pkg/testroot"
)

// TestRefused: nobody listens, and the sender's socket is told so by its peer's kernel.
func TestRefused(t *testing.T) {
	l := common(t)
	for _, p := range fragmentPaths {
		for _, f := range []lab.Family{lab.IPv4, lab.IPv6} {
			t.Run(fmt.Sprintf("%s/%s", p.name, f), func(t *testing.T) {
				from, to, err := l.Spots(p.client, p.server, f)
				if err != nil {
					t.Fatal(err)
				}
				c := connectUDP(t, l, from, to.Addr, 8999)
				if err := untilError(c, []byte("anybody?")); !errors.Is(err, syscall.ECONNREFUSED) {
					t.Errorf("a datagram to a closed port of %s: %v, want %v", to, err, syscall.ECONNREFUSED)
				}
			})
		}
	}
}

// connectUDP opens a socket that hears of ICMP errors.
func connectUDP(t *testing.T, l *lab.Lab, from lab.Spot, to netip.Addr, port uint16) (c *net.UDPConn) {
	t.Helper()
	err := l.In(from.Node, func(*lab.Namespace) (err error) {
		c, err = net.DialUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(from.Local, 0)),
			net.UDPAddrFromAddrPort(netip.AddrPortFrom(to, port)))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// untilError sends until the socket fails.
func untilError(c *net.UDPConn, data []byte) error {
	for end := time.Now().Add(answerWait); time.Now().Before(end); {
		if _, err := c.Write(data); err != nil {
			return err
		}
		if err := c.SetReadDeadline(time.Now().Add(200 * time.Millisecond)); err != nil {
			return err
		}
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			return err
		}
	}
	return nil
}

// narrowMTU is what one hop on the internet carries: less than any other, more than IPv6 asks for.
const narrowMTU = 1300

// beyond is a client on the internet behind a router, which the narrow hop leads to.
type beyond struct {
	client, router *testroot.Namespace
	addrs          map[lab.Family]netip.Addr
}

// leg is an end of a cable.
type leg struct {
	in     func(func() error) error
	handle netlink.NsFd
	device string
	addrs  []string
	routes map[string]string // destination, gateway
}

func (a leg) configure(mtu int) error {
	return a.in(func() error {
		link, err := netlink.LinkByName(a.device)
		if err != nil {
			return err
		}
		errs := []error{netlink.LinkSetMTU(link, mtu), netlink.LinkSetUp(link)}
		for _, s := range a.addrs {
			addr, err := netlink.ParseAddr(s)
			if err != nil {
				return err
			}
			if addr.IP.To4() == nil {
				addr.Flags = unix.IFA_F_NODAD
			}
			errs = append(errs, netlink.AddrAdd(link, addr))
		}
		for dst, gateway := range a.routes {
			_, prefix, err := net.ParseCIDR(dst)
			if err != nil {
				return err
			}
			errs = append(errs, netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: prefix, Gw: net.ParseIP(gateway)}))
		}
		return errors.Join(errs...)
	})
}

// join makes a cable between two legs.
func join(a, b leg, mtu int) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = a.device
	err := a.in(func() error {
		return netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: b.device, PeerNamespace: b.handle})
	})
	return errors.Join(err, b.configure(mtu), a.configure(mtu))
}

// farAway makes a client that is reached from the lab's internet by a narrow hop.
func farAway(t *testing.T, l *lab.Lab) beyond {
	t.Helper()
	b := beyond{
		client: testroot.Netns(t), router: testroot.Netns(t),
		addrs: map[lab.Family]netip.Addr{
			lab.IPv4: netip.MustParseAddr("192.0.2.10"), lab.IPv6: netip.MustParseAddr("2001:db8:52::10"),
		},
	}
	inInternet := func(fn func() error) error {
		return l.In(internetNode, func(*lab.Namespace) error { return fn() })
	}
	t.Cleanup(func() {
		if err := inInternet(func() error {
			link, err := netlink.LinkByName("narrow")
			if err != nil {
				return err
			}
			return netlink.LinkDel(link)
		}); err != nil {
			t.Errorf("remove the narrow hop: %v", err)
		}
	})
	err := errors.Join(
		b.router.Do(func() error {
			return errors.Join(os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0),
				os.WriteFile("/proc/sys/net/ipv6/conf/all/forwarding", []byte("1"), 0))
		}),
		join(leg{
			in: inInternet, device: "narrow", addrs: []string{"198.51.100.129/30", "2001:db8:53::1/64"},
			routes: map[string]string{"192.0.2.0/24": "198.51.100.130", "2001:db8:52::/64": "2001:db8:53::2"},
		}, leg{
			in: b.router.Do, handle: netlink.NsFd(b.router.Handle), device: "wan", addrs: []string{"198.51.100.130/30", "2001:db8:53::2/64"},
			routes: map[string]string{"0.0.0.0/0": "198.51.100.129", "::/0": "2001:db8:53::1"},
		}, narrowMTU),
		join(leg{
			in: b.router.Do, device: "lan", addrs: []string{"192.0.2.1/24", "2001:db8:52::1/64"},
		}, leg{
			in: b.client.Do, handle: netlink.NsFd(b.client.Handle), device: "eth0", addrs: []string{"192.0.2.10/24", "2001:db8:52::10/64"},
			routes: map[string]string{"0.0.0.0/0": "192.0.2.1", "::/0": "2001:db8:52::1"},
		}, 1500))
	if err != nil {
		t.Fatalf("make a narrow hop: %v", err)
	}
	return b
}

// TestPathMTU: somewhere on the internet a hop carries less than both ends, and its router's errors
// reach the sender behind its EIP.
func TestPathMTU(t *testing.T) {
	l := common(t)
	b := farAway(t, l)
	for _, f := range []lab.Family{lab.IPv4, lab.IPv6} {
		for _, eni := range []string{"a1", "b1"} {
			from, _, err := l.Spots(eni, internetNode, f)
			if err != nil {
				t.Fatal(err)
			}
			t.Run(fmt.Sprintf("%s/%s/udp", f, eni), func(t *testing.T) { b.udp(t, l, from, f) })
		}
		for _, eni := range []string{"a2", "b1"} {
			from, _, err := l.Spots(eni, internetNode, f)
			if err != nil {
				t.Fatal(err)
			}
			t.Run(fmt.Sprintf("%s/%s/tcp out", f, eni), func(t *testing.T) { b.tcpOut(t, l, from, f) })
			t.Run(fmt.Sprintf("%s/%s/tcp in", f, eni), func(t *testing.T) { b.tcpIn(t, l, from, f) })
		}
	}
}

// udp: a datagram that must not be fragmented is lost once, then its sender knows why.
func (b beyond) udp(t *testing.T, l *lab.Lab, from lab.Spot, f lab.Family) {
	c := connectUDP(t, l, from, b.addrs[f], 8007)
	discoverMTU(t, c, b.addrs[f], true)
	if err := untilError(c, random(narrowMTU)); !errors.Is(err, syscall.EMSGSIZE) {
		t.Errorf("a datagram that does not fit: %v, want %v", err, syscall.EMSGSIZE)
	}
	wantMTU(t, c, f, narrowMTU)
}

// TestPortMTU: a sender on the internet is told what the ENI's port carries.
func TestPortMTU(t *testing.T) {
	l := common(t)
	for _, f := range []lab.Family{lab.IPv4, lab.IPv6} {
		from, to, err := l.Spots(internetNode, "b1", f)
		if err != nil {
			t.Fatal(err)
		}
		c := connectUDP(t, l, from, to.Addr, 8007)
		discoverMTU(t, c, to.Addr, true)
		if err := untilError(c, random(1440)); !errors.Is(err, syscall.EMSGSIZE) {
			t.Errorf("%s: a datagram that does not fit: %v, want %v", f, err, syscall.EMSGSIZE)
		}
		wantMTU(t, c, f, 1450)
	}
}

// wantMTU compares what the kernel of a connected socket knows of its path.
func wantMTU(t *testing.T, c syscall.Conn, f lab.Family, want int) {
	t.Helper()
	level, option := unix.IPPROTO_IP, unix.IP_MTU
	if f == lab.IPv6 {
		level, option = unix.IPPROTO_IPV6, unix.IPV6_MTU
	}
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var got int
	var get error
	if err := raw.Control(func(fd uintptr) { got, get = unix.GetsockoptInt(int(fd), level, option) }); err != nil {
		t.Fatal(err)
	}
	if get != nil || got != want {
		t.Errorf("path MTU %d (%v), want %d", got, get, want)
	}
}

const bulkBytes = 2 << 20

// tcpOut: an ENI connects to the client and both send in bulk.
func (b beyond) tcpOut(t *testing.T, l *lab.Lab, from lab.Spot, f lab.Family) {
	var ln net.Listener
	if err := b.client.Do(func() (err error) {
		ln, err = net.Listen("tcp", netip.AddrPortFrom(b.addrs[f], 8008).String())
		return err
	}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), answerWait)
	defer cancel()
	c, err := l.Dial(ctx, from, lab.Spot{Addr: b.addrs[f], Local: b.addrs[f]}, 8008)
	if err != nil {
		t.Fatal(errors.Join(err, ln.Close()))
	}
	bulk(t, ln, c)
	wantMTU(t, c.(*net.TCPConn), f, narrowMTU)
	_ = c.Close()
}

// tcpIn: the client connects to an EIP and both send in bulk.
func (b beyond) tcpIn(t *testing.T, l *lab.Lab, to lab.Spot, f lab.Family) {
	ln, err := l.Listen(to, 8008)
	if err != nil {
		t.Fatal(err)
	}
	var c net.Conn
	d := net.Dialer{Timeout: answerWait}
	if err := b.client.Do(func() (err error) {
		c, err = d.DialContext(t.Context(), "tcp", netip.AddrPortFrom(to.Addr, 8008).String())
		return err
	}); err != nil {
		t.Fatal(errors.Join(err, ln.Close()))
	}
	bulk(t, ln, c)
	_ = c.Close()
}

// bulk sends bytes there and back, and compares them.
func bulk(t *testing.T, ln net.Listener, c net.Conn) {
	t.Helper()
	defer ln.Close()
	data := random(bulkBytes)
	served := make(chan error, 1)
	go func() { served <- serveTransfer(ln, data) }()
	if err := c.SetDeadline(time.Now().Add(transferLimit)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write(data); err != nil {
		t.Fatalf("send: %v", err)
	}
	got, want := sha256.New(), sha256.Sum256(data)
	if n, err := io.CopyN(got, c, bulkBytes); err != nil {
		t.Fatalf("%d of %d bytes came back: %v", n, bulkBytes, err)
	}
	if !bytes.Equal(got.Sum(nil), want[:]) {
		t.Error("what came back has another sha256")
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
}
