// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/eniplane/eniplane/pkg/lab"
)

// Where things are in a frame of the overlay: Ethernet, IPv4, UDP, VXLAN, Ethernet.
const (
	outerIP     = 14
	outerUDP    = outerIP + 20
	outerVXLAN  = outerUDP + 8
	outerInner  = outerVXLAN + 8
	innerIP     = outerInner + 14
	hostA       = "host-a"
	uplinkName  = "uplink0"
	vxlanDevice = "eniplane0"
	underlayMTU = 1500
)

// tap reads every packet that a host sends to the overlay, as it leaves: after the kernel has cut it and completed its
// checksums, if that is for it to do.
type tap struct {
	fd     int
	mu     sync.Mutex
	frames int
	large  int // more than the underlay carries: the device cuts it
	late   int // a checksum is left to the device
	wrong  []string
	done   chan struct{}
}

func tapOverlay(t *testing.T, l *lab.Lab, host string) *tap {
	t.Helper()
	s := &tap{done: make(chan struct{})}
	if err := l.In(host, func(*lab.Namespace) (err error) {
		const all = unix.ETH_P_ALL<<8 | unix.ETH_P_ALL>>8 // in network order
		if s.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
			return fmt.Errorf("open a packet socket: %w", err)
		}
		dev, err := net.InterfaceByName(uplinkName)
		if err != nil {
			return err
		}
		if err := unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20); err != nil {
			return fmt.Errorf("make room for packets: %w", err)
		}
		if err := unix.SetsockoptTimeval(s.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 20000}); err != nil {
			return fmt.Errorf("set a timeout: %w", err)
		}
		return unix.Bind(s.fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: dev.Index})
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

func (s *tap) run(stop chan struct{}) {
	buf := make([]byte, 1<<17)
	for {
		select {
		case <-stop:
			return
		default:
		}
		n, from, err := unix.Recvfrom(s.fd, buf, 0)
		if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return
		}
		if ll, ok := from.(*unix.SockaddrLinklayer); ok && ll.Pkttype == unix.PACKET_OUTGOING && isOverlay(buf[:n]) {
			s.take(buf[:n])
		}
	}
}

func isOverlay(f []byte) bool {
	return len(f) >= innerIP+20 && f[12] == 8 && f[13] == 0 && f[outerIP+9] == unix.IPPROTO_UDP && binary.BigEndian.Uint16(f[outerUDP+2:]) == 4789
}

func (s *tap) take(f []byte) {
	late, err := checkOuter(f)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.frames++
	if len(f) > outerIP+underlayMTU {
		s.large++
	}
	if late {
		s.late++
	}
	if err != nil && len(s.wrong) < 5 {
		s.wrong = append(s.wrong, fmt.Sprintf("%v: % x", err, f[:min(len(f), innerIP+60)]))
	}
}

// checkOuter checks everything that is said twice in a frame: lengths, checksums, ranges.
func checkOuter(f []byte) (late bool, err error) {
	ip := f[outerIP:]
	length := int(binary.BigEndian.Uint16(ip[2:]))
	switch {
	case ip[0] != 0x45 || ip[8] != 64 || ip[6] != 0x40 || ip[7] != 0:
		return false, errors.New("the outer header has options, another TTL or no DF")
	case sum16(0, ip[:20]) != 0xffff:
		return false, errors.New("the checksum of the outer header is wrong")
	case length != len(f)-outerIP:
		return false, fmt.Errorf("the outer length is %d of %d bytes", length, len(f)-outerIP)
	case int(binary.BigEndian.Uint16(f[outerUDP+4:])) != length-20:
		return false, errors.New("the outer length of UDP is wrong")
	case f[outerUDP+6] != 0 || f[outerUDP+7] != 0:
		return false, errors.New("there is an outer checksum of UDP")
	case binary.BigEndian.Uint32(f[outerVXLAN:]) != 0x08000000 || f[outerVXLAN+7] != 0:
		return false, errors.New("the VXLAN header has other flags than that of the VNI")
	}
	return checkInner(f[innerIP:], binary.BigEndian.Uint16(f[outerInner+12:]))
}

