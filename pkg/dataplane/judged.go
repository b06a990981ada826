// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"encoding/binary"
	"net/netip"
	"unsafe"
)

// Maps in which programs work, one place per CPU, and the size of what they have at hand while they judge a packet.
const (
	MapWorks = bpfMapWorks
	WorkSize = int(unsafe.Sizeof(bpfWork{}))
)

// Programs that packets of ENIs go through, by their names in the object.
const (
	ProgramPort   = bpfProgPort
	ProgramVXLAN  = bpfProgVxlan
	ProgramUplink = bpfProgUplink
)

// vxlanMark vouches, in skb->mark, for what the uplink has let through to the VXLAN device; the role of the sender or a
// group policy is added to it, in a byte (bpf/overlay.h).
const vxlanMark = 0xe41b0d01

// Vouched tells whether skb->mark says that the uplink has let a VXLAN packet through.
func Vouched(mark uint32) bool { return mark-vxlanMark < 1<<8 }

// Judged is a question to the rules, and the answer (struct judge of bpf/judge.h).
type Judged struct {
	Reason      Reason // ReasonContinue = allowed
	ENI         uint32
	Direction   Direction // of the packet that opens the connection, seen from the ENI
	Packet      bool      // only the network ACL was asked, about one packet of a flow
	Protocol    uint8
	Port        uint16 // destination port of the opening packet, or ICMP type << 8 | code
	Internet    bool
	Transit     bool // the local address is not the ENI's own
	Local       netip.Addr
	Remote      netip.Addr
	Rule        uint32 // id of the deciding rule of the security groups, 0 = none matched or none was asked
	NACLRule    uint32
	NextHop     uint32 // towards the remote side; 0 = it was not looked for
	SameSubnet  bool
	ReplyDenied bool // by the network ACL
	Kept        bool // the security groups leave the flow alone
	EIP         netip.Addr
}

// DecodeJudged reads what a program had at hand when a judgement ended.
func DecodeJudged(reason Reason, work []byte, v6 bool) (Judged, error) {
	var w bpfWork
	if err := fromBytes(&w, work); err != nil {
		return Judged{}, err
	}
	j := &w.Judge
	addr := func(b [16]uint8) netip.Addr {
		a := netip.AddrFrom16(b)
		if !v6 {
			a = netip.AddrFrom4([4]byte(b[:4]))
		}
		if a.IsUnspecified() {
			return netip.Addr{}
		}
		return a
	}
	return Judged{
		Reason: reason, ENI: j.Eni, Direction: Direction(j.Dir), Packet: j.Packet != 0, Protocol: j.Protocol, Port: j.Port,
		Internet: j.Internet != 0, Transit: j.Transit != 0, Local: addr(j.Local), Remote: addr(j.Remote),
		Rule: j.Rule, NACLRule: j.NaclRule, NextHop: j.Nexthop, SameSubnet: j.SameSubnet != 0,
		ReplyDenied: j.ReplyDenied != 0, Kept: j.Kept != 0, EIP: addr(j.Eip),
	}, nil
}

// CounterIndex is the index in MapCounters of what happened to packets of an ENI in a direction.
func CounterIndex(eni uint32, dir Direction, r Reason) uint32 {
	return (eni*2+uint32(dir))*cMaxReasons + uint32(r)
}

// CountersPerENI is how many entries of MapCounters an ENI has.
const CountersPerENI = 2 * cMaxReasons

// DecodeCounter reads one place of MapCounters.
func DecodeCounter(value []byte) (packets, bytes uint64) {
	return binary.LittleEndian.Uint64(value), binary.LittleEndian.Uint64(value[8:])
}
