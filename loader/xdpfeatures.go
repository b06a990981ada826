// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"encoding/binary"
	"fmt"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// The generic netlink family "netdev" (linux/netdev.h): what a device can do with XDP.
const (
	netdevFamily      = "netdev"
	netdevDevGet      = 1
	netdevAIfindex    = 1
	netdevAXDPFeature = 3
	xdpNDOXmit        = 1 << 2 // takes frames that XDP redirects to it
)

// xdpPorts says which devices take frames from XDP at this moment. A guest can change that at any time, by switching
// GRO of its end of a veth.
func xdpPorts() (map[int]bool, error) {
	family, err := netlink.GenlFamilyGet(netdevFamily)
	if err != nil {
		return nil, fmt.Errorf("find generic netlink family %q (Linux 6.3 and later): %w", netdevFamily, err)
	}
	socket, err := nl.Subscribe(unix.NETLINK_GENERIC)
	if err != nil {
		return nil, fmt.Errorf("open a generic netlink socket: %w", err)
	}
	defer socket.Close()
	req := nl.NewNetlinkRequest(int(family.ID), unix.NLM_F_DUMP)
	req.AddData(genlHeader{netdevDevGet, 1})
	if err := socket.Send(req); err != nil {
		return nil, fmt.Errorf("ask for the XDP features of devices: %w", err)
	}
	ports := map[int]bool{}
	for {
		// The family does not mark the messages of a dump as parts of one, so nl.Execute would take the first for all.
		msgs, _, err := socket.Receive()
		if err != nil {
			return nil, fmt.Errorf("list the XDP features of devices: %w", err)
		}
		for _, msg := range msgs {
			switch msg.Header.Type {
			case unix.NLMSG_DONE:
				return ports, nil
			case unix.NLMSG_ERROR:
				return nil, fmt.Errorf("list the XDP features of devices: %w", unix.Errno(-int32(binary.NativeEndian.Uint32(msg.Data))))
			}
			if err := addXDPPort(ports, msg.Data); err != nil {
				return nil, err
			}
		}
	}
}

// genlHeader is struct genlmsghdr: command, version and two reserved bytes, which must be 0 for this family. (nl.Genlmsg
// sends whatever lies behind it in memory.)
type genlHeader [nl.SizeofGenlmsg]byte

// Len and Serialize implement nl.NetlinkRequestData.
func (h genlHeader) Len() int          { return len(h) }
func (h genlHeader) Serialize() []byte { return h[:] }

func addXDPPort(ports map[int]bool, msg []byte) error {
	if len(msg) < nl.SizeofGenlmsg {
		return fmt.Errorf("read the XDP features of a device: message of %d bytes", len(msg))
	}
	attrs, err := nl.ParseRouteAttr(msg[nl.SizeofGenlmsg:])
	if err != nil {
		return fmt.Errorf("read the XDP features of a device: %w", err)
	}
	var ifindex int
	var features uint64
	for _, a := range attrs {
		switch {
		case a.Attr.Type == netdevAIfindex && len(a.Value) == 4:
			ifindex = int(binary.NativeEndian.Uint32(a.Value))
		case a.Attr.Type == netdevAXDPFeature && len(a.Value) == 8:
			features = binary.NativeEndian.Uint64(a.Value)
		}
	}
	ports[ifindex] = features&xdpNDOXmit != 0
	return nil
}
