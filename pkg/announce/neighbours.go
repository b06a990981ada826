// SPDX-License-Identifier: Apache-2.0

package announce

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"
)

// Announcements are repeated because nobody acknowledges them: three, a second apart
// (RFC 4861 section 10: MAX_NEIGHBOR_ADVERTISEMENT and RETRANS_TIMER; RFC 5227 asks for two). Many of
// them go out in portions: routers police what they must learn from.
const (
	announceCount = 3
	announceEvery = time.Second
	portion       = 100
	portionEvery  = 10 * time.Millisecond
)

// port is a device as announcements see it. With another MAC it is another place.
type port struct {
	index int
	mac   [6]byte
}

// wire is what Neighbours does to devices.
type wire interface {
	find(uplink string) (port, error)
	send(port, []byte) error
	// listen makes the device take what is sent to the solicited-node groups of these addresses, and no others of ours.
	listen(uplink string, addrs []netip.Addr) error
}

// telling is one address on one device.
type telling struct {
	uplink string
	at     port
	addr   netip.Addr
}

// Neighbours announces on the segment of each uplink, by gratuitous ARP and unsolicited neighbour advertisements, and
// makes the uplinks take the multicast by which neighbours ask for IPv6 addresses. It works in the network namespace of
// its caller.
type Neighbours struct {
	log   *slog.Logger
	wire  wire
	every time.Duration

	rounds sync.WaitGroup

	mu       sync.Mutex
	told     map[telling]bool // or being told
	here     map[netip.Addr]bool
	groups   map[string]string // by uplink: the addresses for which it listens
	problems map[string]string // by what could not be done
}

// NewNeighbours makes one that has announced nothing yet.
func NewNeighbours(log *slog.Logger) *Neighbours { return newNeighbours(log, kernel{}, announceEvery) }

func newNeighbours(log *slog.Logger, w wire, every time.Duration) *Neighbours {
	return &Neighbours{
		log: log, wire: w, every: every,
		told: map[telling]bool{}, here: map[netip.Addr]bool{}, groups: map[string]string{}, problems: map[string]string{},
	}
}

// Announce implements Announcer.
func (n *Neighbours) Announce(ctx context.Context, held Held) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.here = map[netip.Addr]bool{}
	if !held.Quiet {
		for _, a := range held.Addrs {
			n.here[a] = true
		}
	}
	maps.DeleteFunc(n.problems, func(what, _ string) bool { return strings.HasPrefix(what, devices) })
	var fresh []telling
	now := map[telling]bool{}
	for _, uplink := range held.Uplinks {
		at, err := n.wire.find(uplink)
		if err != nil {
			n.problem(devices+uplink, err)
			continue
		}
		n.listen(uplink, at, slices.Concat(held.Addrs, held.Others))
		for a := range n.here {
			now[telling{uplink, at, a}] = true
		}
	}
	maps.DeleteFunc(n.told, func(t telling, _ bool) bool { return !now[t] })
	for t := range now {
		if !n.told[t] {
			n.told[t] = true
			fresh = append(fresh, t)
		}
	}
	if len(fresh) == 0 {
		return
	}
	slices.SortFunc(fresh, func(a, b telling) int {
		if c := strings.Compare(a.uplink, b.uplink); c != 0 {
			return c
		}
		return a.addr.Compare(b.addr)
	})
	n.rounds.Go(func() { n.tell(ctx, fresh) })
}

// devices begins the names of problems that end with the next look at devices.
const devices = "device "

// listen changes the groups of an uplink if the addresses have changed. The caller holds mu.
func (n *Neighbours) listen(uplink string, at port, addrs []netip.Addr) {
	var six []netip.Addr
	for _, a := range addrs {
		if a.Is6() {
			six = append(six, a)
		}
	}
	slices.SortFunc(six, netip.Addr.Compare)
	key := fmt.Sprint(at, six)
	if n.groups[uplink] == key {
		return
	}
	if err := n.wire.listen(uplink, six); err != nil {
		n.problem(devices+uplink+" groups", err)
		return
	}
	n.groups[uplink] = key
}

// problem keeps what could not be done, and logs it when it is new. The caller holds mu.
func (n *Neighbours) problem(what string, err error) {
	if n.problems[what] != err.Error() {
		n.log.Warn("cannot announce an EIP", "what", what, "err", err)
	}
	n.problems[what] = err.Error()
}

// tell announces round by round, until ctx ends. An address that is not here any more is left out: another host
// announces it now. What failed in all rounds is tried again by the next Announce.
func (n *Neighbours) tell(ctx context.Context, fresh []telling) {
	sent := map[telling]bool{}
	defer func() { n.settle(fresh, sent) }()
	for round := range announceCount {
		if round > 0 && !pause(ctx, n.every) {
			return
		}
		for i, t := range fresh {
			if i > 0 && i%portion == 0 && !pause(ctx, min(portionEvery, n.every)) {
				return
			}
			if !n.holds(t) {
				continue
			}
			err := n.wire.send(t.at, announcement(t.at.mac[:], t.addr))
			n.note(t, err)
			if err == nil {
				sent[t] = true
			}
		}
	}
}

func (n *Neighbours) holds(t telling) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.here[t.addr] && n.told[t]
}

func (n *Neighbours) note(t telling, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	what := t.addr.String() + " on " + t.uplink
	if err == nil {
		delete(n.problems, what)
		return
	}
	n.problem(what, err)
}

// settle forgets those that were never sent, so that they are tried again, and the problems of those that are not here.
func (n *Neighbours) settle(fresh []telling, sent map[telling]bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, t := range fresh {
		if !n.here[t.addr] || !n.told[t] {
			delete(n.problems, t.addr.String()+" on "+t.uplink)
		}
		if !sent[t] {
			delete(n.told, t)
		}
	}
}

// pause tells whether to go on after a time.
func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// Withdraw implements Announcer. A segment has no word for "no more": neighbours forget by themselves.
func (n *Neighbours) Withdraw() {
	n.mu.Lock()
	defer n.mu.Unlock()
	clear(n.told)
	clear(n.here)
	clear(n.problems)
	for uplink := range n.groups {
		if err := n.wire.listen(uplink, nil); err != nil {
			n.problem(devices+uplink+" groups", err)
			continue
		}
		delete(n.groups, uplink)
	}
}

// Problems implements Announcer.
func (n *Neighbours) Problems() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	var list []string
	for _, what := range slices.Sorted(maps.Keys(n.problems)) {
		list = append(list, "announce EIPs: "+n.problems[what])
	}
	return slices.Compact(list)
}

// Wait implements Announcer.
func (n *Neighbours) Wait() { n.rounds.Wait() }
