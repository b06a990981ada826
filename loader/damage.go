// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// damages hears when somebody removes pins or parts of the guards, which no event of a device tells of. What we remove
// ourselves is heard too, and found to be in order.
type damages struct {
	table   string
	inotify int
	nft     int
	stop    int // eventfd
	heard   chan struct{}
	ended   sync.WaitGroup
}

// watchDamages begins to listen. It must be called inside the host's network namespace.
func watchDamages(p place, table string) (_ *damages, err error) {
	d := &damages{table: table, inotify: -1, nft: -1, stop: -1, heard: make(chan struct{}, 1)}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("listen to damages: %w", err), d.release())
		}
	}()
	if d.inotify, err = unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK); err != nil {
		return nil, err
	}
	if err = d.follow(p); err != nil {
		return nil, err
	}
	if d.nft, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_NETFILTER); err != nil {
		return nil, err
	}
	if err = unix.Bind(d.nft, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, err
	}
	if err = unix.SetsockoptInt(d.nft, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, unix.NFNLGRP_NFTABLES); err != nil {
		return nil, err
	}
	if d.stop, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return nil, err
	}
	d.ended.Go(d.run)
	return d, nil
}

// follow watches the directories of pins; those that were removed and made again anew.
func (d *damages) follow(p place) error {
	for _, dir := range []string{p.links(), p.maps()} {
		const what = unix.IN_DELETE | unix.IN_DELETE_SELF | unix.IN_MOVED_FROM | unix.IN_MOVE_SELF | unix.IN_ONLYDIR
		if _, err := unix.InotifyAddWatch(d.inotify, dir, what); err != nil {
			return fmt.Errorf("watch %s: %w", dir, err)
		}
	}
	return nil
}

func (d *damages) close() error {
	_, err := unix.Write(d.stop, []byte{1, 0, 0, 0, 0, 0, 0, 0})
	if err == nil {
		d.ended.Wait()
	}
	return errors.Join(err, d.release())
}

func (d *damages) release() error {
	var errs []error
	for _, fd := range []int{d.inotify, d.nft, d.stop} {
		if fd >= 0 {
			errs = append(errs, unix.Close(fd))
		}
	}
	return errors.Join(errs...)
}

func (d *damages) run() {
	fds := []unix.PollFd{
		{Fd: int32(d.inotify), Events: unix.POLLIN}, {Fd: int32(d.nft), Events: unix.POLLIN}, {Fd: int32(d.stop), Events: unix.POLLIN},
	}
	buf := make([]byte, 1<<16)
	for {
		if _, err := unix.Poll(fds, -1); err != nil && !errors.Is(err, unix.EINTR) {
			return // the periodic look stands in
		}
		if fds[2].Revents != 0 {
			return
		}
		if d.pins(buf) || d.guards(buf) {
			select {
			case d.heard <- struct{}{}:
			default: // one that waits to be read stands for all
			}
		}
	}
}

// pins tells whether there was any event: only removals are asked for.
func (d *damages) pins(buf []byte) (any bool) {
	for {
		n, err := unix.Read(d.inotify, buf)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || n == 0 {
			return any
		}
		any = true
	}
}

// guards tells whether something of our tables was removed, or events were lost.
func (d *damages) guards(buf []byte) (any bool) {
	for {
		n, _, err := unix.Recvfrom(d.nft, buf, 0)
		switch {
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.ENOBUFS):
			any = true
		case err != nil:
			return any
		default:
			any = d.removes(buf[:n]) || any
		}
	}
}

// removes looks for a message that removes something of our tables. In all of them the first attribute of the kind 1 is the
// table's name.
func (d *damages) removes(messages []byte) bool {
	const headerSize, genericSize = 16, 4 // struct nlmsghdr, nfgenmsg
	const typeMask = 0x3fff               // NLA_TYPE_MASK
	for len(messages) >= headerSize+genericSize {
		size := int(binary.NativeEndian.Uint32(messages))
		if size < headerSize+genericSize || size > len(messages) {
			return false
		}
		switch binary.NativeEndian.Uint16(messages[4:]) & 0xff {
		case unix.NFT_MSG_DELTABLE, unix.NFT_MSG_DELCHAIN, unix.NFT_MSG_DELRULE, unix.NFT_MSG_DELSET, unix.NFT_MSG_DELSETELEM:
			attrs, err := nl.ParseRouteAttr(messages[headerSize+genericSize : size])
			if err == nil && len(attrs) > 0 && attrs[0].Attr.Type&typeMask == 1 &&
				string(bytes.TrimRight(attrs[0].Value, "\x00")) == d.table {
				return true
			}
		}
		messages = messages[min((size+3)&^3, len(messages)):]
	}
	return false
}
