// SPDX-License-Identifier: Apache-2.0

package oracle

import "github.com/eniplane/eniplane/pkg/api"

// quota is how many flows an ENI may have.
type quota struct {
	limit      int // at most
	guaranteed int // whatever the others have
	halfOpen   int // of one opening direction
}

// quotaOf divides the flows of the host: half of them in equal shares.
func (m *Model) quotaOf(e *api.ENI) quota {
	share := m.host.MaxFlows / 2 / max(len(m.lives), 1)
	limit := min(e.Limits.Flows, m.host.MaxFlows)
	return quota{limit: limit, guaranteed: min(limit, share), halfOpen: min(m.host.HalfOpen, max(limit/2, 1))}
}

// Count returns how many flows an ENI has.
func (m *Model) Count(eni string) int {
	n := 0
	for _, f := range m.flows {
		if f.eni == eni && f.life == m.lives[eni].number {
			n++
		}
	}
	return n
}

// admit: may the ENI have one more? One that takes the place of another of its own with the same key is none more.
func (r *run) admit(e *api.ENI, key flowKey) Reason {
	if f := r.flows[key]; f != nil && r.isOf(f, e) {
		return goOn
	}
	q, n := r.quotaOf(e), r.Count(e.Name)
	if n >= q.limit {
		return FlowQuota
	}
	if n < q.guaranteed {
		return goOn
	}
	pool, borrowed := r.host.MaxFlows, 0
	for name := range r.lives {
		guaranteed := r.quotaOf(r.objs.ENIs[name]).guaranteed
		pool -= guaranteed
		borrowed += max(0, r.Count(name)-guaranteed)
	}
	if borrowed >= pool {
		return FlowQuota
	}
	return goOn
}

// ringOf names the half-open flows of one life of an ENI, opened in one direction.
type ringOf struct {
	eni    string
	life   int
	opener Direction
}

// ring has a place for each flow that an ENI may have half-open; a flow keeps its place when it is established.
type ring struct {
	opened int
	at     map[int]*flow
}

// enterRing: a flow has become half-open. Whichever half-open flow has its place ends.
func (r *run) enterRing(e *api.ENI, f *flow) {
	of := ringOf{f.eni, f.life, f.opener}
	places := r.rings[of]
	if places == nil {
		places = &ring{at: map[int]*flow{}}
		r.rings[of] = places
	}
	f.place = places.opened % r.quotaOf(e).halfOpen
	places.opened++
	old := places.at[f.place]
	if old != nil && old != f && old.place == f.place && old.isHalfOpen() && r.flows[old.key] == old {
		delete(r.flows, old.key)
	}
	places.at[f.place] = f
}

// isHalfOpen: one that was refused is nothing better.
func (f *flow) isHalfOpen() bool {
	return f.state == Opening || f.state == Closing && f.refused
}
