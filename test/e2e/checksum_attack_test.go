// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/eniplane/eniplane/pkg/dataplane"
	"github.com/eniplane/eniplane/pkg/lab"
)

// Offsets in a frame without options or extension headers.
const (
	ip4Source, ip4Destination, ip4Transport = 26, 30, 34
	ip6Source, ip6Destination, ip6Transport = 22, 38, 54
)

// lateChecksum is what a guest may ask of a device in its virtio header: the sum of all bytes from
// start on goes to start+offset.
type lateChecksum struct{ start, offset uint16 }

// sendLate sends a frame whose checksum is left to a device.
func sendLate(t *testing.T, l *lab.Lab, node string, frame []byte, late lateChecksum) {
	t.Helper()
	header := []byte{unix.VIRTIO_NET_HDR_F_NEEDS_CSUM, unix.VIRTIO_NET_HDR_GSO_NONE, 0, 0, 0, 0} // no GSO
	header = binary.LittleEndian.AppendUint16(header, late.start)
	header = binary.LittleEndian.AppendUint16(header, late.offset)
	if err := l.In(node, func(*lab.Namespace) error {
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("open a packet socket: %w", err)
		}
		dev, err := net.InterfaceByName(guestDevice)
		if err == nil {
			err = unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1)
		}
		if err == nil {
			err = unix.Sendto(fd, append(header, frame...), 0, &unix.SockaddrLinklayer{Ifindex: dev.Index})
		}
		return errors.Join(err, unix.Close(fd))
	}); err != nil {
		t.Fatal(err)
	}
}

// TestLateChecksum: a checksum that the guest leaves to a device is written behind the verdict. Where
// it would change what was judged, the packet is dropped: otherwise two bytes of the guest's choice
// become another source, destination or port on the wire.
func TestLateChecksum(t *testing.T) {
	l := common(t)
	v4 := datagram(t, macA1, gatewayMAC, "10.0.1.10", "198.51.100.7", 53)
	v6 := datagram(t, macA1, gatewayMAC, "fd00:1:0:1::10", "2001:db8:51::7", 53)
	there := datagram(t, macA1, macA2, "10.0.1.10", "10.0.1.40", 53) // on the other host
	rows := []struct {
		name  string
		frame []byte
		at    lateChecksum
	}{
		{"IPv4 source", v4, lateChecksum{24, ip4Source - 24}},
		{"IPv4 destination", v4, lateChecksum{20, ip4Destination - 20}},
		{"destination port", v4, lateChecksum{ip4Transport, 2}},
		{"length of the datagram", v4, lateChecksum{ip4Transport, 4}},
		{"half of the checksum", v4, lateChecksum{ip4Transport, 7}},
		{"IPv6 source", v6, lateChecksum{20, ip6Source - 20}},
		{"IPv6 destination", v6, lateChecksum{20, ip6Destination + 14 - 20}},
		{"IPv6 source port", v6, lateChecksum{ip6Transport, 0}},
		{"protocol, to another host", there, lateChecksum{20, 3}},
		{"destination port, to another host", there, lateChecksum{ip4Transport, 2}},
	}
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) {
			watched := []*sniffer{
				sniff(t, l, internetNode, internetDev), sniff(t, l, "underlay", "host0-0"), sniff(t, l, "vm-b1", guestDevice),
			}
			before := counters(t, l)
			sendLate(t, l, "vm-a1", r.frame, r.at)
			if !waitCounted(t, l, before, "a1", dataplane.Out, dataplane.ReasonMalformed, answerWait) {
				t.Errorf("not counted as malformed; dropped: %v", lab.Drops(counters(t, l).Since(before)))
			}
			time.Sleep(silence)
			if n := seenBy(watched); n != 0 {
				t.Errorf("%d frames got through", n)
			}
		})
	}
	for name, honest := range map[string]lateChecksum{
		"its own checksum":     {ip4Transport, 6},
		"something it carries": {ip4Transport, uint16(8 + len(marker))},
	} {
		t.Run(name, func(t *testing.T) {
			guest := sniff(t, l, "vm-b1", guestDevice)
			sendLate(t, l, "vm-a1", append(there, make([]byte, 8)...), honest)
			for end := time.Now().Add(answerWait); guest.seen() == 0; time.Sleep(5 * time.Millisecond) {
				if time.Now().After(end) {
					t.Fatal("an honest frame did not arrive")
				}
			}
		})
	}
}
