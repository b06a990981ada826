// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"fmt"
	"net"
	"os"
	"path/filepath"

	"github.com/vishvananda/netlink"

	"github.com/eniplane/eniplane/pkg/guest"
)

// makeUnderlay makes the segment, a bridge in a namespace of its own, and the internet on it.
func (l *Lab) makeUnderlay() error {
	return l.open(func(ns ...*Namespace) error {
		segment, internet := ns[0], ns[1]
		if err := makeBridge(segment, l.Plan.MTU); err != nil {
			return err
		}
		if err := makeRouter(internet); err != nil {
			return err
		}
		if err := l.onSegment(segment, internet, nodeInternet, deviceInternet); err != nil {
			return err
		}
		// Believe an announcement at once. By default Linux ignores one within a second of the last.
		if err := internet.sysctl("ipv4/neigh/"+deviceInternet+"/locktime", "0"); err != nil {
			return err
		}
		for _, a := range l.Plan.Internet.Addrs {
			device := deviceInternet
			if a.IsSingleIP() {
				device = "lo"
			}
			if err := internet.address(device, a); err != nil {
				return err
			}
		}
		for _, r := range l.Plan.Internet.Routes {
			if err := internet.route(deviceInternet, r.Destination, r.Via); err != nil {
				return err
			}
		}
		return nil
	}, nodeUnderlay, nodeInternet)
}

// makeRouter lets the internet forward: a host's packet to an EIP on another host goes out to it
// and comes back in. It tells nobody of shorter ways, a router of a provider would not know them.
func makeRouter(internet *Namespace) error {
	for _, s := range [][2]string{
		{"ipv4/ip_forward", "1"},
		{"ipv4/conf/all/send_redirects", "0"},
		{"ipv4/conf/default/send_redirects", "0"},
		{"ipv6/conf/all/forwarding", "1"},
	} {
		if err := internet.sysctl(s[0], s[1]); err != nil {
			return err
		}
	}
	return nil
}

// makeBridge makes the segment's bridge. It forwards all multicast: snooping without a querier
// would lose neighbour discovery.
func makeBridge(segment *Namespace, mtu int) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = deviceBridge, mtu
	snooping := false
	if err := segment.nl.LinkAdd(&netlink.Bridge{LinkAttrs: attrs, MulticastSnooping: &snooping}); err != nil {
		return fmt.Errorf("make bridge in %s: %w", segment.Name, err)
	}
	if err := segment.sysctl("ipv6/conf/all/disable_ipv6", "1"); err != nil {
		return err
	}
	return segment.up(deviceBridge)
}

// onSegment plugs a node's device into the bridge.
func (l *Lab) onSegment(segment, node *Namespace, port, device string) error {
	if err := cable(plug{ns: node, name: device}, plug{ns: segment, name: port}, l.Plan.MTU); err != nil {
		return err
	}
	bridge, err := segment.link(deviceBridge)
	if err != nil {
		return err
	}
	leg, err := segment.link(port)
	if err != nil {
		return err
	}
	if err := segment.nl.LinkSetMaster(leg, bridge); err != nil {
		return fmt.Errorf("plug %s into the segment: %w", port, err)
	}
	if err := segment.up(port); err != nil {
		return err
	}
	if err := setUplinkOffload(segment, port, node, device, l.Plan.UplinkOffload); err != nil {
		return err
	}
	// A veth takes what XDP sends on its peer only with NAPI, which GRO brings; a NIC always would.
	if err := segment.SetOffload(port, true, OffloadGRO); err != nil {
		return err
	}
	return node.up(device)
}

// setUplinkOffload makes both ends of an uplink behave like the wire of a NIC (off: no packet
// larger than the MTU and no unfinished checksum passes) or like a veth (on).
func setUplinkOffload(segment *Namespace, port string, node *Namespace, device string, on bool) error {
	if err := segment.SetOffload(port, on, OffloadTX); err != nil {
		return err
	}
	if !on {
		return node.SetOffload(device, false, OffloadTX)
	}
	return node.SetOffload(device, true, OffloadTX, OffloadSG, OffloadTSO)
}

// SetUplinkOffload switches the transmit offloads of all uplinks of a running lab.
func (l *Lab) SetUplinkOffload(on bool) error {
	return l.open(func(ns ...*Namespace) error {
		segment := ns[0]
		if err := setUplinkOffload(segment, nodeInternet, ns[1], deviceInternet, on); err != nil {
			return err
		}
		for i, h := range l.Plan.Hosts {
			for j, device := range h.Uplinks {
				if err := setUplinkOffload(segment, uplinkPort(i, j), ns[2+i], device, on); err != nil {
					return err
				}
			}
		}
		return nil
	}, append([]string{nodeUnderlay, nodeInternet}, l.hostNames()...)...)
}

func (l *Lab) hostNames() []string {
	names := make([]string, len(l.Plan.Hosts))
	for i, h := range l.Plan.Hosts {
		names[i] = h.Name
	}
	return names
}

