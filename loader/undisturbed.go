// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/eniplane/eniplane/pkg/compile"
)

// deviceEvents is a netlink socket to which the kernel queues what happens to devices and their addresses, as part of
// the change: an empty queue proves that nothing happened.
type deviceEvents struct{ fd int }

func subscribeDevices() (deviceEvents, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return deviceEvents{}, fmt.Errorf("open a socket for device events: %w", err)
	}
	const groups = unix.RTMGRP_LINK | unix.RTMGRP_IPV4_IFADDR | unix.RTMGRP_IPV6_IFADDR
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err != nil {
		return deviceEvents{}, errors.Join(fmt.Errorf("subscribe to device events: %w", err), unix.Close(fd))
	}
	return deviceEvents{fd}, nil
}

func (e deviceEvents) close() error {
	if err := unix.Close(e.fd); err != nil {
		return fmt.Errorf("close the socket for device events: %w", err)
	}
	return nil
}

// drain empties the queue and tells whether there was anything in it. Events that were lost count, too, and a socket
// that cannot be read is never empty.
func (e deviceEvents) drain() (any bool) {
	var first [1]byte // what an event says does not matter
	for {
		_, _, err := unix.Recvfrom(e.fd, first[:], 0)
		switch {
		case errors.Is(err, unix.EAGAIN):
			return any
		case err == nil, errors.Is(err, unix.ENOBUFS):
			any = true
		case !errors.Is(err, unix.EINTR):
			return true
		}
	}
}

// undisturbed tells whether a revision needs of devices, links and guards just what the last look left: then it may
// come into force before the next look. Nobody becomes READY between.
func (l *Loader) undisturbed(st *compile.State) bool {
	return l.looked && l.engine.current != nil && !l.events.drain() && samePorts(st, l.state) && sameCaps(st, l.state)
}

// samePorts tells whether two revisions want the same of devices.
func samePorts(st, now *compile.State) bool {
	return st.Host.VTEP == now.Host.VTEP && st.Host.MTU == now.Host.MTU &&
		slices.Equal(st.Host.Uplinks, now.Host.Uplinks) && slices.Equal(st.PortNames, now.PortNames) &&
		slices.EqualFunc(st.ENIs, now.ENIs, func(a, b compile.ENI) bool {
			return a.Index == b.Index && a.Incarnation == b.Incarnation && a.Name == b.Name && a.Device == b.Device
		})
}

// applyRules brings a revision into force that leaves devices as they are, and looks at them afterwards: what a look
// costs does not delay what rules say.
func (l *Loader) applyRules(ctx context.Context, st *compile.State, report *Report) error {
	report.Problems, report.Foreign = l.report.Problems, l.report.Foreign // if it ends before the look
	p, _, err := l.stage(st, l.facts)                                     // who is there is not new
	if err != nil {
		return err
	}
	if err := l.enforce(ctx, nil, p); err != nil {
		return err
	}
	l.state, l.looked = st, false
	report.count(p)
	if err := l.moveOn(p); err != nil {
		return err
	}
	if err := l.engine.finish(p); err != nil {
		return err
	}
	if err := l.engine.clean(p); err != nil {
		return err
	}
	l.endOrphans()
	report.Problems, report.Foreign = nil, nil
	_, err = l.tend(ctx, report)
	return err
}
