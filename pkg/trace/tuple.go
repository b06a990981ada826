// SPDX-License-Identifier: Apache-2.0

package trace

import (
	"encoding/binary"
	"net/netip"

	"github.com/eniplane/eniplane/pkg/dataplane/flowtable"
)

// Protocols that flows tell apart.
const (
	protoICMP   = 1
	protoTCP    = 6
	protoUDP    = 17
	protoICMPv6 = 58
)

// Offsets of an Ethernet frame, and its types.
const (
	ethLen   = 14
	etherIP4 = 0x0800
	etherIP6 = 0x86dd
	etherARP = 0x0806
)

// tuple is what a packet says of the connection that it belongs to.
type tuple struct {
	src, dst     netip.Addr
	protocol     uint8
	fragment     bool
	later        bool // a fragment that is not the first: there are no ports
	sport, dport uint16
	icmpType     uint8
	flags        uint8 // of TCP
	l4           int   // offset of the transport header
}

func (t *tuple) v6() bool { return t.src.Is6() }

func (t *tuple) icmp() bool {
	return !t.v6() && t.protocol == protoICMP || t.v6() && t.protocol == protoICMPv6
}

// isError: the packet quotes another one.
func (t *tuple) isError() bool {
	if t.v6() {
		return t.icmp() && t.icmpType < 128
	}
	switch t.icmpType {
	case 3, 4, 5, 11, 12:
		return t.icmp()
	}
	return false
}

// tuples reads the connection of a frame and, of an ICMP error, that of the packet which it quotes. None: it is no IP
// packet, or so short that it belongs to none.
func tuples(frame []byte) []tuple {
	if len(frame) < ethLen {
		return nil
	}
	switch binary.BigEndian.Uint16(frame[12:]) {
	case etherIP4, etherIP6:
	default:
		return nil
	}
	t, ok := readTuple(frame, ethLen)
	if !ok {
		return nil
	}
	all := []tuple{t}
	if !t.later && t.isError() {
		if quoted, ok := readTuple(frame, t.l4+8); ok {
			all = append(all, quoted)
		}
	}
	return all
}

// readTuple reads an IP header at an offset, and what follows.
func readTuple(b []byte, at int) (t tuple, ok bool) {
	if len(b) < at+20 {
		return t, false
	}
	switch b[at] >> 4 {
	case 4:
		t.src, t.dst = netip.AddrFrom4([4]byte(b[at+12:at+16])), netip.AddrFrom4([4]byte(b[at+16:at+20]))
		t.protocol = b[at+9]
		t.fragment = binary.BigEndian.Uint16(b[at+6:])&0x3fff != 0
		t.later = binary.BigEndian.Uint16(b[at+6:])&0x1fff != 0
		t.l4 = at + int(b[at]&15)*4
	case 6:
		if len(b) < at+40 {
			return t, false
		}
		t.src, t.dst = netip.AddrFrom16([16]byte(b[at+8:at+24])), netip.AddrFrom16([16]byte(b[at+24:at+40]))
		t.protocol, t.l4 = b[at+6], at+40
		if !t.skipExtensions(b) {
			return t, false
		}
	default:
		return t, false
	}
	if t.later {
		return t, true
	}
	return t, t.readPorts(b)
}

// skipExtensions finds the transport header of an IPv6 packet.
func (t *tuple) skipExtensions(b []byte) bool {
	const hopByHop, routing, fragment, destination, most = 0, 43, 44, 60, 6
	for range most {
		switch t.protocol {
		case hopByHop, routing, destination, fragment:
		default:
			return true
		}
		if len(b) < t.l4+8 {
			return false
		}
		head, was := b[t.l4:t.l4+8], t.protocol
		t.protocol = head[0]
		if was != fragment {
			t.l4 += (int(head[1]) + 1) * 8
			continue
		}
		t.l4, t.fragment = t.l4+8, true
		if binary.BigEndian.Uint16(head[2:])&0xfff8 != 0 {
			t.later = true
			return true
		}
	}
	return false
}

func (t *tuple) readPorts(b []byte) bool {
	isPorts := t.protocol == protoTCP || t.protocol == protoUDP
	if !isPorts && !t.icmp() {
		return true
	}
	if len(b) < t.l4+8 {
		return false
	}
	l4 := b[t.l4:]
	if t.icmp() {
		t.icmpType, t.sport = l4[0], binary.BigEndian.Uint16(l4[4:])
		t.dport = binary.BigEndian.Uint16(l4)
		return true
	}
	t.sport, t.dport = binary.BigEndian.Uint16(l4), binary.BigEndian.Uint16(l4[2:])
	if t.protocol == protoTCP && len(l4) > 13 {
		t.flags = l4[13]
	}
	return true
}

// request is the type of the request that an ICMP message is, or answers.
func (t *tuple) request() uint8 {
	if t.v6() {
		if t.icmpType == 129 || t.icmpType == 140 {
			return t.icmpType - 1
		}
		return t.icmpType
	}
	switch t.icmpType {
	case 0:
		return 8
	case 14, 16, 18:
		return t.icmpType - 1
	}
	return t.icmpType
}

// Classes and flags of flows, as in bpf/types.h.
const (
	classTCP     = 0
	classUDP     = 1
	classICMP    = 2
	classOther   = 3
	classTransit = 1 << 4
	asksLocally  = 1 << 8
)

// keys lists the keys under which a flow of the connection could be stored for ENIs: seen from either end, whatever
// addresses stand for it there.
func (t *tuple) keys(addrs []netip.Addr, scopes []scope) []flowtable.Key {
	class, ports := uint8(classOther), [][2]uint16{{uint16(t.protocol), 0}}
	switch {
	case t.protocol == protoTCP:
		class, ports = classTCP, [][2]uint16{{t.sport, t.dport}, {t.dport, t.sport}}
	case t.protocol == protoUDP:
		class, ports = classUDP, [][2]uint16{{t.sport, t.dport}, {t.dport, t.sport}}
	case t.icmp():
		class, ports = classICMP, [][2]uint16{{t.sport, uint16(t.request())}, {t.sport, uint16(t.request()) | asksLocally}}
	}
	var keys []flowtable.Key
	for _, s := range scopes {
		for _, local := range addrs {
			for _, remote := range addrs {
				for _, p := range ports {
					keys = append(keys, flowtable.Key{
						Scope: s.id, Class: class | s.class, Local: local, Remote: remote, LocalPort: p[0], RemotePort: p[1],
					})
				}
			}
		}
	}
	return keys
}

// scope is what a flow's key begins with.
type scope struct {
	id    uint32
	class uint8
}
