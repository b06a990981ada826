// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"net/netip"
	"slices"

	"github.com/eniplane/eniplane/pkg/api"
)

// verdict is the answer to: may this connection be, in the revision in force?
type verdict struct {
	reason Reason // goOn = it may
	rule   string
	peer   string     // the ENI to which it leads, "" = the internet
	nat    netip.Addr // the EIP of the local side, if the other one is on the internet
	hits   []string   // the rules that decided, "ingress web/https"
	// foreign: nobody has the address of the other side, so it leads to who sent from it.
	foreign bool
	way     string // what the routes said
}

// hit notes a rule that decided, if one did.
func hit(hits []string, dir Direction, rule string) []string {
	if rule == "" {
		return hits
	}
	word := "ingress"
	if dir == Out {
		word = "egress"
	}
	return append(hits, word+" "+rule)
}

// identity is that of an ENI, wherever it is: itself, since when the host knows it, and its addresses.
type identity struct {
	name, itself string
	known        int
	ips          string
}

func (m *Model) identify(e *api.ENI) identity {
	var ips []byte
	for _, ip := range slices.SortedFunc(slices.Values(e.IPs), netip.Addr.Compare) {
		ips = append(ip.AppendTo(ips), ' ')
	}
	return identity{e.Name, e.UID + "@" + m.vpcOf(e).Name, m.known[e.Name], string(ips)}
}

// identity of the ENI of a name; the zero one if there is none.
func (m *Model) identity(name string) identity {
	if e := m.objs.ENIs[name]; e != nil {
		return m.identify(e)
	}
	return identity{}
}

// nobody is the peer at the gateway's address: no ENI, and nothing can be answered.
const nobody = "-"

// asked is the packet for which a connection is judged: the one that opened it.
type asked struct {
	dir    Direction
	what   service
	sender identity // of a packet to the ENI
	// foreign: the sender is one that sends from addresses that nobody has, so its own do not matter.
	foreign bool
	kept    bool // the security groups are not asked
}

// judge judges a connection at one of its ENIs.
func (m *Model) judge(e *api.ENI, k flowKey, by asked) verdict {
	if reason := m.localSide(e, k, by.dir); reason != goOn {
		return verdict{reason: reason}
	}
	if by.dir == Out {
		return m.judgeOut(e, k, by)
	}
	return m.judgeIn(e, k, by)
}

func (m *Model) admit(e *api.ENI, k flowKey, by asked) (rule string, ok bool) {
	if by.kept {
		return "", true
	}
	return m.groupsAllow(e, by.dir, k.remote, by.dir == In && k.internet, by.what)
}

// localSide: the local address must be the ENI's. In transit it is another's: one from which the ENI may send, or any
// if it forwards what it gets.
func (m *Model) localSide(e *api.ENI, k flowKey, dir Direction) Reason {
	switch {
	case k.transit != "" && dir == Out:
		if e.SourceDestCheck && !contains(e.AllowedAddresses, k.local) {
			return SpoofedIP
		}
	case k.transit != "":
		if e.SourceDestCheck {
			return NoTransit
		}
	case owns(e, k.local):
	case dir == Out:
		return SpoofedIP
	case k.internet:
		return NoEndpoint
	default:
		return NoTransit
	}
	return goOn
}

func (m *Model) judgeOut(e *api.ENI, k flowKey, by asked) verdict {
	vpc := m.vpcOf(e)
	if m.isGateway(vpc, k.remote) {
		return verdict{reason: ToGateway}
	}
	rule, ok := m.admit(e, k, by)
	if !ok {
		return verdict{reason: SGDenied}
	}
	entry, ok := m.aclDecides(e, Out, k.remote, by.what)
	hits := hit(hit(nil, Out, rule), Out, entry)
	if !ok {
		return verdict{reason: NACLDenied, hits: hits}
	}
	h := m.route(e, k.out(by.what))
	v := m.way(e, k, h)
	if v.reason == goOn && v.nat == k.remote {
		v.reason = m.comesBack(e, k, by)
	}
	v.rule, v.way, v.hits = rule, h.String(), hits
	return v
}

// comesBack: what an ENI sends to its own EIP comes in as another connection, which is judged when it does; but if both
// ends look the same it is this one.
func (m *Model) comesBack(e *api.ENI, k flowKey, by asked) Reason {
	if by.what.isICMP || k.localPort != k.remotePort {
		return goOn
	}
	if _, ok := m.aclDecides(e, In, k.remote, by.what); !ok {
		return NACLDenied
	}
	if !by.kept {
		if _, ok := m.groupsAllow(e, In, k.remote, true, by.what); !ok {
			return SGDenied
		}
	}
	return goOn
}

