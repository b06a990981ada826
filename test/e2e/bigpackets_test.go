// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/eniplane/eniplane/pkg/lab"
)

// setMTU sets the MTU of a device, and at the end of the test what it was.
func setMTU(t *testing.T, l *lab.Lab, node, device string, mtu int) {
	t.Helper()
	set := func(to int) (was int, err error) {
		err = l.In(node, func(*lab.Namespace) error {
			link, err := netlink.LinkByName(device)
			if err != nil {
				return err
			}
			was = link.Attrs().MTU
			return netlink.LinkSetMTU(link, to)
		})
		return was, err
	}
	was, err := set(mtu)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := set(was); err != nil {
			t.Error(err)
		}
	})
}

// overlayMTU: guests believe in 9000 bytes, and the overlay carries 1450. The gateway says so, TCP and UDP go by it.
func overlayMTU(t *testing.T, l *lab.Lab) {
	for _, device := range []struct{ node, name string }{{"vm-site", "eth2"}, {"host-a", "eni-site-data"}, {"vm-db", "eth0"}, {"host-b", "eni-db"}} {
		setMTU(t, l, device.node, device.name, 9000)
	}
	for _, f := range []lab.Family{lab.IPv4, lab.IPv6} {
		for _, ends := range [][2]string{{"db", "site-data"}, {"site-data", "db"}} {
			t.Run(ends[0]+"/"+f.String(), func(t *testing.T) { tellsMTU(t, l, ends[0], ends[1], f, "3", 1450) })
		}
	}
}

// portMTU: the receiver's port on another host carries 1300 bytes. Its gateway says so through the overlay.
func portMTU(t *testing.T, l *lab.Lab) {
	setMTU(t, l, "host-a", "eni-site-data", 1300)
	for _, f := range []lab.Family{lab.IPv4, lab.IPv6} {
		t.Run(f.String(), func(t *testing.T) { tellsMTU(t, l, "db", "site-data", f, "3", 1300) })
	}
}

// tellsMTU: a datagram that must not be fragmented fails once, its sender knows the MTU by whom, and a transfer of
// TCP, whose both ends believe in more, arrives whole.
func tellsMTU(t *testing.T, l *lab.Lab, from, to string, f lab.Family, subnet string, want int) {
	src, dst := spots(t, l, from, to, f)
	gateway := netip.MustParseAddr("10.0." + subnet + ".1")
	if f == lab.IPv6 {
		gateway = netip.MustParseAddr("fd00:1:0:" + subnet + "::1")
	}
	tellsMTUBetween(t, l, src, dst, gateway, want)
}

// tellsMTUBetween is tellsMTU for two spots and who says so.
func tellsMTUBetween(t *testing.T, l *lab.Lab, src, dst lab.Spot, says netip.Addr, want int) {
	t.Helper()
	f := lab.Family(dst.Addr.Is6())
	c := connectUDP(t, l, src, dst.Addr, 8007)
	option(t, c, unix.IPPROTO_IP, unix.IP_RECVERR, unix.IPPROTO_IPV6, unix.IPV6_RECVERR, dst, 1)
	discoverMTU(t, c, dst.Addr, true)
	if by := toldBy(t, c, random(want+1-28)); by != says {
		t.Errorf("%v says that it is too big, want %v", by, says)
	}
	wantMTU(t, c, f, want)
	sendTCP(t, l, src, dst, megabytes)
}

// toldBy sends until an ICMP error says that it is too big, and returns who says so.
func toldBy(t *testing.T, c *net.UDPConn, data []byte) netip.Addr {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(answerWait); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if _, err := c.Write(data); err != nil && !errors.Is(err, syscall.EMSGSIZE) && !errors.Is(err, syscall.ECONNREFUSED) {
			t.Fatal(err)
		}
		oob, n := make([]byte, 512), 0
		if control := raw.Control(func(fd uintptr) {
			_, n, _, _, err = unix.Recvmsg(int(fd), make([]byte, 64), oob, unix.MSG_ERRQUEUE|unix.MSG_DONTWAIT)
		}); control != nil {
			t.Fatal(control)
		}
		if err != nil || n == 0 {
			continue
		}
		const errno = unix.SizeofCmsghdr // where struct sock_extended_err begins
		if n < errno+4 || syscall.Errno(binary.NativeEndian.Uint32(oob[errno:])) != syscall.EMSGSIZE {
			continue // it fits still, and nobody listens
		}
		if by := offender(t, oob[:n]); by.IsValid() && !by.IsUnspecified() { // else it is the kernel's own error
			return by
		}
	}
	t.Error("nobody says that it is too big")
	return netip.Addr{}
}

// sendTCP sends bytes one way, in a connection that was made with what both ends believe the way carries, and compares
// what has arrived.
func sendTCP(t *testing.T, l *lab.Lab, from, to lab.Spot, size int) {
	t.Helper()
	ln, err := l.Listen(to, 8009)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	type received struct {
		sum []byte
		n   int64
		err error
	}
	got := make(chan received, 1)
	go func() {
		c, err := ln.Accept()
		if err != nil {
			got <- received{err: err}
			return
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(transferLimit)) // a dead connection says so by itself
		h := sha256.New()
		n, err := io.Copy(h, c)
		got <- received{h.Sum(nil), n, err}
	}()
	ctx, cancel := context.WithTimeout(context.Background(), answerWait)
	defer cancel()
	c, err := l.Dial(ctx, from, to, 8009)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(transferLimit)); err != nil {
		t.Fatal(err)
	}
	data := random(size)
	if _, err := c.Write(data); err != nil {
		t.Fatalf("send: %v", err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if r := <-got; r.err != nil || r.n != int64(size) || [sha256.Size]byte(r.sum) != sha256.Sum256(data) {
		t.Errorf("%d of %d bytes have arrived (%v), or others", r.n, size, r.err)
	}
}
