// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"slices"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/eniplane/eniplane/pkg/dataplane"
)

// The numbers of a queueing tree, in bytes and seconds.
const (
	burstTime   = 20 // ms: what a cap may be late to make up for, and 2 % of a second
	queueTime   = 25 // ms: how long a packet waits at most, if its queue has the cap for itself
	quantumTime = 1  // ms: what a queue sends in its turn
	leastBurst  = 3000
	leastQueue  = 128 << 10 // room for two GSO packets
	mostQueue   = 4 << 20
	mostQuantum = 66000 // a GSO packet
	leafRate    = 1000  // bit/s: a queue owns next to nothing, all is borrowed from the caps above it
	noCap       = 1_000_000_000_000
)

// tree is the queueing of a device: a cap for all, groups with caps of their own, and queues of flows in each. HTB lets
// the queues borrow from both caps in turns, so that flows share them evenly.
type tree struct {
	mbps   uint32 // 0 = no cap
	groups []treeGroup
}

// treeGroup is what leaves by one EIP, or the rest (class 0).
type treeGroup struct {
	class uint32
	mbps  uint32
}

// uncapped is the same tree without caps: what waits in it leaves at once.
func (t *tree) uncapped() *tree {
	free := &tree{groups: slices.Clone(t.groups)}
	for i := range free.groups {
		free.groups[i].mbps = 0
	}
	return free
}

// htbClass is a class as we ask for it; queue is the limit of its packets, of a leaf.
type htbClass struct {
	minor, parent uint32
	rate, ceil    uint64 // bit/s
	quantum       uint32
	queue         uint32
}

func bitsOf(mbps uint32) uint64 {
	if mbps == 0 {
		return noCap
	}
	return uint64(mbps) * 1_000_000
}

// during is how many bytes a rate is in some milliseconds, within bounds.
func during(rate uint64, ms, least, most uint64) uint32 {
	return uint32(min(max(rate/8/1000*ms, least), most))
}

// classes lists the classes of a tree, parents first.
func (t *tree) classes() []htbClass {
	all := []htbClass{{minor: dataplane.ShapeRoot, rate: bitsOf(t.mbps), ceil: bitsOf(t.mbps), quantum: mostQuantum}}
	for _, g := range t.groups {
		ceil := min(bitsOf(g.mbps), bitsOf(t.mbps))
		group := (g.class + 1) * dataplane.ShapeGroup
		all = append(all, htbClass{minor: group, parent: dataplane.ShapeRoot, rate: leafRate, ceil: ceil, quantum: mostQuantum})
		for i := range uint32(dataplane.ShapeBuckets) {
			all = append(all, htbClass{
				minor: group + 1 + i, parent: group, rate: leafRate, ceil: ceil,
				quantum: during(ceil, quantumTime, leastBurst, mostQuantum), queue: during(ceil, queueTime, leastQueue, mostQueue),
			})
		}
	}
	return all
}

func classID(minor uint32) uint32 { return dataplane.ShapeHandle | minor }

// errNoHTB: the kernel has no HTB.
var errNoHTB = errors.New("the kernel has no HTB, which keeps caps in Mbit/s (CONFIG_NET_SCH_HTB, module sch_htb): load or build it, or remove the cap")

// queueing is what devices have of queueing disciplines, by ifindex.
type queueing map[int][]netlink.Qdisc

func listQueueing() (queueing, error) {
	all, err := netlink.QdiscList(nil)
	if err != nil {
		return nil, fmt.Errorf("list queueing disciplines: %w", err)
	}
	q := queueing{}
	for _, one := range all {
		q[one.Attrs().LinkIndex] = append(q[one.Attrs().LinkIndex], one)
	}
	return q, nil
}

// isShaped tells whether a device has a tree of ours at its root.
func (q queueing) isShaped(ifindex int) bool {
	return slices.ContainsFunc(q[ifindex], func(d netlink.Qdisc) bool {
		a := d.Attrs()
		return d.Type() == "htb" && a.Parent == netlink.HANDLE_ROOT && a.Handle == dataplane.ShapeHandle
	})
}

// queues is how many queues of ours a device has.
func (q queueing) queues(ifindex int) int {
	n := 0
	for _, d := range q[ifindex] {
		if d.Type() == "bfifo" {
			n++
		}
	}
	return n
}

// ensureTree gives a device this tree and says whether that took anything. Classes of a tree that is there are changed
// in place: what waits in them goes on waiting.
func ensureTree(ifindex int, t *tree, q queueing) (changed bool, err error) {
	var have []netlink.Class
	if q.isShaped(ifindex) {
		if have, err = listClasses(ifindex); err != nil {
			return false, err
		}
	} else if err := makeRoot(ifindex); err != nil {
		return false, err
	}
	want := t.classes()
	leaves := len(t.groups) * dataplane.ShapeBuckets
	whole := q.queues(ifindex) == leaves && len(have) > 0
	for i := range want {
		c := &want[i]
		if whole && slices.ContainsFunc(have, c.is) {
			continue
		}
		changed = true
		if err := c.put(ifindex); err != nil {
			return true, err
		}
	}
	return changed, removeClasses(ifindex, have, want)
}

