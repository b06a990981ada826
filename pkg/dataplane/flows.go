// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"errors"
	"net/netip"
	"time"
)

// Flow is one connection as one of its ends on this host sees it.
type Flow struct {
	ENI         uint32         `json:"eni"`
	Incarnation uint32         `json:"incarnation"`
	Protocol    string         `json:"protocol"` // tcp, udp, icmp, icmpv6 or a number
	Local       netip.AddrPort `json:"local"`    // ICMP: the port is the identifier
	Remote      netip.AddrPort `json:"remote"`   // ICMP: the port is the type of the request
	Origin      string         `json:"origin"`   // vpc or internet
	Opener      Direction      `json:"opener"`   // who sent the first packet: out = the ENI
	State       string         `json:"state"`    // opening, established, closing, blocked
	PacketsOut  uint64         `json:"packetsOut"`
	BytesOut    uint64         `json:"bytesOut"`
	PacketsIn   uint64         `json:"packetsIn"`
	BytesIn     uint64         `json:"bytesIn"`
	Idle        time.Duration  `json:"idle"`
	Expires     time.Duration  `json:"expires"` // from now, if nothing comes
}

// Flows calls fn with each live flow until fn returns false. Flows come and go meanwhile.
func (m *Maps) Flows(fn func(Flow) bool) error { return errors.New("flows: being built") }
