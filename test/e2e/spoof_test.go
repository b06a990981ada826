// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"github.com/eniplane/eniplane/pkg/dataplane"
	"github.com/eniplane/eniplane/pkg/lab"
)

var (
	macA1      = net.HardwareAddr{2, 0, 0, 0, 0x0a, 1}
	macA2      = net.HardwareAddr{2, 0, 0, 0, 0x0a, 2}
	gatewayMAC = net.HardwareAddr{2, 0, 0x5e, 0, 0, 1}
	broadcast  = net.HardwareAddr{255, 255, 255, 255, 255, 255}
)

// frame serializes headers, with lengths and checksums; the last IP header counts for the latter.
func frame(t *testing.T, stack ...gopacket.SerializableLayer) []byte {
	t.Helper()
	for i, s := range stack {
		ip, ok := s.(gopacket.NetworkLayer)
		if !ok || i+1 == len(stack) {
			continue
		}
		if c, ok := stack[i+1].(interface {
			SetNetworkLayerForChecksum(gopacket.NetworkLayer) error
		}); ok {
			if err := c.SetNetworkLayerForChecksum(ip); err != nil {
				t.Fatal(err)
			}
		}
	}
	buf := gopacket.NewSerializeBuffer()
	options := gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}
	if err := gopacket.SerializeLayers(buf, options, stack...); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// datagram is a UDP packet with the marker.
func datagram(t *testing.T, src, dst net.HardwareAddr, from, to string, port uint16) []byte {
	t.Helper()
	udp := &layers.UDP{SrcPort: 40001, DstPort: layers.UDPPort(port)}
	eth := &layers.Ethernet{SrcMAC: src, DstMAC: dst, EthernetType: layers.EthernetTypeIPv4}
	source := netip.MustParseAddr(from)
	if source.Is6() {
		eth.EthernetType = layers.EthernetTypeIPv6
	}
	ip := network(source, netip.MustParseAddr(to), udp).(gopacket.SerializableLayer)
	return frame(t, eth, ip, udp, gopacket.Payload(marker))
}

func arp(t *testing.T, src, senderMAC net.HardwareAddr, sender, target string) []byte {
	t.Helper()
	return frame(t,
		&layers.Ethernet{SrcMAC: src, DstMAC: broadcast, EthernetType: layers.EthernetTypeARP},
		&layers.ARP{
			AddrType: layers.LinkTypeEthernet, Protocol: layers.EthernetTypeIPv4, HwAddressSize: 6, ProtAddressSize: 4,
			Operation: layers.ARPRequest, SourceHwAddress: senderMAC, SourceProtAddress: netip.MustParseAddr(sender).AsSlice(),
			DstHwAddress: make([]byte, 6), DstProtAddress: netip.MustParseAddr(target).AsSlice(),
		}, gopacket.Payload(marker))
}

// TestSpoofing sends raw frames out of the guest a1 that claim to be somebody else's.
func TestSpoofing(t *testing.T) {
	l := common(t)
	rows := []struct {
		name   string
		frame  []byte
		reason dataplane.Reason
	}{
		{"MAC", datagram(t, macA2, gatewayMAC, "10.0.1.10", "10.0.1.20", 53), dataplane.ReasonSpoofedMAC},
		{"IPv4", datagram(t, macA1, macA2, "10.0.1.20", "10.0.1.20", 53), dataplane.ReasonSpoofedIP},
		{"IPv4 of nobody", datagram(t, macA1, gatewayMAC, "10.0.1.99", "10.0.1.20", 53), dataplane.ReasonSpoofedIP},
		{"IPv4 of its second ENI", datagram(t, macA1, gatewayMAC, "10.0.2.11", "10.0.2.30", 53), dataplane.ReasonWrongENI},
		{"IPv4 of its EIP", datagram(t, macA1, gatewayMAC, "203.0.113.10", "198.51.100.7", 53), dataplane.ReasonSpoofedIP},
		{"IPv6", datagram(t, macA1, macA2, "fd00:1:0:1::20", "fd00:1:0:1::20", 53), dataplane.ReasonSpoofedIP},
		{"ARP sender IP", arp(t, macA1, macA1, "10.0.1.20", "10.0.1.20"), dataplane.ReasonSpoofedARP},
		{"ARP sender MAC", arp(t, macA1, macA2, "10.0.1.10", "10.0.1.20"), dataplane.ReasonSpoofedARP},
		{"ARP in a foreign frame", arp(t, macA2, macA2, "10.0.1.20", "10.0.1.20"), dataplane.ReasonSpoofedMAC},
	}
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) {
			watched := []*sniffer{
				sniff(t, l, "vm-a2", guestDevice), sniff(t, l, "vm-a3", guestDevice), sniff(t, l, internetNode, internetDev),
			}
			before := counters(t, l)
			if err := l.SendFrame("vm-a1", guestDevice, r.frame); err != nil {
				t.Fatal(err)
			}
			if !waitCounted(t, l, before, "a1", dataplane.Out, r.reason, answerWait) {
				t.Errorf("%s is not counted; dropped: %v", r.reason, lab.Drops(counters(t, l).Since(before)))
			}
			time.Sleep(silence)
			if n := seenBy(watched); n != 0 {
				t.Errorf("%d frames got through", n)
			}
		})
	}
	// The sniffers see what does get through.
	guest := sniff(t, l, "vm-a2", guestDevice)
	if err := l.SendFrame("vm-a1", guestDevice, datagram(t, macA1, macA2, "10.0.1.10", "10.0.1.20", 53)); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(answerWait); guest.seen() == 0; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("an honest frame did not arrive, so the silence above proves nothing")
		}
	}
}