func listClasses(ifindex int) ([]netlink.Class, error) {
	all, err := netlink.ClassList(&netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: ifindex}}, 0)
	if err != nil {
		return nil, fmt.Errorf("list the classes of device %d: %w", ifindex, err)
	}
	return all, nil
}

func makeRoot(ifindex int) error {
	root := netlink.NewHtb(netlink.QdiscAttrs{LinkIndex: ifindex, Handle: dataplane.ShapeHandle, Parent: netlink.HANDLE_ROOT})
	err := netlink.QdiscReplace(root)
	if errors.Is(err, unix.ENOENT) {
		return errNoHTB
	}
	if err != nil {
		return fmt.Errorf("make the queueing tree of device %d: %w", ifindex, err)
	}
	return nil
}

// is tells whether a class of the kernel is as this one must be.
func (c *htbClass) is(class netlink.Class) bool {
	htb, ok := class.(*netlink.HtbClass)
	if !ok || htb.Handle != classID(c.minor) {
		return false
	}
	parent := uint32(netlink.HANDLE_ROOT)
	if c.parent != 0 {
		parent = classID(c.parent)
	}
	return htb.Parent == parent && htb.Rate == c.rate/8 && htb.Ceil == c.ceil/8
}

// put makes or changes a class and, of a leaf, its queue.
func (c *htbClass) put(ifindex int) error {
	attrs := netlink.ClassAttrs{LinkIndex: ifindex, Handle: classID(c.minor), Parent: netlink.HANDLE_ROOT}
	if c.parent != 0 {
		attrs.Parent = classID(c.parent)
	}
	if c.parent == 0 {
		attrs.Parent = dataplane.ShapeHandle
	}
	class := netlink.NewHtbClass(attrs, netlink.HtbClassAttrs{
		Rate: c.rate, Ceil: c.ceil, Quantum: c.quantum,
		Buffer:  during(c.rate, burstTime, min(leastBurst, c.rate/8), 1<<31),
		Cbuffer: during(c.ceil, burstTime, leastBurst, 1<<31),
	})
	if err := netlink.ClassReplace(class); err != nil {
		return fmt.Errorf("make class %x of device %d: %w", c.minor, ifindex, err)
	}
	if c.queue == 0 {
		return nil
	}
	return putQueue(ifindex, c.minor, c.queue)
}

// putQueue gives a class a queue of so many bytes.
func putQueue(ifindex int, minor, limit uint32) error {
	req := nl.NewNetlinkRequest(unix.RTM_NEWQDISC, unix.NLM_F_CREATE|unix.NLM_F_REPLACE|unix.NLM_F_ACK)
	req.AddData(&nl.TcMsg{Family: nl.FAMILY_ALL, Ifindex: int32(ifindex), Handle: minor << 16, Parent: classID(minor)})
	req.AddData(nl.NewRtAttr(nl.TCA_KIND, nl.ZeroTerminated("bfifo")))
	req.AddData(nl.NewRtAttr(nl.TCA_OPTIONS, nl.Uint32Attr(limit)))
	if _, err := req.Execute(unix.NETLINK_ROUTE, 0); err != nil {
		return fmt.Errorf("make the queue of class %x of device %d: %w", minor, ifindex, err)
	}
	return nil
}

// removeClasses removes what the tree does not have any more, leaves first.
func removeClasses(ifindex int, have []netlink.Class, want []htbClass) error {
	gone := slices.DeleteFunc(slices.Clone(have), func(class netlink.Class) bool {
		return slices.ContainsFunc(want, func(c htbClass) bool { return classID(c.minor) == class.Attrs().Handle })
	})
	slices.SortFunc(gone, func(a, b netlink.Class) int { return int(b.Attrs().Handle) - int(a.Attrs().Handle) })
	for _, class := range gone {
		class.Attrs().LinkIndex = ifindex
		if err := netlink.ClassDel(class); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("remove class %x of device %d: %w", class.Attrs().Handle, ifindex, err)
		}
	}
	return nil
}

// removeTree takes the tree off a device; what waits in it is lost.
func removeTree(ifindex int) error {
	root := netlink.NewHtb(netlink.QdiscAttrs{LinkIndex: ifindex, Handle: dataplane.ShapeHandle, Parent: netlink.HANDLE_ROOT})
	err := netlink.QdiscDel(root)
	if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EINVAL) && ignoreGone(err) != nil {
		return fmt.Errorf("remove the queueing tree of device %d: %w", ifindex, err)
	}
	return nil
}

// allGroups stands for every group of a tree.
const allGroups = ^uint32(0)

// waiting is how many bytes wait in a group of the tree of a device.
func waiting(ifindex int, group uint32) (uint64, error) {
	classes, err := listClasses(ifindex)
	if err != nil {
		return 0, err
	}
	var n uint64
	for _, c := range classes {
		minor := c.Attrs().Handle &^ dataplane.ShapeHandle
		if s := c.Attrs().Statistics; s != nil && (group == allGroups || minor/dataplane.ShapeGroup == group+1) {
			n += uint64(s.Queue.Backlog)
		}
	}
	return n, nil
}
