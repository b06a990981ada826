// SPDX-License-Identifier: Apache-2.0

package feed

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/eniplane/eniplane/pkg/api"
)

// maxRevision leaves a bit for the slot that stands beside the revision in the host word.
const maxRevision = 1 << 62

// dir is the source of a directory.
type dir struct {
	path     string
	stateDir string

	quiet    time.Duration // without a change makes a revision where nothing else marks it
	patience time.Duration // with what looks like a writer at work, before it is an error
	poll     time.Duration // between looks when nothing is said to change
}

func newDir(path, stateDir string) *dir {
	return &dir{
		path: path, stateDir: stateDir,
		quiet: 50 * time.Millisecond, patience: time.Second, poll: time.Second,
	}
}

// Commit keeps a revision as the last good one.
func (d *dir) Commit(r *Revision) error { return save(d.stateDir, r) }

// Run offers the last good revision, then those of the directory. Nothing that the directory holds
// or lacks ends it.
func (d *dir) Run(ctx context.Context, inForce uint64, updates chan<- Update) error {
	r := &run{dir: d, ctx: ctx, inForce: inForce, updates: updates, watch: newWatcher()}
	defer r.watch.close()
	r.restore()
	for ctx.Err() == nil {
		r.watch.follow(d.path)
		r.watch.wait(ctx, r.step())
	}
	return context.Cause(ctx)
}

// run is the state of one Run.
type run struct {
	*dir
	ctx     context.Context
	inForce uint64 // when the run began
	updates chan<- Update
	watch   *watcher
	decoder api.Decoder // of the directory: most files are as they were

	seen    *Revision // the last valid one
	judged  []stamp   // the view that the last update was about
	settled bool      // ... and it was a fresh revision: only a change makes another update
	failure string    // the last update, if it was an error

	candidate []stamp   // the view that may become quiet
	since     time.Time // it has been seen
	restless  time.Time // there has been no rest, while there is a candidate
}

// restore offers the last good revision, so that an agent works while the feed is gone.
func (r *run) restore() {
	last, err := LastGood(r.stateDir)
	r.seen = last
	switch {
	case err != nil:
		r.fail(err)
	case last != nil:
		r.send(Update{Revision: last, Restored: true})
	}
}

func (r *run) send(u Update) {
	select {
	case r.updates <- u:
	case <-r.ctx.Done():
	}
}

// fail reports an error, once while it stays the same.
func (r *run) fail(err error) {
	r.settled = false
	if r.failure == err.Error() {
		return
	}
	r.failure = err.Error()
	r.send(Update{Err: err})
}

// step looks at the directory once. It returns for how long there is nothing to do unless the
// directory changes.
func (r *run) step() time.Duration {
	r.watch.drain()
	view, err := look(r.path)
	if err != nil {
		return r.unreadable(err)
	}
	if r.judged != nil && slices.Equal(view, r.judged) && (r.settled || r.failure != "") {
		r.candidate = nil
		return r.poll
	}
	if r.watch.mark == markLast && closed(view) {
		return r.takeSealed(view)
	}
	r.consider(view)
	if rest := r.restFor(view) - time.Since(r.since); rest > 0 {
		if time.Since(r.restless) > 10*r.patience {
			r.fail(fmt.Errorf("read feed dir:%s: %w", r.path, changing("its files change all the time")))
		}
		return rest
	}
	s, err := take(r.path, view)
	if err != nil {
		return r.unreadable(err)
	}
	return r.judge(s)
}

// restFor says how long a view must not change to be a revision. Where there is a mark, and something
// is newer than it, a writer seems to be on the way to the next mark.
func (r *run) restFor(view []stamp) time.Duration {
	if marked(view) && (r.watch.mark == markPassed || !closed(view)) {
		return r.patience
	}
	return r.quiet
}

// consider notes since when the directory has been as it is.
func (r *run) consider(view []stamp) {
	if r.candidate == nil {
		r.restless = time.Now()
	}
	if r.candidate == nil || !slices.Equal(view, r.candidate) {
		r.candidate, r.since = view, time.Now()
	}
}

// takeSealed reads a directory whose last change was its mark, which makes it complete at once,
// unless something happens meanwhile.
func (r *run) takeSealed(view []stamp) time.Duration {
	s, err := take(r.path, view)
	if err != nil {
		r.watch.mark = markUnknown
		return r.unreadable(err)
	}
	if r.watch.drain() {
		return 0
	}
	r.consider(view)
	return r.judge(s)
}

