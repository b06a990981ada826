// SPDX-License-Identifier: Apache-2.0

// Package announce tells the network which public addresses a host holds, so that packets for them come to it. Today
// that is the segment of the uplinks, by ARP and neighbour discovery; whoever announces by other means (BGP) does so
// behind the same interface.
package announce

import (
	"context"
	"net/netip"
)

// Held is what a host answers for, by which uplinks.
type Held struct {
	Uplinks []string // device names
	Addrs   []netip.Addr
	Others  []netip.Addr // it answers for these too, and another host announces them
	// Quiet says that the addresses may be another host's by now: the host must be able to take packets for them and
	// announces nothing.
	Quiet bool
}

// Announcer makes the network send packets for addresses to this host. An agent calls it when a revision is in force and
// whenever it has looked at devices; saying the same again does nothing, but for what failed before.
type Announcer interface {
	// Announce says what is held from now on: what is new is announced, what is missing is withdrawn. It does not wait
	// for the network.
	Announce(ctx context.Context, held Held)
	// Withdraw takes back all that was announced, for a host that leaves. The end of an agent is no reason: the programs
	// go on.
	Withdraw()
	// Problems says what the network could not be told, and why.
	Problems() []string
	// Wait returns when nothing is on its way to the network any more: soon after the context of Announce ends.
	Wait()
}