// way: where a connection goes that the ENI opens.
func (m *Model) way(e *api.ENI, k flowKey, h hop) verdict {
	switch h.to {
	case toVPC, toENI:
		peer := m.objs.ENIs[h.eni]
		if h.to == toVPC {
			peer = m.owner(m.vpcOf(e), k.remote)
		}
		if peer == nil {
			return verdict{reason: NoEndpoint}
		}
		if peer == e {
			return verdict{reason: RouteLoop}
		}
		return verdict{peer: peer.Name}
	case toPeer:
		peer := m.owner(h.vpc, k.remote)
		switch {
		case !contains(m.vpcOf(e).CIDRs, k.local): // transit
			return verdict{reason: NotPeered}
		case m.isGateway(h.vpc, k.remote):
			return verdict{reason: ToGateway}
		case peer == nil:
			return verdict{reason: NoEndpoint}
		}
		return verdict{peer: peer.Name}
	case toInternet:
		if m.isInfra(k.remote) {
			return verdict{reason: Infra}
		}
		eip, ok := m.eipOf(e, k.local)
		if k.transit != "" || !ok {
			return verdict{reason: NoEIP}
		}
		return verdict{nat: eip}
	case toBlackhole:
		return verdict{reason: Blackhole}
	case notPeered:
		return verdict{reason: NotPeered}
	}
	return verdict{reason: NoRoute}
}

// wayBack: where the answers go to what came from the VPC or a peer. To a peer by the address; else through the ENI
// that the routes name, to who has the address, or to who has sent it.
func (m *Model) wayBack(e *api.ENI, k flowKey, by asked, h hop) verdict {
	sender := m.objs.ENIs[m.still(by.sender, by.foreign)]
	vpc := m.vpcOf(e)
	if sender != nil && m.vpcOf(sender) != vpc || sender == nil && h.to == toPeer {
		var peer *api.ENI
		if h.to == toPeer && (sender == nil || m.vpcOf(sender) == h.vpc) {
			peer = m.owner(h.vpc, k.remote)
		}
		switch {
		case peer != nil:
			return verdict{peer: peer.Name}
		case sender == nil:
			return verdict{reason: NoNextHop}
		}
		return verdict{reason: NotPeered}
	}
	if h.to == toENI && h.eni != e.Name {
		return verdict{peer: h.eni}
	}
	if peer := m.owner(vpc, k.remote); peer != nil {
		return verdict{peer: peer.Name}
	}
	if m.isGateway(vpc, k.remote) || sender == nil {
		return verdict{peer: nobody, foreign: sender == nil && !m.isGateway(vpc, k.remote)}
	}
	return verdict{peer: sender.Name, foreign: true}
}

func (m *Model) judgeIn(e *api.ENI, k flowKey, by asked) verdict {
	var v verdict
	if k.internet {
		if !m.onInternet(e, k.answers()) {
			return verdict{reason: EIPSource}
		}
		eip, ok := m.eipOf(e, k.local)
		if !ok {
			return verdict{reason: NoEIP}
		}
		v = verdict{nat: eip}
	} else {
		h := m.route(e, k.answers())
		if v = m.wayBack(e, k, by, h); v.reason != goOn {
			return v
		}
		v.way = h.String()
	}
	entry, ok := m.aclDecides(e, In, k.remote, by.what)
	hits := hit(nil, In, entry)
	if !ok {
		return verdict{reason: NACLDenied, hits: hits}
	}
	rule, ok := m.admit(e, k, by)
	if !ok {
		return verdict{reason: SGDenied, hits: hits}
	}
	v.rule, v.hits = rule, hit(hits, In, rule)
	return v
}

// still gives the name of an ENI if it is the same one as when it was identified, with the same addresses unless they
// do not matter: one of the same name is another.
func (m *Model) still(id identity, anyAddress bool) string {
	e := m.objs.ENIs[id.name]
	if e == nil {
		return nobody
	}
	now := m.identify(e)
	if now.itself != id.itself || now.known == 0 || now.known != id.known || !anyAddress && now.ips != id.ips {
		return nobody
	}
	return id.name
}

// onInternet: a source to which the ENI's answers would go by the internet.
func (m *Model) onInternet(e *api.ENI, answers path) bool {
	return m.route(e, answers).to == toInternet && !m.isInfra(answers.remote)
}
