// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"fmt"
	"net/netip"
)

// State is what one host's maps must hold for one revision, in terms that do not depend on their
// layout. It is a value: Compile makes it, nobody changes it. All slices are sorted by key, so that
// equal input gives equal output.
type State struct {
	Revision uint64
	Host     HostConf

	ENIs      []ENI      // those attached to instances of this host, device present or not
	NextHops  []NextHop  // one per ENI of the VPCs present on this host and of their peers, and per gateway that it uses
	Endpoints []Endpoint // one per private IP of those VPCs, and their gateways
	MACs      []MAC      // one per ENI of the VPCs present; those of peers under each VPC that they may send to
	Moves     []Move     // the ENIs in NextHops that change hosts
	VTEPs     []VTEP     // the other hosts that send to these VPCs, and what they may send
	EIPs      []EIP      // those whose ENI is in ENIs, and as a gateway those of its ranges
	Routes    []Route    // of all route tables in use, Host.Infra included
	Policies  []PolicyRoute
	Rulesets  []Ruleset // all in use, and the tables that they and ENIs name
	Addrs     []AddrTable
	Groups    []GroupTable
	Services  []ServiceTable
	RuleIDs   []RuleID // of the rules in Rulesets, by id: what an id counts begins with its revision

	PortNames []string // every device name that the feed gives to an ENI of this host, for the guards

	Names Names // ids -> names, for the CLI

	lists map[[2]string]groupRules // by security group and direction: what the next compilation need not make again
}

// HostConf holds the facts of the host itself.
type HostConf struct {
	Name       string
	VTEP       netip.Addr
	Uplinks    []string // device names
	GatewayMAC [6]byte
	MTU        int    // of the underlay; 0 = the smallest MTU of the uplinks
	Infra      uint32 // route table of what no ENI may reach: Region.infraCIDRs, VTEPs and peers
	Gatewayed  uint32 // route table of the ranges of EIPs for which the host is a gateway; 0 = none
}

// ENI is a local ENI with everything that its verdicts depend on.
type ENI struct {
	Name        string
	UID         string
	Epoch       uint64 // of the attachment
	Device      string
	Index       uint32 // 1..MAX_ENIS-1, stable while the incarnation lives
	Incarnation uint32 // one (UID, Epoch); never reused
	Generation  uint32 // grows when Content changes
	Content     [32]byte
	Flows       uint32 // which flows are its: Incarnation until a cut, then a greater number
	MaxFlows    uint32 // how many flows it may have
	NewFlows    uint32 // how many it may open in a second; 0 = any number
	Packets     uint32 // how many packets may pass it in a second; 0 = any number
	IngressMbps uint32 // cap of what it receives; 0 = none
	EgressMbps  uint32 // cap of what it sends; 0 = none

	VNI     uint32
	Subnet  uint32
	NextHop uint32
	MAC     [6]byte
	SGIn    uint32 // Ruleset.ID; 0 = no rules
	SGOut   uint32
	HasNACL bool
	NACLIn  uint32
	NACLOut uint32
	Routes  uint32 // Route.Table
	Allowed uint32 // AddrTable.ID of allowedAddresses; 0 = none

	PolicyFrom uint32 // AddrTable.ID of the policy routes' sources,
	PolicyTo   uint32 // and of their destinations, also ServiceTable.ID of their services; 0 = none

	Instance uint32     // the same for all ENIs of an instance, and of no other: but for messages, nothing depends on it
	Gateway4 netip.Addr // of the subnet; invalid = it has none of the family
	Gateway6 netip.Addr

	Stage    Stage
	MovingTo string // host where it is prepared, or went; "" = none
	Told     bool   // Left: the feed says so, and will say when that is over

	NoSource bool // sourceDestCheck: false
	Keep     bool // onPolicyChange: keep
	Idle     Idle
}

// Stage says how an ENI of this host stands in a migration.
type Stage int

// The stages.
const (
	Attached Stage = iota
	Prepared       // it moves here, and is not heard yet
	Left           // it is elsewhere: what comes for it is sent on
)

// Idle says for how many seconds a flow lives without a packet.
type Idle struct {
	TCPEstablished, UDP, UDPStream uint32
}

