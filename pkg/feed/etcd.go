// SPDX-License-Identifier: Apache-2.0

package feed

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/eniplane/eniplane/pkg/api"
	"github.com/eniplane/eniplane/pkg/feed/etcd"
)

// etcdSource is the source of a prefix in etcd.
type etcdSource struct {
	Options
	config *etcd.Config
	source string // as the user wrote it

	retryFirst, retryLast time.Duration // between connections
	look                  time.Duration // between looks at the mark when the watch says nothing

	reports chan *etcd.Status // the last one that was not sent yet

	mu     sync.Mutex // guards what follows: Commit is called by another goroutine than Run
	good   *Revision  // in force, or the last good one from disk; nil = none
	keeper keeper
}

func openEtcd(source string, opts Options) (Source, error) {
	config, err := etcd.ParseSource(source)
	if err != nil {
		return nil, err
	}
	config.Files = opts.Files
	if err := config.Check(); err != nil {
		return nil, fmt.Errorf("open feed etcd:%s: %w", source, err)
	}
	return &etcdSource{
		Options: opts, config: config, source: "etcd:" + source,
		retryFirst: 200 * time.Millisecond, retryLast: 15 * time.Second, look: 10 * time.Second,
		reports: make(chan *etcd.Status, 1),
		keeper:  keeper{dir: opts.StateDir},
	}, nil
}

// Commit keeps a revision as the last good one.
func (e *etcdSource) Commit(r *Revision) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.good = r
	return e.keeper.keep(r)
}

func (e *etcdSource) lastGood() *Revision {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.good
}

// Report tells the status to the feed.
func (e *etcdSource) Report(s *etcd.Status) {
	for {
		select {
		case e.reports <- s:
			return
		default:
		}
		select {
		case <-e.reports: // that nobody has taken yet
		default:
		}
	}
}

// Run offers the last good revision, then those of the feed. Nothing that the feed holds or lacks ends it.
func (e *etcdSource) Run(ctx context.Context, inForce uint64, updates chan<- Update) error {
	r := &etcdRun{etcdSource: e, ctx: ctx, inForce: inForce, updates: updates}
	r.restore()
	wait := e.retryFirst
	for ctx.Err() == nil {
		heard := r.heard
		err := r.session()
		if ctx.Err() != nil {
			break
		}
		r.fail(err)
		if r.heard != heard {
			wait = e.retryFirst
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait/2 + rand.N(wait)):
		}
		wait = min(2*wait, e.retryLast)
	}
	return context.Cause(ctx)
}

// etcdRun is the state of one Run.
type etcdRun struct {
	*etcdSource
	ctx     context.Context
	inForce uint64
	updates chan<- Update

	view    *etcd.View // the last one that was read
	keep    []string   // VPCs that are read because of ENIs whose deletion waits
	decoder api.Decoder
	offered *Revision // the last one
	live    bool      // it is of the feed, not from disk
	failure string    // the last update, if it was an error
	heard   int       // how often the feed answered
	told    *etcd.Status
	mute    string // why it could not be told
}

// restore offers the last good revision, so that an agent works while the feed is gone.
func (r *etcdRun) restore() {
	last, err := LastGood(r.StateDir)
	r.mu.Lock()
	if r.good == nil && err == nil {
		r.good = last
	}
	r.mu.Unlock()
	r.offered = last
	switch {
	case err != nil:
		r.fail(err)
	case last != nil:
		r.send(Update{Revision: last, Restored: true})
	}
}

func (r *etcdRun) send(u Update) {
	select {
	case r.updates <- u:
	case <-r.ctx.Done():
	}
}

// fail reports an error, once while it stays the same.
func (r *etcdRun) fail(err error) {
	if err == nil || r.failure == err.Error() {
		return
	}
	r.failure = err.Error()
	r.send(Update{Err: err})
}

// session works with one connection until it fails.
func (r *etcdRun) session() error {
	ctx, cancel := context.WithCancel(r.ctx)
	defer cancel()
	store, err := etcd.Open(ctx, r.config)
	if err != nil {
		return err
	}
	defer func() { _ = store.Close() }()
	if err := r.read(ctx, store); err != nil {
		return err
	}
	marks, ended := make(chan struct{}, 1), make(chan error, 1)
	go func(view *etcd.View) {
		ended <- store.Watch(ctx, view, func() {
			select {
			case marks <- struct{}{}:
			default: // it will be read with the next
			}
		})
	}(r.view)
	look := time.NewTicker(r.look)
	defer look.Stop()
	reporter := store.Reporter(r.Host)
	r.tell(ctx, reporter) // what another session told ends with its lease
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-ended:
			return err
		case r.told = <-r.reports:
			r.tell(ctx, reporter)
		case <-marks:
			err = r.read(ctx, store)
		case <-look.C:
			// What the watch may have missed, and whether anybody still answers.
			err = r.read(ctx, store)
			if reporter.Lost() {
				r.tell(ctx, reporter)
			}
		}
		if err != nil {
			return err
		}
	}
}

// tell writes the last status that there is. That it cannot be written is said and tried again, but whoever can read
// the feed goes on reading it.
func (r *etcdRun) tell(ctx context.Context, reporter *etcd.Reporter) {
	if r.told == nil {
		return
	}
	text := ""
	if err := reporter.Put(ctx, r.told); err != nil {
		text = err.Error()
		if text != r.mute && ctx.Err() == nil {
			r.send(Update{Err: err})
		}
	}
	r.mute = text
}