// unreadable reports why there is no revision: what can be a writer at work only if it lasts.
func (r *run) unreadable(err error) time.Duration {
	var writing changing
	if errors.As(err, &writing) {
		if r.candidate == nil {
			r.consider([]stamp{})
		}
		if time.Since(r.since) < r.patience {
			return r.quiet / 5
		}
	}
	r.judged = nil
	r.fail(fmt.Errorf("read feed dir:%s: %w", r.path, err))
	return r.patience
}

// judge offers a snapshot as a revision, or says why it is none.
func (r *run) judge(s *snapshot) time.Duration {
	number, err := r.number(s)
	var writing changing
	if errors.As(err, &writing) {
		if rest := r.patience - time.Since(r.since); rest > 0 {
			return rest
		}
	}
	rev := &Revision{Number: number, Hash: s.hash, Marked: s.marked, Files: s.files}
	if err == nil {
		rev.Objects, err = r.objects(rev)
	}
	r.judged, r.candidate = s.view, nil
	if err != nil {
		r.fail(fmt.Errorf("refuse feed dir:%s: %w", r.path, err))
		return r.poll
	}
	rev.Forced = s.force != "" && s.force == rev.ForceKey()
	same := r.settled && r.seen.Number == rev.Number && r.seen.Hash == rev.Hash &&
		r.seen.Marked == rev.Marked && r.seen.Forced == rev.Forced
	r.seen, r.settled, r.failure = rev, true, ""
	if !same {
		r.send(Update{Revision: rev})
	}
	return r.poll
}

// number gives a snapshot its number.
func (r *run) number(s *snapshot) (uint64, error) {
	if !s.marked {
		return r.unmarked(s)
	}
	n, err := strconv.ParseUint(s.mark, 10, 64)
	if err != nil || n < 1 || n > maxRevision {
		return 0, fmt.Errorf("%s holds %.40q, not a number of 1 to %d (write one, after all other files)", revisionFile, s.mark, uint64(maxRevision))
	}
	switch {
	case n < r.inForce:
		return 0, fmt.Errorf("%s is %d, older than %d which is in force (write a greater number)", revisionFile, n, r.inForce)
	case r.seen == nil || n > r.seen.Number:
	case n < r.seen.Number:
		return 0, fmt.Errorf("%s is %d, older than %d which has been seen (write a greater number)", revisionFile, n, r.seen.Number)
	case s.hash != r.seen.Hash:
		return 0, changing(fmt.Sprintf("%s is still %d, but the content is not what it was (write a greater number when all files are complete)", revisionFile, n))
	}
	return n, nil
}

// unmarked numbers a snapshot by what has been seen. That nothing is there is believed only if
// REVISION says so: it is how an unmounted volume looks.
func (r *run) unmarked(s *snapshot) (uint64, error) {
	switch {
	case len(s.files) == 0:
		return 0, fmt.Errorf("there is no object file and no %s (add objects, or %s if there shall be none)", revisionFile, revisionFile)
	case r.seen == nil:
		return r.inForce + 1, nil
	case r.seen.Marked && time.Since(r.since) < r.patience:
		return 0, changing(revisionFile + " has gone")
	case r.seen.Hash == s.hash && r.seen.Number >= r.inForce:
		return r.seen.Number, nil
	}
	last := max(r.seen.Number, r.inForce)
	if last >= maxRevision {
		return 0, fmt.Errorf("there is no revision after %d (start afresh after enictl teardown)", last)
	}
	return last + 1, nil
}

// objects validates a revision. Those of a content that has been seen are the same.
func (r *run) objects(rev *Revision) (*api.Objects, error) {
	if r.seen != nil && r.seen.Hash == rev.Hash && r.seen.Objects != nil {
		return r.seen.Objects, nil
	}
	objects, err := decode(r.decoder.Decode, rev.Files)
	if err != nil {
		return nil, err
	}
	if !rev.Marked && len(objects.All()) == 1 { // the region
		return nil, fmt.Errorf("the files hold nothing but a region, and there is no %s (add objects, or %s if there shall be none)", revisionFile, revisionFile)
	}
	return objects, nil
}
