// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"fmt"
	"maps"
	"math"
	"net/netip"
	"slices"

	"github.com/eniplane/eniplane/pkg/api"
)

// The bounds of the index tables, as in bpf/types.h.
const (
	MaxENIs      = 1024
	MaxNextHops  = 1 << 20
	firstENI     = 1 // 0 is the host itself
	firstNextHop = 2 // 0 is none, 1 the internet
)

// IDs is the memory of all numbers that were given out on a host. It must outlive the agent, and
// be stored before the State that came with it is applied: a number that stood for something else
// once, if only in a revision that failed, must not come back.
type IDs struct {
	Last      Last                   `json:"last"`
	ENIs      map[string]ENISlot     `json:"enis,omitempty"`      // by name
	NextHops  map[string]NextHopSlot `json:"nextHops,omitempty"`  // by name of the ENI
	GroupSets map[string]uint32      `json:"groupSets,omitempty"` // by "vpc/sg,vpc/sg"
	Subnets   map[string]uint32      `json:"subnets,omitempty"`   // by name and UID
	Rulesets  map[string]uint32      `json:"rulesets,omitempty"`  // of rule sets and their tables, by hash of the content
	Tables    map[string]uint32      `json:"tables,omitempty"`    // by hash of the content
	Rules     map[string]RuleID      `json:"rules,omitempty"`     // by object, direction and name or text

	RetiredRules []RetiredRule `json:"retiredRules,omitempty"` // the oldest first

	// Indexes that the maps may still hold although nobody owns them.
	CoolingENIs     []uint32 `json:"coolingENIs,omitempty"`
	CoolingNextHops []uint32 `json:"coolingNextHops,omitempty"`

	made bool // by Compile, not read from a file: nothing in it needs a check
}

// Last holds the highest number that each counter has given out. But for rules they only grow.
type Last struct {
	Incarnation       uint32 `json:"incarnation"`
	NextHopGeneration uint32 `json:"nextHopGeneration"`
	GroupSet          uint32 `json:"groupSet"`
	Subnet            uint32 `json:"subnet"`
	Ruleset           uint32 `json:"ruleset"`
	Table             uint32 `json:"table"`
	Rule              uint32 `json:"rule,omitempty"` // the last one given out: these are used again in the end
}

// ENISlot is what a local ENI owns as long as its UID and epoch stay. Content covers what its verdicts
// depend on, Groups the rules of its security groups in force.
type ENISlot struct {
	Index       uint32 `json:"index"`
	Incarnation uint32 `json:"incarnation"`
	UID         string `json:"uid"`
	Epoch       uint64 `json:"epoch"`
	Generation  uint32 `json:"generation"`
	Content     string `json:"content"`
	Flows       uint32 `json:"flows,omitempty"` // 0 = as the incarnation
	Groups      string `json:"groups,omitempty"`
	Prepared    bool   `json:"prepared,omitempty"` // for the attachment that follows Epoch - 1, whatever epoch that gets
	Open        bool   `json:"open,omitempty"`     // it is attached already, and has not got that epoch
	Device      string `json:"device,omitempty"`

	EIPs map[string]uint32 `json:"eips,omitempty"` // classes of its EIPs, by name
}

// is tells whether the slot is that of an attachment. A prepared one becomes that of the attachment for which it was
// made, with all that it has.
func (s *ENISlot) is(e *api.ENI, prepared bool) bool {
	if s.UID != identity(e) {
		return false
	}
	if (s.Prepared || s.Open) && !prepared && e.Attachment.Epoch >= s.Epoch {
		return true
	}
	return s.Epoch == e.Attachment.Epoch && s.Prepared == prepared
}

// NextHopSlot is what any ENI owns whose VPC is present. Content covers its UID and addresses, Owner its
// UID alone, of which Since is the first generation.
type NextHopSlot struct {
	Index      uint32 `json:"index"`
	Generation uint32 `json:"generation"`
	Content    string `json:"content"`
	Owner      string `json:"owner,omitempty"`
	Since      uint32 `json:"since,omitempty"`
}

