// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/eniplane/eniplane/pkg/compile"
	"github.com/eniplane/eniplane/pkg/dataplane"
)

// port is the device of an ENI on its way to READY.
type port struct {
	eni    *compile.ENI
	device *netlink.LinkAttrs // nil = does not exist
	xdp    bool               // the device takes frames from XDP
	serves bool               // our program ran there when it was looked at
	err    error              // why it must stay closed, unless kept
	kept   bool               // READY since before the error: what an error cannot change stays
	caps   caps
}

func (p *port) usable() bool { return p.device != nil && (p.err == nil || p.kept) }

func (p *port) status() ENIStatus {
	s := ENIStatus{Phase: Ready, Device: p.eni.Device}
	const asBefore = " (its packets pass as before)"
	switch {
	case p.err != nil && p.kept:
		s.Phase, s.Message = Degraded, p.err.Error()+asBefore
	case p.err != nil:
		s.Phase, s.Message = Degraded, p.err.Error()
	case p.caps.err != nil:
		s.Phase, s.Message = Degraded, p.caps.err.Error()+asBefore
	case p.device == nil:
		s.Phase, s.Message = Waiting, fmt.Sprintf("device %s does not exist", p.eni.Device)
	case p.eni.Stage == compile.Prepared:
		s.Phase, s.Message = Prepared, "its instance moves here"
	case p.eni.Stage == compile.Left:
		s.Phase, s.Message = Left, "it is on "+p.eni.MovingTo+", what still comes for it is sent on"
	}
	if p.device != nil {
		s.Ifindex = p.device.Index
	}
	return s
}

// survey finds the devices of the ENIs. Without their XDP features all packets take the way by TC.
func (l *Loader) survey(report *Report, all devices, st *compile.State) []*port {
	takes, err := xdpPorts()
	if err != nil {
		report.Problems = append(report.Problems, err.Error())
	}
	taken := map[string]bool{VXLANDevice: true, "lo": true}
	for _, name := range st.Host.Uplinks {
		taken[name] = true
	}
	ports := make([]*port, len(st.ENIs))
	for i := range st.ENIs {
		eni := &st.ENIs[i]
		ports[i] = &port{eni: eni, device: all[eni.Device]}
		if taken[eni.Device] {
			ports[i].device, ports[i].err = nil, fmt.Errorf("device %s is not free to be a port", eni.Device)
		}
		taken[eni.Device] = true
		if ports[i].device != nil {
			ports[i].xdp = takes[ports[i].device.Index]
		}
	}
	return ports
}

// closePorts makes the devices safe whatever their state: a port without our program is set down
// first, then come the settings and the guards, the program last. What fails for one port is its
// own error; if it is READY there already, with our program, it goes on as it is.
func (l *Loader) closePorts(report *Report, ports []*port) error {
	live, err := l.content(dataplane.MapLive)
	if err != nil {
		return err
	}
	addresses, err := addressesByDevice()
	if err != nil {
		return err
	}
	var present []*port
	for _, p := range ports {
		if !p.usable() {
			continue
		}
		if p.err = l.calmPort(report, p, addresses[p.device.Index]); p.err == nil {
			present = append(present, p)
		}
	}
	if err := l.guardPorts(report, present); err != nil {
		return err
	}
	for _, p := range present {
		if p.err == nil {
			p.err = l.attachPort(report, p)
		}
	}
	for _, p := range ports {
		if p.device == nil || p.err == nil || !p.serves {
			continue
		}
		if p.kept, err = isOpen(live, p); err != nil {
			return err
		}
	}
	return nil
}

func (l *Loader) attachPort(report *Report, p *port) error {
	changed, err := l.place.ensureTC(rolePort, p.device, l.stubs[dataplane.StubPort])
	if err != nil {
		return err
	}
	if changed && p.serves && l.state != nil {
		report.repaired(l.log, "port %s of ENI %s had another program or no pin and is as it must be again", p.device.Name, p.eni.Name)
	}
	return l.addForeign(report, p.device, dataplane.StubPort)
}

