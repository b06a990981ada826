// SPDX-License-Identifier: Apache-2.0

// Package compile turns the objects of the feed into what the maps of one host must hold. It is
// pure: no files, no kernel, no clock, no randomness; equal input gives equal output.
package compile

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/eniplane/eniplane/pkg/api"
)

// Input is all that a compilation depends on. Compile changes none of it.
type Input struct {
	Objects  *api.Objects
	Host     string
	Revision uint64
	Previous *State // in force on the host; nil = unknown
	IDs      *IDs   // of the last compilation, whether or not it came into force; nil = none ever

	// Settled ends what is kept for ENIs that have moved: whoever sends to them knows by now where they are. Where the feed
	// says itself when that is (Objects.MovedFrom), it decides.
	Settled bool

	// Open are ENIs that are here before the feed says so: their slots are those of the epochs that it gives them.
	Open map[string]bool

	WideRules bool // every rule set is wide and its ports are blocks, however small: for tests
}

// Result is a compiled revision.
type Result struct {
	State *State
	IDs   *IDs // to be stored before State is applied
	// Degraded says by ENI why it could not be compiled. Such an ENI keeps the policy that it had
	// in Previous, or is left out if it was not there.
	Degraded map[string]error
}

// Compile makes the state of one host. Errors are of the revision as a whole; what concerns one ENI
// is in Result.Degraded.
func Compile(in Input) (*Result, error) {
	host, ok := in.Objects.Hosts[in.Host]
	if !ok {
		return nil, fmt.Errorf("compile revision %d: the feed has no host %q: add the Host, or start the agent with the name that the feed uses", in.Revision, in.Host)
	}
	alloc, err := newAllocator(in.Revision, in.IDs, in.Previous)
	if err != nil {
		return nil, fmt.Errorf("compile revision %d: %w", in.Revision, err)
	}
	c := newCompiler(in, alloc)
	c.out.Host = HostConf{
		Name: host.Name, VTEP: host.VTEP, Uplinks: slices.Clone(host.Uplinks),
		GatewayMAC: in.Objects.Region.GatewayMAC, MTU: in.Objects.Region.MTU,
	}
	c.survey()
	c.out.Routes = c.infraRoutes()
	c.number()
	for _, e := range c.byAge() {
		c.addENI(e)
	}
	for _, v := range slices.Concat(c.vpcs, c.peers) {
		c.addVPC(v)
	}
	for _, v := range c.vpcs {
		c.addPeers(v)
	}
	c.addEIPs()
	c.addGateways()
	c.addPolicies()
	c.addRanges()
	c.addNames()
	c.addRules()
	c.sort()
	if alloc.err != nil {
		return nil, fmt.Errorf("compile revision %d: %w", in.Revision, alloc.err)
	}
	return &Result{State: &c.out, IDs: alloc.ids, Degraded: c.degraded}, nil
}

// vpc is a VPC that has an ENI on this host, or a peer of one, with all its ENIs wherever they are.
type vpc struct {
	obj     *api.VPC
	subnets []*api.Subnet    // by name
	enis    []*api.ENI       // by name
	sets    []groupSet       // by id
	setsOf  map[string][]int // by security group: places in sets
	setOf   map[string]uint32
	members map[string][]netip.Addr // by security group

	memberHashes map[string][32]byte

	present   bool           // it has an ENI here
	peers     []string       // VPCs, by name: both have a route to each other
	peerCIDRs []netip.Prefix // of all VPCs to which it has a route: no place of the internet
}

type namedRoutes struct {
	routes []Route
	label  string
}

// compiler holds one run.
type compiler struct {
	Input
	alloc        *allocator
	room         room
	previousENIs map[string]*ENI
	previous     ruleTables        // of the previous revision
	previousIDs  map[string]uint32 // of its rule sets and tables of addresses, by key

	previousLists map[[2]string]groupRules
	made          ruleTables // in this run, or taken over
	previousMoves map[uint32]*Move

	infra []netip.Prefix
	local []*api.ENI      // attached here, by name
	vpcs  []*vpc          // present here, by name
	peers []*vpc          // others that these exchange packets with
	vpcOf map[string]*vpc // by ENI

	vpcByName map[string]*vpc
	eips      map[string][]*api.EIP // by ENI, in the order of names
	ranges    []netip.Prefix        // of EIPs, for which this host is a gateway
	behind    []*api.EIP            // in these, of ENIs of other hosts, by name
	gateways  map[vpcGateway]bool

	listHashes map[string][32]byte
	ruleLists  map[[2]string]*ruleList // by security group and direction
	compiled   map[string]*compiled    // by label
	tables     map[[2]string]*table    // by VPC and route table
	routes     map[uint32]namedRoutes
	policies   map[uint32][]PolicyRoute

	here     map[string]uint32       // index by name of the ENIs in out that are not only prepared
	prepared map[string]uint32       // of those that are
	leaving  bool                    // an ENI here was about to leave, or has left
	left     map[string]bool         // ENIs that are elsewhere by now
	senders  map[string][]netip.Addr // hosts that may send as an ENI although it is elsewhere
	out      State
	degraded map[string]error
}

