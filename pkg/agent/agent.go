// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/eniplane/eniplane/loader"
	"github.com/eniplane/eniplane/pkg/announce"
	"github.com/eniplane/eniplane/pkg/compile"
	"github.com/eniplane/eniplane/pkg/durable"
	"github.com/eniplane/eniplane/pkg/feed"
	"github.com/eniplane/eniplane/pkg/feed/etcd"
	"github.com/eniplane/eniplane/pkg/metrics"
	"github.com/eniplane/eniplane/pkg/migrate"
)

// The agent's clock. Devices come in bursts, so their events wait for a little quiet.
const (
	restoreAfter   = time.Second // how long a start waits for the feed before it uses the last good revision
	settleTime     = 50 * time.Millisecond
	retryFirst     = 5 * time.Second // a revision that could not be applied; then twice as long each time
	retryLast      = 2 * time.Minute
	listenAgain    = 5 * time.Second // to a feed that ended
	reconcileEvery = time.Minute
	redirectFor    = 10 * time.Second // how long a host sends on what comes for an ENI that has left
)

const idsFile = "ids.json"

// Dataplane is the loader as the agent needs it.
type Dataplane interface {
	Apply(context.Context, *compile.State) (*loader.Report, error)
	Reconcile(context.Context) (*loader.Report, error)
	// InForce returns the revision by which the programs judge, 0 if there is none.
	InForce() (uint64, error)
}

// Options are the facts of one agent.
type Options struct {
	Host           string
	Feed           string // as the user wrote it
	StateDir       string // of this host; it must exist
	MaxDeleteRatio float64
	Log            *slog.Logger

	Source    feed.Source
	LastGood  func() (*feed.Revision, error) // what Source committed last; nil = nothing
	Dataplane Dataplane
	Announcer announce.Announcer
	Links     <-chan struct{} // a value when devices changed
	Damages   <-chan struct{} // a value when somebody removed what the loader needs
	Obstacles func() []string // what stands in the way of the overlay
	Migrator  Migrator        // copies flows of ENIs that move; nil = nobody does
}

// Migrator is told what is in force, and copies flows by it.
type Migrator interface {
	Update(context.Context, *migrate.View)
	Status() []migrate.Status
	Changed() <-chan struct{} // a value when Status says something new
	Departures() <-chan migrate.Departure
}

// Agent brings revisions into force on one host.
type Agent struct {
	Options

	pinned uint64 // the revision that the maps held at the start, 0 = none

	// Of the goroutine that runs Run.
	ids      *compile.IDs      // the last numbers given out, as in ids.json
	names    compile.Names     // as in names.json
	inForce  *compile.State    // nil = unknown, after a start
	degraded map[string]error  // what could not be compiled of it
	local    map[string]string // UID by name: the ENIs that the revision in force has on this host
	lastGood *feed.Revision    // of the last agent, until this one brought something into force
	waiting  *feed.Revision    // could not be brought into force and is tried again

	current    *feed.Revision   // in force
	claims     map[string]claim // by instance: it is where it moves to, although the feed does not say so yet
	arrivals   chan string      // instances that are seen here: Arrived
	moves      []compile.Move   // that are over, and not settled yet
	settleAt   <-chan time.Time
	restoreAt  <-chan time.Time // nil = not armed
	retryAt    <-chan time.Time
	retryAfter time.Duration
	againAt    <-chan time.Time // another look at devices
	againAfter time.Duration
	saved      []byte    // the status in the file, without its time
	savedAt    time.Time // when it was written
	reported   *etcd.Status

	mu          sync.Mutex // guards what follows, which the HTTP handlers read
	status      Status
	applyErrors uint64
}

// New reads what the last agent of this host left in the state directory.
func New(opts Options) (*Agent, error) {
	a := &Agent{Options: opts, local: map[string]string{}, claims: map[string]claim{}, arrivals: make(chan string, 64)}
	now := time.Now()
	a.status = Status{
		Host: opts.Host, Version: BuildVersion().Version, PID: os.Getpid(), Started: now, Updated: now,
		Feed: FeedStatus{Source: opts.Feed},
	}
	active, err := opts.Dataplane.InForce()
	if err != nil {
		return nil, err
	}
	a.pinned = active
	if err := a.readIDs(active); err != nil {
		return nil, err
	}
	a.recall(active)
	return a, nil
}

