// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/gopacket/gopacket/layers"
)

// announce lets a guest say where it is now, as a hypervisor does for a moved guest: gratuitous ARP
// and unsolicited neighbour advertisement for each of its addresses.
func (l *Lab) announce(inst *InstancePlan) error {
	for i := range inst.Ports {
		port := &inst.Ports[i]
		mac, err := net.ParseMAC(port.MAC)
		if err != nil {
			return fmt.Errorf("MAC of %s: %w", port.ENI, err)
		}
		for _, a := range port.Addrs {
			frame, err := announcement(mac, a.Addr())
			if err != nil {
				return err
			}
			if err := l.SendFrame(inst.Name, port.Guest, frame); err != nil {
				return fmt.Errorf("announce %s: %w", a.Addr(), err)
			}
		}
	}
	return nil
}

func announcement(mac net.HardwareAddr, addr netip.Addr) ([]byte, error) {
	if addr.Is4() {
		return serialize(
			&layers.Ethernet{SrcMAC: mac, DstMAC: layers.EthernetBroadcast, EthernetType: layers.EthernetTypeARP},
			&layers.ARP{
				AddrType: layers.LinkTypeEthernet, Protocol: layers.EthernetTypeIPv4, HwAddressSize: 6, ProtAddressSize: 4,
				Operation: layers.ARPRequest, SourceHwAddress: mac, SourceProtAddress: addr.AsSlice(),
				DstHwAddress: make([]byte, 6), DstProtAddress: addr.AsSlice(),
			})
	}
	allNodes := netip.MustParseAddr("ff02::1")
	ip := &layers.IPv6{
		Version: 6, HopLimit: 255, NextHeader: layers.IPProtocolICMPv6,
		SrcIP: addr.AsSlice(), DstIP: allNodes.AsSlice(),
	}
	icmp := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(layers.ICMPv6TypeNeighborAdvertisement, 0)}
	if err := icmp.SetNetworkLayerForChecksum(ip); err != nil {
		return nil, fmt.Errorf("build advertisement: %w", err)
	}
	return serialize(
		&layers.Ethernet{SrcMAC: mac, DstMAC: net.HardwareAddr{0x33, 0x33, 0, 0, 0, 1}, EthernetType: layers.EthernetTypeIPv6},
		ip, icmp,
		&layers.ICMPv6NeighborAdvertisement{
			Flags:         0x20, // override
			TargetAddress: addr.AsSlice(),
			Options:       layers.ICMPv6Options{{Type: layers.ICMPv6OptTargetAddress, Data: mac}},
		})
}
