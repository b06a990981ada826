// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"syscall"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// neighbourProtocol marks the neighbours that we have added (NDA_PROTOCOL, as in `ip neigh ... protocol`): a teardown
// removes no others.
const neighbourProtocol = 0xe4

// neighbour is an entry of the kernel's table.
type neighbour struct {
	hop
	mac     [6]byte
	known   bool // there is a MAC
	state   uint16
	managed bool // the kernel probes it by itself
	ours    bool
	gone    bool // an event: it is not there any more
}

// fixed: somebody has decided about the MAC, and nothing is to be asked.
func (n neighbour) fixed() bool { return n.state&(netlink.NUD_PERMANENT|netlink.NUD_NOARP) != 0 }

// usable: the kernel would send to the MAC, too.
func (n neighbour) usable() bool {
	const valid = netlink.NUD_PERMANENT | netlink.NUD_NOARP | netlink.NUD_REACHABLE | netlink.NUD_STALE | netlink.NUD_DELAY | netlink.NUD_PROBE
	return n.known && n.state&valid != 0 && n.mac != [6]byte{} && n.mac[0]&1 == 0
}

// struct ndmsg (linux/neighbour.h): family, three bytes of padding, ifindex, state, flags, type.
const (
	ndmsgIfindex = 4
	ndmsgState   = 8
	ndmsgSize    = 12
)

// parseNeighbour reads a message about an IPv4 neighbour; ok is false for all others.
func parseNeighbour(msg []byte, gone bool) (n neighbour, ok bool, err error) {
	if len(msg) < ndmsgSize {
		return n, false, fmt.Errorf("read a neighbour: message of %d bytes", len(msg))
	}
	if msg[0] != unix.AF_INET {
		return n, false, nil
	}
	attrs, err := nl.ParseRouteAttr(msg[ndmsgSize:])
	if err != nil {
		return n, false, fmt.Errorf("read a neighbour: %w", err)
	}
	n.gone, n.ifindex = gone, int(binary.NativeEndian.Uint32(msg[ndmsgIfindex:]))
	n.state = binary.NativeEndian.Uint16(msg[ndmsgState:])
	for _, a := range attrs {
		switch {
		case a.Attr.Type == netlink.NDA_DST && len(a.Value) == 4:
			n.addr = netip.AddrFrom4([4]byte(a.Value))
		case a.Attr.Type == netlink.NDA_LLADDR && len(a.Value) == len(n.mac):
			n.mac, n.known = [6]byte(a.Value), true
		case a.Attr.Type == netlink.NDA_FLAGS_EXT && len(a.Value) == 4:
			n.managed = binary.NativeEndian.Uint32(a.Value)&netlink.NTF_EXT_MANAGED != 0
		case a.Attr.Type == netlink.NDA_PROTOCOL && len(a.Value) == 1:
			n.ours = a.Value[0] == neighbourProtocol
		}
	}
	return n, n.addr.IsValid(), nil
}

// listNeighbours reads all IPv4 neighbours of the namespace.
func listNeighbours() (map[hop]neighbour, error) {
	req := nl.NewNetlinkRequest(unix.RTM_GETNEIGH, unix.NLM_F_DUMP)
	req.AddData(&netlink.Ndmsg{Family: unix.AF_INET})
	msgs, err := req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWNEIGH)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) { // what changed meanwhile made an event
		return nil, fmt.Errorf("list neighbours: %w", err)
	}
	all := map[hop]neighbour{}
	for _, msg := range msgs {
		n, ok, err := parseNeighbour(msg, false)
		if err != nil {
			return nil, err
		}
		if ok {
			all[n.hop] = n
		}
	}
	return all, nil
}