// NextHop says where one ENI is, or a gateway of EIPs. Generation grows when its set of addresses or its incarnation
// changes, not when it moves.
type NextHop struct {
	Index      uint32
	ENI        string // of a gateway: as GatewayHop names it
	Gateway    bool
	Local      uint32     // ENI.Index if it is here, else 0
	Prepared   uint32     // ENI.Index if it moves here
	VTEP       netip.Addr // if it is elsewhere, Local too if it has left; invalid and Local == 0 = attached nowhere
	Generation uint32
	Since      uint32 // the generation in which the entry became this ENI's
	VNI        uint32
	Subnet     uint32
	MAC        [6]byte
}

// Move says between which hosts an ENI moves, by its next hop.
type Move struct {
	NextHop  uint32
	From, To netip.Addr // VTEPs
	Pending  bool       // it is not there yet
	Told     bool       // the feed says when it is over
}

// Endpoint is a private address of a VPC.
type Endpoint struct {
	VNI      uint32
	Addr     netip.Addr
	NextHop  uint32
	GroupSet uint32 // 0 = member of no group
	Gateway  bool
}

// MAC is an ENI by its MAC. Foreign: it may send from addresses that are not its own.
type MAC struct {
	VNI     uint32
	MAC     [6]byte
	NextHop uint32
	Foreign bool
}

// VTEP says what a host may send in a VNI.
type VTEP struct {
	VNI  uint32
	Addr netip.Addr
	Role VTEPRole
}

// VTEPRole is enum vtep_role of bpf/types.h.
type VTEPRole uint32

// The roles of a VTEP.
const (
	RoleENIs    VTEPRole = 0 // it has ENIs of the VPC or of a peer
	RoleGateway VTEPRole = 1 // it is a gateway of EIPs of the VPC: what it sends may come from the internet
	RoleBehind  VTEPRole = 2 // it has ENIs with EIPs for which this host is a gateway
)

// EIP is the 1:1 binding of a public address and a private IP. That of an ENI of another host is here because this
// host is a gateway for it.
type EIP struct {
	Addr    netip.Addr
	ENI     uint32 // ENI.Index; 0 = of another host
	VNI     uint32
	Private netip.Addr

	NextHop  uint32 // of a local ENI: the way of what it sends to the internet; else the ENI's
	Uplink   bool   // packets to it are taken from the uplinks here
	Announce bool   // by this host

	Gatewayed bool // its range has gateways: packets to it may come by them

	Class      uint32 // of what leaves by it, among the EIPs of its ENI: 1 to MaxEIPClasses; 0 = of another host's
	EgressMbps uint32 // cap of that; 0 = none
}

// Route is one entry of a route table. Kind and Arg as in bpf/types.h.
type Route struct {
	Table  uint32
	Prefix netip.Prefix
	Kind   RouteKind
	Arg    uint32 // RouteENI: NextHop.Index, RouteVPC: VNI
	Subnet uint32 // the subnet whose CIDR it is, 0 = none; not 0 = inside the VPC
}

// PolicyRoute says where a policy route leads. Bit is 1 << its place among those of its ENI.
type PolicyRoute struct {
	Policy uint32 // ENI.PolicyTo
	Bit    uint32
	Kind   RouteKind
	Arg    uint32
}

// RouteKind is enum route_kind of bpf/types.h (pkg/dataplane has a test that compares them).
type RouteKind uint32

// The kinds of routes.
const (
	RouteLocal     RouteKind = 1
	RouteInternet  RouteKind = 2
	RouteBlackhole RouteKind = 3
	RouteInfra     RouteKind = 4
	RouteENI       RouteKind = 5
	RouteVPC       RouteKind = 6
	RouteNotPeered RouteKind = 7
	RouteGateway   RouteKind = 8
)

// NextHopInternet is the next hop of what leaves by this host's own routes.
const NextHopInternet = 1

// GatewayHop names the next hop that leads from a VPC to a gateway: no ENI can have this name.
func GatewayHop(host, vpc string) string { return "gateway/" + host + "/" + vpc }