// checkInner checks an inner IP packet that is no fragment. late: the checksum of its transport is that of the pseudo header
// alone.
func checkInner(ip []byte, ethertype uint16) (late bool, err error) {
	var pseudo uint32
	var l4, at int
	protocol := ip[9]
	switch {
	case ethertype == unix.ETH_P_IP && ip[0]>>4 == 4:
		l4 = int(ip[0]&15) * 4
		if sum16(0, ip[:l4]) != 0xffff || int(binary.BigEndian.Uint16(ip[2:])) != len(ip) {
			return false, errors.New("the inner IPv4 header has a wrong checksum or length")
		}
		pseudo = uint32(sum16(0, ip[12:20]))
	case ethertype == unix.ETH_P_IPV6 && ip[0]>>4 == 6:
		l4, protocol = 40, ip[6]
		if int(binary.BigEndian.Uint16(ip[4:])) != len(ip)-40 {
			return false, errors.New("the inner length of IPv6 is wrong")
		}
		pseudo = uint32(sum16(0, ip[8:40]))
	default:
		return false, fmt.Errorf("the inner ethertype is %#x", ethertype)
	}
	switch protocol {
	case unix.IPPROTO_TCP:
		at = l4 + 16
	case unix.IPPROTO_UDP:
		at = l4 + 6
	default:
		return false, nil
	}
	pseudo += uint32(protocol) + uint32(len(ip)-l4)
	// The whole sum first: of 65,536 complete packets one has the sum of the pseudo header in its field too.
	if sum16(pseudo, ip[l4:]) == 0xffff {
		return false, nil
	}
	if binary.BigEndian.Uint16(ip[at:]) != sum16(pseudo, nil) {
		return false, errors.New("the inner checksum is wrong")
	}
	return true, nil
}

// sum16 is the ones' complement sum of RFC 1071.
func sum16(sum uint32, b []byte) uint16 {
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	if len(b)%2 == 1 {
		sum += uint32(b[len(b)-1]) << 8
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return uint16(sum)
}

// byDevice is how many packets the kernel's VXLAN device of a host has sent.
func byDevice(t *testing.T, l *lab.Lab, host string) (packets uint64) {
	t.Helper()
	if err := l.In(host, func(n *lab.Namespace) error {
		link, err := n.Netlink().LinkByName(vxlanDevice)
		if err == nil {
			packets = link.Attrs().Statistics.TxPackets
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return packets
}

// settled waits until a host sends to another by a way of its own.
func settled(t *testing.T, l *lab.Lab, host string, from, to lab.Spot) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		before := byDevice(t, l, host)
		exchangeUDP(t, l, from, to, func() {})
		if byDevice(t, l, host) == before {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s leaves packets to the VXLAN device for more than 30 s", host)
		}
	}
}

// TestOuterHeaders looks at what leaves a host for another: by our own text whatever the devices complete, and by the kernel's
// device when the agent is gone. Nothing of it may be wrong.
func TestOuterHeaders(t *testing.T) {
	l := common(t)
	for _, tx := range []bool{true, false} {
		if err := l.SetUplinkOffload(tx); err != nil {
			t.Fatal(err)
		}
		for _, f := range []lab.Family{lab.IPv4, lab.IPv6} {
			t.Run(fmt.Sprintf("uplink tx %t/%s", tx, f), func(t *testing.T) {
				from, to, err := l.Spots("vm-a1", "vm-b1", f)
				if err != nil {
					t.Fatal(err)
				}
				settled(t, l, hostA, from, to)
				before := byDevice(t, l, hostA)
				s := tapOverlay(t, l, hostA)
				exchangeTCP(t, l, from, to, 2<<20, func() {})
				exchangeUDP(t, l, from, to, func() {})
				if n := byDevice(t, l, hostA) - before; n != 0 {
					t.Errorf("the VXLAN device sent %d packets, want 0", n)
				}
				s.judge(t, tx)
			})
		}
	}
	t.Run("without the agent", func(t *testing.T) { outerWithoutAgent(t, l) })
}

// judge says what was wrong. Only a device that completes packets gets incomplete ones.
func (s *tap) judge(t *testing.T, tx bool) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	t.Logf("%d frames, %d larger than the MTU, %d with a checksum left to the device", s.frames, s.large, s.late)
	for _, w := range s.wrong {
		t.Error(w)
	}
	if s.frames < 20 || tx && (s.large == 0 || s.late == 0) || !tx && (s.large != 0 || s.late != 0) {
		t.Errorf("%d frames, %d large, %d incomplete, at an uplink with tx %t", s.frames, s.large, s.late, tx)
	}
}

func outerWithoutAgent(t *testing.T, l *lab.Lab) {
	from, to, err := l.Spots("vm-a1", "vm-b1", lab.IPv4)
	if err != nil {
		t.Fatal(err)
	}
	settled(t, l, hostA, from, to)
	if err := l.KillAgent(hostA); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := l.StartAgent(hostA); err != nil {
			t.Fatal(err)
		}
		if err := l.WaitReady(context.Background(), hostA); err != nil {
			t.Fatal(err)
		}
		settled(t, l, hostA, from, to)
	}()
	// The lease is for 2 s: until its end by our ways, after it by the device, all the time without loss.
	for end := time.Now().Add(3 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		exchangeUDP(t, l, from, to, func() {})
	}
	before := byDevice(t, l, hostA)
	s := tapOverlay(t, l, hostA)
	exchangeTCP(t, l, from, to, 1<<20, func() {})
	if byDevice(t, l, hostA) == before {
		t.Error("the VXLAN device sent nothing, 3 s after the agent died")
	}
	s.judge(t, false)
}
