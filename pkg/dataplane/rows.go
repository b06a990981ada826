// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"cmp"
	"fmt"
)

// The rows that Dump yields: one flat struct per table, ids as names. The fields marked as key tell the
// entries of a table apart.

// ActiveRow is the host word.
type ActiveRow struct {
	Revision uint64 `json:"revision"`
	Slot     int    `json:"slot"`
}

// HostRow is the entry of host_conf.
type HostRow struct {
	VTEP         string `json:"vtep"`
	VXLANIfindex uint32 `json:"vxlanIfindex"`
	OverlayMTU   uint32 `json:"overlayMTU"`
	GatewayMAC   string `json:"gatewayMAC"`
	FlowShare    uint32 `json:"flowShare"` // guaranteed to each ENI
	FlowPool     uint32 `json:"flowPool"`  // to be borrowed
	Infra        string `json:"infra"`     // table of what no ENI may reach
	Gatewayed    string `json:"gatewayed"` // the table of ranges of EIPs for which the host is a gateway
}

// ENIRow is an entry of enis.
type ENIRow struct {
	Index       uint32 `json:"index" key:"true"`
	ENI         string `json:"eni"`
	VPC         string `json:"vpc"`
	Subnet      string `json:"subnet"`
	MAC         string `json:"mac"`
	Incarnation uint32 `json:"incarnation"`
	Generation  uint32 `json:"generation"`
	NextHop     uint32 `json:"nextHop"`
	SGIn        string `json:"sgIn"`
	SGOut       string `json:"sgOut"`
	NACLIn      string `json:"naclIn"`
	NACLOut     string `json:"naclOut"`
	Routes      string `json:"routes"`
	Allowed     string `json:"allowed"`
	Policy      string `json:"policy"` // policy routes
	SourceCheck bool   `json:"sourceCheck"`
	Flows       uint32 `json:"flows"` // incarnation of its flows
	Keep        bool   `json:"keep"`  // onPolicyChange: keep
	Timeouts    string `json:"timeouts"`
	MaxFlows    uint32 `json:"maxFlows"`
	HalfOpen    uint32 `json:"halfOpen"` // of them, per opening direction
	NewFlows    uint32 `json:"newFlowsPerSecond"`
	Packets     uint32 `json:"packetsPerSecond"`
}

// LiveRow is an entry of live.
type LiveRow struct {
	Index       uint32 `json:"index" key:"true"`
	ENI         string `json:"eni"`
	Incarnation uint32 `json:"incarnation"`
	Ifindex     uint32 `json:"ifindex"`
	MTU         uint32 `json:"mtu"`
	XDP         bool   `json:"xdp"`     // takes frames from XDP
	CapIn       bool   `json:"capIn"`   // what it receives waits in classes of the device
	CapOut      bool   `json:"capOut"`  // what it sends waits at the shaper
	CapEIPs     bool   `json:"capEIPs"` // what it sends to the internet does
	Shaper      uint32 `json:"shaper"`  // ifindex
}

// PortRow is an entry of ports.
type PortRow struct {
	Ifindex     uint32 `json:"ifindex" key:"true"`
	ENI         string `json:"eni"`
	Incarnation uint32 `json:"incarnation"`
}

// UplinkRow is an entry of uplinks.
type UplinkRow struct {
	Ifindex uint32 `json:"ifindex" key:"true"`
	MAC     string `json:"mac"`
}

// ExitRow is an entry of exits.
type ExitRow struct {
	Index   uint32 `json:"index" key:"true"`
	Ifindex uint32 `json:"ifindex"`
	MAC     string `json:"mac"`
	Until   uint32 `json:"until"` // tick of the flow clock
}

// WaysRow is an entry of vtep_ways.
type WaysRow struct {
	Bucket uint32    `json:"bucket" key:"true"`
	Ways   []WayText `json:"ways"`
}

// WayText is one way of a WaysRow.
type WayText struct {
	VTEP string `json:"vtep"`
	Host string `json:"host,omitempty"`
	MAC  string `json:"mac"`
	Exit uint16 `json:"exit"`
}

// String is the way as a table shows it.
func (w WayText) String() string {
	return fmt.Sprintf("%s by %s, exit %d", cmp.Or(w.Host, w.VTEP), w.MAC, w.Exit)
}

// EndpointRow is an entry of endpoints4 or endpoints6.
type EndpointRow struct {
	VPC     string `json:"vpc" key:"true"`
	Address string `json:"address" key:"true"`
	NextHop string `json:"nextHop"`
	Groups  string `json:"groups"`
	Gateway bool   `json:"gateway"`
}

