// SPDX-License-Identifier: Apache-2.0

package etcd

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	mathrand "math/rand/v2"
	"slices"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/eniplane/eniplane/pkg/api"
)

// What fits into one transaction: etcd takes 128 operations and 1.5 MiB unless told otherwise.
const (
	maxOperations = 100
	maxBytes      = 900 << 10
)

// keptLogs is how many change sets an agent may be behind without listing its views afresh.
const keptLogs = 1000

// manyViews is how many views a mark lists.
const manyViews = 64

// retryFirst and retryLast bound how long a writer that lost a race waits before it tries again.
const (
	retryFirst = 5 * time.Millisecond
	retryLast  = 500 * time.Millisecond
)

// errRace says that another change set was committed first.
var errRace = errors.New("another writer was faster")

// Options say how to commit.
type Options struct {
	By     string // who writes, for people
	Force  bool   // also release the deletes that agents hold back
	Repair bool   // render all views afresh, whatever they hold
	DryRun bool   // do everything but write
}

// Change is one object of a change set.
type Change struct {
	api.Reference
	Old, New []byte // documents; nil = there is none
}

// Result is what a commit did.
type Result struct {
	Revision uint64 // that holds what was asked for
	Changes  []Change
	Retries  int // how often another writer was faster
}

// Commit lets change work on the present objects and makes what comes of it the next revision, if it is valid as a whole.
// If another writer is faster it begins again, until ctx ends.
func (s *Store) Commit(ctx context.Context, opts Options, change func(*Draft) error) (*Result, error) {
	wait := retryFirst
	for retries := 0; ; retries++ {
		result, err := s.commitOnce(ctx, opts, change)
		if !errors.Is(err, errRace) {
			if result != nil {
				result.Retries = retries
			}
			return result, err
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("write feed %s: other writers were faster %d times: %w", s.source, retries+1, ctx.Err())
		case <-time.After(wait/2 + mathrand.N(wait)):
		}
		wait = min(2*wait, retryLast)
	}
}

func (s *Store) commitOnce(ctx context.Context, opts Options, change func(*Draft) error) (*Result, error) {
	p, docs, err := s.Read(ctx)
	if err != nil {
		return nil, err
	}
	if p.Staged && !opts.DryRun {
		if err := s.finish(ctx, p); err != nil {
			return nil, err
		}
		return nil, errRace
	}
	set, err := s.changeSet(ctx, p, docs, opts, change)
	if err != nil {
		return nil, err
	}
	result := &Result{Revision: set.mark.Revision, Changes: set.changes}
	switch {
	case opts.DryRun:
		return result, nil
	case len(set.changes) == 0 && len(set.views) == 0 && !opts.Force && p.modified != 0:
		result.Revision = p.Mark.Revision
		return result, nil
	}
	return result, s.write(ctx, p, set)
}

// changeSet is all that one commit writes.
type changeSet struct {
	mark    Mark
	changes []Change
	views   map[string][]entry
}

// changeSet works out what to write.
func (s *Store) changeSet(ctx context.Context, p *Position, docs Documents, opts Options, change func(*Draft) error) (*changeSet, error) {
	draft, err := newDraft(docs)
	if err != nil {
		return nil, err
	}
	if err := change(draft); err != nil {
		return nil, err
	}
	set := &changeSet{mark: Mark{
		Revision: p.Mark.Revision + 1, ID: newID(), Previous: p.ID, Logs: p.Logs, Force: p.Force,
		Time: time.Now().UTC().Truncate(time.Millisecond), By: opts.By,
	}}
	old, oldErr := docs.Objects()
	if oldErr != nil {
		old = nil
	}
	fresh, err := draft.finish(&set.mark, old)
	if err != nil {
		return nil, err
	}
	set.changes = draft.changes()
	var before rendered
	if oldErr == nil && !opts.Repair {
		before, err = render(old)
	} else {
		before, err = s.views(ctx, p.at)
	}
	if err != nil {
		return nil, err
	}
	after, err := render(fresh)
	if err != nil {
		return nil, err
	}
	set.views = viewChanges(before, after)
	if opts.Force {
		set.mark.Force = set.mark.Revision
	}
	if set.mark.Views = slices.Sorted(maps.Keys(set.views)); len(set.mark.Views) > manyViews {
		set.mark.Views, set.mark.Many = nil, true
	}
	set.mark.Logs = max(set.mark.Logs, 1)
	if set.mark.Revision > s.keptLogs {
		set.mark.Logs = max(set.mark.Logs, set.mark.Revision-s.keptLogs)
	}
	return set, nil
}

