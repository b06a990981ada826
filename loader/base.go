// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"

	"github.com/eniplane/eniplane/pkg/compile"
	"github.com/eniplane/eniplane/pkg/dataplane"
)

// overlayHeaders are IPv4, UDP, VXLAN and the inner Ethernet header.
const overlayHeaders = 20 + 8 + 8 + 14

// base puts in place what does not depend on ENIs: the guards, the VXLAN device with its program,
// the uplinks' programs. st is nil before the first Apply: then the uplinks are not known, and what
// the guards hold stays.
func (l *Loader) base(report *Report, st *compile.State) (devices, dataplane.HostFacts, error) {
	facts := dataplane.HostFacts{}
	if err := l.flowFacts(&facts); err != nil {
		return nil, facts, err
	}
	l.gone.begin()
	all, err := listDevices()
	if err != nil {
		return nil, facts, err
	}
	if err := l.ensureGuard(report, st, all); err != nil {
		return nil, facts, err
	}
	vxlan, err := l.ensureOverlay(report)
	if err != nil {
		return nil, facts, err
	}
	facts.VXLANIfindex = uint32(vxlan.Index)
	if st == nil {
		return all, facts, nil
	}
	mtu, err := l.ensureUplinks(report, st.Host, all)
	if err != nil {
		return nil, facts, err
	}
	if err := reportVTEP(report, st.Host.VTEP); err != nil {
		return nil, facts, err
	}
	facts.OverlayMTU = uint32(mtu - overlayHeaders)
	return all, facts, l.underlay.follow(aimOf(st, all, mtu))
}

// ensureGuard guards all names of the feed, and those guarded before whose device still exists:
// what was a port once stays closed until it is gone. As long as st is not in force, the names of the revision that is
// are guarded, too.
func (l *Loader) ensureGuard(report *Report, st *compile.State, all devices) error {
	guarded, err := l.guard.names()
	if err != nil {
		return err
	}
	names := map[string]bool{VXLANDevice: true}
	for _, name := range slices.Concat(guarded, l.guarded) {
		if _, exists := all[name]; exists || st == nil {
			names[name] = true
		}
	}
	for _, of := range []*compile.State{st, l.state} {
		if st == nil || of == nil {
			continue
		}
		for _, name := range of.PortNames {
			names[name] = true
		}
		for index, c := range capsOf(of) {
			if c.out == nil {
				continue
			}
			for _, name := range shaperNames(index) {
				names[name] = true
			}
		}
	}
	want := slices.Sorted(maps.Keys(names))
	changed, err := l.guard.ensure(want)
	if err != nil {
		return err
	}
	if changed && slices.Equal(want, l.guarded) {
		report.repaired(l.log, "nftables table %s was damaged and is whole again", l.guard.table)
	}
	l.guarded = want
	return nil
}

// ensureOverlay: guard and program first, then up.
func (l *Loader) ensureOverlay(report *Report) (*netlink.LinkAttrs, error) {
	device, changed, rival, err := ensureVXLAN()
	if err != nil {
		return nil, err
	}
	if rival != "" {
		report.Problems = append(report.Problems, fmt.Sprintf("VXLAN device %s wants UDP port %d too, which %s holds", rival, vxlanPort, VXLANDevice))
	}
	if _, err := l.guard.ensureIngress([]string{device.Name}); err != nil {
		return nil, err
	}
	attached, err := l.place.ensureTC(roleVXLAN, device, l.stubs[dataplane.StubVXLAN])
	if err != nil {
		return nil, err
	}
	raised, err := openVXLAN(device)
	if err != nil {
		return nil, err
	}
	if l.state != nil && (changed || attached || raised) {
		report.repaired(l.log, "device %s was changed or without our program and is as it must be again", device.Name)
	}
	return device, l.addForeign(report, device, dataplane.StubVXLAN)
}

// ensureUplinks attaches to the uplinks that exist and returns the MTU of the underlay. One that is
// missing is reported; the others work on.
func (l *Loader) ensureUplinks(report *Report, host compile.HostConf, all devices) (mtu int, err error) {
	mtu = host.MTU
	want := dataplane.Content{}
	for _, name := range host.Uplinks {
		device := all[name]
		if device == nil {
			report.Problems = append(report.Problems, fmt.Sprintf("uplink %s does not exist", name))
			continue
		}
		if !isUp(device) {
			report.Problems = append(report.Problems, fmt.Sprintf("uplink %s is down", name))
		}
		if err := l.ensureUplink(report, device); err != nil {
			return 0, err
		}
		var mac [6]byte
		copy(mac[:], device.HardwareAddr)
		want[dataplane.Index(uint32(device.Index))] = dataplane.EncodeUplink(mac)
		if mtu == 0 || device.MTU < mtu {
			mtu = device.MTU
		}
	}
	if mtu == 0 {
		mtu = 1500
	}
	if err := l.keepUplinks(host, all, want); err != nil {
		return 0, err
	}
	return mtu, l.syncTable(dataplane.MapUplinks, want)
}