// addNeighbour makes the kernel find a neighbour and keep it found, also without the agent.
func addNeighbour(h hop) error {
	req := nl.NewNetlinkRequest(unix.RTM_NEWNEIGH, unix.NLM_F_CREATE|unix.NLM_F_REPLACE|unix.NLM_F_ACK)
	req.AddData(&netlink.Ndmsg{Family: unix.AF_INET, Index: uint32(h.ifindex), Flags: netlink.NTF_EXT_LEARNED, Type: unix.RTN_UNICAST})
	req.AddData(nl.NewRtAttr(netlink.NDA_DST, h.addr.AsSlice()))
	req.AddData(nl.NewRtAttr(netlink.NDA_PROTOCOL, []byte{neighbourProtocol}))
	req.AddData(nl.NewRtAttr(netlink.NDA_FLAGS_EXT, nl.Uint32Attr(netlink.NTF_EXT_MANAGED)))
	if _, err := req.Execute(unix.NETLINK_ROUTE, 0); err != nil {
		return fmt.Errorf("add neighbour %v of device %d: %w", h.addr, h.ifindex, err)
	}
	return nil
}

func removeNeighbour(h hop) error {
	req := nl.NewNetlinkRequest(unix.RTM_DELNEIGH, unix.NLM_F_ACK)
	req.AddData(&netlink.Ndmsg{Family: unix.AF_INET, Index: uint32(h.ifindex)})
	req.AddData(nl.NewRtAttr(netlink.NDA_DST, h.addr.AsSlice()))
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("remove neighbour %v of device %d: %w", h.addr, h.ifindex, err)
	}
	return nil
}

// removeNeighbours removes all that we have added.
func removeNeighbours(place) error {
	all, err := listNeighbours()
	if err != nil {
		return err
	}
	var errs []error
	for h, n := range all {
		if n.ours {
			errs = append(errs, removeNeighbour(h))
		}
	}
	return errors.Join(errs...)
}

// openExits are the uplinks that can carry outer packets now, with their MACs.
func openExits(a aim) (map[int][6]byte, error) {
	all, err := listDevices()
	if err != nil {
		return nil, err
	}
	open := map[int][6]byte{}
	for _, d := range all {
		running := isUp(d) && d.RawFlags&unix.IFF_RUNNING != 0
		if slices.Contains(a.uplinks, d.Index) && running && d.EncapType == "ether" && len(d.HardwareAddr) == 6 && d.MTU >= a.mtu {
			open[d.Index] = [6]byte(d.HardwareAddr)
		}
	}
	return open, nil
}

// routesTo asks the kernel for the next hop to each VTEP. Where it decides by more than addresses, or does more to a
// packet than send it, there is none: such packets are the kernel's.
func routesTo(a aim, open map[int][6]byte) (map[netip.Addr]hop, error) {
	hops := map[netip.Addr]hop{}
	plain, err := plainRouting()
	if err != nil || !plain || len(open) == 0 {
		return hops, err
	}
	for _, vtep := range a.others {
		h, ok, err := routeTo(a, vtep)
		if err != nil {
			return nil, err
		}
		if _, isOpen := open[h.ifindex]; ok && isOpen {
			hops[vtep] = h
		}
	}
	return hops, nil
}

// routeTo is the next hop to one VTEP; ok is false if there is no single one.
func routeTo(a aim, vtep netip.Addr) (h hop, ok bool, err error) {
	options := netlink.RouteGetOptions{SrcAddr: a.vtep.AsSlice(), FIBMatch: true}
	entry, err := netlink.RouteGetWithOptions(vtep.AsSlice(), &options)
	if err == nil {
		options.FIBMatch = false
		var got []netlink.Route
		got, err = netlink.RouteGetWithOptions(vtep.AsSlice(), &options)
		if err == nil && len(entry) == 1 && len(got) == 1 {
			h, ok = nextHop(entry[0], got[0], vtep, a.mtu)
		}
	}
	switch {
	case errors.Is(err, unix.ENETUNREACH), errors.Is(err, unix.EHOSTUNREACH), errors.Is(err, unix.EACCES), errors.Is(err, unix.EINVAL):
		return hop{}, false, nil // there is no route, or our VTEP is no address of this host
	case err != nil:
		return hop{}, false, fmt.Errorf("ask for the route to VTEP %v: %w", vtep, err)
	}
	return h, ok, nil
}

