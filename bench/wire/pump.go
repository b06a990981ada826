// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/eniplane/eniplane/pkg/lab"
)

// pump is a virtual machine's network card without the machine: a tap on the host and one in the guest, and a process
// that carries frames between them with their virtio headers, so that large packets stay large.
type pump struct {
	taps [2]*os.File
	done sync.WaitGroup
}

// newPump makes both taps, which are down, and carries frames until it is closed.
func newPump(a *lab.Namespace, nameA string, b *lab.Namespace, nameB string, mtu int) (*pump, error) {
	p := &pump{}
	for i, end := range []struct {
		ns   *lab.Namespace
		name string
	}{{a, nameA}, {b, nameB}} {
		err := end.ns.Do(func() (err error) {
			p.taps[i], err = openTap(end.name)
			return err
		})
		if err == nil {
			err = setMTU(end.ns, end.name, mtu)
		}
		if err != nil {
			return nil, errors.Join(err, p.Close())
		}
	}
	p.done.Add(2)
	go p.carry(p.taps[0], p.taps[1])
	go p.carry(p.taps[1], p.taps[0])
	return p, nil
}

func setMTU(n *lab.Namespace, device string, mtu int) error {
	link, err := n.Netlink().LinkByName(device)
	if err != nil {
		return fmt.Errorf("find device %s: %w", device, err)
	}
	if err := n.Netlink().LinkSetMTU(link, mtu); err != nil {
		return fmt.Errorf("set the MTU of %s: %w", device, err)
	}
	return nil
}

// Offloads that a reader of a tap takes, as in linux/if_tun.h.
const tapOffloads = unix.TUN_F_CSUM | unix.TUN_F_TSO4 | unix.TUN_F_TSO6

// openTap makes a tap in the present namespace. It goes when the file is closed.
func openTap(name string) (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open the tap driver: %w", err)
	}
	request, err := unix.NewIfreq(name)
	if err == nil {
		request.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, request)
	}
	if err == nil {
		err = unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, tapOffloads)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make tap %s: %w", name, err), unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), name), nil
}

// carry moves frames one way. A frame that the other side does not take is lost, as on a wire.
func (p *pump) carry(from, to *os.File) {
	defer p.done.Done()
	b := make([]byte, 1<<16+64) // the largest packet, with its Ethernet and virtio headers
	for {
		n, err := from.Read(b)
		if err != nil {
			return // closed, or gone with its namespace
		}
		if _, err := to.Write(b[:n]); errors.Is(err, os.ErrClosed) {
			return
		}
	}
}

// Close ends the process and removes the taps.
func (p *pump) Close() error {
	var errs []error
	for _, t := range p.taps {
		if t != nil {
			errs = append(errs, t.Close())
		}
	}
	p.done.Wait()
	return errors.Join(errs...)
}