// allocator moves what is still in use from the old IDs to new ones and adds what is new. What
// nobody asks for is forgotten.
type allocator struct {
	old, ids *IDs
	rules    *ruleIDs
	previous *State // nil = unknown
	err      error  // a counter is used up
}

func newAllocator(revision uint64, old *IDs, previous *State) (*allocator, error) {
	if old == nil {
		old = &IDs{}
	}
	if !old.made {
		if err := old.check(); err != nil {
			return nil, err
		}
	}
	a := &allocator{old: old, previous: previous, rules: newRuleIDs(revision, old, previous), ids: &IDs{
		made:      true,
		Last:      old.Last,
		ENIs:      map[string]ENISlot{},
		NextHops:  map[string]NextHopSlot{},
		GroupSets: map[string]uint32{},
		Subnets:   map[string]uint32{},
		Rulesets:  map[string]uint32{},
		Tables:    map[string]uint32{},
	}}
	if previous != nil {
		a.ids.Last.raise(previous)
	}
	return a, nil
}

// check refuses IDs that Compile cannot have made: they come from a file.
func (ids *IDs) check() error {
	enis, hops := newBitset(MaxENIs), newBitset(MaxNextHops)
	claim := func(used bitset, index, first, limit uint32, what, name string) error {
		if index < first || index >= limit || used.has(int(index)) {
			return fmt.Errorf("read stored ids: index %d of %s %q is out of range or given twice: tear the host down and start it afresh", index, what, name)
		}
		used.add(int(index))
		return nil
	}
	for _, name := range slices.Sorted(maps.Keys(ids.ENIs)) {
		if err := claim(enis, ids.ENIs[name].Index, firstENI, MaxENIs, "ENI", name); err != nil {
			return err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(ids.NextHops)) {
		if err := claim(hops, ids.NextHops[name].Index, firstNextHop, MaxNextHops, "next hop", name); err != nil {
			return err
		}
	}
	for _, index := range ids.CoolingENIs {
		if err := claim(enis, index, firstENI, MaxENIs, "ENI", "(cooling)"); err != nil {
			return err
		}
	}
	for _, index := range ids.CoolingNextHops {
		if err := claim(hops, index, firstNextHop, MaxNextHops, "next hop", "(cooling)"); err != nil {
			return err
		}
	}
	return ids.checkRules()
}

// raise makes sure that no number of a state in force is given out again, also when the IDs of that
// time were lost.
func (l *Last) raise(st *State) {
	for i := range st.ENIs {
		l.Incarnation = max(l.Incarnation, st.ENIs[i].Incarnation, st.ENIs[i].Flows)
	}
	for i := range st.NextHops {
		l.NextHopGeneration = max(l.NextHopGeneration, st.NextHops[i].Generation)
	}
	for i := range st.Rulesets {
		l.Ruleset = max(l.Ruleset, st.Rulesets[i].ID)
	}
	for i := range st.Addrs {
		l.Ruleset = max(l.Ruleset, st.Addrs[i].ID)
	}
	for i := range st.Services {
		l.Ruleset = max(l.Ruleset, st.Services[i].ID)
	}
	for i := range st.Groups {
		l.Ruleset = max(l.Ruleset, st.Groups[i].ID)
		for _, g := range st.Groups[i].Groups {
			l.GroupSet = max(l.GroupSet, g.GroupSet)
		}
	}
	for i := range st.Routes {
		l.Table = max(l.Table, st.Routes[i].Table)
	}
	for id := range st.Names.GroupSets {
		l.GroupSet = max(l.GroupSet, id)
	}
	for id := range st.Names.Subnets {
		l.Subnet = max(l.Subnet, id)
	}
}

// next returns a number that was never given out.
func (a *allocator) next(last *uint32, what string) uint32 {
	if *last == math.MaxUint32 {
		a.err = fmt.Errorf("number %s: all 2^32 numbers are used up: tear the host down and start it afresh", what)
		return 0
	}
	*last++
	return *last
}

// named returns the number of a key, a new one if it has none.
func (a *allocator) named(old, ids map[string]uint32, last *uint32, what, key string) uint32 {
	id, ok := ids[key]
	if ok {
		return id
	}
	if id, ok = old[key]; !ok {
		id = a.next(last, what)
	}
	ids[key] = id
	return id
}

func (a *allocator) groupSet(key string) uint32 {
	return a.named(a.old.GroupSets, a.ids.GroupSets, &a.ids.Last.GroupSet, "group sets", key)
}

func (a *allocator) subnet(s *api.Subnet) uint32 {
	return a.named(a.old.Subnets, a.ids.Subnets, &a.ids.Last.Subnet, "subnets", s.Name+"@"+s.UID)
}

func (a *allocator) ruleset(key string) uint32 {
	id := a.named(a.old.Rulesets, a.ids.Rulesets, &a.ids.Last.Ruleset, "rule sets", key)
	if id > math.MaxInt32 { // the programs have one bit of it for themselves
		a.err = fmt.Errorf("number rule sets: all 2^31 numbers are used up: tear the host down and start it afresh")
	}
	return id
}

func (a *allocator) table(key string) uint32 {
	return a.named(a.old.Tables, a.ids.Tables, &a.ids.Last.Table, "route tables", key)
}

// identity is what an ENI is, behind its name.
func identity(e *api.ENI) string {
	if e.UID != "" {
		return e.UID
	}
	return e.Name
}

// claimENIs gives each attached ENI its slot. One whose UID or epoch changed is another ENI: it gets
// another index too, so that nothing of the old one is ever seen under the new one's. It returns
// those for which no index is left.
func (a *allocator) claimENIs(enis []*api.ENI, prepared func(*api.ENI) bool, open map[string]bool) (failed []*api.ENI) {
	owned, blocked := newBitset(MaxENIs), newBitset(MaxENIs)
	for _, slot := range a.old.ENIs {
		blocked.add(int(slot.Index))
	}
	if a.previous == nil {
		blocked.addAll(a.old.CoolingENIs)
	} else {
		for i := range a.previous.ENIs {
			blocked.add(int(a.previous.ENIs[i].Index))
		}
	}
	var fresh []*api.ENI
	for _, e := range enis {
		slot, ok := a.old.ENIs[e.Name]
		if !ok || !slot.is(e, prepared(e)) {
			fresh = append(fresh, e)
			continue
		}
		slot.Epoch, slot.Prepared, slot.Open = e.Attachment.Epoch, prepared(e), open[e.Name]
		slot.Device = e.Attachment.Device
		a.ids.ENIs[e.Name] = slot
		owned.add(int(slot.Index))
	}
	free := indexes{taken: blocked, next: firstENI, limit: MaxENIs}
	for _, e := range fresh {
		index, ok := free.lowest()
		if !ok {
			failed = append(failed, e)
			continue
		}
		a.ids.ENIs[e.Name] = ENISlot{
			Index: index, Incarnation: a.next(&a.ids.Last.Incarnation, "incarnations"),
			UID: identity(e), Epoch: e.Attachment.Epoch, Prepared: prepared(e), Open: open[e.Name],
			Device: e.Attachment.Device,
		}
		owned.add(int(index))
	}
	a.ids.CoolingENIs = difference(blocked, owned)
	return failed
}

// MaxEIPClasses is how many EIPs an ENI can have: one per private IP.
const MaxEIPClasses = 2 * api.MaxIPsPerENI

// claimEIPs gives each EIP of an ENI a class among them, which it keeps as long as it is that ENI's.
func (s *ENISlot) claimEIPs(eips []*api.EIP) {
	had, taken := s.EIPs, newBitset(MaxEIPClasses+1)
	s.EIPs = nil
	if len(eips) == 0 {
		return
	}
	s.EIPs = make(map[string]uint32, len(eips))
	for _, eip := range eips {
		if class, ok := had[eip.Name]; ok && class <= MaxEIPClasses && !taken.has(int(class)) {
			s.EIPs[eip.Name] = class
			taken.add(int(class))
		}
	}
	free := indexes{taken: taken, next: 1, limit: MaxEIPClasses + 1}
	for _, eip := range eips {
		if _, ok := s.EIPs[eip.Name]; !ok {
			s.EIPs[eip.Name], _ = free.lowest()
		}
	}
}

// hopClaim is who wants a next hop. Its content is what those who send there depend on; its owner is who it is.
type hopClaim struct{ name, content, owner string }

func claimOf(e *api.ENI, vni uint32) hopClaim {
	return hopClaim{name: e.Name, content: nextHopContent(e, vni), owner: nextHopOwner(e, vni)}
}

// claimOfGateway: where the host is does not matter, as with ENIs.
func claimOfGateway(h *api.Host, v *api.VPC) hopClaim {
	var c content
	c.str("gateway")
	c.str(h.Name)
	c.str(h.UID)
	c.str(v.UID)
	c.num(uint64(v.VNI))
	return hopClaim{name: GatewayHop(h.Name, v.Name), content: c.key(), owner: c.key()}
}

// claimNextHops gives each claim its next hop and returns the names for which none is left. The
// generation grows with what the ENI is and which addresses it has, and whenever an index changes
// hands; not with where it is, nor with the epoch of its attachment: those who talk to it go on
// when it moves.
func (a *allocator) claimNextHops(claims []hopClaim) (failed []string) {
	limit := a.hopLimit(len(claims))
	owned, blocked := newBitset(limit), newBitset(limit)
	for _, slot := range a.old.NextHops {
		blocked.add(int(slot.Index))
	}
	if a.previous == nil {
		blocked.addAll(a.old.CoolingNextHops)
	} else {
		for i := range a.previous.NextHops {
			blocked.add(int(a.previous.NextHops[i].Index))
		}
	}
	var fresh []hopClaim
	for _, c := range claims {
		slot, ok := a.old.NextHops[c.name]
		if !ok {
			fresh = append(fresh, c)
			continue
		}
		if slot.Content != c.content {
			slot.Content = c.content
			slot.Generation = a.next(&a.ids.Last.NextHopGeneration, "generations of next hops")
		}
		if slot.Owner != c.owner {
			slot.Owner, slot.Since = c.owner, slot.Generation
		}
		a.ids.NextHops[c.name] = slot
		owned.add(int(slot.Index))
	}
	free := indexes{taken: blocked, next: firstNextHop, limit: uint32(limit)}
	for _, c := range fresh {
		index, ok := free.lowest()
		if !ok {
			failed = append(failed, c.name)
			continue
		}
		generation := a.next(&a.ids.Last.NextHopGeneration, "generations of next hops")
		a.ids.NextHops[c.name] = NextHopSlot{Index: index, Content: c.content, Generation: generation, Owner: c.owner, Since: generation}
		owned.add(int(index))
	}
	a.ids.CoolingNextHops = difference(blocked, owned)
	return failed
}

// hopLimit is above all indexes that are in use, were until now, or can be given to fresh ENIs. There may be a million,
// most hosts need few.
func (a *allocator) hopLimit(fresh int) int {
	most := uint32(firstNextHop)
	for _, slot := range a.old.NextHops {
		most = max(most, slot.Index)
	}
	for _, index := range a.old.CoolingNextHops {
		most = max(most, index)
	}
	if a.previous != nil {
		for i := range a.previous.NextHops {
			most = max(most, a.previous.NextHops[i].Index)
		}
	}
	return min(int(most)+1+fresh, MaxNextHops)
}

// indexes hands out the numbers below limit that are not taken, the lowest first.
type indexes struct {
	taken       bitset
	next, limit uint32
}

func (x *indexes) lowest() (uint32, bool) {
	for ; x.next < x.limit; x.next++ {
		if !x.taken.has(int(x.next)) {
			x.next++
			return x.next - 1, true
		}
	}
	return 0, false
}

// difference returns the members of a that are not in b, ascending.
func difference(a, b bitset) []uint32 {
	var out []uint32
	for i := range a.all() {
		if !b.has(i) {
			out = append(out, uint32(i))
		}
	}
	return out
}

func nextHopOwner(e *api.ENI, vni uint32) string {
	var c content
	c.num(uint64(vni))
	c.str(identity(e))
	return c.key()
}

func nextHopContent(e *api.ENI, vni uint32) string {
	ips := slices.Clone(e.IPs)
	slices.SortFunc(ips, netip.Addr.Compare)
	var c content
	c.num(uint64(vni))
	c.str(identity(e))
	c.addrs(ips)
	return c.key()
}
