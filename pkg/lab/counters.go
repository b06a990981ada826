// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"errors"
	"fmt"
	"sort"

	"github.com/eniplane/eniplane/pkg/dataplane"
)

// CounterKey is one counter of the lab.
type CounterKey struct {
	Host, ENI string // ENI "" = packets of no ENI
	Direction dataplane.Direction
	Reason    dataplane.Reason
}

// String returns "SG_DENIED at db-0 in, host-b".
func (k CounterKey) String() string {
	eni := k.ENI
	if eni == "" {
		eni = "no ENI"
	}
	return fmt.Sprintf("%s at %s %s, %s", k.Reason, eni, k.Direction, k.Host)
}

// Counters holds the packets of every counter that is not zero, of all hosts.
type Counters map[CounterKey]uint64

// Counters reads the counters of all hosts from their pinned maps; agents need not be alive.
func (l *Lab) Counters() (Counters, error) {
	all := Counters{}
	for _, host := range l.hostNames() {
		if err := l.readCounters(host, all); err != nil {
			return nil, fmt.Errorf("counters of %s: %w", host, err)
		}
	}
	return all, nil
}

func (l *Lab) readCounters(host string, into Counters) (err error) {
	names, err := dataplane.LoadNames(dataplane.HostStateDir(l.AgentStateDir(), host))
	if err != nil {
		return err
	}
	maps, err := dataplane.OpenPinned(dataplane.PinDir(l.AgentBPFFS(), host), true)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, maps.Close()) }()
	return maps.Counters(func(c dataplane.Counter) bool {
		key := CounterKey{Host: host, Direction: c.Direction, Reason: c.Reason}
		if c.ENI != 0 {
			key.ENI = names.ENIs[c.ENI]
			if key.ENI == "" {
				key.ENI = fmt.Sprintf("#%d", c.ENI) // gone
			}
		}
		into[key] += c.Packets
		return true
	})
}

// Moved is a counter that grew.
type Moved struct {
	CounterKey
	Packets uint64
}

// Since returns the counters that grew since an earlier reading, drops first.
func (c Counters) Since(earlier Counters) []Moved {
	var moved []Moved
	for k, n := range c {
		if n > earlier[k] {
			moved = append(moved, Moved{CounterKey: k, Packets: n - earlier[k]})
		}
	}
	sort.Slice(moved, func(i, j int) bool {
		a, b := moved[i], moved[j]
		if a.Reason.IsDrop() != b.Reason.IsDrop() {
			return a.Reason.IsDrop()
		}
		return a.String() < b.String()
	})
	return moved
}

// Drops keeps the counters that say that a packet was dropped.
func Drops(moved []Moved) []Moved {
	var drops []Moved
	for _, m := range moved {
		if m.Reason.IsDrop() {
			drops = append(drops, m)
		}
	}
	return drops
}

// Unbalanced lists the ENIs and directions for which what came in is not what was delivered,
// redirected, answered, consumed or dropped. It is exact only while no packet is on its way.
func (c Counters) Unbalanced() []string {
	type account struct {
		host, eni string
		direction dataplane.Direction
	}
	received, accounted := map[account]uint64{}, map[account]uint64{}
	for k, n := range c {
		a := account{k.Host, k.ENI, k.Direction}
		if k.Reason == dataplane.ReasonContinue {
			received[a] += n
		} else {
			accounted[a] += n
			received[a] += 0
		}
	}
	var wrong []string
	for a, n := range received {
		if n != accounted[a] {
			wrong = append(wrong, fmt.Sprintf("%s %s on %s: %d came in, %d are accounted for", a.eni, a.direction, a.host, n, accounted[a]))
		}
	}
	sort.Strings(wrong)
	return wrong
}
