// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// devices are the network devices of the namespace at one moment, by name.
type devices map[string]*netlink.LinkAttrs

// listDevices reads them in one dump; a dump that changed meanwhile is read again.
func listDevices() (devices, error) {
	var links []netlink.Link
	var err error
	for range 5 {
		links, err = netlink.LinkList()
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	if err != nil {
		return nil, fmt.Errorf("list network devices: %w", err)
	}
	all := make(devices, len(links))
	for _, l := range links {
		all[l.Attrs().Name] = l.Attrs()
	}
	return all, nil
}

func isUp(a *netlink.LinkAttrs) bool { return a.RawFlags&unix.IFF_UP != 0 }

func setDown(a *netlink.LinkAttrs) error {
	return ignoreGone(netlink.LinkSetDown(&netlink.GenericLink{LinkAttrs: *a}))
}

func setUp(a *netlink.LinkAttrs) error {
	return netlink.LinkSetUp(&netlink.GenericLink{LinkAttrs: *a})
}

// ignoreGone: a device that vanished needs nothing done to it.
func ignoreGone(err error) error {
	var missing netlink.LinkNotFoundError
	if errors.Is(err, unix.ENODEV) || errors.As(err, &missing) {
		return nil
	}
	return err
}

type sysctl struct{ path, value string }

// portSysctls keep the host's own stack off a port whose program is missing.
func portSysctls(device string) []sysctl {
	return []sysctl{
		{"ipv6/conf/" + device + "/disable_ipv6", "1"},
		{"ipv6/conf/" + device + "/forwarding", "0"},
		{"ipv6/conf/" + device + "/accept_ra", "0"},
		{"ipv4/conf/" + device + "/forwarding", "0"},
		{"ipv4/conf/" + device + "/rp_filter", "1"},
		{"ipv4/conf/" + device + "/arp_ignore", "8"},
		{"ipv4/conf/" + device + "/proxy_arp", "0"},
		{"ipv4/conf/" + device + "/accept_redirects", "0"},
	}
}

// vxlanSysctls make the device an input of FIB lookups and of nothing else.
func vxlanSysctls(device string) []sysctl {
	return []sysctl{
		{"ipv6/conf/" + device + "/addr_gen_mode", "1"},
		{"ipv6/conf/" + device + "/accept_ra", "0"},
		{"ipv6/conf/" + device + "/forwarding", "1"},
		{"ipv4/conf/" + device + "/forwarding", "1"},
		{"ipv4/conf/" + device + "/rp_filter", "0"},
		{"ipv4/conf/" + device + "/arp_ignore", "8"},
	}
}

// setSysctls writes what differs and says whether anything did. A device that has no IPv6 (a small
// MTU, or a kernel without it) has no IPv6 settings and needs none.
func setSysctls(all []sysctl) (changed bool, err error) {
	for _, s := range all {
		path := filepath.Join("/proc/sys/net", s.path)
		now, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) && s.path[:4] == "ipv6" {
			continue
		}
		if err != nil {
			return changed, fmt.Errorf("read sysctl: %w", err)
		}
		if string(now) == s.value+"\n" {
			continue
		}
		if err := os.WriteFile(path, []byte(s.value), 0o644); err != nil {
			return changed, fmt.Errorf("write sysctl: %w", err)
		}
		changed = true
	}
	return changed, nil
}

// dropAddresses removes all addresses of a device.
func dropAddresses(a *netlink.LinkAttrs) (removed int, err error) {
	device := &netlink.GenericLink{LinkAttrs: *a}
	addrs, err := netlink.AddrList(device, netlink.FAMILY_ALL)
	if err != nil {
		return 0, fmt.Errorf("list addresses of %s: %w", a.Name, err)
	}
	for i := range addrs {
		if err := netlink.AddrDel(device, &addrs[i]); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			return removed, fmt.Errorf("remove address %v of %s: %w", addrs[i].IPNet, a.Name, err)
		}
		removed++
	}
	return removed, nil
}