// Ruleset is a compiled list of rules: which tables give the classes of a peer and of a service, and a verdict for
// each pair of classes that some rule decides. Class 0 matches no rule and is not listed. Sets and tables are never
// changed once made: an ID, of one series for all of them, stands for the content. Tables are apart so that a change
// of one rule writes only those that it is about, and shared by the sets that need the same.
//
// A wide set would need too many verdicts. It says which rules its classes match instead: the first that peer and
// service have in common decides. A peer with an address, in a prefix list and with groups matches the rules of all.
type Ruleset struct {
	ID       uint32
	Key      string // of the content, as in IDs.Rulesets; so in the tables
	Addrs    uint32 // AddrTable of the CIDRs that the rules write themselves; 0 = none
	Lists    uint32 // AddrTable of the prefix lists that they name
	Groups   uint32 // GroupTable of the security groups that they name
	Services uint32 // ServiceTable; 0 = there is no rule
	Verdicts []Verdict
	Rules    []Rule // Rules[i-1] is the rule with ordinal i

	// Wide: ClassRules[kind][class-1], and Verdicts has one of each rule, with the rule as service.
	ClassRules [ClassKinds][]RuleSet
}

// Wide tells whether the set is searched for the first rule that matches.
func (s *Ruleset) Wide() bool { return s.ClassRules[OfService] != nil }

// ClassKind says of what something is a class: each table of a set counts its own from 1.
type ClassKind uint32

// The kinds of classes, as in bpf/types.h.
const (
	OfAddr ClassKind = iota
	OfList
	OfGroup
	OfService
	ClassKinds = 4
)

// RuleSet is a set of rules: bit n stands for the rule with ordinal n+1.
type RuleSet [WordsPerSet]uint64

// AddrTable gives addresses their classes; the longest prefix wins.
type AddrTable struct {
	ID       uint32
	Key      string
	Prefixes []PeerClass

	covering []bitset // of prefix lists: covering[class-1] are those that hold the addresses, in the order of their names
}

// PeerClass gives the class of addresses under a prefix.
type PeerClass struct {
	Prefix netip.Prefix
	Class  uint32
}

// GroupTable gives peers their classes by their groups.
type GroupTable struct {
	ID     uint32
	Key    string
	Groups []GroupClass
}

// GroupClass gives the class of a peer with this group set.
type GroupClass struct {
	GroupSet uint32
	Class    uint32
}

// ServiceTable gives services their classes. The longest prefix wins; where it leads to a block, that says it.
type ServiceTable struct {
	ID       uint32
	Key      string
	Prefixes []ServiceClass
	Blocks   []ServiceBlock
}

// ServiceClass gives the class of a protocol and port. Bits counts what is fixed of 8 bits of
// protocol followed by 16 bits of port (0 = any protocol, 8 = any port, 24 = one port). Port is the
// destination port, type<<8|code for ICMP, 0 for other protocols. Class 0: see the block, Bits is 16 then.
type ServiceClass struct {
	Protocol uint8
	Port     uint16
	Bits     uint8
	Class    uint32
}

// ServiceBlock gives the classes of the ports High<<8 to High<<8|255; 0 is none.
type ServiceBlock struct {
	Protocol, High uint8
	Classes        [256]uint32
}

// Verdict decides a pair of classes; a pair without one is denied.
type Verdict struct {
	Kind          ClassKind // of the peer
	Peer, Service uint32
	Allow         bool
	Rule          uint32 // ordinal in Ruleset.Rules, from 1
}

// Names maps the ids in the maps to the names of the feed.
type Names struct {
	ENIs      map[uint32]string   // ENI.Index
	NextHops  map[uint32]string   // name of the ENI
	VPCs      map[uint32]string   // VNI
	Subnets   map[uint32]string   // id
	GroupSets map[uint32][]string // names of the groups
	Tables    map[uint32]string   // route tables
	Rulesets  map[uint32]string   // for what a rule set or a table of one was made first, for example "sg web,ssh ingress"
	Rules     map[uint32]RuleName // Rule.ID, of rules that were removed lately too
	Hosts     map[string]string   // VTEP -> host
}

// Rule returns the name of a rule by its id; "" is the name of none, and the id that of one that is not
// known any more.
func (n *Names) Rule(id uint32) string {
	if id == 0 {
		return ""
	}
	if name := n.Rules[id].Name; name != "" {
		return name
	}
	return fmt.Sprint(id)
}
