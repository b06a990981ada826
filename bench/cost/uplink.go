// SPDX-License-Identifier: Apache-2.0

package cost

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/eniplane/eniplane/bench"
	"github.com/eniplane/eniplane/bench/region"
	"github.com/eniplane/eniplane/pkg/pkttest"
)

// The programs of an uplink, and what they return.
const (
	uplinkXDP = pkttest.UplinkXDPProgram
	uplinkTC  = pkttest.UplinkProgram

	tcNext, tcDrop   = 0xffffffff, 2
	xdpDrop, xdpPass = 1, 2
)

// arrival is a packet at the uplink that never reaches an ENI's flow there: what the uplink's programs cost everybody.
type arrival struct {
	name    string
	packet  pkttest.Packet
	program string
	code    uint32
}

func arrivals() []arrival {
	router, own := pkttest.MAC{2, 0, 0, 0, 0xaa, 0xfe}, pkttest.MAC{2, 0, 0, 0, 0xaa, 1}
	outer := func(from netip.Addr, vni uint32) pkttest.Packet {
		inner := pkttest.Eth(pkttest.MAC(region.RemoteMAC(0)), pkttest.MAC(region.LocalMAC(0))).
			IP(either(region.Remote(false, 0)), either(region.Local(false, 0))).UDP(RemotePort, localPort).Payload(payload)
		return pkttest.Eth(router, own).Underlay(either(from), pkttest.IP(region.VTEP)).VXLAN(vni).Inside(inner)
	}
	ours, unknown := outer(region.RemoteVTEP(0), region.VNI(0)), outer(region.RemoteVTEP(0), 0xabcdef)
	host := pkttest.Eth(router, own).IP(pkttest.IP("198.51.100.7", "2001:db8:c::7"), pkttest.IP(region.VTEP, "2001:db8:64::1")).
		TCP(443, 22, ACK)
	tcp := func(p pkttest.Packet) pkttest.Packet { return p.TCP(443, localPort, SYN).Payload(payload) }
	byEIP := tcp(pkttest.Eth(router, own).IP(pkttest.IP("198.51.100.7", "2001:db8:c::7"), either(region.EIP(false, 0, 0))))
	byVXLAN := pkttest.Eth(router, own).Underlay(either(region.RemoteVTEP(0)), pkttest.IP(region.VTEP)).VXLAN(region.VNI(0)).
		Inside(tcp(pkttest.Eth(pkttest.MAC(region.RemoteMAC(0)), pkttest.MAC(region.LocalMAC(0))).
			IP(either(region.Remote(false, 0)), either(region.Local(false, 0)))))
	return []arrival{
		{"TCP to an EIP", byEIP, uplinkXDP, xdpPass},
		{"TCP by VXLAN", byVXLAN, uplinkXDP, xdpPass},
		{"VXLAN that the kernel is to decapsulate", ours, uplinkXDP, xdpPass},
		{"VXLAN that the kernel is to decapsulate", ours, uplinkTC, tcNext},
		{"VXLAN of an unknown VNI", unknown, uplinkXDP, xdpDrop},
		{"VXLAN of an unknown VNI", unknown, uplinkTC, tcDrop},
		{"a packet of the host's own", host, uplinkXDP, xdpPass},
		{"a packet of the host's own", host, uplinkTC, tcNext},
	}
}

// uplink: each packet always the same, so these are hot.
func uplink(ctx context.Context, r *bench.Run) error {
	cases := []region.Case{{Name: "base", Locals: 1, EIPs: true, Endpoints: 1}}
	return OnHost(ctx, r, cases, 1<<14, func(b *Bench) error {
		var contenders []bench.Contender
		for _, a := range arrivals() {
			s := shot{program: a.program, device: region.Uplink, frame: a.packet.Bytes(pkttest.V4)}
			s.path.Len = uint32(len(s.frame))
			copy(s.path.Frame[:], s.frame)
			if len(s.frame) > len(s.path.Frame) {
				return fmt.Errorf("%s: %d bytes are more than the wrapper can make", a.name, len(s.frame))
			}
			n := b.packets()
			if a.program == uplinkXDP {
				n *= xdpChunk / chunk
			}
			contenders = append(contenders, bench.Contender{
				Subject: bench.Ours, Params: bench.Params{"packet": a.name, "program": a.program},
				Measure: func(context.Context) (float64, error) {
					o, err := b.fire(&s, 0, n, false)
					if err == nil && o.code != a.code {
						err = fmt.Errorf("the program returned %d, want %d", int32(o.code), int32(a.code))
					}
					return o.ns, err
				},
				Frame: func(context.Context) (float64, error) {
					o, err := b.fire(&s, 0, n, true)
					return o.ns, err
				},
			})
		}
		_, err := b.InTurn(b.ctx, Metric(), nil, contenders)
		return err
	})
}
