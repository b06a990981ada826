// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/eniplane/eniplane/pkg/compile"
	"github.com/eniplane/eniplane/pkg/dataplane"
	"github.com/eniplane/eniplane/pkg/dataplane/flowtable"
)

// How often the underlay is looked at: soon after an event, but not more often than lookLeast; without any every lookMost,
// since of some things (IPsec policies, path MTUs) no event tells.
const (
	lookLeast = 50 * time.Millisecond
	lookMost  = 5 * time.Second
)

// aim is what the underlay must lead to.
type aim struct {
	vtep    netip.Addr   // ours
	others  []netip.Addr // VTEPs, sorted
	uplinks []int        // sorted
	mtu     int          // that an outer packet may need
}

// aimOf is what a revision needs of the underlay.
func aimOf(st *compile.State, all devices, mtu int) aim {
	a := aim{vtep: st.Host.VTEP, mtu: mtu}
	for _, v := range st.VTEPs {
		a.others = append(a.others, v.Addr)
	}
	slices.SortFunc(a.others, netip.Addr.Compare)
	a.others = slices.Compact(a.others)
	for _, name := range st.Host.Uplinks {
		if d := all[name]; d != nil {
			a.uplinks = append(a.uplinks, d.Index)
		}
	}
	slices.Sort(a.uplinks)
	return a
}

func (a aim) equal(b aim) bool {
	return a.vtep == b.vtep && a.mtu == b.mtu && slices.Equal(a.others, b.others) && slices.Equal(a.uplinks, b.uplinks)
}

// underlay keeps ways to all VTEPs in the maps, as the kernel's routes and neighbours are. It has a thread of its own in
// the host's network namespace. What it cannot vouch for is left to the kernel's own way, by a lease, too, if it dies.
type underlay struct {
	log    *slog.Logger
	exits  exitTable
	ways   wayTable
	events *netEvents
	kicked int // eventfd
	ended  sync.WaitGroup

	mu   sync.Mutex
	aim  aim
	done bool

	// Of the thread alone:
	now        aim
	looked     time.Time
	whole      bool // the last look succeeded
	failure    string
	neighbours map[hop]neighbour
	hops       map[netip.Addr]hop // by VTEP
}

// hop is a neighbour's address at a device.
type hop struct {
	ifindex int
	addr    netip.Addr
}

// openUnderlay begins to follow the underlay; there is no aim yet.
func openUnderlay(maps *dataplane.Maps, log *slog.Logger) (_ *underlay, err error) {
	u := &underlay{log: log, kicked: -1}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("follow the underlay: %w", err), u.release())
		}
	}()
	if u.exits.memory, err = newMapping(maps.Map(dataplane.MapExits)); err != nil {
		return nil, err
	}
	if u.ways.memory, err = newMapping(maps.Map(dataplane.MapVTEPWays)); err != nil {
		return nil, err
	}
	u.exits.adopt()
	u.ways.adopt()
	if u.events, err = subscribeUnderlay(); err != nil {
		return nil, err
	}
	if u.kicked, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return nil, fmt.Errorf("make an eventfd: %w", err)
	}
	ns, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open the network namespace: %w", err)
	}
	entered := make(chan error)
	u.ended.Go(func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with its namespace
		err := unix.Setns(ns, unix.CLONE_NEWNET)
		entered <- errors.Join(err, unix.Close(ns))
		if err == nil {
			u.run()
		}
	})
	if err := <-entered; err != nil {
		return nil, fmt.Errorf("enter the network namespace: %w", err)
	}
	return u, nil
}

// follow sets the aim.
func (u *underlay) follow(a aim) error {
	u.mu.Lock()
	same := u.aim.equal(a)
	u.aim = a
	u.mu.Unlock()
	if same {
		return nil
	}
	return u.kick()
}

func (u *underlay) kick() error {
	if _, err := unix.Write(u.kicked, []byte{1, 0, 0, 0, 0, 0, 0, 0}); err != nil && !errors.Is(err, unix.EAGAIN) {
		return fmt.Errorf("wake who follows the underlay: %w", err)
	}
	return nil
}

// close stops following: all packets take the kernel's ways at once.
func (u *underlay) close() error {
	u.mu.Lock()
	u.done = true
	u.mu.Unlock()
	err := u.kick()
	u.ended.Wait()
	u.exits.shut()
	return errors.Join(err, u.release())
}

