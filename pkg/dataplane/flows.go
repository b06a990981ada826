// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/eniplane/eniplane/pkg/dataplane/flowtable"
)

// Flow is one connection as one of its ends on this host sees it.
type Flow struct {
	ENI         uint32         `json:"eni"`
	Incarnation uint32         `json:"incarnation"`
	Protocol    string         `json:"protocol"`        // tcp, udp, icmp, icmpv6 or a number
	Local       netip.AddrPort `json:"local"`           // ICMP: the port is the identifier
	Remote      netip.AddrPort `json:"remote"`          // ICMP: the port is the type of the request
	EIP         netip.Addr     `json:"eip,omitzero"`    // of the local address, if the flow uses it
	Origin      string         `json:"origin"`          // vpc or internet
	Opener      Direction      `json:"opener"`          // who sent the first packet: out = the ENI
	State       string         `json:"state"`           // opening, established, closing, blocked
	Answered    bool           `json:"answered"`        // the other side was heard while it was opening
	Refused     bool           `json:"refused"`         // it was closed while it was opening
	Rule        uint32         `json:"ruleID,omitzero"` // of the security groups, that let the first packet pass
	PacketsOut  uint64         `json:"packetsOut"`
	BytesOut    uint64         `json:"bytesOut"`
	PacketsIn   uint64         `json:"packetsIn"`
	BytesIn     uint64         `json:"bytesIn"`
	Age         time.Duration  `json:"age"`
	Expires     time.Duration  `json:"expires"` // from now, if nothing comes
}

// Flows calls fn with each live flow until fn returns false. Flows come and go meanwhile; it needs
// no system call per flow and does not stop them.
func (m *Maps) Flows(fn func(Flow) bool) error {
	return m.eachFlow(false, func(_ *flowtable.Table, _ uint32, f *flowtable.Flow, flow Flow) (bool, error) {
		return fn(flow), nil
	})
}

// EndFlows ends the flows that match says, and returns how many. The maps must be open for writing.
func (m *Maps) EndFlows(match func(Flow) bool) (ended int, err error) {
	err = m.eachFlow(true, func(t *flowtable.Table, now uint32, f *flowtable.Flow, flow Flow) (bool, error) {
		if !match(flow) {
			return true, nil
		}
		done, err := t.End(f, now)
		if done {
			ended++
		}
		return true, err
	})
	return ended, err
}

type flowVisitor func(t *flowtable.Table, now uint32, f *flowtable.Flow, flow Flow) (goOn bool, err error)

func (m *Maps) eachFlow(writable bool, visit flowVisitor) error {
	now, err := flowtable.Now()
	if err != nil {
		return err
	}
	for _, family := range []flowtable.Family{flowtable.IPv4, flowtable.IPv6} {
		goOn, err := m.eachFlowOf(family, writable, now, visit)
		if err != nil || !goOn {
			return err
		}
	}
	return nil
}

func (m *Maps) eachFlowOf(family flowtable.Family, writable bool, now uint32, visit flowVisitor) (goOn bool, err error) {
	table, err := m.FlowTable(family, writable)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, table.Close()) }()
	goOn = true
	table.Each(now, func(f *flowtable.Flow) bool {
		goOn, err = visit(table, now, f, newFlow(family, f, now))
		return goOn && err == nil
	})
	return goOn, err
}

// FlowTable maps a flow table. A writable one can end flows.
func (m *Maps) FlowTable(family flowtable.Family, writable bool) (*flowtable.Table, error) {
	flows, due := m.byName[MapFlows4], m.byName[MapFlowDue4]
	if family == flowtable.IPv6 {
		flows, due = m.byName[MapFlows6], m.byName[MapFlowDue6]
	}
	if !writable {
		due = nil
	}
	return flowtable.Open(flows, due, family)
}

func newFlow(family flowtable.Family, f *flowtable.Flow, now uint32) Flow {
	flow := Flow{
		ENI: f.ENI, Incarnation: f.Incarnation, Rule: f.Rule, EIP: f.NAT,
		Local:  netip.AddrPortFrom(f.Local, f.LocalPort),
		Remote: netip.AddrPortFrom(f.Remote, f.RemotePort),
		Origin: "vpc", State: flowState(f.State),
		Answered: f.Flags&cFlowAnswered != 0, Refused: f.Flags&cFlowRefused != 0,
		PacketsOut: f.Packets[cDirOut], BytesOut: f.Bytes[cDirOut],
		PacketsIn: f.Packets[cDirIn], BytesIn: f.Bytes[cDirIn],
		Age: flowtable.Ticks(now - min(f.Opened, now)), Expires: flowtable.Ticks(f.Expires - min(now, f.Expires)),
	}
	if f.Class&cClassInternet != 0 {
		flow.Origin = "internet"
	}
	if f.Flags&cFlowOpenedByPeer != 0 {
		flow.Opener = In
	}
	switch f.Class &^ (cClassInternet | cClassTransit) {
	case cClassTCP:
		flow.Protocol = "tcp"
	case cClassUDP:
		flow.Protocol = "udp"
	case cClassICMP:
		flow.Protocol = "icmp"
		flow.Remote = netip.AddrPortFrom(f.Remote, f.RemotePort&^cFlowICMPLocal)
		if family == flowtable.IPv6 {
			flow.Protocol = "icmpv6"
		}
	default:
		flow.Protocol = protocolName(uint8(f.LocalPort))
		flow.Local = netip.AddrPortFrom(f.Local, 0)
	}
	return flow
}

// Stage is State, more exactly where a flow never was established: "answered" for one that is opening and whose other
// side was heard, "refused" for one that was closed before it was more than that.
func (f *Flow) Stage() string {
	switch {
	case f.State == "opening" && f.Answered:
		return "answered"
	case f.State == "closing" && f.Refused:
		return "refused"
	}
	return f.State
}

func flowState(state uint8) string {
	switch state {
	case cFlowOpening:
		return "opening"
	case cFlowEstablished:
		return "established"
	case cFlowClosing:
		return "closing"
	case cFlowBlocked:
		return "blocked"
	}
	return fmt.Sprint(state)
}
