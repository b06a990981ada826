// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// ifaProto is IFA_PROTO of linux/if_addr.h.
const ifaProto = 11

// attempts is how often a listing is begun anew that changed under the hands of the kernel.
const attempts = 10

// whole repeats a listing until it is of one moment.
func whole[T any](list func() (T, error)) (v T, err error) {
	for range attempts {
		if v, err = list(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return v, err
}

// Look reads what is there, in the network namespace of the caller. It needs no privilege.
func Look() (*Kernel, error) {
	k := &Kernel{}
	links, err := whole(netlink.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list devices: %w", err)
	}
	names := map[int]string{}
	for _, l := range links {
		a := l.Attrs()
		names[a.Index] = a.Name
		k.Links = append(k.Links, Link{
			Index: a.Index, Name: a.Name, MAC: a.HardwareAddr.String(), Kind: l.Type(), Master: a.MasterIndex,
			Up: a.Flags&net.FlagUp != 0, Group: int(a.Group),
		})
	}
	if k.Addresses, err = whole(func() ([]Address, error) { return lookAddresses(names) }); err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	for _, v6 := range []bool{false, true} {
		if err := k.lookRoutes(v6, names); err != nil {
			return nil, fmt.Errorf("list routes: %w", err)
		}
		if err := k.lookRules(v6); err != nil {
			return nil, fmt.Errorf("list rules: %w", err)
		}
	}
	return k, nil
}

// eachAddress walks the addresses of all devices.
func eachAddress(do func(m *nl.IfAddrmsg, attrs map[uint16][]byte)) error {
	req := nl.NewNetlinkRequest(unix.RTM_GETADDR, unix.NLM_F_DUMP)
	req.AddData(nl.NewIfAddrmsg(unix.AF_UNSPEC))
	messages, err := req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWADDR)
	for _, raw := range messages {
		m := nl.DeserializeIfAddrmsg(raw)
		list, err := nl.ParseRouteAttr(raw[m.Len():])
		if err != nil {
			return err
		}
		attrs := map[uint16][]byte{}
		for _, a := range list {
			attrs[a.Attr.Type] = a.Value
		}
		do(m, attrs)
	}
	return err
}

func lookAddresses(names map[int]string) ([]Address, error) {
	var found []Address
	err := eachAddress(func(m *nl.IfAddrmsg, attrs map[uint16][]byte) {
		value := attrs[unix.IFA_LOCAL] // IPv6 has it only beside a peer's
		if value == nil {
			value = attrs[unix.IFA_ADDRESS]
		}
		ip, ok := netip.AddrFromSlice(value)
		if !ok {
			return
		}
		proto := attrs[ifaProto]
		found = append(found, Address{
			Device: names[int(m.Index)], Prefix: netip.PrefixFrom(ip, int(m.Prefixlen)),
			Ours: len(proto) == 1 && proto[0] == Protocol,
		})
	})
	return found, err
}

// settle waits until no address is tentative but link-local ones, which are the source of no route.
func settle() error {
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		tentative := false
		err := eachAddress(func(m *nl.IfAddrmsg, _ map[uint16][]byte) {
			waits := m.IfAddrmsg.Flags&(unix.IFA_F_TENTATIVE|unix.IFA_F_DADFAILED) == unix.IFA_F_TENTATIVE
			tentative = tentative || waits && m.Scope != unix.RT_SCOPE_LINK
		})
		if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
			return fmt.Errorf("list addresses: %w", err)
		}
		if !tentative || time.Now().After(end) {
			return nil
		}
	}
}

func familyOf(v6 bool) int {
	if v6 {
		return netlink.FAMILY_V6
	}
	return netlink.FAMILY_V4
}

func (k *Kernel) lookRoutes(v6 bool, names map[int]string) error {
	filter := &netlink.Route{Table: unix.RT_TABLE_UNSPEC} // of all tables
	routes, err := whole(func() ([]netlink.Route, error) {
		return netlink.RouteListFiltered(familyOf(v6), filter, netlink.RT_FILTER_TABLE)
	})
	if err != nil {
		return err
	}
	for i := range routes {
		r := routeOf(&routes[i], v6, names)
		switch {
		case routes[i].Protocol == Protocol && (r.Table == tableMain || r.Table >= TableFirst && r.Table <= TableFirst+maxIndex):
			k.Routes = append(k.Routes, r)
		case r.Table == tableMain && r.Dst == everywhere(v6) && routes[i].Type == unix.RTN_UNICAST:
			k.Defaults = append(k.Defaults, r)
		}
	}
	return nil
}

func routeOf(r *netlink.Route, v6 bool, names map[int]string) Route {
	out := Route{Table: r.Table, Dst: everywhere(v6), Device: names[r.LinkIndex], Metric: r.Priority}
	if len(r.MultiPath) > 0 {
		out.Device = names[r.MultiPath[0].LinkIndex]
	}
	if r.Dst != nil {
		if ip, ok := netip.AddrFromSlice(r.Dst.IP); ok {
			bits, _ := r.Dst.Mask.Size()
			out.Dst = netip.PrefixFrom(ip, bits)
		}
	}
	out.Via, _ = netip.AddrFromSlice(r.Gw)
	out.Source, _ = netip.AddrFromSlice(r.Src)
	if !v6 {
		out.Via, out.Source, out.Dst = out.Via.Unmap(), out.Source.Unmap(), netip.PrefixFrom(out.Dst.Addr().Unmap(), out.Dst.Bits())
	}
	return out
}

