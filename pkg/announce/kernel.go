// SPDX-License-Identifier: Apache-2.0

package announce

import (
	"bufio"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// kernel sends through packet sockets in the network namespace of the thread.
type kernel struct{}

func (kernel) find(uplink string) (port, error) {
	dev, err := net.InterfaceByName(uplink)
	if err != nil {
		return port{}, fmt.Errorf("find uplink %s: %w", uplink, err)
	}
	if len(dev.HardwareAddr) != 6 {
		return port{}, fmt.Errorf("uplink %s has no Ethernet address", uplink)
	}
	return port{dev.Index, [6]byte(dev.HardwareAddr)}, nil
}

func (kernel) send(at port, frame []byte) error {
	// Protocol 0: the socket receives nothing.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open a packet socket: %w", err)
	}
	err = unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: at.index})
	if err != nil {
		err = fmt.Errorf("send an announcement: %w", err)
	}
	return errors.Join(err, unix.Close(fd))
}

/*
 * A network card drops multicast to groups that nobody has asked it for, before any program sees it. Who asks for an
 * IPv6 address sends to the solicited-node group of it (RFC 4291 section 2.7.1), so the group's MAC is added to the
 * device's filter. It stays there when the agent ends, like the programs, which the membership of a socket would not.
 */

// group is the MAC of the solicited-node group of an address.
func group(a netip.Addr) [6]byte {
	b := a.As16()
	return [6]byte{0x33, 0x33, 0xff, b[13], b[14], b[15]}
}

func (kernel) listen(uplink string, addrs []netip.Addr) error {
	want := map[[6]byte]bool{}
	for _, a := range addrs {
		want[group(a)] = true
	}
	have, err := groups(uplink)
	if err != nil {
		return err
	}
	var errs []error
	for mac := range want {
		if !have[mac] {
			errs = append(errs, filter(unix.SIOCADDMULTI, uplink, mac))
		}
	}
	for mac := range have {
		if !want[mac] {
			errs = append(errs, filter(unix.SIOCDELMULTI, uplink, mac))
		}
	}
	return errors.Join(errs...)
}

// Silence takes all solicited-node groups out of the filter of a device that were put there by hand, as this package does.
func Silence(device string) error { return kernel{}.listen(device, nil) }

// groups reads the solicited-node groups in the filter of a device that no socket holds there.
func groups(uplink string) (map[[6]byte]bool, error) {
	file, err := os.Open("/proc/thread-self/net/dev_mcast")
	if err != nil {
		return nil, fmt.Errorf("read multicast filters: %w", err)
	}
	defer func() { _ = file.Close() }()
	found := map[[6]byte]bool{}
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		// index, device, users, 1 = put there by hand, address
		words := strings.Fields(lines.Text())
		if len(words) != 5 || words[1] != uplink || words[3] != "1" || !strings.HasPrefix(words[4], "3333ff") {
			continue
		}
		if mac, err := hex.DecodeString(words[4]); err == nil && len(mac) == 6 {
			found[[6]byte(mac)] = true
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read multicast filters: %w", err)
	}
	return found, nil
}

// ifreq is struct ifreq with a hardware address.
type ifreq struct {
	name   [unix.IFNAMSIZ]byte
	family uint16
	addr   [22]byte
}

func filter(request uintptr, device string, mac [6]byte) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open a socket: %w", err)
	}
	defer func() { _ = unix.Close(fd) }()
	r := ifreq{family: unix.AF_UNSPEC}
	copy(r.name[:unix.IFNAMSIZ-1], device)
	copy(r.addr[:], mac[:])
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(unsafe.Pointer(&r))); errno != 0 {
		return fmt.Errorf("change the multicast filter of %s for %x: %w", device, mac, errno)
	}
	return nil
}