// readIDs reads the numbers that were given out. Without them, those in the maps could be given to others.
func (a *Agent) readIDs(active uint64) error {
	path := filepath.Join(a.StateDir, idsFile)
	ids := &compile.IDs{}
	var holds struct{ Last *compile.Last }
	var torn *json.SyntaxError
	err := readJSON(path, &holds)
	if err == nil {
		err = readJSON(path, ids)
	}
	if err == nil && holds.Last == nil { // null and {} are JSON too
		err = fmt.Errorf("%s holds no numbers", path)
	}
	switch {
	case err == nil:
		a.ids = ids
		return nil
	case active == 0 && (errors.Is(err, fs.ErrNotExist) || errors.As(err, &torn)): // a loss of power took the kernel's, too
		return nil
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%s is missing, but the kernel holds revision %d of host %s, whose numbers must not be given out again: "+
			"give the --state-dir of the agent that applied it, or start afresh after `enictl teardown --host %s`",
			path, active, a.Host, a.Host)
	default:
		return fmt.Errorf("read the numbers in use: %w (restore the file, or start afresh after `enictl teardown --host %s`)", err, a.Host)
	}
}

// recall finds out what is in force from the last good revision, so that the brake and the compiler
// know it before the feed speaks.
func (a *Agent) recall(active uint64) {
	rev, err := a.LastGood()
	if err != nil {
		// What is in force needs no file, and the brake knows the ENIs from the status too.
		a.noteError(err)
		a.recallStatus()
		return
	}
	if rev == nil {
		return
	}
	a.lastGood = rev
	a.local = localENIs(rev.Objects, a.Host)
	if a.ids == nil || rev.Number != active {
		return
	}
	res, err := a.compile(rev, false)
	if err != nil {
		a.noteError(fmt.Errorf("compile the last good revision: %w", err))
		return
	}
	// Numbers of a later revision that never came into force would make this another state.
	if reflect.DeepEqual(res.IDs.ENIs, a.ids.ENIs) && reflect.DeepEqual(res.IDs.NextHops, a.ids.NextHops) &&
		reflect.DeepEqual(res.IDs.Rulesets, a.ids.Rulesets) {
		a.inForce, a.names = res.State, res.State.Names
	}
}

// recallStatus takes the ENIs for the brake from the status that the last agent kept.
func (a *Agent) recallStatus() {
	s, err := ReadStatus(a.StateDir)
	if err != nil {
		a.noteError(fmt.Errorf("the delete brake knows no ENIs: %w", err))
		return
	}
	for _, e := range s.ENIs {
		a.local[e.Name] = e.UID
	}
}

// Run works until ctx ends. Nothing that the feed or a device does makes it return before.
func (a *Agent) Run(ctx context.Context) {
	updates := make(chan feed.Update)
	go a.listen(ctx, updates)
	settle := time.After(settleTime) // the first reconcile, before any revision
	slow := time.NewTicker(reconcileEvery)
	defer slow.Stop()
	defer a.Announcer.Wait()
	var copied <-chan struct{}
	var departures <-chan migrate.Departure
	if a.Migrator != nil {
		copied, departures = a.Migrator.Changed(), a.Migrator.Departures()
	}
	a.lookAround()
	a.save()
	for {
		select {
		case <-ctx.Done():
			return
		case u := <-updates:
			a.update(ctx, u)
		case <-a.restoreAt:
			a.restore(ctx)
		case <-a.Links:
			settle = soon(settle)
		case <-a.Damages:
			settle = soon(settle)
		case <-settle:
			settle = nil
			a.reconcile(ctx)
		case <-a.againAt:
			a.reconcile(ctx)
		case <-slow.C:
			a.lookAround()
			a.reconcile(ctx)
		case <-a.settleAt:
			a.settle(ctx)
		case <-copied: // save tells it
		case d := <-departures:
			a.departed(ctx, d)
		case instance := <-a.arrivals:
			a.claim(ctx, instance, claim{to: a.Host})
		case <-a.retryAt:
			a.take(ctx, a.waiting)
		}
		a.save()
	}
}

