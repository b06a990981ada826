// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"fmt"

	"github.com/vishvananda/netlink"
)

// VXLANDevice is the overlay's device, one per host and network namespace.
const VXLANDevice = "eniplane0"

const vxlanPort = 4789

// ensureVXLAN makes the overlay's device, or adopts it if it is as it must be, and returns it set
// up for FIB lookups but not yet up. rival is a foreign device on our port, if there is one.
func ensureVXLAN() (device *netlink.LinkAttrs, changed bool, rival string, err error) {
	device, rival, err = findVXLAN()
	if err != nil {
		return nil, false, rival, err
	}
	if device == nil {
		if rival != "" {
			return nil, false, rival, fmt.Errorf("VXLAN device %s holds UDP port %d, which the overlay needs: move it to another port", rival, vxlanPort)
		}
		if err := createVXLAN(); err != nil {
			return nil, false, rival, err
		}
		made, err := netlink.LinkByName(VXLANDevice)
		if err != nil {
			return nil, false, rival, fmt.Errorf("look up %s: %w", VXLANDevice, err)
		}
		device, changed = made.Attrs(), true
	}
	written, err := setSysctls(vxlanSysctls(VXLANDevice))
	if err != nil {
		return nil, false, rival, err
	}
	removed, err := dropAddresses(device)
	return device, changed || written || removed > 0, rival, err
}

func findVXLAN() (ours *netlink.LinkAttrs, rival string, err error) {
	links, err := netlink.LinkList()
	if err != nil {
		return nil, "", fmt.Errorf("list network devices: %w", err)
	}
	for _, l := range links {
		vxlan, isVXLAN := l.(*netlink.Vxlan)
		switch {
		case l.Attrs().Name == VXLANDevice && (!isVXLAN || !rightVXLAN(vxlan)):
			return nil, "", fmt.Errorf("device %s exists but is no external VXLAN device with gbp on port %d: remove it (ip link del %s)", VXLANDevice, vxlanPort, VXLANDevice)
		case l.Attrs().Name == VXLANDevice:
			ours = l.Attrs()
		case isVXLAN && vxlan.Port == vxlanPort:
			rival = l.Attrs().Name
		}
	}
	return ours, rival, nil
}

func createVXLAN() error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = VXLANDevice
	err := netlink.LinkAdd(&netlink.Vxlan{LinkAttrs: attrs, FlowBased: true, GBP: true, Port: vxlanPort})
	if err != nil {
		return fmt.Errorf("create VXLAN device %s: %w", VXLANDevice, err)
	}
	return nil
}

func rightVXLAN(v *netlink.Vxlan) bool {
	return v.FlowBased && v.GBP && v.Port == vxlanPort && !v.Learning
}

// openVXLAN lets the device carry packets; its program must be in place.
func openVXLAN(device *netlink.LinkAttrs) (changed bool, err error) {
	generic := &netlink.GenericLink{LinkAttrs: *device}
	if err := netlink.LinkSetARPOff(generic); err != nil {
		return false, fmt.Errorf("switch ARP of %s off: %w", device.Name, err)
	}
	if isUp(device) {
		return false, nil
	}
	if err := netlink.LinkSetUp(generic); err != nil {
		return false, fmt.Errorf("set %s up (does another VXLAN device or a program hold UDP port %d?): %w", device.Name, vxlanPort, err)
	}
	return true, nil
}
