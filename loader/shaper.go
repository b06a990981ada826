// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"

	"github.com/eniplane/eniplane/pkg/compile"
	"github.com/eniplane/eniplane/pkg/dataplane"
)

// A shaper is a pair of devices of an ENI whose sending is capped. What it sends leaves by the near end, which has the
// queues, and comes in by the far end, whose program sends it on. Both are guarded like ports: without its program the
// far end carries nothing.
const (
	nearEnd   = "eniplane-q" // then the index of the ENI
	farEnd    = "eniplane-r"
	shaperMTU = 65535 // no packet is too big for it
)

// shaperAlias says whose a shaper is; one of another incarnation is not taken over.
func shaperAlias(eni *compile.ENI) string {
	return fmt.Sprintf("%s%d%s%s", aliasPrefix, eni.Incarnation, aliasOf, eni.Name)
}

const (
	aliasPrefix = "eniplane: incarnation "
	aliasOf     = " of ENI "
)

func shaperNames(index uint32) []string {
	return []string{fmt.Sprintf("%s%d", nearEnd, index), fmt.Sprintf("%s%d", farEnd, index)}
}

// isShaper tells whether a device is a near end of ours.
func isShaper(device *netlink.LinkAttrs) bool {
	return strings.HasPrefix(device.Name, nearEnd) && strings.HasPrefix(device.Alias, aliasPrefix)
}

// ensureShaper makes the pair of an ENI, closed, or finds it as it must be. It returns the near end.
func (l *Loader) ensureShaper(report *Report, eni *compile.ENI, all devices) (near *netlink.LinkAttrs, err error) {
	names := shaperNames(eni.Index)
	if near, err = findShaper(eni, all); err != nil {
		return nil, err
	}
	known := near != nil
	if !known {
		if err := makeShaper(eni, names); err != nil {
			return nil, err
		}
	}
	ends := make([]*netlink.LinkAttrs, len(names))
	for i, name := range names {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return nil, fmt.Errorf("look up %s: %w", name, err)
		}
		ends[i] = link.Attrs()
		all[name] = ends[i]
	}
	changed, err := calmShaper(ends)
	if err != nil {
		return nil, err
	}
	if _, err := l.guard.ensureIngress(names); err != nil {
		return nil, err
	}
	attached, err := l.place.ensureTC(roleShaper, ends[1], l.stubs[dataplane.StubShaper])
	if err != nil {
		return nil, err
	}
	if known && (changed || attached) {
		report.repaired(l.log, "shaper %s of ENI %s was changed or without our program and is as it must be again", names[0], eni.Name)
	}
	return ends[0], nil
}

// calmShaper takes the host's own stack off both ends.
func calmShaper(ends []*netlink.LinkAttrs) (changed bool, err error) {
	for _, end := range ends {
		written, err := setSysctls(portSysctls(end.Name))
		if err != nil {
			return false, err
		}
		removed, err := dropAddresses(end)
		if err != nil {
			return false, err
		}
		if err := netlink.LinkSetARPOff(&netlink.GenericLink{LinkAttrs: *end}); err != nil {
			return false, fmt.Errorf("switch ARP of %s off: %w", end.Name, err)
		}
		changed = changed || written || removed > 0
	}
	return changed, nil
}

// raiseShaper lets the pair carry packets; tree and program must be in place. The near end comes last: it has a carrier then,
// and queues at once. As the first it would get them when the kernel has heard of its carrier, which on a busy host takes
// a while, and lose all that is sent before.
func raiseShaper(index uint32) error {
	for _, name := range slices.Backward(shaperNames(index)) {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return fmt.Errorf("look up %s: %w", name, err)
		}
		if isUp(link.Attrs()) {
			continue
		}
		if err := setUp(link.Attrs()); err != nil {
			return fmt.Errorf("set %s up: %w", name, err)
		}
	}
	return nil
}

// findShaper finds the near end of an ENI's pair. That of another incarnation is removed, a device of somebody else
// is an error.
func findShaper(eni *compile.ENI, all devices) (*netlink.LinkAttrs, error) {
	names := shaperNames(eni.Index)
	near, far := all[names[0]], all[names[1]]
	switch {
	case near != nil && far != nil && near.Alias == shaperAlias(eni) && near.ParentIndex == far.Index:
		return near, nil
	case near != nil && (isShaper(near) || far != nil && isHalfMade(near, far)):
		return nil, removeDevice(near)
	case near == nil && far == nil:
		return nil, nil
	}
	return nil, fmt.Errorf("devices %s exist and are not as we make them: remove them", strings.Join(names, ", "))
}

// isHalfMade tells whether two devices are a pair as makeShaper leaves it if it does not come to the end: of our names, and
// never used.
func isHalfMade(near, far *netlink.LinkAttrs) bool {
	return near.ParentIndex == far.Index && near.Alias == "" && !isUp(near) && !isUp(far)
}

func makeShaper(eni *compile.ENI, names []string) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = names[0], shaperMTU
	pair := &netlink.Veth{LinkAttrs: attrs, PeerName: names[1], PeerMTU: shaperMTU}
	if err := netlink.LinkAdd(pair); err != nil {
		return fmt.Errorf("make shaper %s: %w", names[0], err)
	}
	if err := netlink.LinkSetAlias(pair, shaperAlias(eni)); err != nil {
		return errors.Join(fmt.Errorf("mark shaper %s as ours: %w", names[0], err), netlink.LinkDel(pair))
	}
	return nil
}

func removeDevice(device *netlink.LinkAttrs) error {
	if err := ignoreGone(netlink.LinkDel(&netlink.GenericLink{LinkAttrs: *device})); err != nil {
		return fmt.Errorf("remove %s: %w", device.Name, err)
	}
	return nil
}

// removeShapers deletes all pairs of ours, for a teardown.
func removeShapers(place) error {
	return eachDevice(isShaper, removeDevice)
}

// removeTrees takes our queues off all devices, for a teardown.
func removeTrees(place) error {
	queues, err := listQueueing()
	if err != nil {
		return err
	}
	return eachDevice(
		func(device *netlink.LinkAttrs) bool { return queues.isOurs(device.Index) },
		func(device *netlink.LinkAttrs) error { return removeTree(device.Index) })
}

// eachDevice does something with all devices that are meant, whatever becomes of the others.
func eachDevice(meant func(*netlink.LinkAttrs) bool, do func(*netlink.LinkAttrs) error) error {
	all, err := listDevices()
	if err != nil {
		return err
	}
	var errs []error
	for _, device := range all {
		if meant(device) {
			errs = append(errs, do(device))
		}
	}
	return errors.Join(errs...)
}

// isOurs tells whether a device has a tree as only we make it: 1:1 above groups of queues of bytes.
func (q queueing) isOurs(ifindex int) bool {
	if !q.isShaped(ifindex) || q.queues(ifindex) == 0 {
		return false
	}
	return !slices.ContainsFunc(q[ifindex], func(d netlink.Qdisc) bool {
		a := d.Attrs()
		return d.Type() == "bfifo" && a.Handle>>16 != a.Parent&0xffff
	})
}