// MACRow is an entry of macs.
type MACRow struct {
	VPC     string `json:"vpc" key:"true"`
	MAC     string `json:"mac" key:"true"`
	NextHop string `json:"nextHop"`
	Foreign bool   `json:"foreign"` // may send from addresses that are not its own
}

// NextHopRow is an entry of nexthops.
type NextHopRow struct {
	Index      uint32 `json:"index" key:"true"`
	ENI        string `json:"eni"`
	Kind       string `json:"kind"` // none, local, vtep, internet, gateway
	Where      string `json:"where"`
	VPC        string `json:"vpc"`
	Subnet     string `json:"subnet"`
	MAC        string `json:"mac"`
	Generation uint32 `json:"generation"`
}

// VTEPRow is an entry of vteps.
type VTEPRow struct {
	VPC  string `json:"vpc" key:"true"`
	VTEP string `json:"vtep" key:"true"`
	Role string `json:"role" key:"true"` // enis, gateway, behind: what it may send
	Host string `json:"host"`
}

// EIPInRow is an entry of eip_in4 or eip_in6.
type EIPInRow struct {
	EIP     string `json:"eip" key:"true"`
	ENI     string `json:"eni"`
	Private string `json:"private"`
	Uplink  bool   `json:"uplink"`  // packets to it are taken from the uplinks
	Gateway bool   `json:"gateway"` // the ENI is on another host
}

// EIPOutRow is an entry of eip_out4 or eip_out6.
type EIPOutRow struct {
	VPC     string `json:"vpc" key:"true"`
	Private string `json:"private" key:"true"`
	EIP     string `json:"eip"`
	Way     string `json:"way"` // to the internet: "internet" or a gateway
}

// RouteRow is an entry of routes4 or routes6.
type RouteRow struct {
	Table  string `json:"table" key:"true"`
	Prefix string `json:"prefix" key:"true"`
	Kind   string `json:"kind"`
	Target string `json:"target"`
	Subnet string `json:"subnet"` // whose CIDR it is
}

// PolicyRow is an entry of policies: where a policy route leads.
type PolicyRow struct {
	Policy string `json:"policy" key:"true"`
	Route  int    `json:"route" key:"true"` // its place among those of the ENI
	Kind   string `json:"kind"`
	Target string `json:"target"`
}

// PeerRow is an entry of addrs4 or addrs6.
type PeerRow struct {
	Ruleset string `json:"ruleset" key:"true"`
	Prefix  string `json:"prefix" key:"true"`
	Class   uint32 `json:"class"`
}

// GroupRow is an entry of groups.
type GroupRow struct {
	Ruleset string `json:"ruleset" key:"true"`
	Groups  string `json:"groups" key:"true"`
	Class   uint32 `json:"class"`
}

// ServiceRow is an entry of services.
type ServiceRow struct {
	Ruleset  string `json:"ruleset" key:"true"`
	Protocol string `json:"protocol" key:"true"`
	Port     string `json:"port" key:"true"` // "any", a port or a range; ICMP: type and code
	Class    uint32 `json:"class"`
}

// ServiceBlockRow is an entry of service_blocks.
type ServiceBlockRow struct {
	Ruleset  string `json:"ruleset" key:"true"`
	Protocol string `json:"protocol" key:"true"`
	Port     string `json:"port" key:"true"`
	Classes  string `json:"classes"` // class*ports, from the first port on; 0 is none
}

// ClassRulesRow is an entry of class_rules.
type ClassRulesRow struct {
	Ruleset string `json:"ruleset" key:"true"`
	Kind    string `json:"kind" key:"true"`  // address, prefix list, groups, service
	Class   uint32 `json:"class" key:"true"` // the first of those in the entry
	Rules   string `json:"rules"`            // ordinals in the set, class by class
}

// VerdictRow is an entry of verdicts.
type VerdictRow struct {
	Ruleset string `json:"ruleset" key:"true"`
	Kind    string `json:"kind" key:"true"` // of the peer's class: address, prefix list, groups
	Peer    uint32 `json:"peer" key:"true"`
	Service uint32 `json:"service" key:"true"` // class, in a wide set the order of a rule
	Order   uint32 `json:"order"`              // of the deciding rule in its set
	Allow   bool   `json:"allow"`
	Rule    string `json:"rule"`
}

// RuleHitsRow is an entry of rule_hits.
type RuleHitsRow struct {
	ID   uint32 `json:"id" key:"true"`
	Rule string `json:"rule"`
	Hits uint64 `json:"hits"` // connections that the rule decided
}
