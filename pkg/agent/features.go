// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// subscribeFeatures opens a socket that hears of changes of what devices can do with XDP: a guest can make such a change
// at any time, and nothing else of the host's device changes with it. The events are those of the generic netlink
// family "netdev" (linux/netdev.h).
func subscribeFeatures() (*os.File, error) {
	family, err := netlink.GenlFamilyGet("netdev")
	if err != nil {
		return nil, fmt.Errorf("find generic netlink family netdev (Linux 6.3 and later): %w", err)
	}
	i := slices.IndexFunc(family.Groups, func(g netlink.GenlMulticastGroup) bool { return g.Name == "mgmt" })
	if i < 0 {
		return nil, errors.New("generic netlink family netdev has no group mgmt")
	}
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_GENERIC)
	if err != nil {
		return nil, fmt.Errorf("open a generic netlink socket: %w", err)
	}
	file := os.NewFile(uintptr(fd), "netdev events")
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, errors.Join(fmt.Errorf("bind a generic netlink socket: %w", err), file.Close())
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, int(family.Groups[i].ID)); err != nil {
		return nil, errors.Join(fmt.Errorf("subscribe to the XDP features of devices: %w", err), file.Close())
	}
	return file, nil
}

// watchFeatures tells changed of every event until ctx ends. Events that the kernel had to drop are a change, too; while
// the socket is broken the periodic reconcile stands in.
func watchFeatures(ctx context.Context, events *os.File, log *slog.Logger, changed chan<- struct{}) {
	stop := context.AfterFunc(ctx, func() { _ = events.Close() })
	defer stop()
	buf := make([]byte, 8192)
	for {
		_, err := events.Read(buf)
		if ctx.Err() != nil {
			return
		}
		if err != nil && !errors.Is(err, unix.ENOBUFS) {
			log.Error("cannot listen to the XDP features of devices", "err", err)
			time.Sleep(time.Second)
		}
		notify(changed)
	}
}
