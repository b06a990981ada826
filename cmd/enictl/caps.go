// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"

	"github.com/eniplane/eniplane/loader"
	"github.com/eniplane/eniplane/pkg/agent"
	"github.com/eniplane/eniplane/pkg/dataplane"
)

// capLines has a line for each cap in Mbit/s: what has passed it, and what was lost behind it.
func capLines(uses []loader.CapUse, eips []agent.EIPStatus) []string {
	var lines []string
	for _, u := range uses {
		what := "sends"
		if u.Dir == dataplane.In {
			what = "receives"
		}
		if u.Class != 0 {
			what += " by EIP " + eipOf(u, eips)
		}
		limit := "no cap of its own"
		if u.Mbps != 0 {
			limit = fmt.Sprintf("at most %d Mbit/s", u.Mbps)
		}
		lines = append(lines, fmt.Sprintf("ENI %s %s %s: %d packets with %d bytes passed, %d lost, %d bytes wait",
			u.ENI, what, limit, u.Packets, u.Bytes, u.Dropped, u.Waiting))
	}
	return lines
}

// eipOf is the address of an EIP by its class.
func eipOf(u loader.CapUse, eips []agent.EIPStatus) string {
	for _, e := range eips {
		if e.ENI == u.ENI && e.Class == u.Class {
			return e.Address.String()
		}
	}
	return fmt.Sprintf("#%d", u.Class)
}
