// SPDX-License-Identifier: Apache-2.0

package migrate

import (
	"cmp"
	"context"
	"log/slog"
	"maps"
	"net/netip"
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
	Whole   bool           `json:"whole"`  // the target has all flows, but for what changed since the last round
	Flows   int            `json:"flows"`  // that the last one saw
	Refused map[string]int `json:"refused,omitempty"`
	Error   string         `json:"error,omitempty"`
}

// wholeAfter: what the first round did not see while it went through the tables, the second one has.
const wholeAfter = 2

// Departure says that an ENI of this host is where it moves to: its new host has told.
type Departure struct {
	ENI, To string
	Epoch   uint64 // of its attachment there
}

// Manager copies the flows of all ENIs that move from or to this host.
type Manager struct {
	host     string
	security *Security
	flows    Flows
	importer Importer
	log      *slog.Logger

	view       atomic.Pointer[View]
	running    sync.WaitGroup
	changed    chan struct{}
	departures chan Departure
	address    chan netip.AddrPort // of Host.peer, when it has changed

	mu      sync.Mutex
	sources map[Outgoing]*source
	status  map[Outgoing]Status
}

// New makes a manager to which nothing moves yet.
func New(o Options) *Manager {
	m := &Manager{
		host: o.Host, security: o.Security, flows: o.Flows, importer: o.Importer, log: o.Log,
		sources: map[Outgoing]*source{}, status: map[Outgoing]Status{},
		changed: make(chan struct{}, 1), departures: make(chan Departure, 16), address: make(chan netip.AddrPort, 1),
	}
	m.view.Store(&View{Host: o.Host})
	return m
}

// Changed has a value when Status says something new that others may wait for.
func (m *Manager) Changed() <-chan struct{} { return m.changed }

// Departures are the ENIs of this host that are elsewhere by now, by the word of their new hosts.
func (m *Manager) Departures() <-chan Departure { return m.departures }

// Update takes what is in force now: copies begin and end by it.
func (m *Manager) Update(ctx context.Context, v *View) {
	if last := m.view.Swap(v); last.Peer != v.Peer {
		select {
		case <-m.address: // that nobody has taken yet
		default:
		}
		m.address <- v.Peer
	}
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
	was, ok := m.status[*out]
	if !ok {
		return
	}
	now := was
	change(&now)
	now.Whole = now.Rounds >= wholeAfter && now.Error == ""
	m.status[*out] = now
	if now.Whole != was.Whole || now.Error != was.Error {
		select {
		case m.changed <- struct{}{}:
		default: // it is there already
		}
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