func newCompiler(in Input, alloc *allocator) *compiler {
	c := &compiler{
		Input: in, alloc: alloc, room: newRoom(),
		previousENIs:  map[string]*ENI{},
		made:          newRuleTables(),
		vpcOf:         map[string]*vpc{},
		eips:          map[string][]*api.EIP{},
		listHashes:    map[string][32]byte{},
		ruleLists:     map[[2]string]*ruleList{},
		compiled:      map[string]*compiled{},
		tables:        map[[2]string]*table{},
		routes:        map[uint32]namedRoutes{},
		policies:      map[uint32][]PolicyRoute{},
		vpcByName:     map[string]*vpc{},
		gateways:      map[vpcGateway]bool{},
		here:          map[string]uint32{},
		prepared:      map[string]uint32{},
		left:          map[string]bool{},
		degraded:      map[string]error{},
		previousMoves: map[uint32]*Move{},
		senders:       map[string][]netip.Addr{},
	}
	c.out.Revision, c.out.lists = in.Revision, map[[2]string]groupRules{}
	if in.Previous == nil {
		return c
	}
	for i := range in.Previous.ENIs {
		e := &in.Previous.ENIs[i]
		c.previousENIs[e.Name] = e
		c.leaving = c.leaving || e.MovingTo != ""
	}
	for i := range in.Previous.Moves {
		c.previousMoves[in.Previous.Moves[i].NextHop] = &in.Previous.Moves[i]
	}
	c.previous, c.previousIDs = tablesOf(in.Previous)
	c.previousLists = in.Previous.lists
	return c
}

// survey finds what of the feed this host needs.
func (c *compiler) survey() {
	obj := c.Objects
	c.infra = obj.InfraCIDRs()
	enis := sorted(obj.ENIs)
	for _, e := range enis {
		local := c.standing(e)
		if local == nil {
			continue
		}
		c.local = append(c.local, local)
		c.out.PortNames = append(c.out.PortNames, local.Attachment.Device)
		v := obj.VPCOf(e)
		if c.vpcByName[v.Name] == nil {
			c.vpcs = append(c.vpcs, c.newVPC(v))
			c.vpcByName[v.Name].present = true
		}
	}
	slices.SortFunc(c.vpcs, func(a, b *vpc) int { return strings.Compare(a.obj.Name, b.obj.Name) })
	c.findPeers()
	for _, s := range sorted(obj.Subnets) {
		if v := c.vpcByName[s.VPC]; v != nil {
			v.subnets = append(v.subnets, s)
		}
	}
	for _, e := range enis {
		v := c.vpcByName[obj.VPCOf(e).Name]
		if v == nil {
			continue
		}
		v.enis = append(v.enis, e)
		c.vpcOf[e.Name] = v
		for _, group := range e.SecurityGroups {
			v.members[group] = append(v.members[group], e.IPs...)
		}
	}
	for _, eip := range sorted(obj.EIPs) {
		if eip.ENI != "" {
			c.eips[eip.ENI] = append(c.eips[eip.ENI], eip)
		}
	}
	c.surveyGateways()
}

func (c *compiler) newVPC(obj *api.VPC) *vpc {
	v := &vpc{
		obj: obj, setOf: map[string]uint32{}, setsOf: map[string][]int{},
		members: map[string][]netip.Addr{}, memberHashes: map[string][32]byte{},
	}
	c.vpcByName[obj.Name] = v
	return v
}