// read brings the view up to date and offers what has changed.
func (r *etcdRun) read(ctx context.Context, store *etcd.Store) error {
	for {
		view, err := store.View(ctx, r.Host, r.view, r.keep)
		if err != nil {
			return err
		}
		r.heard++
		held, keep, err := r.quarantine(ctx, store, view)
		if err != nil {
			return err
		}
		r.view = view
		if !slices.Equal(keep, r.keep) {
			r.keep = keep
			continue
		}
		rev, err := r.revision(view, held)
		if err != nil {
			r.fail(fmt.Errorf("refuse feed %s: %w", r.source, err))
			return nil
		}
		if r.failure == "" && r.live && r.offered.Hash == rev.Hash {
			return nil
		}
		r.offered, r.live, r.failure = rev, true, ""
		r.send(Update{Revision: rev})
		return nil
	}
}

// revision makes a revision of a view.
func (r *etcdRun) revision(view *etcd.View, held map[api.Reference]string) (*Revision, error) {
	var good etcd.Documents
	var records map[string]*etcd.Records
	last := r.lastGood()
	if last != nil {
		good, records = last.documents, last.records
	}
	s, err := settle(&r.decoder, view.Documents(), good, held)
	if err != nil {
		return nil, err
	}
	place := view.Place()
	rev := &Revision{
		Objects: s.objects, Place: &place, documents: s.documents, records: view.Records(),
		// What must wait is held already. Without a last good revision nothing was: then the agent may know more.
		Forced: last != nil && last.Place != nil || view.Force == view.Mark.Revision,
	}
	for ref, why := range s.kept {
		rev.Kept = append(rev.Kept, ref.String()+": "+why)
	}
	for _, err := range etcd.AddRecords(s.objects, view.Records(), records) {
		rev.Kept = append(rev.Kept, err.Error())
	}
	slices.Sort(rev.Kept)
	rev.Hash = hashOfPlace(place, rev.Kept)
	if rev.Number, err = r.number(rev); err != nil {
		return nil, err
	}
	return rev, nil
}

// hashOfPlace names a content: the change set makes it, but for what is kept.
func hashOfPlace(place etcd.Place, kept []string) string {
	text, err := json.Marshal(struct {
		Place etcd.Place
		Kept  []string
	}{etcd.Place{Cluster: place.Cluster, Revision: place.Revision, ID: place.ID}, kept})
	if err != nil {
		return err.Error() // of nothing that can fail
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}

// number gives a revision its number: that of the feed, unless numbers would not grow.
func (r *etcdRun) number(rev *Revision) (uint64, error) {
	last := r.inForce
	if r.offered != nil {
		if r.offered.Hash == rev.Hash && r.offered.Number >= r.inForce {
			return r.offered.Number, nil
		}
		last = max(last, r.offered.Number)
	}
	n := max(rev.Place.Revision, last+1)
	if n > maxRevision {
		return 0, fmt.Errorf("there is no revision after %d (start afresh after enictl teardown)", last)
	}
	return n, nil
}

// quarantine finds the ENIs whose deletion waits for `enictl apply --force`, with their EIPs, and the VPCs without which they
// cannot be kept.
func (r *etcdRun) quarantine(ctx context.Context, store *etcd.Store, view *etcd.View) (map[api.Reference]string, []string, error) {
	good := r.lastGood()
	if good == nil || good.Place == nil || len(good.documents) == 0 {
		return nil, nil, nil
	}
	local, gone := r.gone(good, view)
	if !Braked(len(gone), local, r.MaxDeleteRatio) {
		return nil, nil, nil
	}
	exist, err := store.Exist(ctx, view, gone)
	if err != nil {
		return nil, nil, err
	}
	maps.DeleteFunc(gone, func(ref api.Reference, _ string) bool { return exist[ref] })
	if !Braked(len(gone), local, r.MaxDeleteRatio) {
		return nil, nil, nil
	}
	released, err := r.released(ctx, store, good, view)
	if err != nil || released {
		return nil, nil, err
	}
	held, vpcs := map[api.Reference]string{}, map[string]bool{}
	for ref := range gone {
		held[ref] = fmt.Sprintf("its deletion waits: with it, %d of the %d ENIs of this host would go, more than --max-delete-ratio %v allows "+
			"(if that is meant: enictl apply --force)", len(gone), local, r.MaxDeleteRatio)
		vpcs[good.Objects.VPCOf(good.Objects.ENIs[ref.Name]).Name] = true
	}
	now := view.Documents()
	for name, eip := range good.Objects.EIPs {
		ref, eni := api.Reference{Kind: "EIP", Name: name}, api.Reference{Kind: "ENI", Name: eip.ENI}
		if _, there := now[ref]; !there && held[eni] != "" {
			held[ref] = "it is of " + eni.String()
		}
	}
	return held, slices.Sorted(maps.Keys(vpcs)), nil
}

// gone returns how many ENIs the host has, and the identities of those that a view no longer has.
func (r *etcdRun) gone(good *Revision, view *etcd.View) (local int, gone map[api.Reference]string) {
	now := view.Documents()
	gone = map[api.Reference]string{}
	for name, eni := range good.Objects.ENIs {
		if good.Objects.HostOf(eni) != r.Host {
			continue
		}
		local++
		ref := api.Reference{Kind: "ENI", Name: name}
		if doc, ok := now[ref]; !ok || doc.UID != eni.UID {
			gone[ref] = eni.UID
		}
	}
	return local, gone
}

// released tells whether somebody has said that the deletes are meant, since the revision in force.
func (r *etcdRun) released(ctx context.Context, store *etcd.Store, good *Revision, view *etcd.View) (bool, error) {
	if view.Force == view.Mark.Revision {
		return true, nil
	}
	follows, err := store.Follows(ctx, *good.Place, view)
	if err != nil {
		return false, err
	}
	// In another history the number says nothing.
	return follows && view.Force > good.Place.Revision, nil
}