// nextHop is that of a route as it is in the table and as it is for the VTEP.
func nextHop(entry, got netlink.Route, vtep netip.Addr, mtu int) (h hop, ok bool) {
	if len(entry.MultiPath) > 1 || entry.Encap != nil || got.Encap != nil || entry.Via != nil || got.Via != nil ||
		got.Type != unix.RTN_UNICAST || got.MTU != 0 && got.MTU < mtu {
		return h, false
	}
	h = hop{ifindex: got.LinkIndex, addr: vtep}
	if got.Gw != nil {
		if h.addr, ok = netip.AddrFromSlice(got.Gw); !ok {
			return h, false
		}
		h.addr = h.addr.Unmap()
	}
	return h, h.addr.Is4()
}

// plainRouting tells whether nothing but addresses decides about the way of a packet that the host sends, and nothing
// is done to it on the way (IPsec).
func plainRouting() (bool, error) {
	rules, err := netlink.RuleList(unix.AF_INET)
	if err != nil {
		return false, fmt.Errorf("list routing rules: %w", err)
	}
	for _, r := range rules {
		if r.Mark != 0 || r.Mask != nil && *r.Mask != 0 || r.Tos != 0 || r.TunID != 0 || r.Goto >= 0 || r.Dport != nil || r.Sport != nil ||
			r.IPProto != 0 || r.UIDRange != nil {
			return false, nil
		}
	}
	policies, err := netlink.XfrmPolicyList(unix.AF_INET)
	if errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP) {
		return true, nil // a kernel without IPsec
	}
	if err != nil {
		return false, fmt.Errorf("list IPsec policies: %w", err)
	}
	return !slices.ContainsFunc(policies, func(p netlink.XfrmPolicy) bool { return p.Dir == netlink.XFRM_DIR_OUT }), nil
}

// netEvents is a netlink socket that hears of neighbours, and of all that decides about routes.
type netEvents struct {
	fd  int
	buf []byte
}

func subscribeUnderlay() (*netEvents, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open a socket for routes and neighbours: %w", err)
	}
	const groups = unix.RTMGRP_LINK | unix.RTMGRP_NEIGH | unix.RTMGRP_IPV4_IFADDR | unix.RTMGRP_IPV4_ROUTE | unix.RTMGRP_IPV4_RULE
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err != nil {
		return nil, errors.Join(fmt.Errorf("subscribe to routes and neighbours: %w", err), unix.Close(fd))
	}
	return &netEvents{fd: fd, buf: make([]byte, 1<<16)}, nil
}

func (e *netEvents) close() error {
	if err := unix.Close(e.fd); err != nil {
		return fmt.Errorf("close the socket for routes and neighbours: %w", err)
	}
	return nil
}

// read empties the queue. other says that more than neighbours may have changed; events that were lost count as that.
func (e *netEvents) read() (moved []neighbour, other bool) {
	for {
		n, _, err := unix.Recvfrom(e.fd, e.buf, 0)
		switch {
		case errors.Is(err, unix.EAGAIN):
			return moved, other
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.ENOBUFS):
			other = true
			continue
		case err != nil:
			return moved, true
		}
		more, all := neighbourEvents(e.buf[:n])
		moved, other = append(moved, more...), other || !all
	}
}

// neighbourEvents reads a datagram of events; all says that they are about neighbours and nothing else.
func neighbourEvents(b []byte) (moved []neighbour, all bool) {
	msgs, err := syscall.ParseNetlinkMessage(b)
	if err != nil {
		return nil, false
	}
	all = true
	for _, m := range msgs {
		if m.Header.Type != unix.RTM_NEWNEIGH && m.Header.Type != unix.RTM_DELNEIGH {
			all = false
			continue
		}
		n, ok, err := parseNeighbour(m.Data, m.Header.Type == unix.RTM_DELNEIGH)
		if err != nil {
			all = false
		}
		if ok {
			moved = append(moved, n)
		}
	}
	return moved, all
}