// number gives everything its ids, in the order of names.
func (c *compiler) number() {
	var enis []*api.ENI
	for _, v := range c.peers {
		for _, s := range v.subnets {
			c.alloc.subnet(s)
		}
		enis = append(enis, v.enis...)
	}
	for _, v := range c.vpcs {
		for _, s := range v.subnets {
			c.alloc.subnet(s)
		}
		known := map[uint32]bool{}
		for _, e := range v.enis {
			if len(e.SecurityGroups) == 0 {
				continue
			}
			names := sortedNames(e.SecurityGroups)
			id := c.alloc.groupSet(v.obj.Name + "/" + strings.Join(names, ","+v.obj.Name+"/"))
			v.setOf[e.Name] = id
			if !known[id] {
				known[id] = true
				v.sets = append(v.sets, groupSet{id, names})
			}
		}
		slices.SortFunc(v.sets, func(a, b groupSet) int { return cmp.Compare(a.id, b.id) })
		for i := range v.sets {
			for _, group := range v.sets[i].names {
				v.setsOf[group] = append(v.setsOf[group], i)
			}
		}
		enis = append(enis, v.enis...)
	}
	for _, name := range c.alloc.claimNextHops(c.hopClaims(enis)) {
		c.degraded[name] = fmt.Errorf("number %s: all %d next hops of this host are in use or were until now: spread the instances of its VPC over fewer hosts", name, MaxNextHops-firstNextHop)
	}
	for _, e := range c.alloc.claimENIs(c.local, c.isPrepared, c.Open) {
		c.degraded[e.Name] = fmt.Errorf("number ENI %s: all %d ENIs of this host are in use or were until now: move instances to other hosts, or wait for the next revision if some have just left", e.Name, MaxENIs-firstENI)
	}
}

// byAge returns the local ENIs, those first that were here before: new ones get what room is left.
func (c *compiler) byAge() []*api.ENI {
	var old, fresh []*api.ENI
	for _, e := range c.local {
		if c.previousENIs[e.Name] != nil {
			old = append(old, e)
		} else {
			fresh = append(fresh, e)
		}
	}
	return append(old, fresh...)
}

// addVPC adds what this host must know of a VPC: where its addresses are and, if it is present, who may
// send to it.
func (c *compiler) addVPC(v *vpc) {
	vni := v.obj.VNI
	for _, s := range v.subnets {
		for _, p := range s.CIDRs {
			c.out.Endpoints = append(c.out.Endpoints, Endpoint{VNI: vni, Addr: api.Gateway(p), Gateway: true})
		}
	}
	ips := 0
	for _, e := range v.enis {
		ips += len(e.IPs)
	}
	c.out.Endpoints = slices.Grow(c.out.Endpoints, ips)
	c.out.NextHops = slices.Grow(c.out.NextHops, len(v.enis))
	c.out.MACs = slices.Grow(c.out.MACs, len(v.enis))
	vteps := map[netip.Addr]bool{}
	for _, e := range v.enis {
		slot, ok := c.alloc.ids.NextHops[e.Name]
		if !ok {
			continue
		}
		hop := NextHop{
			Index: slot.Index, ENI: e.Name, Local: c.here[e.Name], Prepared: c.prepared[e.Name],
			Generation: slot.Generation, Since: slot.Since, VNI: vni, Subnet: c.alloc.subnet(c.Objects.Subnets[e.Subnet]), MAC: e.MAC,
		}
		if host := c.Objects.HostOf(e); host != "" && host != c.Host {
			hop.VTEP = c.Objects.Hosts[host].VTEP
			vteps[hop.VTEP] = v.present
		}
		for _, host := range c.addMove(e, &hop) {
			vteps[host] = v.present
		}
		c.out.NextHops = append(c.out.NextHops, hop)
		if v.present {
			c.out.MACs = append(c.out.MACs, c.mac(v, e, slot.Index))
		}
		for _, ip := range e.IPs {
			c.out.Endpoints = append(c.out.Endpoints, Endpoint{
				VNI: vni, Addr: ip, NextHop: slot.Index, GroupSet: v.setOf[e.Name],
			})
		}
	}
	for addr, sends := range vteps {
		if !sends {
			continue
		}
		c.out.VTEPs = append(c.out.VTEPs, VTEP{VNI: vni, Addr: addr, Role: RoleENIs})
	}
}

// mac is an ENI by its MAC as a VPC sees it.
func (c *compiler) mac(v *vpc, e *api.ENI, hop uint32) MAC {
	return MAC{VNI: v.obj.VNI, MAC: e.MAC, NextHop: hop, Foreign: len(e.AllowedAddresses) > 0 || !e.SourceDestCheck}
}

