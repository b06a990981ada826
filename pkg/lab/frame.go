// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// SendFrame sends a raw Ethernet frame out of a device of a node.
func (l *Lab) SendFrame(node, device string, frame []byte) error {
	return l.In(node, func(n *Namespace) error {
		ifindex, err := n.ifindex(device)
		if err != nil {
			return err
		}
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("open a packet socket: %w", err)
		}
		err = unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: ifindex})
		return errors.Join(err, unix.Close(fd))
	})
}

// FrameFromInternet builds a frame from the internet to an EIP, with whatever headers, and learns
// the MAC of the uplink that has the EIP by a first datagram.
func (l *Lab) FrameFromInternet(ctx context.Context, eip netip.Addr, ip gopacket.NetworkLayer, rest ...gopacket.SerializableLayer) ([]byte, error) {
	src, dst, err := l.macsTo(ctx, eip)
	if err != nil {
		return nil, err
	}
	eth := &layers.Ethernet{SrcMAC: src, DstMAC: dst, EthernetType: layers.EthernetTypeIPv4}
	if eip.Is6() {
		eth.EthernetType = layers.EthernetTypeIPv6
	}
	for _, r := range rest {
		if c, ok := r.(interface {
			SetNetworkLayerForChecksum(gopacket.NetworkLayer) error
		}); ok {
			if err := c.SetNetworkLayerForChecksum(ip); err != nil {
				return nil, fmt.Errorf("build frame: %w", err)
			}
		}
	}
	header, ok := ip.(gopacket.SerializableLayer)
	if !ok {
		return nil, fmt.Errorf("build frame: %T is no header", ip)
	}
	return serialize(append([]gopacket.SerializableLayer{eth, header}, rest...)...)
}

// macsTo returns the MAC of the internet's device and the one that an EIP resolves to, as a packet
// to the EIP makes the kernel find it.
func (l *Lab) macsTo(ctx context.Context, eip netip.Addr) (src, dst net.HardwareAddr, err error) {
	ctx, cancel := context.WithTimeout(ctx, allowedWait)
	defer cancel()
	err = l.In(nodeInternet, func(n *Namespace) error {
		device, err := n.link(deviceInternet)
		if err != nil {
			return err
		}
		src = device.Attrs().HardwareAddr
		c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(eip, 9)))
		if err != nil {
			return fmt.Errorf("reach %s from the internet: %w", eip, err)
		}
		defer c.Close()
		for ; ctx.Err() == nil; sleep(ctx, 5*time.Millisecond) {
			_, _ = c.Write([]byte("?"))
			if dst, err = n.neighbour(device, eip); dst != nil || err != nil {
				return err
			}
		}
		return fmt.Errorf("no host answers for %s: %w", eip, ctx.Err())
	})
	return src, dst, err
}

// neighbour is the MAC that the kernel has resolved an address to, nil if it has not.
func (n *Namespace) neighbour(device netlink.Link, addr netip.Addr) (net.HardwareAddr, error) {
	family := netlink.FAMILY_V4
	if addr.Is6() {
		family = netlink.FAMILY_V6
	}
	neighbours, err := n.nl.NeighList(device.Attrs().Index, family)
	if err != nil {
		return nil, fmt.Errorf("list neighbours in %s: %w", n.Name, err)
	}
	for _, e := range neighbours {
		ip, _ := netip.AddrFromSlice(e.IP)
		if ip.Unmap() == addr && len(e.HardwareAddr) == 6 && e.State&(netlink.NUD_INCOMPLETE|netlink.NUD_FAILED) == 0 {
			return e.HardwareAddr, nil
		}
	}
	return nil, nil
}

func serialize(stack ...gopacket.SerializableLayer) ([]byte, error) {
	buf := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, stack...); err != nil {
		return nil, fmt.Errorf("build frame: %w", err)
	}
	return buf.Bytes(), nil
}
