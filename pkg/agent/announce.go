// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// Announcements are repeated because nobody acknowledges them: three, a second apart
// (RFC 4861 section 10: MAX_NEIGHBOR_ADVERTISEMENT and RETRANS_TIMER; RFC 5227 asks for two).
const (
	announceCount = 3
	announceEvery = time.Second
)

// Announcer tells the segment of an uplink that an address is here.
type Announcer interface {
	Announce(uplink string, addr netip.Addr) error
}

// PacketAnnouncer sends gratuitous ARP and unsolicited neighbour advertisements through packet
// sockets in the network namespace of the process.
type PacketAnnouncer struct{}

// Announce sends one frame on the uplink.
func (PacketAnnouncer) Announce(uplink string, addr netip.Addr) error {
	dev, err := net.InterfaceByName(uplink)
	if err != nil {
		return fmt.Errorf("find uplink %s: %w", uplink, err)
	}
	if len(dev.HardwareAddr) != 6 {
		return fmt.Errorf("uplink %s has no Ethernet address", uplink)
	}
	// Protocol 0: the socket receives nothing.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open a packet socket: %w", err)
	}
	frame := announcement(dev.HardwareAddr, addr)
	err = unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: dev.Index})
	return errors.Join(wrap(err, "announce %s on %s", addr, uplink), unix.Close(fd))
}

// wrap is fmt.Errorf that keeps nil.
func wrap(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf(format+": %w", append(args, err)...)
}

// announceAll announces each address on each uplink, round by round, until ctx ends. An address that
// is not here any more is left out: another host announces it now.
func announceAll(ctx context.Context, a Announcer, log *slog.Logger, every time.Duration,
	uplinks []string, addrs []netip.Addr, here func(netip.Addr) bool,
) {
	for round := range announceCount {
		if round > 0 {
			select {
			case <-ctx.Done():
				return
			case <-time.After(every):
			}
		}
		for _, uplink := range uplinks {
			for _, addr := range addrs {
				if !here(addr) {
					continue
				}
				if err := a.Announce(uplink, addr); err != nil {
					log.Warn("cannot announce an EIP", "eip", addr, "uplink", uplink, "err", err)
				}
			}
		}
	}
}