// runsPort tells whether our program runs on a device: by the pinned link, else by one whose pin somebody removed but which
// something still holds.
func (l *Loader) runsPort(device *netlink.LinkAttrs) (bool, error) {
	serves, err := linkServes(l.place.link(rolePort, device.Index), device.Index)
	if err != nil || serves {
		return serves, err
	}
	held, err := findTC(device, l.stubs[dataplane.StubPort])
	if err != nil || held == nil {
		return false, err
	}
	return true, held.Close()
}

// calmPort sets a bare port down and takes the host's own stack off it.
func (l *Loader) calmPort(report *Report, p *port, addresses []netlink.Addr) error {
	serves, err := l.runsPort(p.device)
	p.serves = serves || err != nil // what cannot be seen is taken to be as it was
	if err != nil {
		return err
	}
	if !serves && isUp(p.device) {
		if err := setDown(p.device); err != nil {
			return fmt.Errorf("set bare port %s down: %w", p.device.Name, err)
		}
		p.device.RawFlags &^= unix.IFF_UP
		report.repaired(l.log, "port %s of ENI %s was up without our program: set down and closed", p.device.Name, p.eni.Name)
	}
	changed, err := setSysctls(portSysctls(p.device.Name))
	if err != nil {
		return err
	}
	device := &netlink.GenericLink{LinkAttrs: *p.device}
	for i := range addresses {
		if err := netlink.AddrDel(device, &addresses[i]); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			return fmt.Errorf("remove address %v of port %s: %w", addresses[i].IPNet, p.device.Name, err)
		}
	}
	if p.device.RawFlags&unix.IFF_NOARP == 0 {
		if err := netlink.LinkSetARPOff(device); err != nil {
			return fmt.Errorf("switch ARP of port %s off: %w", p.device.Name, err)
		}
		changed = true
	}
	if serves && (changed || len(addresses) > 0) {
		report.repaired(l.log, "settings or addresses of port %s of ENI %s were changed and are as they must be again", p.device.Name, p.eni.Name)
	}
	return nil
}

// guardPorts puts the ingress guard on all ports, in one batch; if that fails, one by one, to find
// out whose fault it is.
func (l *Loader) guardPorts(report *Report, ports []*port) error {
	names := make([]string, len(ports))
	for i, p := range ports {
		names[i] = p.device.Name
	}
	added, err := l.guard.ensureIngress(names)
	if err != nil {
		for _, p := range ports {
			_, p.err = l.guard.ensureIngress([]string{p.device.Name})
		}
		return nil
	}
	fresh := map[string]bool{}
	for _, name := range added {
		fresh[name] = true
	}
	for _, p := range ports {
		if fresh[p.device.Name] && isUp(p.device) {
			report.repaired(l.log, "port %s of ENI %s was without its nftables guard and has it again", p.device.Name, p.eni.Name)
		}
	}
	return nil
}

// lowerStrangers sets down what was a port and is none now, or failed. Its program, which drops,
// and its guards stay until the device is gone.
func (l *Loader) lowerStrangers(ports []*port, all devices) error {
	usable := map[int]bool{}
	for _, p := range ports {
		if p.usable() {
			usable[p.device.Index] = true
		}
	}
	pinned, err := l.place.pinned(rolePort)
	if err != nil {
		return err
	}
	closed := map[int]bool{}
	for _, ifindex := range pinned {
		closed[ifindex] = !usable[ifindex]
	}
	for _, device := range all {
		if !closed[device.Index] || !isUp(device) {
			continue
		}
		if err := setDown(device); err != nil {
			return fmt.Errorf("set former port %s down: %w", device.Name, err)
		}
		l.log.Info("set a device down that is no port any more", "device", device.Name)
	}
	return nil
}

// raise sets ports up that are READY.
func (l *Loader) raise(ports []*port) {
	for _, p := range ports {
		if !p.usable() || isUp(p.device) {
			continue
		}
		if err := setUp(p.device); err != nil {
			p.err = fmt.Errorf("set port %s up: %w", p.device.Name, err)
		}
	}
}

func addressesByDevice() (map[int][]netlink.Addr, error) {
	addrs, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	by := map[int][]netlink.Addr{}
	for _, a := range addrs {
		by[a.LinkIndex] = append(by[a.LinkIndex], a)
	}
	return by, nil
}