// keepUplinks takes our programs off devices that are no uplinks any more, and leaves those of the revision in force.
func (l *Loader) keepUplinks(host compile.HostConf, all devices, want dataplane.Content) error {
	if l.state != nil {
		for _, name := range l.state.Host.Uplinks {
			device := all[name]
			if device == nil || slices.Contains(host.Uplinks, name) {
				continue
			}
			key := dataplane.Index(uint32(device.Index))
			now, err := l.tables[dataplane.MapUplinks].get([]byte(key))
			if err != nil {
				return fmt.Errorf("table %s: %w", dataplane.MapUplinks, err)
			}
			if now != nil {
				want[key] = now
			}
		}
	}
	return l.releaseUplinks(want)
}

// dropUplinks takes our programs off what was an uplink before the revision in force.
func (l *Loader) dropUplinks(all devices) error {
	now, err := l.content(dataplane.MapUplinks)
	if err != nil {
		return err
	}
	want := dataplane.Content{}
	for _, name := range l.state.Host.Uplinks {
		if device := all[name]; device != nil {
			key := dataplane.Index(uint32(device.Index))
			if value := now[key]; value != nil {
				want[key] = value
			}
		}
	}
	if len(want) == len(now) {
		return nil
	}
	if err := l.releaseUplinks(want); err != nil {
		return err
	}
	return l.syncTable(dataplane.MapUplinks, want)
}

// reportVTEP: without its address the host neither receives the overlay nor sends as itself.
func reportVTEP(report *Report, vtep netip.Addr) error {
	byDevice, err := addressesByDevice()
	if err != nil {
		return err
	}
	for _, addrs := range byDevice {
		if slices.ContainsFunc(addrs, func(a netlink.Addr) bool { return a.IP.Equal(vtep.AsSlice()) }) {
			return nil
		}
	}
	report.Problems = append(report.Problems, fmt.Sprintf("VTEP %s is not an address of this host", vtep))
	return nil
}

func (l *Loader) ensureUplink(report *Report, device *netlink.LinkAttrs) error {
	attached, err := l.place.ensureTC(roleUplink, device, l.stubs[dataplane.StubUplink])
	if err != nil {
		return err
	}
	xdp, generic, err := l.place.ensureXDP(device, l.stubs[dataplane.StubUplinkXDP])
	switch {
	case errors.Is(err, errForeignXDP):
		foreign := Foreign{Device: device.Name, Hook: "xdp"}
		if device.Xdp != nil {
			foreign.ID, foreign.Program = device.Xdp.ProgId, programName(ebpf.ProgramID(device.Xdp.ProgId))
		}
		report.Foreign = append(report.Foreign, foreign)
	case err != nil:
		return err
	case generic:
		l.log.Info("the uplink's driver has no native XDP, using generic XDP", "device", device.Name)
	}
	if (attached || xdp) && l.knows(dataplane.MapUplinks, device.Index) {
		report.repaired(l.log, "uplink %s was without our program and has it again", device.Name)
	}
	return l.addForeign(report, device, dataplane.StubUplink)
}

// knows tells whether a device was in a table before: then a missing program is a repair.
func (l *Loader) knows(name string, ifindex int) bool {
	value, err := l.tables[name].get([]byte(dataplane.Index(uint32(ifindex))))
	return err == nil && value != nil
}

// releaseUplinks takes our programs off devices that are no uplinks any more: they are the host's.
func (l *Loader) releaseUplinks(want dataplane.Content) error {
	for _, r := range []role{roleUplink, roleXDP} {
		pinned, err := l.place.pinned(r)
		if err != nil {
			return err
		}
		for _, ifindex := range pinned {
			if _, stays := want[dataplane.Index(uint32(ifindex))]; stays {
				continue
			}
			if err := removePin(l.place.link(r, ifindex)); err != nil {
				return err
			}
		}
	}
	return nil
}

// addForeign reports who runs before us. A list of programs that has not changed since the last
// look is not looked at again.
func (l *Loader) addForeign(report *Report, device *netlink.LinkAttrs, stub string) error {
	result, err := link.QueryPrograms(link.QueryOptions{Target: device.Index, Attach: ebpf.AttachTCXIngress})
	if err != nil {
		return fmt.Errorf("list tcx programs of %s: %w", device.Name, err)
	}
	last, known := l.seen[device.Index]
	if !known || last.name != device.Name || last.revision != result.Revision {
		last = hookSeen{name: device.Name, revision: result.Revision}
		if last.foreign, err = foreignBefore(device, result.Programs, l.stubs[stub]); err != nil {
			return err
		}
		l.seen[device.Index] = last
	}
	report.Foreign = append(report.Foreign, last.foreign...)
	return nil
}

// hookSeen is what the tcx hook of a device held when it was looked at.
type hookSeen struct {
	name     string
	revision uint64
	foreign  []Foreign
}