// newID makes the id of a change set.
func newID() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // it never fails
	return hex.EncodeToString(b[:])
}

// views reads what all views hold.
func (s *Store) views(ctx context.Context, at int64) (rendered, error) {
	out := rendered{}
	err := s.list(ctx, s.layout.views(), at, func(p pair) error {
		if strings.Contains(p.key, "/log/") {
			return nil
		}
		view, key, err := splitViewKey(p.key)
		if err == nil {
			out.put(view, key, p.value)
		}
		return err
	})
	return out, err
}

// finals returns the keys of objects and views with what they shall hold, relative to the prefix.
func (set *changeSet) finals() []entry {
	var out []entry
	for _, c := range set.changes {
		out = append(out, entry{Key: "objects/" + c.Reference.String(), Value: c.New, Deleted: c.New == nil})
	}
	for _, view := range slices.Sorted(maps.Keys(set.views)) {
		for _, e := range set.views[view] {
			out = append(out, entry{Key: "views/" + view + "/state/" + e.Key, Value: e.Value, Deleted: e.Deleted})
		}
	}
	return out
}

// operations turns entries into operations and says how large they are.
func (s *Store) operations(entries []entry) (ops []clientv3.Op, size int) {
	for _, e := range entries {
		key := s.prefix + "/" + e.Key
		if e.Deleted {
			ops = append(ops, clientv3.OpDelete(key))
			size += len(key)
			continue
		}
		value := pack(e.Value)
		ops = append(ops, clientv3.OpPut(key, string(value)))
		size += len(key) + len(value)
	}
	return ops, size
}

// logs returns the operations that write the logs of a change set.
func (s *Store) logOperations(set *changeSet) (ops []clientv3.Op, size int, err error) {
	for _, view := range slices.Sorted(maps.Keys(set.views)) {
		values, err := parts(set.views[view])
		if err != nil {
			return nil, 0, err
		}
		for i, value := range values {
			key := fmt.Sprintf("%s/%s/%s", s.log(view, set.mark.Revision), set.mark.ID, digits(uint64(i)))
			ops = append(ops, clientv3.OpPut(key, string(value)))
			size += len(key) + len(value)
		}
	}
	return ops, size, nil
}

// prune removes what is older than the logs that are kept.
func (s *Store) prune(set *changeSet) (ops []clientv3.Op) {
	if set.mark.Logs <= 1 {
		return nil
	}
	ops = append(ops, clientv3.OpDelete(s.commits(), clientv3.WithRange(s.layout.commit(set.mark.Logs))))
	for _, view := range set.mark.Views {
		ops = append(ops, clientv3.OpDelete(s.layout.logs(view), clientv3.WithRange(s.log(view, set.mark.Logs))))
	}
	return ops
}

// write commits a change set, in one transaction if it fits.
func (s *Store) write(ctx context.Context, p *Position, set *changeSet) error {
	finals := set.finals()
	ops, size := s.operations(finals)
	logs, logSize, err := s.logOperations(set)
	if err != nil {
		return err
	}
	pruned := s.prune(set)
	if len(ops)+len(logs)+len(pruned)+2 <= maxOperations && size+logSize <= maxBytes {
		return s.setMark(ctx, p, &set.mark, slices.Concat(ops, logs, pruned))
	}
	return s.stage(ctx, p, set, finals, logs)
}

// setMark commits: it sets the mark, together with ops, unless somebody else has.
func (s *Store) setMark(ctx context.Context, p *Position, mark *Mark, ops []clientv3.Op) error {
	text, err := json.Marshal(mark)
	if err != nil {
		return fmt.Errorf("encode the mark: %w", err)
	}
	ops = append(ops, clientv3.OpPut(s.mark(), string(text)), clientv3.OpPut(s.layout.commit(mark.Revision), mark.ID))
	same := clientv3.Compare(clientv3.ModRevision(s.mark()), "=", p.modified)
	err = s.transact(ctx, ops, []clientv3.Cmp{same})
	if err == nil || errors.Is(err, errRace) && !s.committed(ctx, mark) {
		return err
	}
	// The answer may have been lost, and the client may have asked twice: then the second one met the first.
	if s.committed(ctx, mark) {
		return nil
	}
	return fmt.Errorf("%w: whether revision %d was committed is not known (`enictl sync` tells)", err, mark.Revision)
}

// committed tells whether a change set is known to be in the feed.
func (s *Store) committed(ctx context.Context, mark *Mark) bool {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	r, err := s.client.Get(ctx, s.layout.commit(mark.Revision))
	return err == nil && len(r.Kvs) == 1 && string(r.Kvs[0].Value) == mark.ID
}