// uplinkPort is the bridge's end of a host's uplink.
func uplinkPort(host, uplink int) string { return fmt.Sprintf("host%d-%d", host, uplink) }

func (l *Lab) makeHosts() error {
	for i, h := range l.Plan.Hosts {
		err := l.open(func(ns ...*Namespace) error { return l.makeHost(ns[0], ns[1], i, &h) }, nodeUnderlay, h.Name)
		if err != nil {
			return fmt.Errorf("host %s: %w", h.Name, err)
		}
	}
	return nil
}

func (l *Lab) makeHost(segment, host *Namespace, index int, h *HostPlan) error {
	for j, device := range h.Uplinks {
		if err := l.onSegment(segment, host, uplinkPort(index, j), device); err != nil {
			return err
		}
	}
	for i, a := range h.Addrs {
		if err := host.address(h.Uplinks[0], a); err != nil {
			return err
		}
		if err := host.route(h.Uplinks[0], defaultPrefix(a.Addr()), h.Gateways[i]); err != nil {
			return err
		}
	}
	return nil
}

func (l *Lab) makeInstances() error {
	for i := range l.Plan.Instances {
		inst := &l.Plan.Instances[i]
		for j := range inst.Ports {
			if err := l.connect(inst, &inst.Ports[j]); err != nil {
				return fmt.Errorf("instance %s, ENI %s: %w", inst.Name, inst.Ports[j].ENI, err)
			}
		}
		if err := l.routeGuest(inst); err != nil {
			return fmt.Errorf("instance %s: %w", inst.Name, err)
		}
	}
	return nil
}

// routeGuest does what `enictl guest routes --apply` does in a guest with several ENIs: no packet leaves by an ENI that
// its source address does not belong to.
func (l *Lab) routeGuest(inst *InstancePlan) error {
	if len(inst.Ports) < 2 {
		return nil
	}
	machine := inst.machine()
	return l.In(inst.Name, func(*Namespace) error {
		k, err := guest.Look()
		if err != nil {
			return err
		}
		return guest.Apply(guest.Changes(guest.Plan(machine, k), k))
	})
}

// machine is what the instance knows of its ENIs.
func (inst *InstancePlan) machine() *guest.Machine {
	m := &guest.Machine{Name: inst.Name}
	for _, port := range inst.Ports {
		e := guest.ENI{Name: port.ENI, Index: port.Index, MAC: port.MAC}
		for _, a := range port.Addrs {
			private := guest.Addr{IP: a.Addr(), Subnet: a.Masked()}
			for _, gateway := range port.Gateways {
				if a.Contains(gateway) {
					private.Gateway = gateway
				}
			}
			e.Addrs = append(e.Addrs, private)
		}
		m.ENIs = append(m.ENIs, e)
	}
	return m
}

// connect plugs an ENI's cable in and configures the guest's end. The host's end stays down: the
// agent brings it up once its programs guard it.
func (l *Lab) connect(inst *InstancePlan, port *PortPlan) error {
	if inst.Migrates {
		if err := l.makeWire(inst, port); err != nil {
			return err
		}
	} else if err := l.plugDirect(inst, port); err != nil {
		return err
	}
	return l.open(func(ns ...*Namespace) error { return l.configureGuest(ns[0], inst, port) }, inst.Name)
}

func (l *Lab) plugDirect(inst *InstancePlan, port *PortPlan) error {
	mac, err := net.ParseMAC(port.MAC)
	if err != nil {
		return fmt.Errorf("MAC of %s: %w", port.ENI, err)
	}
	return l.open(func(ns ...*Namespace) error {
		return cable(plug{ns: ns[0], name: port.Guest, mac: mac}, plug{ns: ns[1], name: port.Device}, l.guestMTU())
	}, inst.Name, inst.Host)
}

func (l *Lab) guestMTU() int { return l.Plan.MTU - overlayOverhead }

// configureGuest gives the guest what DHCP would: addresses, and the default routes of the first ENI.
func (l *Lab) configureGuest(n *Namespace, inst *InstancePlan, port *PortPlan) error {
	if err := n.up(port.Guest); err != nil {
		return err
	}
	for _, a := range port.Addrs {
		if err := n.address(port.Guest, a); err != nil {
			return err
		}
	}
	if port.ENI != inst.Ports[0].ENI {
		return nil
	}
	for _, gw := range port.Gateways {
		if err := n.route(port.Guest, defaultPrefix(gw), gw); err != nil {
			return err
		}
	}
	return nil
}

// sysctl sets net/KEY inside the namespace.
func (n *Namespace) sysctl(key, value string) error {
	return n.Do(func() error {
		if err := os.WriteFile(filepath.Join("/proc/sys/net", key), []byte(value), 0); err != nil {
			return fmt.Errorf("set sysctl %s in %s: %w", key, n.Name, err)
		}
		return nil
	})
}
