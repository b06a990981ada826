// SPDX-License-Identifier: Apache-2.0

package migrate

import (
	"net/netip"

	"github.com/eniplane/eniplane/pkg/api"
	"github.com/eniplane/eniplane/pkg/compile"
	"github.com/eniplane/eniplane/pkg/dataplane"
)

// View is what a host has in force, as far as flows that move depend on it. It is a value: nobody changes it.
type View struct {
	Host     string
	Peer     netip.AddrPort // of this host, as the feed says; invalid = none
	Outgoing []Outgoing
	Incoming map[string]Incoming // by ENI

	hops    map[uint32]hop
	hopOf   map[Peer]uint32
	rules   map[uint32]string
	ruleOf  map[string]uint32
	address map[string][]netip.Addr // of each host: its peer, its VTEP
}

// Outgoing is an ENI of this host that moves, or has moved.
type Outgoing struct {
	ENI, UID     string
	Epoch        uint64
	Index, Flows uint32 // which flows are its
	To           string
	Addr         netip.AddrPort // of the agent there; invalid = it has none
}

// Incoming is an ENI that moves here, or has moved.
type Incoming struct {
	UID, From          string
	Epoch              uint64 // of its attachment here
	Index, Incarnation uint32
	Here               bool // it has arrived
	VNI                uint32
	IPs                map[netip.Addr]bool
}

type hop struct {
	peer              Peer
	generation, since uint32
}

// NewView makes the view of a revision in force.
func NewView(host string, st *compile.State, objects *api.Objects) *View {
	v := &View{
		Host: host, Incoming: map[string]Incoming{}, hops: map[uint32]hop{}, hopOf: map[Peer]uint32{},
		rules: map[uint32]string{}, ruleOf: map[string]uint32{}, address: map[string][]netip.Addr{},
	}
	if h := objects.Hosts[host]; h != nil {
		v.Peer = h.Peer
	}
	internet := Peer{Internet: true}
	v.hops[dataplane.NextHopInternet] = hop{peer: internet}
	v.hopOf[internet] = dataplane.NextHopInternet
	from := map[uint32]netip.Addr{}
	for _, m := range st.Moves {
		if m.To == st.Host.VTEP {
			from[m.NextHop] = m.From
		}
	}
	for i := range st.ENIs {
		v.addENI(&st.ENIs[i], st, objects, from)
	}
	if len(v.Outgoing)+len(v.Incoming) == 0 {
		return v // nobody asks for the rest
	}
	for i := range st.NextHops {
		h := &st.NextHops[i]
		peer := Peer{ENI: h.ENI}
		if e := objects.ENIs[h.ENI]; e != nil {
			peer.UID = e.UID
		}
		v.hops[h.Index] = hop{peer: peer, generation: h.Generation, since: h.Since}
		v.hopOf[peer] = h.Index
	}
	for id, name := range st.Names.Rules {
		key := ruleKey(name)
		v.rules[id], v.ruleOf[key] = key, id
	}
	for name, h := range objects.Hosts {
		v.address[name] = []netip.Addr{h.VTEP, h.Peer.Addr()}
	}
	return v
}

func (v *View) addENI(e *compile.ENI, st *compile.State, objects *api.Objects, from map[uint32]netip.Addr) {
	object := objects.ENIs[e.Name]
	if object == nil {
		return
	}
	if e.MovingTo != "" && e.MovingTo != v.Host && e.Stage != compile.Prepared {
		out := Outgoing{ENI: e.Name, UID: e.UID, Epoch: e.Epoch, Index: e.Index, Flows: e.Flows, To: e.MovingTo}
		if h := objects.Hosts[e.MovingTo]; h != nil {
			out.Addr = h.Peer
		}
		v.Outgoing = append(v.Outgoing, out)
		return
	}
	vtep, comes := from[e.NextHop]
	if !comes {
		return
	}
	in := Incoming{
		UID: e.UID, From: st.Names.Hosts[vtep.String()], Epoch: e.Epoch,
		Here: e.Stage == compile.Attached, Index: e.Index, Incarnation: e.Incarnation, VNI: e.VNI, IPs: map[netip.Addr]bool{},
	}
	for _, ip := range object.IPs {
		in.IPs[ip] = true
	}
	v.Incoming[e.Name] = in
}

// ruleKey names a rule on any host.
func ruleKey(name compile.RuleName) string { return name.Key + " " + name.Direction + " " + name.Name }

// localFlow gives a flow of an ENI the numbers of this host.
func (v *View) localFlow(in *Incoming, f *Flow) dataplane.ImportedFlow {
	return dataplane.ImportedFlow{
		MovedFlow: f.MovedFlow, ENI: in.Index, Incarnation: in.Incarnation, VNI: in.VNI,
		NextHop: v.hopOf[f.Peer], Rule: v.ruleOf[f.Rule],
	}
}
