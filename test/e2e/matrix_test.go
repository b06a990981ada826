// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"strings"
	"testing"

	"github.com/eniplane/eniplane/pkg/dataplane"
	"github.com/eniplane/eniplane/pkg/lab"
)

// path is one way of the matrix: a client, a server, and a probe on the same way that must fail.
type path struct {
	name           string
	client, server string
	denied         probe
	at             string
	reason         dataplane.Reason
}

var paths = []path{
	{
		"same host", "vm-a1", "vm-a2",
		probe{from: "vm-a1", to: "vm-a3", protocol: "tcp", port: 9999}, "a3", dataplane.ReasonSGDenied,
	},
	{
		"across hosts", "vm-a1", "vm-b1",
		probe{from: "vm-a1", to: "vm-b2", protocol: "tcp", port: 9999}, "b2", dataplane.ReasonSGDenied,
	},
	{
		"EIP", "internet", "vm-b1",
		probe{from: "internet", to: "vm-b1", protocol: "tcp", port: 23}, "b1", dataplane.ReasonNACLDenied,
	},
}

// guestOffload is a state of the guests' devices.
type guestOffload string

const (
	offloadsOn    guestOffload = "on"
	offloadsOff   guestOffload = "off"
	groTurnsOff   guestOffload = "GRO off while running"
	guestDevice                = "eth0"
	internetDev                = "uplink0"
	internetNode               = "internet"
	transferBytes              = 16 << 20
)

// TestMatrix is real traffic with every combination of what makes a packet on a veth look different
// from one on a wire.
func TestMatrix(t *testing.T) {
	l := common(t)
	for _, tx := range []bool{true, false} {
		if err := l.SetUplinkOffload(tx); err != nil {
			t.Fatal(err)
		}
		for _, guest := range []guestOffload{offloadsOn, offloadsOff, groTurnsOff} {
			for _, p := range paths {
				for _, f := range []lab.Family{lab.IPv4, lab.IPv6} {
					name := fmt.Sprintf("%s/uplink tx %t/guest %s/%s", p.name, tx, guest, f)
					t.Run(name, func(t *testing.T) { p.run(t, l, guest, f) })
				}
			}
		}
	}
}

func (p path) run(t *testing.T, l *lab.Lab, guest guestOffload, f lab.Family) {
	p.setGuests(t, l, guest != offloadsOff)
	turn := func() {}
	if guest == groTurnsOff {
		turn = func() { p.setGRO(t, l, false) }
	}
	from, to, err := l.Spots(p.client, p.server, f)
	if err != nil {
		t.Fatal(err)
	}
	p.denied.family = f
	denied(t, l, p.denied, p.at, dataplane.In, p.reason)
	exchangeUDP(t, l, from, to, turn)
	if guest == groTurnsOff {
		p.setGuests(t, l, true)
	}
	exchangeTCP(t, l, from, to, transferBytes, turn)
}

// setGuests switches all offloads of the ends that are guests.
func (p path) setGuests(t *testing.T, l *lab.Lab, on bool) {
	t.Helper()
	all := []lab.Offload{lab.OffloadRX, lab.OffloadTX, lab.OffloadSG, lab.OffloadTSO, lab.OffloadGSO, lab.OffloadGRO}
	p.eachGuest(t, l, func(n *lab.Namespace) error { return n.SetOffload(guestDevice, on, all...) })
	p.waitXDP(t, l, on)
}

func (p path) setGRO(t *testing.T, l *lab.Lab, on bool) {
	t.Helper()
	p.eachGuest(t, l, func(n *lab.Namespace) error { return n.SetOffload(guestDevice, on, lab.OffloadGRO) })
	p.waitXDP(t, l, on)
}

// waitXDP waits until the hosts know whether the guests' ports take frames from XDP, which GRO decides: what XDP sends
// to a port before the host knows that it takes none any more is lost.
func (p path) waitXDP(t *testing.T, l *lab.Lab, on bool) {
	t.Helper()
	for _, node := range []string{p.client, p.server} {
		if eni, isGuest := strings.CutPrefix(node, "vm-"); isGuest {
			waitXDPOf(t, l, "host-"+eni[:1], eni, on)
		}
	}
}

func (p path) eachGuest(t *testing.T, l *lab.Lab, do func(n *lab.Namespace) error) {
	t.Helper()
	for _, node := range []string{p.client, p.server} {
		if node == internetNode {
			continue
		}
		if err := l.In(node, do); err != nil {
			t.Error(err)
		}
	}
}
