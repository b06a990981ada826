// SPDX-License-Identifier: Apache-2.0

// Package api holds the objects of the feed, as users write them: typed, decoded strictly,
// defaulted, and valid as a whole. Whoever has an *Objects from Decode may rely on every rule of
// the contract: names resolve, addresses lie where they must, numbers are in their ranges.
package api

import "net/netip"

// Version is the only apiVersion that this build reads.
const Version = "eniplane.io/v1alpha1"

// Metadata is what every object has. UID is the identity behind the name; a directory that gives
// none gets the name.
type Metadata struct {
	Name        string
	UID         string
	Labels      map[string]string
	Annotations map[string]string
}

// Meta returns the metadata itself, so that every kind is an Object.
func (m *Metadata) Meta() *Metadata { return m }

// Object is any kind.
type Object interface {
	Kind() string
	Meta() *Metadata
}

// Objects is one whole, valid revision by kind and name. The maps are never nil.
type Objects struct {
	Region         *Region // never nil: the defaults if the feed has none
	Hosts          map[string]*Host
	InstanceTypes  map[string]*InstanceType
	Instances      map[string]*Instance
	VPCs           map[string]*VPC
	Subnets        map[string]*Subnet
	RouteTables    map[string]*RouteTable
	PrefixLists    map[string]*PrefixList
	SecurityGroups map[string]*SecurityGroup
	NetworkACLs    map[string]*NetworkACL
	ENIs           map[string]*ENI
	EIPs           map[string]*EIP
}

// Region holds what is the same on all hosts.
type Region struct {
	Metadata
	GatewayMAC MAC
	MTU        int            // of the underlay; 0 = that of the uplinks
	InfraCIDRs []netip.Prefix // as given; Objects.InfraCIDRs adds the VTEPs and peers
	EIPRanges  []EIPRange     // disjoint; if there are any, every EIP lies in one
}

// EIPRange holds addresses of EIPs. With gateways only these hosts take packets to them from the underlay; without,
// each EIP is taken by the host of its ENI.
type EIPRange struct {
	CIDR     netip.Prefix
	Gateways []string // hosts
}

// Host is a hypervisor or container host with its agent.
type Host struct {
	Metadata
	Zone    string
	VTEP    netip.Addr // IPv4
	Uplinks []string
	Peer    netip.AddrPort // of the agent; invalid = none
}

// InstanceType limits the ENIs of its instances.
type InstanceType struct {
	Metadata
	MaxENIs      int
	MaxIPsPerENI int // of each family
}

// Instance is a virtual machine or container.
type Instance struct {
	Metadata
	Host      string
	Type      string
	Migration *Migration // nil = it stays
}

// Migration prepares an instance on another host, until `host` says that it is there. If it stays then, the host that the
// instance has left sends on what still comes, until it is removed.
type Migration struct {
	To      string
	From    string            // the host that it has left; "" = it has not, or nobody says
	Devices map[string]string // by ENI: its port there; without an entry that of the attachment
}

// Device returns by which device an ENI is attached after the migration.
func (m *Migration) Device(e *ENI) string {
	if device := m.Devices[e.Name]; device != "" {
		return device
	}
	return e.Attachment.Device
}

// VPC is a tenant's own address space.
type VPC struct {
	Metadata
	VNI     uint32
	CIDRs   []netip.Prefix
	Account string
}

// Subnet is a part of a VPC.
type Subnet struct {
	Metadata
	VPC        string
	CIDRs      []netip.Prefix
	RouteTable string // "" = local routes only
	NetworkACL string // "" = everything passes
}

// RouteTable adds routes to the local ones of a VPC.
type RouteTable struct {
	Metadata
	VPC    string
	Routes []Route
}

// Route sends a destination somewhere: exactly one of the first two fields is set.
type Route struct {
	Destination netip.Prefix
	PrefixList  string
	Target      Target
}

// Target is where a route leads.
type Target struct {
	Kind TargetKind
	Name string // of the ENI or VPC
}

// TargetKind tells the targets apart.
type TargetKind string

// The kinds of targets.
const (
	TargetInternet  TargetKind = "internet"
	TargetBlackhole TargetKind = "blackhole"
	TargetENI       TargetKind = "eni" // delivers to that ENI, which forwards
	TargetVPC       TargetKind = "vpc" // peering
)

// PolicyRoute sends what one ENI sends somewhere. It counts for destinations outside the VPC, ahead of
// the subnet's route table; the lowest priority that matches decides.
type PolicyRoute struct {
	Priority int
	From     []netip.Prefix // sources; empty = all
	To       []Peer         // CIDRs and prefix lists; empty = all
	Protocol Protocol
	Ports    []PortRange // destination ports; empty = all
	Target   Target
}

// PrefixList is a named list of CIDRs.
type PrefixList struct {
	Metadata
	Entries []netip.Prefix
}

// SecurityGroup allows; what no rule of an ENI's groups allows is denied.
type SecurityGroup struct {
	Metadata
	VPC     string
	Ingress []Rule
	Egress  []Rule
}

// Rule is one rule of a security group.
type Rule struct {
	Name     string
	Protocol Protocol
	Ports    []PortRange // destination ports; empty = all
	ICMP     *ICMP       // nil = all
	Peers    []Peer      // `from` of an ingress rule, `to` of an egress rule
}

