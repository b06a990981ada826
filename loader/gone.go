// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/eniplane/eniplane/pkg/dataplane"
)

// gone closes the ENIs of devices that were deleted, at once and whatever else the loader is at: the kernel gives an
// ifindex to another device as soon as somebody asks for that one, or moves one here that has it.
type gone struct {
	live, ports table
	events      int // netlink socket
	stop        int // eventfd
	ended       sync.WaitGroup

	mu    sync.Mutex // around all that is written to live and ports
	since map[uint32]bool
}

// watchGone begins to listen. It must be called inside the host's network namespace.
func watchGone(live, ports table) (_ *gone, err error) {
	g := &gone{live: live, ports: ports, events: -1, stop: -1, since: map[uint32]bool{}}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("listen to devices that go: %w", err), g.release())
		}
	}()
	if g.events, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE); err != nil {
		return nil, err
	}
	if err = unix.Bind(g.events, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: unix.RTMGRP_LINK}); err != nil {
		return nil, err
	}
	if g.stop, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return nil, err
	}
	g.ended.Go(g.run)
	return g, nil
}

func (g *gone) close() error {
	_, err := unix.Write(g.stop, []byte{1, 0, 0, 0, 0, 0, 0, 0})
	if err == nil {
		g.ended.Wait()
	}
	return errors.Join(err, g.release())
}

func (g *gone) release() error {
	var errs []error
	for _, fd := range []int{g.events, g.stop} {
		if fd >= 0 {
			errs = append(errs, unix.Close(fd))
		}
	}
	return errors.Join(errs...)
}

func (g *gone) run() {
	fds := []unix.PollFd{{Fd: int32(g.events), Events: unix.POLLIN}, {Fd: int32(g.stop), Events: unix.POLLIN}}
	buf := make([]byte, 1<<16)
	for {
		if _, err := unix.Poll(fds, -1); err != nil && !errors.Is(err, unix.EINTR) {
			return // the looks at devices stand in
		}
		if fds[1].Revents != 0 {
			return
		}
		for {
			n, _, err := unix.Recvfrom(g.events, buf, 0)
			if err != nil {
				break // nothing more, or events were lost: that is an event for the look at devices, too
			}
			if indexes := deleted(buf[:n]); len(indexes) > 0 {
				g.forget(indexes)
			}
		}
	}
}

// deleted finds the ifindexes of the devices that messages say were deleted. Those of a bridge say that a device left it.
func deleted(messages []byte) (indexes []uint32) {
	const headerSize, infoSize = 16, 16 // struct nlmsghdr, ifinfomsg
	for len(messages) >= headerSize+infoSize {
		size := int(binary.NativeEndian.Uint32(messages))
		if size < headerSize+infoSize || size > len(messages) {
			return indexes
		}
		if binary.NativeEndian.Uint16(messages[4:]) == unix.RTM_DELLINK && messages[headerSize] == unix.AF_UNSPEC {
			indexes = append(indexes, binary.NativeEndian.Uint32(messages[headerSize+4:]))
		}
		messages = messages[min((size+3)&^3, len(messages)):]
	}
	return indexes
}

// forget takes the READY mark and the port away from who has them there. What fails is done by the look that the same event
// brings about.
func (g *gone) forget(indexes []uint32) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, ifindex := range indexes {
		g.since[ifindex] = true
		port := []byte(dataplane.Index(ifindex))
		value, err := g.ports.get(port)
		if err != nil || value == nil {
			continue
		}
		if eni, err := dataplane.PortENI(value); err == nil {
			g.unmark([]byte(dataplane.Index(eni)), ifindex)
		}
		_ = g.ports.remove([][]byte{port})
	}
}

// unmark takes the READY mark of an ENI away if it is for this device.
func (g *gone) unmark(eni []byte, ifindex uint32) {
	mark, err := g.live.get(eni)
	if err != nil || mark == nil {
		return
	}
	if now, err := dataplane.DecodeLive(mark); err == nil && now.Ifindex == ifindex {
		_ = g.live.remove([][]byte{eni})
	}
}

// begin is called before devices are listed: what goes from then on is known to be gone when ENIs are opened.
func (g *gone) begin() {
	g.mu.Lock()
	defer g.mu.Unlock()
	clear(g.since)
}

// hold keeps forget waiting while fn writes openings.
func (g *gone) hold(fn func() error) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return fn()
}

// without takes out of openings what is of devices that have gone since begin. The caller holds.
func (g *gone) without(want openings) error {
	for ifindex := range g.since {
		port := dataplane.Index(ifindex)
		value, wanted := want.ports[port]
		if !wanted {
			continue
		}
		eni, err := dataplane.PortENI(value)
		if err != nil {
			return err
		}
		delete(want.live, dataplane.Index(eni))
		delete(want.ports, port)
	}
	return nil
}