func (u *underlay) release() error {
	var errs []error
	if u.events != nil {
		errs = append(errs, u.events.close())
	}
	if u.kicked >= 0 {
		errs = append(errs, unix.Close(u.kicked))
	}
	for _, m := range []*mapping{u.exits.memory, u.ways.memory} {
		if m != nil {
			errs = append(errs, m.close())
		}
	}
	return errors.Join(errs...)
}

// run turns until close.
func (u *underlay) run() {
	for {
		u.wait()
		u.mu.Lock()
		done, aim := u.done, u.aim
		u.mu.Unlock()
		if done {
			return
		}
		u.turn(aim)
	}
}

// wait ends with an event, a kick, or when the lease must be renewed.
func (u *underlay) wait() {
	fds := []unix.PollFd{{Fd: int32(u.events.fd), Events: unix.POLLIN}, {Fd: int32(u.kicked), Events: unix.POLLIN}}
	if _, err := unix.Poll(fds, int(leaseEvery.Milliseconds())); err != nil && !errors.Is(err, unix.EINTR) {
		time.Sleep(leaseEvery)
	}
	var count [8]byte
	_, _ = unix.Read(u.kicked, count[:]) // nothing to read is no kick
}

// turn takes in what has happened and renews the lease if it knows all of it.
func (u *underlay) turn(a aim) {
	moved, other := u.events.read()
	if pause := lookLeast - time.Since(u.looked); other && pause > 0 {
		time.Sleep(pause)
		more, _ := u.events.read()
		moved = append(moved, more...)
	}
	for _, n := range moved {
		u.learn(n)
	}
	err := error(nil)
	switch {
	case other || !u.whole || !a.equal(u.now) || time.Since(u.looked) >= lookMost:
		err = u.look(a)
	case len(moved) > 0:
		err = u.settle()
	}
	if err == nil {
		err = u.renew()
	}
	u.whole = err == nil
	if err != nil {
		u.exits.shut()
		if err.Error() != u.failure {
			u.log.Error("packets take the kernel's ways through the underlay", "err", err)
		}
		u.failure = err.Error()
		return
	}
	u.failure = ""
}

func (u *underlay) renew() error {
	now, err := flowtable.Now()
	if err != nil {
		return fmt.Errorf("renew the lease of the ways: %w", err)
	}
	u.exits.renew(now + leaseTicks)
	return nil
}

// look asks the kernel about everything.
func (u *underlay) look(a aim) (err error) {
	u.now, u.looked = a, time.Now()
	if u.neighbours, err = listNeighbours(); err != nil {
		return err
	}
	open, err := openExits(a)
	if err != nil {
		return err
	}
	if u.hops, err = routesTo(a, open); err != nil {
		return err
	}
	if err := u.exits.set(open, &u.ways); err != nil {
		return err
	}
	return errors.Join(u.manage(), u.settle())
}

// learn takes in what happened to one neighbour. Before the first look, and after one that failed, there is nothing to
// take it into: a look follows, which asks for all.
func (u *underlay) learn(n neighbour) {
	switch {
	case n.gone:
		delete(u.neighbours, n.hop)
	case u.neighbours != nil:
		u.neighbours[n.hop] = n
	}
}

// manage lets the kernel find and probe all next hops by itself, and forgets those that are none any more.
func (u *underlay) manage() error {
	wanted := map[hop]bool{}
	var errs []error
	for _, h := range u.hops {
		wanted[h] = true
	}
	for h := range wanted {
		if n, known := u.neighbours[h]; known && (n.managed || n.fixed()) {
			continue
		}
		errs = append(errs, addNeighbour(h))
	}
	for h, n := range u.neighbours {
		if n.ours && !wanted[h] {
			errs = append(errs, removeNeighbour(h))
		}
	}
	return errors.Join(errs...)
}

// settle writes the ways that are known.
func (u *underlay) settle() error {
	ways := map[[4]byte]dataplane.Way{}
	for vtep, h := range u.hops {
		n, known := u.neighbours[h]
		if exit := u.exits.index(h.ifindex); known && n.usable() && exit != 0 {
			ways[vtep.As4()] = dataplane.Way{VTEP: vtep.As4(), MAC: n.mac, Exit: exit}
		}
	}
	return u.ways.set(ways)
}
