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
	peer   string     // the ENI of the other side, "" = the internet
	nat    netip.Addr // the EIP of the local side, if the other one is on the internet
}

// identity is that of an ENI, wherever it is.
type identity struct{ name, uid string }

func identify(e *api.ENI) identity {
	ips := slices.SortedFunc(slices.Values(e.IPs), netip.Addr.Compare)
	uid := append([]byte(e.UID), ' ')
	for _, ip := range ips {
		uid = append(ip.AppendTo(uid), ' ')
	}
	return identity{e.Name, string(uid)}
}

// identity of the ENI of a name; the zero one if there is none.
func (m *Model) identity(name string) identity {
	if e := m.objs.ENIs[name]; e != nil {
		return identify(e)
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
	kept   bool     // the security groups are not asked
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

// localSide: the local address must be the ENI's, or one from which it may send.
func (m *Model) localSide(e *api.ENI, k flowKey, dir Direction) Reason {
	switch {
	case k.transit != "":
		if e.SourceDestCheck && !contains(e.AllowedAddresses, k.local) {
			return SpoofedIP
		}
	case !owns(e, k.local):
		if dir == Out {
			return SpoofedIP
		}
		return NoEndpoint
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
	if !m.aclAllows(e, Out, k.remote, by.what) {
		return verdict{reason: NACLDenied}
	}
	v := m.way(e, k)
	v.rule = rule
	return v
}

// way: where a connection goes that the ENI opens.
func (m *Model) way(e *api.ENI, k flowKey) verdict {
	switch m.route(e, k.remote) {
	case toVPC:
		peer := m.owner(m.vpcOf(e), k.remote)
		if peer == nil {
			return verdict{reason: NoEndpoint}
		}
		if peer == e {
			return verdict{reason: RouteLoop}
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
	}
	return verdict{reason: NoRoute}
}

func (m *Model) judgeIn(e *api.ENI, k flowKey, by asked) verdict {
	v := verdict{peer: m.still(by.sender)}
	if k.internet {
		if !m.onInternet(e, k.remote) {
			return verdict{reason: EIPSource}
		}
		eip, ok := m.eipOf(e, k.local)
		if !ok {
			return verdict{reason: NoEIP}
		}
		v = verdict{nat: eip}
	} else if peer := m.owner(m.vpcOf(e), k.remote); peer != nil {
		v.peer = peer.Name
	} else if m.isGateway(m.vpcOf(e), k.remote) {
		v.peer = nobody
	}
	if !m.aclAllows(e, In, k.remote, by.what) {
		return verdict{reason: NACLDenied}
	}
	rule, ok := m.admit(e, k, by)
	if !ok {
		return verdict{reason: SGDenied}
	}
	v.rule = rule
	return v
}

// still gives the name of an ENI if it is the same one as when it was identified: one of the same name is another.
func (m *Model) still(id identity) string {
	if e := m.objs.ENIs[id.name]; e != nil && identify(e) == id {
		return id.name
	}
	return nobody
}

// onInternet: a source that the ENI's subnet would send to the internet.
func (m *Model) onInternet(e *api.ENI, a netip.Addr) bool {
	return m.route(e, a) == toInternet && !m.isInfra(a)
}
