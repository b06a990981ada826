// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"

	"github.com/eniplane/eniplane/pkg/dataplane"
)

// CapUse is what became of the packets behind a cap, as the kernel counts them since its queues were made: a packet that
// stands for several on the wire counts once.
type CapUse struct {
	ENI     string              `json:"eni"`
	Dir     dataplane.Direction `json:"direction"` // seen from the ENI
	Class   uint32              `json:"class"`     // of the EIP by which they leave; 0 = by none
	Mbps    uint64              `json:"mbps"`      // the cap; 0 = only that of the ENI
	Packets uint64              `json:"packets"`   // on the wire
	Bytes   uint64              `json:"bytes"`     // layer 2
	Dropped uint64              `json:"dropped"`
	Waiting uint64              `json:"waiting"` // bytes
}

// ReadCaps reads the queues of this network namespace, with or without an agent. ports gives the ENI of a device.
func ReadCaps(ports map[string]string) ([]CapUse, error) {
	all, err := listDevices()
	if err != nil {
		return nil, err
	}
	queues, err := listQueueing()
	if err != nil {
		return nil, err
	}
	var uses []CapUse
	for name, device := range all {
		use := CapUse{Dir: dataplane.In, ENI: ports[name]}
		if isShaper(device) {
			_, eni, _ := strings.Cut(device.Alias, aliasOf)
			use = CapUse{Dir: dataplane.Out, ENI: eni}
		}
		if use.ENI == "" || !queues.isOurs(device.Index) {
			continue
		}
		classes, err := listClasses(device.Index)
		if err != nil {
			return nil, err
		}
		uses = append(uses, groupUses(use, classes)...)
	}
	slices.SortFunc(uses, func(a, b CapUse) int {
		return cmp.Or(strings.Compare(a.ENI, b.ENI), cmp.Compare(a.Dir, b.Dir), cmp.Compare(a.Class, b.Class))
	})
	return uses, nil
}

// groupUses adds up the queues of each group of a tree.
func groupUses(use CapUse, classes []netlink.Class) []CapUse {
	groups := map[uint32]*CapUse{}
	for _, g := range treeOf(classes).groups {
		one := use
		one.Class = g.class
		groups[g.class+1] = &one
	}
	for _, class := range classes {
		minor := class.Attrs().Handle &^ dataplane.ShapeHandle
		g := groups[minor/dataplane.ShapeGroup]
		if g == nil {
			continue
		}
		if htb, ok := class.(*netlink.HtbClass); ok && minor%dataplane.ShapeGroup == 0 && htb.Ceil*8 < noCap {
			g.Mbps = htb.Ceil * 8 / 1_000_000
		}
		if s := class.Attrs().Statistics; s != nil && minor%dataplane.ShapeGroup != 0 {
			g.Packets += uint64(s.Basic.Packets)
			g.Bytes += s.Basic.Bytes
			g.Dropped += uint64(s.Queue.Drops)
			g.Waiting += uint64(s.Queue.Backlog)
		}
	}
	var uses []CapUse
	for _, g := range groups {
		uses = append(uses, *g)
	}
	return uses
}

// Caps reads the queues of the ENIs in force.
func (l *Loader) Caps() ([]CapUse, error) {
	l.mu.Lock()
	ports := map[string]string{}
	for name, s := range l.report.ENIs {
		ports[s.Device] = name
	}
	l.mu.Unlock()
	return ReadCaps(ports)
}

// ProbeCaps tells whether the kernel has what caps in Mbit/s need. It makes devices: call it in a network namespace that
// is thrown away.
func ProbeCaps() error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = nearEnd
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: farEnd}); err != nil {
		return fmt.Errorf("make a pair of devices: %w", err)
	}
	near, err := netlink.LinkByName(nearEnd)
	if err != nil {
		return fmt.Errorf("look up %s: %w", nearEnd, err)
	}
	_, err = ensureTree(near.Attrs().Index, &tree{mbps: 1, groups: []treeGroup{{}}}, queueing{})
	return err
}