// listen runs the source, again if it ends.
func (a *Agent) listen(ctx context.Context, updates chan<- feed.Update) {
	for {
		err := a.Source.Run(ctx, a.pinned, updates)
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			err = errors.New("it ended without an error")
		}
		select {
		case updates <- feed.Update{Err: fmt.Errorf("listen to the feed: %w", err)}:
		case <-ctx.Done():
			return
		}
		select {
		case <-time.After(listenAgain):
		case <-ctx.Done():
			return
		}
	}
}

// update takes what the feed says.
func (a *Agent) update(ctx context.Context, u feed.Update) {
	if u.Err != nil {
		a.Log.Error("the feed is not usable, what is in force stays", "err", u.Err)
		a.refuse(u.Err)
	}
	switch {
	case u.Restored: // a moment later the feed itself may speak: do not go back and forth
		a.restoreAt = time.After(restoreAfter)
	case u.Revision == nil:
		a.restore(ctx)
	default:
		a.retryAfter = retryFirst
		a.take(ctx, u.Revision)
	}
}

// take brings a revision of the feed into force unless the brake holds it. One that cannot be
// brought into force is tried again until the feed says something else.
func (a *Agent) take(ctx context.Context, rev *feed.Revision) {
	a.waiting, a.retryAt = nil, nil
	if err := a.admit(rev); err != nil {
		a.Log.Error("the revision is not applied, what is in force stays", "revision", rev.Number, "err", err)
		a.refuse(err)
		a.restore(ctx)
		return
	}
	if err := a.apply(ctx, rev, terms{}); err != nil {
		a.waiting, a.retryAt = rev, time.After(a.retryAfter)
		a.retryAfter = min(2*a.retryAfter, retryLast)
		a.refuse(err)
		a.restore(ctx)
		return
	}
	a.mu.Lock()
	a.status.Feed.Heard, a.status.Feed.Error = time.Now(), ""
	a.mu.Unlock()
}

// admit says why a valid revision must not come into force here.
func (a *Agent) admit(rev *feed.Revision) error {
	if rev.Forced {
		return nil
	}
	return brake(a.local, rev.Objects, a.MaxDeleteRatio, rev.HowToForce())
}

// restore brings the last good revision into force if nothing is yet: the feed is not there, or says
// something that cannot come into force.
func (a *Agent) restore(ctx context.Context) {
	rev := a.lastGood
	if rev == nil {
		return
	}
	if rev.Number < a.pinned {
		a.noteError(fmt.Errorf("the last good revision on disk is %d, but the kernel holds the newer %d, which stays in force until the feed says more",
			rev.Number, a.pinned))
		return
	}
	a.Log.Info("restoring the last good revision", "revision", rev.Number)
	if err := a.apply(ctx, rev, terms{restored: true}); err != nil {
		a.noteError(err)
	}
}

func (a *Agent) compile(rev *feed.Revision, settled bool) (*compile.Result, error) {
	objects, open := a.claimed(rev.Objects)
	return compile.Compile(compile.Input{
		Objects: objects, Host: a.Host, Revision: rev.Number, Previous: a.inForce, IDs: a.ids, Settled: settled, Open: open,
	})
}

// terms say how a revision is brought into force.
type terms struct {
	restored bool // from disk
	settled  bool // what has moved is where it is
}

