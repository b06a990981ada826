// SPDX-License-Identifier: Apache-2.0

package cost

import (
	"encoding/binary"
	"math/bits"
	"net/netip"
	"strconv"

	"github.com/eniplane/eniplane/bench"
	"github.com/eniplane/eniplane/bench/region"
	"github.com/eniplane/eniplane/pkg/dataplane"
	"github.com/eniplane/eniplane/pkg/pkttest"
)

// Peer says with whom an ENI talks.
type Peer string

// The peers of an ENI.
const (
	Overlay  Peer = "overlay"  // an ENI of another host
	Internet Peer = "internet" // through an EIP
	SameHost Peer = "local"    // the next ENI of its case
)

// Traffic is many flows of ENIs, all of one kind. Flows are spread over the ENIs, then over remote addresses, then
// over ports.
type Traffic struct {
	Case    int // number in the region
	ENI     int // the first
	ENIs    int // 0 = 1; only what arrives from outside the host can be spread over several in one run
	Peer    Peer
	Family  pkttest.Family
	TCP     bool
	Flows   uint32 // a power of two
	Remotes uint32 // addresses; 0 = 1
	Hosts   int    // that they are on; 0 = 1
	First   uint32 // number of the first flow
}

// step goes from one remote address to the next: prime, and larger than what a cache line or a prefix holds.
const step = 2741

// payload makes a UDP packet over IPv4 60 bytes long.
const payload = 18

// Ports of the first flow.
const (
	localPort  = 20000
	RemotePort = 443 // of the other side
)

// vxlanMark is VXLAN_MARK of bpf/overlay.h.
const vxlanMark = 0xe41b0d01

func (t Traffic) params(more bench.Params) bench.Params {
	p := bench.Params{
		"peer": string(t.Peer), "family": t.Family.String(), "flows": strconv.FormatUint(uint64(t.Flows), 10),
		"protocol": map[bool]string{false: "udp", true: "tcp"}[t.TCP],
	}
	for key, value := range more {
		p[key] = value
	}
	return p
}

// shot is a series of packets that one program gets.
type shot struct {
	program string // name in the object
	device  string
	path    costPath
	frame   []byte
}

// offsets in frames without options.
func (t Traffic) offsets() (src, dst, ports uint16) {
	if t.Family == pkttest.V6 {
		return 14 + 8 + 12, 14 + 24 + 12, 14 + 40
	}
	return 14 + 12, 14 + 16, 14 + 20
}

// shot makes the packets of one direction, seen from the ENI, with these TCP flags.
func (t Traffic) shot(dir dataplane.Direction, flags uint8) shot {
	s := shot{}
	p := &s.path
	p.Base, p.Enis, p.Remotes, p.Step = t.First, max(uint32(t.ENIs), 1), max(t.Remotes, 1), step
	p.Mask = t.Flows - 1
	p.Shift = uint32(bits.Len32(p.Mask)) / 2
	p.Hosts, p.PerRemote = max(uint32(t.Hosts), 1), region.PerRemote
	p.LocalPort, p.RemotePort = localPort, RemotePort
	var packet pkttest.Packet
	if dir == dataplane.Out {
		packet = t.out(&s)
	} else {
		packet = t.in(&s)
	}
	sport, dport := uint16(localPort), uint16(RemotePort)
	src, dst, ports := t.offsets()
	if dir == dataplane.Out {
		p.AtLocalAddr, p.AtRemoteAddr, p.AtLocalPort, p.AtRemotePort = src, dst, ports, ports+2
	} else {
		sport, dport = dport, sport
		p.AtLocalAddr, p.AtRemoteAddr, p.AtLocalPort, p.AtRemotePort = dst, src, ports+2, ports
	}
	if t.TCP {
		packet = packet.TCP(sport, dport, flags)
	} else {
		packet = packet.UDP(sport, dport).Payload(payload)
	}
	s.frame = packet.Bytes(t.Family)
	p.Len = uint32(len(s.frame))
	copy(p.Frame[:], s.frame)
	return s
}

// out is what the ENI sends, up to the transport header.
func (t Traffic) out(s *shot) pkttest.Packet {
	s.program, s.device = pkttest.PortProgram, region.Device(t.Case, t.ENI)
	s.path.LocalAddr, s.path.RemoteAddr = last4(region.Local(t.v6(), t.ENI)), last4(t.remote())
	to := gatewayMAC()
	if t.Peer == SameHost {
		to = pkttest.MAC(region.LocalMAC(t.ENI + 1))
	}
	return pkttest.Eth(pkttest.MAC(region.LocalMAC(t.ENI)), to).IP(either(region.Local(t.v6(), t.ENI)), either(t.remote()))
}

// in is what its peer sends, as it reaches the host.
func (t Traffic) in(s *shot) pkttest.Packet {
	local, p := region.Local(t.v6(), t.ENI), &s.path
	own := pkttest.MAC(region.LocalMAC(t.ENI))
	var eth pkttest.Packet
	switch t.Peer {
	case Internet:
		s.program, s.device = pkttest.UplinkProgram, region.Uplink
		local = region.EIP(t.v6(), t.Case, t.ENI)
		eth = pkttest.Eth(pkttest.MAC{2, 0, 0, 0, 0xaa, 0xfe}, pkttest.MAC{2, 0, 0, 0, 0xaa, 1})
	case SameHost:
		s.program, s.device = pkttest.PortProgram, region.Device(t.Case, t.ENI+1)
		eth = pkttest.Eth(pkttest.MAC(region.LocalMAC(t.ENI+1)), own)
	default:
		s.program, s.device = pkttest.VXLANProgram, pkttest.VXLANDevice
		from := region.RemoteMAC(0)
		p.AtLocalMac, p.LocalMac = 2, binary.BigEndian.Uint32(own[2:])
		p.AtRemoteMac, p.RemoteMac = 8, binary.BigEndian.Uint32(from[2:])
		p.Vni, p.Mark, p.Vtep = region.VNI(t.Case), vxlanMark, last4(region.RemoteVTEP(0))
		eth = pkttest.Eth(pkttest.MAC(from), own)
	}
	p.LocalAddr, p.RemoteAddr = last4(local), last4(t.remote())
	return eth.IP(either(t.remote()), either(local))
}

// remote is the first address that the ENI talks to.
func (t Traffic) remote() netip.Addr {
	switch t.Peer {
	case Internet:
		return region.Outside(t.v6(), 1)
	case SameHost:
		return region.Local(t.v6(), t.ENI+1)
	}
	return region.Remote(t.v6(), 0)
}

func (t Traffic) v6() bool { return t.Family == pkttest.V6 }

func gatewayMAC() pkttest.MAC { return pkttest.MAC{2, 0, 0x5e, 0, 0, 1} }

func last4(a netip.Addr) uint32 {
	b := a.AsSlice()
	return binary.BigEndian.Uint32(b[len(b)-4:])
}

// either is an address of one family as a packet of both wants it.
func either(a netip.Addr) pkttest.Addr { return pkttest.IP(a.String()) }
