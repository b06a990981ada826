// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/eniplane/eniplane/pkg/compile"
	"github.com/eniplane/eniplane/pkg/dataplane"
)

// caps are those of an ENI, in Mbit/s, and the devices that keep them.
type caps struct {
	in   *tree // of its device; nil = no cap
	out  *tree // of its shaper; nil = no cap
	all  bool  // all that it sends is capped, not only what leaves by its EIPs
	err  error // why they are not kept
	near int   // ifindex of the shaper

	known bool // these very caps were kept before
}

// capsOf lists the caps of the ENIs of a state, by index; most have none.
func capsOf(st *compile.State) map[uint32]caps {
	byENI := map[uint32][]compile.EIP{}
	for _, eip := range st.EIPs {
		byENI[eip.ENI] = append(byENI[eip.ENI], eip)
	}
	all := map[uint32]caps{}
	for i := range st.ENIs {
		eni := &st.ENIs[i]
		c, eips := caps{all: eni.EgressMbps != 0}, byENI[eni.Index]
		if eni.IngressMbps != 0 {
			c.in = &tree{mbps: eni.IngressMbps, groups: []treeGroup{{}}}
		}
		if c.all || slices.ContainsFunc(eips, func(e compile.EIP) bool { return e.EgressMbps != 0 }) {
			c.out = &tree{mbps: eni.EgressMbps, groups: []treeGroup{{}}}
			slices.SortFunc(eips, func(a, b compile.EIP) int { return int(a.Class) - int(b.Class) })
			for _, eip := range eips {
				c.out.groups = append(c.out.groups, treeGroup{eip.Class, eip.EgressMbps})
			}
		}
		if c.in != nil || c.out != nil {
			all[eni.Index] = c
		}
	}
	return all
}

// sameCaps tells whether two states ask the same of queues.
func sameCaps(a, b *compile.State) bool {
	one, other := capsOf(a), capsOf(b)
	if len(one) != len(other) {
		return false
	}
	for index, c := range one {
		d, ok := other[index]
		if !ok || !c.in.equal(d.in) || !c.out.equal(d.out) {
			return false
		}
	}
	return true
}

func (t *tree) equal(u *tree) bool {
	if t == nil || u == nil {
		return t == u
	}
	return t.mbps == u.mbps && slices.Equal(t.groups, u.groups)
}

// ensureCaps makes the queues that a revision needs before it comes into force. Where that fails, an ENI that is open stays
// as it was and is Degraded; one that is not yet stays closed.
func (l *Loader) ensureCaps(report *Report, ports []*port, st *compile.State, all devices) error {
	want := capsOf(st)
	if len(want) == 0 {
		return nil
	}
	queues, err := listQueueing()
	if err != nil {
		return err
	}
	live, err := l.content(dataplane.MapLive)
	if err != nil {
		return err
	}
	var before map[uint32]caps
	if l.state != nil {
		before = capsOf(l.state)
	}
	for _, p := range ports {
		c, capped := want[p.eni.Index]
		if !capped || !p.usable() {
			continue
		}
		open, err := isOpen(live, p)
		if err != nil {
			return err
		}
		was := before[p.eni.Index]
		c.known = l.capsKept[p.eni.Index] && c.in.equal(was.in) && c.out.equal(was.out)
		p.caps = c
		if err := l.ensureQueues(report, p, queues, all); err != nil {
			p.caps.err = fmt.Errorf("keep the caps of ENI %s: %w", p.eni.Name, err)
			if !open {
				p.err = p.caps.err
			}
		}
	}
	return nil
}

func isOpen(live dataplane.Content, p *port) (bool, error) {
	value := live[dataplane.Index(p.eni.Index)]
	if value == nil {
		return false, nil
	}
	now, err := dataplane.DecodeLive(value)
	return now.Incarnation == p.eni.Incarnation && now.Ifindex == uint32(p.device.Index), err
}

// ensureQueues makes the trees of one ENI, and its shaper.
func (l *Loader) ensureQueues(report *Report, p *port, queues queueing, all devices) error {
	if p.caps.in != nil {
		had := queues.isShaped(p.device.Index)
		changed, err := ensureTree(p.device.Index, p.caps.in, queues)
		if err != nil {
			return err
		}
		l.noteQueues(report, p, changed && had)
	}
	if p.caps.out == nil {
		return nil
	}
	near, err := l.ensureShaper(report, p.eni, all)
	if err != nil {
		return err
	}
	had := queues.isShaped(near.Index)
	changed, err := ensureTree(near.Index, p.caps.out, queues)
	if err != nil {
		return err
	}
	l.noteQueues(report, p, changed && had)
	p.caps.near = near.Index
	return raiseShaper(p.eni.Index)
}

