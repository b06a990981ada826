// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/eniplane/eniplane/pkg/lab"
)

// marker is in every packet that must not get through, so that a sniffer knows it again, however it
// was wrapped.
var marker = []byte("eniplane-must-not-arrive")

// sniffer counts packets that hold some bytes.
type sniffer struct {
	fd    int
	what  []byte
	count atomic.Int64
	done  chan struct{}
}

func (s *sniffer) seen() int64 { return s.count.Load() }

// sniff counts what a device of a node receives, and what it sends unless it is a port of a host.
func sniff(t *testing.T, l *lab.Lab, node, device string) *sniffer {
	t.Helper()
	return sniffFor(t, l, node, device, marker)
}

// sniffFor is sniff for packets that hold other bytes.
func sniffFor(t *testing.T, l *lab.Lab, node, device string, what []byte) *sniffer {
	t.Helper()
	return listen(t, l, node, what, func() (int, error) {
		const all = unix.ETH_P_ALL<<8 | unix.ETH_P_ALL>>8 // in network order
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return -1, err
		}
		dev, err := net.InterfaceByName(device)
		if err != nil {
			return -1, err
		}
		return fd, unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: dev.Index})
	})
}

// delivered counts the datagrams that a node's network stack delivers to sockets, whatever their
// port: raw sockets get a copy of each, also of those that a kernel socket takes.
func delivered(t *testing.T, l *lab.Lab, node string) []*sniffer {
	t.Helper()
	var all []*sniffer
	for _, domain := range []int{unix.AF_INET, unix.AF_INET6} {
		for _, protocol := range []int{unix.IPPROTO_UDP, unix.IPPROTO_TCP, unix.IPPROTO_ICMP, unix.IPPROTO_ICMPV6} {
			all = append(all, listen(t, l, node, marker, func() (int, error) {
				return unix.Socket(domain, unix.SOCK_RAW|unix.SOCK_CLOEXEC, protocol)
			}))
		}
	}
	return all
}

// seenBy adds up several sniffers.
func seenBy(all []*sniffer) int64 {
	var n int64
	for _, s := range all {
		n += s.seen()
	}
	return n
}

func listen(t *testing.T, l *lab.Lab, node string, what []byte, open func() (int, error)) *sniffer {
	t.Helper()
	s := &sniffer{what: what, done: make(chan struct{})}
	if err := l.In(node, func(*lab.Namespace) (err error) {
		if s.fd, err = open(); err != nil {
			return fmt.Errorf("open a socket in %s: %w", node, err)
		}
		return unix.SetsockoptTimeval(s.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 20000})
	}); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	go func() {
		defer close(s.done)
		s.run(stop)
	}()
	t.Cleanup(func() {
		close(stop)
		<-s.done
		_ = unix.Close(s.fd)
	})
	return s
}

func (s *sniffer) run(stop chan struct{}) {
	buf := make([]byte, 65536)
	for {
		select {
		case <-stop:
			return
		default:
		}
		n, _, err := unix.Recvfrom(s.fd, buf, 0)
		if err != nil && !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.ENETDOWN) {
			return
		}
		if err == nil && bytes.Contains(buf[:n], s.what) {
			s.count.Add(1)
		}
	}
}
