// SPDX-License-Identifier: Apache-2.0

// Package peer makes other software do the job of eniplane on one host, so that both can be measured in one run: the
// kernel's forwarding, nftables, iptables with ipset, the kernel's VXLAN and bridge, Open vSwitch.
package peer

import (
	"context"
	"net/netip"
	"time"

	"github.com/eniplane/eniplane/pkg/lab"
)

// Family is 4 or 6.
type Family int

// The two families.
const (
	V4 Family = 4
	V6 Family = 6
)

// Of picks the one of two addresses.
func (f Family) Of(a [2]netip.Addr) netip.Addr {
	if f == V6 {
		return a[1]
	}
	return a[0]
}

// Any is the prefix of all addresses.
func (f Family) Any() netip.Prefix {
	if f == V6 {
		return netip.MustParsePrefix("::/0")
	}
	return netip.MustParsePrefix("0.0.0.0/0")
}

// Device is one end of a cable.
type Device struct {
	Name string
	MAC  [6]byte
}

// ENI is one that is attached to the host: its port there, and the guest's end.
type ENI struct {
	Port Device
	MAC  [6]byte       // the guest's
	IPs  [2]netip.Addr // IPv4, IPv6
	EIPs [2]netip.Addr // not valid = none
}

// Remote is an ENI on the other host.
type Remote struct {
	MAC [6]byte
	IPs [2]netip.Addr
}

// Job is what everybody has to do. Whoever is from Clients, or a remote ENI, may reach Service of each ENI by UDP and
// TCP, and nothing else; ENIs may reach everybody. ENIs with an EIP are reached by it, and leave by it.
type Job struct {
	Name string // unique on the machine
	Host *lab.Namespace
	Dir  string // for files, exists

	Uplink     Device
	Gateway    [2]netip.Addr   // of the host, on the uplink
	GatewayMAC [6]byte         // of that gateway
	Addrs      [2]netip.Prefix // of the host, on the uplink

	ENIs    []ENI
	Subnet  [2]netip.Prefix // of the ENIs
	Clients [2]netip.Prefix
	Service uint16
	Rules   int // that the policy of an ENI has, the one that allows included
	Flows   int // that will be open at the same time
	Room    int // for how many connections tables are made; 0 = at least twice Flows

	// The overlay to one other host; without remotes there is none.
	VNI        uint32
	RemoteVTEP netip.Addr
	Remotes    []Remote
	RemoteNet  [2]netip.Prefix
}

// VTEP is the host's address in the underlay.
func (j *Job) VTEP() netip.Addr { return j.Addrs[0].Addr() }

// Subject is somebody who can do the job.
type Subject interface {
	Name() string
	// Start does the job until it is closed. Devices are there and up. An Unable error says why it cannot be done here.
	Start(ctx context.Context, job *Job) (Running, error)
}

// Running is a subject at work.
type Running interface {
	// CPUTime is what it has used outside of the packets' own path: by processes of its own.
	CPUTime() (time.Duration, error)
	Close() error
}

// Unable is why a subject cannot do a job on this machine.
type Unable struct{ Reason string }

// Error implements error.
func (u *Unable) Error() string { return u.Reason }