// noteQueues reports queues that somebody else has changed: those of caps that were in force and are so still.
func (l *Loader) noteQueues(report *Report, p *port, changed bool) {
	if changed && p.caps.known {
		report.repaired(l.log, "queues of ENI %s were changed and are as they must be again", p.eni.Name)
	}
}

// drainTime is how long what waits behind a cap that is gone may take to leave. Without a cap it takes no time but that of
// the devices behind.
const drainTime = 100 * time.Millisecond

// drainCaps lets what waits behind caps that are gone leave before packets go past the queues: they would overtake it.
func (l *Loader) drainCaps(want openings) error {
	if l.capsKept != nil && len(l.capsKept) == 0 {
		return nil
	}
	now, err := l.content(dataplane.MapLive)
	if err != nil {
		return err
	}
	for key, value := range now {
		old, err := dataplane.DecodeLive(value)
		if err != nil {
			return err
		}
		next, err := dataplane.DecodeLive(orZero(want.live[key], value))
		if err != nil {
			return err
		}
		var errs []error
		if old.CapIn && !next.CapIn && next.Ifindex == old.Ifindex {
			errs = append(errs, drain(int(old.Ifindex)))
		}
		switch {
		case next.Incarnation != old.Incarnation || !old.CapOut && !old.CapEIPs || next.CapOut:
		case next.CapEIPs: // whose caps stay; above them there is none by now
			errs = append(errs, awaitEmpty(int(old.Shaper), 0))
		default:
			errs = append(errs, drain(int(old.Shaper)))
		}
		if err := errors.Join(errs...); err != nil {
			l.log.Warn("what waits behind a cap that is gone may be overtaken", "device", old.Ifindex, "shaper", old.Shaper, "err", err)
		}
	}
	return nil
}

func orZero(value, like []byte) []byte {
	if value == nil {
		return make([]byte, len(like))
	}
	return value
}

// drain takes the caps off a tree and waits until nothing is in it.
func drain(ifindex int) error {
	classes, err := listClasses(ifindex)
	if err != nil {
		return err
	}
	free := treeOf(classes).uncapped().classes()
	for i := range free {
		free[i].queue = 0 // stays as it is
		if err := free[i].put(ifindex); err != nil {
			return err
		}
	}
	return awaitEmpty(ifindex, allGroups)
}

// awaitEmpty waits until nothing is in a group of a tree.
func awaitEmpty(ifindex int, group uint32) error {
	for begin := time.Now(); ; time.Sleep(time.Millisecond) {
		n, err := waiting(ifindex, group)
		if err != nil || n == 0 {
			return err
		}
		if time.Since(begin) > drainTime {
			return fmt.Errorf("%d bytes still wait", n)
		}
	}
}

// treeOf finds the groups of a tree among its classes.
func treeOf(classes []netlink.Class) *tree {
	t := &tree{}
	for _, c := range classes {
		if minor := c.Attrs().Handle &^ dataplane.ShapeHandle; minor != dataplane.ShapeRoot && minor%dataplane.ShapeGroup == 0 {
			t.groups = append(t.groups, treeGroup{class: minor/dataplane.ShapeGroup - 1})
		}
	}
	slices.SortFunc(t.groups, func(a, b treeGroup) int { return int(a.class) - int(b.class) })
	return t
}

// releaseCaps removes shapers and trees that no packet takes any more.
func (l *Loader) releaseCaps(ports []*port, all devices) error {
	kept := map[uint32]bool{}
	trees, pairs := map[int]bool{}, map[string]bool{}
	for _, p := range ports {
		if p.device == nil || p.caps.in == nil && p.caps.out == nil {
			continue
		}
		kept[p.eni.Index] = p.caps.err == nil
		trees[p.device.Index] = p.caps.in != nil
		if p.caps.out != nil {
			pairs[shaperNames(p.eni.Index)[0]] = true
		}
	}
	had := len(l.capsKept) > 0 || l.capsKept == nil // nil: what an agent before us has left is not known
	l.capsKept = kept
	if !had {
		return nil
	}
	if err := l.engine.grace(); err != nil {
		return err
	}
	queues, err := listQueueing()
	if err != nil {
		return err
	}
	var errs []error
	for _, p := range ports {
		if p.device != nil && !trees[p.device.Index] && queues.isOurs(p.device.Index) {
			errs = append(errs, removeTree(p.device.Index))
		}
	}
	for name, device := range all {
		if isShaper(device) && !pairs[name] {
			errs = append(errs, removeDevice(device))
		}
	}
	return errors.Join(errs...)
}
