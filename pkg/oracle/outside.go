// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"encoding/binary"
	"net/netip"

	"github.com/eniplane/eniplane/pkg/api"
)

// Hop is a neighbour on the underlay.
type Hop struct {
	Device string // uplink
	MAC    api.MAC
}

// Outside is a packet to another host with its outer headers.
type Outside struct {
	Device string // uplink
	Packet []byte // all but the outer source port, which is 0 here and must be 49152 or more (RFC 7348 section 5)
}

// outside is the packet as it leaves the host if the way to the other one is known; nil if that is the kernel's to find.
func (r *run) outside(vni uint32, remote netip.Addr) *Outside {
	hop, known := r.host.Hops[remote]
	if !known || r.from.GSO > 0 { // what only looks like segments is no packet that can be encapsulated
		return nil
	}
	uplink := r.host.Uplinks[hop.Device]
	b := append(append(append([]byte{}, hop.MAC[:]...), uplink[:]...), 0x08, 0x00)
	b = append(b, r.outerIP(remote, 8+8+len(r.p.frame))...)
	b = binary.BigEndian.AppendUint16(b, 0)
	b = binary.BigEndian.AppendUint16(b, 4789)
	b = binary.BigEndian.AppendUint16(b, uint16(8+8+len(r.p.frame)))
	b = append(b, 0, 0) // no checksum
	b = append(b, 0x08, 0, 0, 0, byte(vni>>16), byte(vni>>8), byte(vni), 0)
	return &Outside{Device: hop.Device, Packet: append(b, r.p.frame...)}
}

// outerIP is the outer IPv4 header. Of the inner one's class ECN alone is copied, congestion as "capable" (RFC 3168 section
// 9.1.1).
func (r *run) outerIP(remote netip.Addr, length int) []byte {
	ecn := r.p.frame[15]
	if r.p.frame[14]>>4 == 6 {
		ecn >>= 4
	}
	if ecn &= 3; ecn == 3 {
		ecn = 2
	}
	b := binary.BigEndian.AppendUint16([]byte{0x45, ecn}, uint16(20+length))
	b = append(b, 0, 0, 0x40, 0, 64, 17, 0, 0)
	b = append(b, r.objs.Hosts[r.host.Name].VTEP.AsSlice()...)
	b = append(b, remote.AsSlice()...)
	var sum uint32
	for i := 0; i < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	binary.BigEndian.PutUint16(b[10:], ^uint16(sum))
	return b
}
