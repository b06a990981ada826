// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/eniplane/eniplane/pkg/compile"
	"github.com/eniplane/eniplane/pkg/dataplane"
)

// rateDrops is what a limit per second has taken from an ENI since it was attached here.
type rateDrops struct {
	ENI    string           `json:"eni"`
	Reason dataplane.Reason `json:"-"`
	Limit  string           `json:"limit"`
	Sent   uint64           `json:"sent"`     // packets that it sent
	Got    uint64           `json:"received"` // packets to it
}

// rateLimits names the limits per second by the reason for which packets beyond them are dropped.
func rateLimits() map[dataplane.Reason]string {
	return map[dataplane.Reason]string{
		dataplane.ReasonPacketRate: "packetsPerSecond", dataplane.ReasonFlowRate: "newFlowsPerSecond",
	}
}

// readRateDrops lists the ENIs that have lost packets to such limits, by name.
func readRateDrops(m pinnedMaps, names compile.Names) ([]rateDrops, error) {
	type key struct {
		eni    uint32
		reason dataplane.Reason
	}
	found, limits := map[key]*rateDrops{}, rateLimits()
	err := m.Counters(func(c dataplane.Counter) bool {
		limit := limits[c.Reason]
		if limit == "" || c.Packets == 0 {
			return true
		}
		k := key{c.ENI, c.Reason}
		if found[k] == nil {
			found[k] = &rateDrops{ENI: eniName(names, c.ENI), Reason: c.Reason, Limit: limit}
		}
		if c.Direction == dataplane.Out {
			found[k].Sent += c.Packets
		} else {
			found[k].Got += c.Packets
		}
		return true
	})
	if err != nil {
		return nil, err
	}
	var all []rateDrops
	for _, d := range found {
		all = append(all, *d)
	}
	slices.SortFunc(all, func(a, b rateDrops) int { return strings.Compare(a.ENI+" "+a.Limit, b.ENI+" "+b.Limit) })
	return all, nil
}

// String is the line of a limit.
func (d rateDrops) String() string {
	return fmt.Sprintf("ENI %s has lost %d packets that it sent and %d to it beyond its limits.%s (%v)", d.ENI, d.Sent, d.Got, d.Limit, d.Reason)
}
