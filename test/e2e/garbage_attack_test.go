// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"golang.org/x/sys/unix"

	"github.com/eniplane/eniplane/pkg/lab"
)

const garbageFrames = 40000

// garbage makes frames that are almost right: a guest's packets to everybody whom it must not reach,
// with bytes of their headers, lengths or the end of the frame spoiled. The same seed, the same frames.
type garbage struct {
	random *rand.Rand
	honest [][]byte
}

// newGarbage begins with packets of blue1, which is 10.0.1.10 of the tenant without an EIP.
func newGarbage(t *testing.T, port net.HardwareAddr) *garbage {
	t.Helper()
	g := &garbage{random: rand.New(rand.NewPCG(1, 2))}
	for _, dst := range []net.HardwareAddr{gatewayMAC, macA2, broadcast, port} {
		for _, to := range []string{
			"10.0.1.40", "10.0.2.30", "10.0.1.1", vtepA, "192.168.100.2", "203.0.113.20", "198.51.100.7", "169.254.169.254",
			"224.0.0.1", "255.255.255.255", "fd00:1:0:1::40", "fd00:1:0:2::30", hostA6, "2001:db8:113::20", "ff02::1", "fe80::1",
		} {
			from := "10.0.1.10"
			if netip.MustParseAddr(to).Is6() {
				from = "fd00:1:0:1::10"
			}
			for _, udp := range []uint16{4789, 53, 67} {
				g.honest = append(g.honest, datagram(t, macA1, dst, from, to, udp))
			}
		}
		g.honest = append(g.honest, vxlanFrame(t, dst), arp(t, macA1, macA1, "10.0.1.10", "10.0.1.40"),
			frame(t, &layers.Ethernet{SrcMAC: macA1, DstMAC: dst, EthernetType: layers.EthernetTypeDot1Q},
				&layers.Dot1Q{VLANIdentifier: 7, Type: layers.EthernetTypeIPv4}, gopacket.Payload(g.honest[0][14:])))
	}
	return g
}

func (g *garbage) next() []byte {
	r := g.random
	f := append([]byte(nil), g.honest[r.IntN(len(g.honest))]...)
	headers := len(f) - len(marker) // the marker stays, so that it is known again
	for range r.IntN(4) {
		f[r.IntN(headers)] = byte(r.Uint32())
	}
	switch r.IntN(8) {
	case 0:
		binary.BigEndian.PutUint16(f[16:], uint16(r.IntN(2*len(f))))
	case 1:
		f = append(f, make([]byte, r.IntN(1300))...)
	case 2: // the same behind an extension header or options that are garbage too
		at := min(headers, 34+20*r.IntN(2))
		f = append(append(append([]byte(nil), f[:at]...), make([]byte, 8*r.IntN(6))...), f[at:]...)
	}
	return f
}

// TestGarbage: whatever a guest sends, nobody of another tenant, no socket of its host and nobody
// outside gets a byte of it, and every frame is accounted for.
func TestGarbage(t *testing.T) {
	l := common(t)
	g := newGarbage(t, deviceMAC(t, l, "host-a", "eni-blue1"))
	watched := map[string][]*sniffer{"host-a's stack": delivered(t, l, "host-a")}
	for _, node := range []string{"vm-a1", "vm-a2", "vm-a3", "vm-b1", "vm-b2", "vm-mute", "vm-m"} {
		watched[node] = []*sniffer{sniff(t, l, node, guestDevice)}
	}
	watched[internetNode] = []*sniffer{sniff(t, l, internetNode, internetDev)}
	if err := l.In("vm-blue1", func(*lab.Namespace) error { return g.send(garbageFrames) }); err != nil {
		t.Fatal(err)
	}
	time.Sleep(4 * silence)
	for who, all := range watched {
		if n := seenBy(all); n != 0 {
			t.Errorf("%s: %d frames of another tenant", who, n)
		}
	}
	twin := sniff(t, l, "vm-blue2", guestDevice)
	if err := l.SendFrame("vm-blue1", guestDevice, datagram(t, macA1, macA2, "10.0.1.10", "10.0.1.20", 53)); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(answerWait); twin.seen() == 0; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("an honest frame did not arrive, so the silence above proves nothing")
		}
	}
}

// send sends frames out of the guest of the calling namespace.
func (g *garbage) send(n int) error {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open a packet socket: %w", err)
	}
	dev, err := net.InterfaceByName(guestDevice)
	for i := 0; err == nil && i < n; i++ {
		err = unix.Sendto(fd, g.next(), 0, &unix.SockaddrLinklayer{Ifindex: dev.Index})
		if errors.Is(err, unix.ENOBUFS) {
			err = nil // the guest's own queue is full
		}
	}
	return errors.Join(err, unix.Close(fd))
}