func (k *Kernel) lookRules(v6 bool) error {
	rules, err := whole(func() ([]netlink.Rule, error) { return netlink.RuleList(familyOf(v6)) })
	if err != nil {
		return err
	}
	for _, r := range rules {
		inRange := r.Table >= TableFirst && r.Table <= TableFirst+maxIndex || r.Table == tableMain
		if r.Protocol != Protocol || !inRange {
			continue
		}
		out := Rule{V6: v6, Priority: r.Priority, Table: r.Table}
		if r.Src != nil {
			ip, _ := netip.AddrFromSlice(r.Src.IP)
			bits, _ := r.Src.Mask.Size()
			out.From = netip.PrefixFrom(ip, bits)
		}
		k.Rules = append(k.Rules, out)
	}
	return nil
}

func linkOf(index int) netlink.Link {
	attrs := netlink.NewLinkAttrs()
	attrs.Index = index
	return &netlink.Device{LinkAttrs: attrs}
}

func setGroup(index, group int) error { return netlink.LinkSetGroup(linkOf(index), group) }

func setUp(index int) error { return netlink.LinkSetUp(linkOf(index)) }

// changeAddress adds or removes an address. Kernels before 5.18 do not keep its protocol: there it is not ours when we
// look again, and is left alone.
func changeAddress(index int, prefix netip.Prefix, add bool) error {
	kind, flags := unix.RTM_DELADDR, unix.NLM_F_ACK
	if add {
		kind, flags = unix.RTM_NEWADDR, unix.NLM_F_ACK|unix.NLM_F_CREATE|unix.NLM_F_EXCL
	}
	ip := prefix.Addr()
	req := nl.NewNetlinkRequest(kind, flags)
	m := nl.NewIfAddrmsg(familyOf(ip.Is6()))
	m.Index, m.Prefixlen = uint32(index), uint8(prefix.Bits())
	req.AddData(m)
	req.AddData(nl.NewRtAttr(unix.IFA_LOCAL, ip.AsSlice()))
	req.AddData(nl.NewRtAttr(unix.IFA_ADDRESS, ip.AsSlice()))
	if add {
		req.AddData(nl.NewRtAttr(ifaProto, []byte{Protocol}))
		options := uint32(0)
		if ip.Is6() {
			options |= unix.IFA_F_NODAD // nobody else can have it
		}
		if prefix.IsSingleIP() {
			options |= unix.IFA_F_NOPREFIXROUTE
		}
		req.AddData(nl.NewRtAttr(unix.IFA_FLAGS, binary.NativeEndian.AppendUint32(nil, options)))
	}
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	return err
}

// changeRoute sets or removes a route. What went with its device or address is removed already.
func changeRoute(r Route, index int, add bool) error {
	out := &netlink.Route{
		Family: familyOf(r.Dst.Addr().Is6()), LinkIndex: index, Table: r.Table, Dst: ipNet(r.Dst), Src: r.Source.AsSlice(), Priority: r.Metric, Protocol: Protocol,
	}
	if r.Via.IsValid() {
		out.Gw, out.Flags = r.Via.AsSlice(), int(netlink.FLAG_ONLINK)
	} else {
		out.Scope = netlink.SCOPE_LINK
	}
	if add {
		return netlink.RouteReplace(out)
	}
	if err := netlink.RouteDel(out); !errors.Is(err, syscall.ESRCH) {
		return err
	}
	return nil
}

func changeRule(r Rule, add bool) error {
	out := netlink.NewRule()
	out.Family, out.Priority, out.Table, out.Protocol = familyOf(r.V6), r.Priority, r.Table, Protocol
	if r.From.IsValid() {
		out.Src = ipNet(r.From)
	} else {
		out.SuppressPrefixlen, out.SuppressIfgroup = 0, group
	}
	if add {
		return netlink.RuleAdd(out)
	}
	return netlink.RuleDel(out)
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// Leave asks the kernel by which device and gateway a packet from src to dst would leave. An invalid src is one that
// is not bound yet.
func Leave(src, dst netip.Addr) (device string, via netip.Addr, err error) {
	o := &netlink.RouteGetOptions{}
	if src.IsValid() {
		o.SrcAddr = src.AsSlice()
	}
	routes, err := netlink.RouteGetWithOptions(dst.AsSlice(), o)
	if err != nil {
		return "", netip.Addr{}, err
	}
	i := slices.IndexFunc(routes, func(r netlink.Route) bool { return r.LinkIndex > 0 })
	if i < 0 {
		return "", netip.Addr{}, syscall.ENETUNREACH
	}
	l, err := net.InterfaceByIndex(routes[i].LinkIndex)
	if err != nil {
		return "", netip.Addr{}, fmt.Errorf("find device %d: %w", routes[i].LinkIndex, err)
	}
	via, _ = netip.AddrFromSlice(routes[i].Gw)
	return l.Name, via.Unmap(), nil
}