// Peer is the other end that a rule names: exactly one of the fields is set.
type Peer struct {
	Prefix     netip.Prefix
	Group      string
	PrefixList string
}

// NetworkACL judges packets that enter or leave a subnet. The entries are sorted by number.
type NetworkACL struct {
	Metadata
	VPC     string
	Ingress []NACLEntry
	Egress  []NACLEntry
}

// NACLEntry is one entry of a network ACL.
type NACLEntry struct {
	Number   int
	Allow    bool // else deny
	Protocol Protocol
	Ports    []PortRange // destination ports; empty = all
	ICMP     *ICMP       // nil = all
	CIDR     netip.Prefix
}

// ENI is an elastic network interface.
type ENI struct {
	Metadata
	Subnet           string
	MAC              MAC
	IPs              []netip.Addr // the first of a family is its primary
	SecurityGroups   []string
	Attachment       *Attachment // nil = attached nowhere
	SourceDestCheck  bool        // true unless the feed says false
	AllowedAddresses []netip.Prefix
	OnPolicyChange   PolicyChange
	Timeouts         Timeouts
	Limits           Limits
	PolicyRoutes     []PolicyRoute // sorted by priority

	// Elsewhere is the host of an ENI of which only an endpoint record is known here: not its instance,
	// and of the rest only what other hosts must know. "" = the document is known, or it is attached
	// nowhere.
	Elsewhere string
	// ElsewhereTo and ElsewhereFrom are MovingTo and MovedFrom of such an ENI.
	ElsewhereTo, ElsewhereFrom string
}

// Attachment says of which instance an ENI is, and by which device of the host.
type Attachment struct {
	Instance string
	Index    int
	Device   string
	Epoch    uint64
}

// PolicyChange says what a changed rule does to live flows.
type PolicyChange string

// The ways to treat live flows.
const (
	Reevaluate PolicyChange = "reevaluate" // no packet is admitted on an outdated verdict
	Keep       PolicyChange = "keep"       // security groups leave them alone until they are idle
	Cut        PolicyChange = "cut"        // all flows of the ENI end
)

// Timeouts say for how many seconds a flow of an ENI lives without a packet.
type Timeouts struct {
	TCPEstablished int
	UDP            int // only the side that opened it was heard
	UDPStream      int
}

// DefaultTimeouts are those of an ENI that names none.
func DefaultTimeouts() Timeouts { return Timeouts{TCPEstablished: 7440, UDP: 30, UDPStream: 180} }

// Limits say how much an ENI may use of its host.
type Limits struct {
	Flows             int // live connections
	NewFlowsPerSecond int // 0 = as many as there are
	PacketsPerSecond  int // of both directions together, as on the wire; 0 = as many as there are
	IngressMbps       int // to the ENI; 0 = as fast as it goes
	EgressMbps        int // from the ENI, wherever to; 0 = as fast as it goes
}

// MaxFlowsPerENI is the largest Limits.Flows; a host for fewer flows gives no more than it has.
const MaxFlowsPerENI = 1 << 30

// MaxRate is the largest of the limits of a second.
const MaxRate = 100_000_000

// MaxMbps is the largest cap in Mbit/s.
const MaxMbps = 400_000

// DefaultLimits are those of an ENI that names none.
func DefaultLimits() Limits { return Limits{Flows: 65536} }

// EIP is a public address, bound to a private IP or reserved.
type EIP struct {
	Metadata
	Address   netip.Addr
	ENI       string     // "" = reserved
	PrivateIP netip.Addr // invalid = reserved; else of Address's family

	EgressMbps int // what leaves by it; 0 = as fast as it goes
}

// MAC is an Ethernet address.
type MAC [6]byte

// Protocol is an IP protocol, or any.
type Protocol struct {
	Any    bool
	Number uint8
}

// The protocols that have names.
const (
	ProtoICMP   = 1
	ProtoTCP    = 6
	ProtoUDP    = 17
	ProtoICMPv6 = 58
)

// PortRange is From to To, both included.
type PortRange struct {
	From, To uint16
}

// ICMP is a type of ICMP or ICMPv6 messages.
type ICMP struct {
	Type uint8
	Code *uint8 // nil = all
}

// Kind returns "Region".
func (*Region) Kind() string { return "Region" }

// Kind returns "Host".
func (*Host) Kind() string { return "Host" }

// Kind returns "InstanceType".
func (*InstanceType) Kind() string { return "InstanceType" }

// Kind returns "Instance".
func (*Instance) Kind() string { return "Instance" }

// Kind returns "VPC".
func (*VPC) Kind() string { return "VPC" }

// Kind returns "Subnet".
func (*Subnet) Kind() string { return "Subnet" }

// Kind returns "RouteTable".
func (*RouteTable) Kind() string { return "RouteTable" }

// Kind returns "PrefixList".
func (*PrefixList) Kind() string { return "PrefixList" }

// Kind returns "SecurityGroup".
func (*SecurityGroup) Kind() string { return "SecurityGroup" }

// Kind returns "NetworkACL".
func (*NetworkACL) Kind() string { return "NetworkACL" }

// Kind returns "ENI".
func (*ENI) Kind() string { return "ENI" }

// Kind returns "EIP".
func (*EIP) Kind() string { return "EIP" }