// apply brings a revision into force, in the order of the package comment.
func (a *Agent) apply(ctx context.Context, rev *feed.Revision, how terms) error {
	res, err := a.compile(rev, how.settled)
	if err != nil {
		return a.fail("cannot compile the revision", err)
	}
	// A crash of the agent must not lose the numbers, for the kernel lives on; a loss of power takes the kernel's too.
	// So nothing waits for the disk before the revision is in force.
	if err := replaceJSON(filepath.Join(a.StateDir, idsFile), res.IDs); err != nil {
		return a.fail("cannot keep the numbers in use", err)
	}
	defer a.syncIDs()
	a.ids = res.IDs
	// The end of the agent does not stop it half-way: it is short, and what it leaves is clean.
	report, err := a.Dataplane.Apply(context.WithoutCancel(ctx), res.State)
	if err != nil {
		if report != nil && report.Revision == res.State.Revision {
			a.inForce = res.State // in force, but not settled; the next apply or reconcile finishes it
		}
		a.observe(report)
		a.lookAgain(report, err)                          // what is in force may have lost something on the way
		a.keepNames(mergeNames(a.names, res.State.Names)) // the maps may hold numbers of both
		return a.fail("cannot bring the revision into force", err)
	}
	a.inForce, a.degraded, a.local = res.State, res.Degraded, localENIs(rev.Objects, a.Host)
	a.lastGood, a.current = nil, rev
	a.follow(ctx)
	a.mu.Lock()
	a.status.Revision = &RevisionStatus{
		Number: rev.Number, Hash: rev.Hash, Applied: time.Now(), Restored: how.restored, Feed: rev.Place, Kept: rev.Kept,
	}
	a.status.Uplinks = res.State.Host.Uplinks
	a.mu.Unlock()
	a.observe(report)
	a.lookAgain(report, nil)
	a.announce(ctx, how.restored) // before any file is written: whoever sends to an EIP that moved waits for it
	a.Log.Info("a revision is in force", "revision", rev.Number, "hash", shortHash(rev.Hash),
		"enis", len(res.State.ENIs), "written", report.Written, "deleted", report.Deleted)
	a.keepNames(res.State.Names)
	if !how.restored {
		if err := a.Source.Commit(rev); err != nil {
			a.noteError(fmt.Errorf("keep revision %d as the last good one: %w", rev.Number, err))
		}
	}
	a.noteUnreachable()
	return nil
}

// syncIDs makes the numbers outlive a loss of power.
func (a *Agent) syncIDs() {
	if err := durable.Sync(filepath.Join(a.StateDir, idsFile)); err != nil {
		a.noteError(fmt.Errorf("keep the numbers in use: %w", err))
	}
}

// announce says which EIPs have a Ready ENI here, or one elsewhere to which this host is the gateway. Those of a restored
// revision may be somebody else's until the feed has spoken: they are not announced.
func (a *Agent) announce(ctx context.Context, restored bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	held := announce.Held{Uplinks: slices.Clone(a.status.Uplinks), Quiet: restored}
	byAddress := map[netip.Addr]*compile.EIP{}
	if a.inForce != nil {
		for i := range a.inForce.EIPs {
			byAddress[a.inForce.EIPs[i].Addr] = &a.inForce.EIPs[i]
		}
	}
	for i := range a.status.EIPs {
		e := &a.status.EIPs[i]
		eip := byAddress[e.Address]
		takes := eip != nil && eip.Uplink && (eip.ENI == 0 || a.ready(e.ENI))
		e.Announced = takes && eip.Announce && !restored
		switch {
		case takes && eip.Announce:
			held.Addrs = append(held.Addrs, e.Address)
		case takes:
			held.Others = append(held.Others, e.Address)
		}
	}
	a.Announcer.Announce(ctx, held)
}

// Metrics returns what the collector cannot read from the maps.
func (a *Agent) Metrics() metrics.Snapshot {
	s := a.Status()
	snap := metrics.Snapshot{FeedAge: s.Age(time.Now()).Seconds(), ENIs: map[string]int{
		string(loader.Ready): 0, string(loader.Waiting): 0, string(loader.Degraded): 0,
		string(loader.Prepared): 0, string(loader.Left): 0,
	}}
	if s.Revision != nil {
		snap.Revision = s.Revision.Number
	}
	for _, e := range s.ENIs {
		snap.ENIs[string(e.Phase)]++
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	snap.ApplyErrors = a.applyErrors
	return snap
}
