// SPDX-License-Identifier: Apache-2.0

// Package loader owns everything of eniplane in the kernel of one host: maps, programs, links and
// their pins, the VXLAN device, the guards, and the ordered way from one revision to the next.
//
// All functions must be called from a thread inside the host's network namespace.
package loader

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"

	"github.com/cilium/ebpf"

	"github.com/eniplane/eniplane/pkg/compile"
	"github.com/eniplane/eniplane/pkg/dataplane"
)

// ErrLocked is wrapped when another process works for the host, ErrNothing when there is nothing of
// the host to tear down.
var (
	ErrLocked  = errors.New("another agent works for host")
	ErrNothing = errors.New("nothing of this host is here")
)

// Options say for which host a loader works and where it keeps things.
type Options struct {
	Host     string
	BPFFS    string // default dataplane.DefaultBPFFS; the host's pins are in BPFFS/Host
	StateDir string // default dataplane.DefaultStateDir; the host's files are in StateDir/Host
	MaxFlows uint32 // 0: what is pinned, else DefaultMaxFlows
	Log      *slog.Logger
}

// Loader is the one writer of a host's dataplane.
type Loader struct {
	place   place
	log     *slog.Logger
	lock    *hostLock
	maps    *dataplane.Maps
	pinned  []string // names of the maps that are pinned
	stubs   map[string]*ebpf.Program
	slots   *ebpf.Collection // the programs in the slots
	tables  map[string]table
	closers []func() error
	engine  engine
	guard   guard
	sweep   sweeper
	events  deviceEvents
	imports *mapping // of MapImports

	underlay *underlay
	damages  *damages
	gone     *gone

	mu      sync.Mutex
	state   *compile.State      // that was applied last; nil before the first Apply
	facts   dataplane.HostFacts // with which it was applied
	guarded []string            // names of devices, by the guards
	seen    map[int]hookSeen    // by ifindex
	// capsKept has the indexes of ENIs whose caps were asked for last, and whether they are kept; nil = unknown.
	capsKept map[uint32]bool
	moving   bool // the state before the last one had ENIs that move; true = unknown
	looked   bool // the last look at devices found or made all as state needs it
	report   Report
}

// Open takes the host's lock, adopts what is pinned or creates it, and brings the programs of this
// version into force. It needs no feed: what was in force stays in force.
func Open(ctx context.Context, opts Options) (*Loader, error) {
	p, err := newPlace(opts)
	if err != nil {
		return nil, err
	}
	log := opts.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	l := &Loader{place: p, log: log, guard: newGuard(opts.Host), seen: map[int]hookSeen{}, moving: true}
	if err := l.guard.alone(); err != nil {
		return nil, fmt.Errorf("open host %s: %w", opts.Host, err)
	}
	if err := p.prepare(); err != nil {
		return nil, fmt.Errorf("open host %s: %w", opts.Host, err)
	}
	if l.lock, err = p.lock(); err != nil {
		return nil, err
	}
	if err := p.checkNamespace(); err != nil {
		return nil, fmt.Errorf("open host %s: %w", opts.Host, errors.Join(err, l.Close()))
	}
	if err := l.open(ctx, opts.MaxFlows); err != nil {
		return nil, fmt.Errorf("open host %s: %w", opts.Host, errors.Join(err, l.Close()))
	}
	return l, nil
}

func (l *Loader) open(ctx context.Context, maxFlows uint32) error {
	spec, err := dataplane.LoadSpec()
	if err != nil {
		return err
	}
	if l.maps, err = openMaps(l.place, spec, maxFlows, l.log); err != nil {
		return err
	}
	l.pinned = dataplane.PinnedMaps(spec)
	if err := prepareFlows(l.maps, maxFlows); err != nil {
		return err
	}
	if l.slots, err = openPrograms(l.place, spec, l.maps, l.log); err != nil {
		return err
	}
	l.stubs = l.slots.Programs
	if _, err := fillSlots(l.slots, l.maps); err != nil {
		return err
	}
	if err := l.place.forgetPrograms(l.maps); err != nil {
		return err
	}
	if err := l.openTables(); err != nil {
		return err
	}
	if l.gone, err = watchGone(l.tables[dataplane.MapLive], l.tables[dataplane.MapPorts]); err != nil {
		return err
	}
	l.closers = append(l.closers, l.gone.close)
	if err := l.startSweep(); err != nil {
		return err
	}
	if l.events, err = subscribeDevices(); err != nil {
		return err
	}
	l.closers = append(l.closers, l.events.close)
	if err := l.leaseXDP(); err != nil {
		return err
	}
	if l.underlay, err = openUnderlay(l.maps, l.log); err != nil {
		return err
	}
	l.closers = append(l.closers, l.underlay.close)
	if l.damages, err = watchDamages(l.place, l.guard.table); err != nil {
		return err
	}
	l.closers = append(l.closers, l.damages.close)
	if err := ctx.Err(); err != nil {
		return err
	}
	l.report = Report{Revision: l.engine.revision()}
	_, _, err = l.base(&l.report, nil)
	return err
}

func (l *Loader) openTables() error {
	l.tables = map[string]table{}
	for name := range dataplane.TableKinds() {
		l.tables[name] = kernelTable{l.maps.Map(name)}
	}
	for _, name := range []string{dataplane.MapLive, dataplane.MapPorts, dataplane.MapUplinks} {
		l.tables[name] = kernelTable{l.maps.Map(name)}
	}
	hops, err := newMapping(l.maps.Map(dataplane.MapNextHops))
	if err != nil {
		return err
	}
	l.closers = append(l.closers, hops.close)
	l.tables[dataplane.MapNextHops] = hopTable{kernelTable{l.maps.Map(dataplane.MapNextHops)}, hops}
	active, err := newMapping(l.maps.Map(dataplane.MapActive))
	if err != nil {
		return err
	}
	l.closers = append(l.closers, active.close)
	if l.imports, err = newMapping(l.maps.Map(dataplane.MapImports)); err != nil {
		return err
	}
	l.closers = append(l.closers, l.imports.close)
	l.engine = engine{tables: l.tables, word: hostWord{active}, grace: grace}
	return nil
}

// Status returns the last report.
func (l *Loader) Status() Report {
	l.mu.Lock()
	defer l.mu.Unlock()
	return *l.report.clone()
}

// Damaged gets a value when somebody has removed pins or parts of the guards: it is time to Reconcile.
func (l *Loader) Damaged() <-chan struct{} { return l.damages.heard }

// Maps returns the live maps, for metrics. They are closed by Close.
func (l *Loader) Maps() *dataplane.Maps { return l.maps }

// Close releases the lock and leaves everything pinned and running.
func (l *Loader) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	var errs []error
	for _, closer := range l.closers {
		errs = append(errs, closer())
	}
	l.closers = nil
	if l.slots != nil {
		l.slots.Close()
	}
	if l.maps != nil {
		errs = append(errs, l.maps.Close())
	}
	if l.lock != nil {
		errs = append(errs, l.lock.Close())
	}
	l.slots, l.maps, l.lock = nil, nil, nil
	return errors.Join(errs...)
}
