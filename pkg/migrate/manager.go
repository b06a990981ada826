// SPDX-License-Identifier: Apache-2.0

package migrate

import (
	"cmp"
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/eniplane/eniplane/pkg/dataplane"
	"github.com/eniplane/eniplane/pkg/dataplane/flowtable"
)

// Flows are the flow tables of the host.
type Flows interface {
	FlowTable(family flowtable.Family, writable bool) (*flowtable.Table, error)
}

// Importer takes flows into them.
type Importer interface {
	Import([]dataplane.ImportedFlow) ([]dataplane.Reason, error)
}

// Options are the facts of a Manager.
type Options struct {
	Host     string
	Security *Security
	Flows    Flows
	Importer Importer
	Log      *slog.Logger
}

// Status says how far the copy of the flows of an ENI is.
type Status struct {
	ENI     string         `json:"eni"`
	To      string         `json:"to"`
	Rounds  uint32         `json:"rounds"` // that the target has stored
	Flows   int            `json:"flows"`  // that the last one saw
	Refused map[string]int `json:"refused,omitempty"`
	Error   string         `json:"error,omitempty"`
}

// Manager copies the flows of all ENIs that move from or to this host.
type Manager struct {
	host     string
	security *Security
	flows    Flows
	importer Importer
	log      *slog.Logger

	view    atomic.Pointer[View]
	running sync.WaitGroup

	mu      sync.Mutex
	sources map[Outgoing]*source
	status  map[Outgoing]Status
}

// New makes a manager to which nothing moves yet.
func New(o Options) *Manager {
	m := &Manager{
		host: o.Host, security: o.Security, flows: o.Flows, importer: o.Importer, log: o.Log,
		sources: map[Outgoing]*source{}, status: map[Outgoing]Status{},
	}
	m.view.Store(&View{Host: o.Host})
	return m
}

// Update takes what is in force now: copies begin and end by it.
func (m *Manager) Update(ctx context.Context, v *View) {
	m.view.Store(v)
	m.mu.Lock()
	defer m.mu.Unlock()
	for out, s := range m.sources {
		if !slices.Contains(v.Outgoing, out) {
			s.stop()
			delete(m.sources, out)
			delete(m.status, out)
		}
	}
	for _, out := range v.Outgoing {
		if m.sources[out] != nil {
			continue
		}
		sctx, stop := context.WithCancel(ctx)
		s := &source{m: m, out: out, stop: stop}
		m.sources[out] = s
		m.status[out] = Status{ENI: out.ENI, To: out.To}
		m.running.Go(func() { s.run(sctx) })
	}
}

// Wait waits until no copy is under way; the context of Update must have ended.
func (m *Manager) Wait() { m.running.Wait() }

func (m *Manager) noteOut(out *Outgoing, change func(*Status)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if s, ok := m.status[*out]; ok {
		change(&s)
		m.status[*out] = s
	}
}

// Status lists the copies under way, by ENI.
func (m *Manager) Status() []Status {
	m.mu.Lock()
	defer m.mu.Unlock()
	list := slices.SortedFunc(maps.Values(m.status), func(a, b Status) int { return cmp.Or(cmp.Compare(a.ENI, b.ENI), cmp.Compare(a.To, b.To)) })
	for i := range list {
		list[i].Refused = maps.Clone(list[i].Refused)
	}
	return list
}