// addRules says what the ids of rules mean. Sets that were kept may have rules that the feed has no more.
func (c *compiler) addRules() {
	ids := c.alloc.rules
	ids.settle(c.alloc.ids)
	c.out.RuleIDs = slices.SortedFunc(maps.Values(ids.now), func(a, b RuleID) int { return cmp.Compare(a.ID, b.ID) })
	c.out.Names.Rules = ids.names
	for i := range c.out.Rulesets {
		for _, rule := range c.out.Rulesets[i].Rules {
			if _, known := ids.names[rule.ID]; !known && rule.ID != 0 {
				ids.names[rule.ID] = RuleName{Name: rule.Name}
			}
		}
	}
}

func (c *compiler) addPolicyRoutes(id uint32) {
	routes, ok := c.policies[id]
	if !ok {
		for _, r := range c.Previous.Policies {
			if r.Policy == id {
				routes = append(routes, r)
			}
		}
	}
	c.out.Policies = append(c.out.Policies, routes...)
}

func (c *compiler) addTable(id uint32) {
	table, ok := c.routes[id]
	if !ok {
		table.label = c.Previous.Names.Tables[id]
		for _, r := range c.Previous.Routes {
			if r.Table == id {
				table.routes = append(table.routes, r)
			}
		}
	}
	c.out.Routes = append(c.out.Routes, table.routes...)
	c.out.Names.Tables[id] = table.label
}

func (c *compiler) addNames() {
	names := &c.out.Names
	names.ENIs, names.NextHops = map[uint32]string{}, map[uint32]string{}
	names.VPCs, names.Subnets = map[uint32]string{}, map[uint32]string{}
	names.GroupSets, names.Hosts = map[uint32][]string{}, map[string]string{}
	for i := range c.out.ENIs {
		names.ENIs[c.out.ENIs[i].Index] = c.out.ENIs[i].Name
	}
	for i := range c.out.NextHops {
		names.NextHops[c.out.NextHops[i].Index] = c.out.NextHops[i].ENI
	}
	for _, v := range slices.Concat(c.vpcs, c.peers) {
		names.VPCs[v.obj.VNI] = v.obj.Name
		for _, s := range v.subnets {
			names.Subnets[c.alloc.subnet(s)] = s.Name
		}
		for _, set := range v.sets {
			names.GroupSets[set.id] = set.names
		}
	}
	for _, eip := range c.behind {
		vpc := c.Objects.VPCOf(c.Objects.ENIs[eip.ENI])
		names.VPCs[vpc.VNI] = vpc.Name
	}
	for name, h := range c.Objects.Hosts {
		names.Hosts[h.VTEP.String()] = name
	}
}

func (c *compiler) sort() {
	out := &c.out
	slices.SortFunc(out.ENIs, func(a, b ENI) int { return cmp.Compare(a.Index, b.Index) })
	slices.SortFunc(out.NextHops, func(a, b NextHop) int { return cmp.Compare(a.Index, b.Index) })
	slices.SortFunc(out.Endpoints, func(a, b Endpoint) int {
		return cmp.Or(cmp.Compare(a.VNI, b.VNI), a.Addr.Compare(b.Addr))
	})
	slices.SortFunc(out.MACs, func(a, b MAC) int {
		return cmp.Or(cmp.Compare(a.VNI, b.VNI), bytes.Compare(a.MAC[:], b.MAC[:]))
	})
	slices.SortFunc(out.VTEPs, func(a, b VTEP) int {
		return cmp.Or(cmp.Compare(a.Role, b.Role), cmp.Compare(a.VNI, b.VNI), a.Addr.Compare(b.Addr))
	})
	out.VTEPs = slices.Compact(out.VTEPs)
	slices.SortFunc(out.Moves, func(a, b Move) int { return cmp.Compare(a.NextHop, b.NextHop) })
	slices.SortFunc(out.EIPs, func(a, b EIP) int { return a.Addr.Compare(b.Addr) })
	slices.SortFunc(out.Routes, compareRoutes)
	slices.SortFunc(out.Policies, func(a, b PolicyRoute) int { return cmp.Or(cmp.Compare(a.Policy, b.Policy), cmp.Compare(a.Bit, b.Bit)) })
	slices.Sort(out.PortNames)
}

// sorted returns objects by name.
func sorted[T any](objects map[string]T) []T {
	out := make([]T, 0, len(objects))
	for _, name := range slices.Sorted(maps.Keys(objects)) {
		out = append(out, objects[name])
	}
	return out
}

// sortedNames returns a sorted copy without duplicates.
func sortedNames(names []string) []string {
	out := slices.Clone(names)
	slices.Sort(out)
	return slices.Compact(out)
}
