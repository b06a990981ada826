// SPDX-License-Identifier: Apache-2.0

package etcd

import (
	"bytes"
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

// Draft is what a change set is made of: the objects as they are, and what shall become of them.
type Draft struct {
	docs    Documents
	objects map[api.Reference]api.Object // as read
	fresh   map[api.Reference]api.Object // nil = deleted
}

// Get returns an object as the draft has it now, nil if there is none. Whoever changes it must Put it.
func (d *Draft) Get(ref api.Reference) api.Object {
	if o, ok := d.fresh[ref]; ok {
		return o
	}
	return d.objects[ref]
}

// All returns all objects as the draft has them now, sorted.
func (d *Draft) All() []api.Object {
	all := maps.Clone(d.objects)
	maps.Copy(all, d.fresh)
	var out []api.Object
	for _, ref := range sortedReferences(all) {
		if all[ref] != nil {
			out = append(out, all[ref])
		}
	}
	return out
}

// Put adds an object or replaces that of its name.
func (d *Draft) Put(o api.Object) { d.fresh[api.ReferenceTo(o)] = o }

// Delete removes an object.
func (d *Draft) Delete(ref api.Reference) { d.fresh[ref] = nil }

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
	before := rendered{}
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
	if set.mark.Revision > keptLogs {
		set.mark.Logs = max(set.mark.Logs, set.mark.Revision-keptLogs)
	}
	return set, nil
}

// newID makes the id of a change set.
func newID() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // it never fails
	return hex.EncodeToString(b[:])
}

func newDraft(docs Documents) (*Draft, error) {
	d := &Draft{docs: docs, objects: map[api.Reference]api.Object{}, fresh: map[api.Reference]api.Object{}}
	// What cannot be read is no object here; that is said if it is still there at the end.
	objects, _ := api.Parse(docs.Files())
	for _, o := range objects {
		ref := api.ReferenceTo(o)
		doc, ok := docs[ref]
		if !ok {
			return nil, fmt.Errorf("read the feed: a document is %s, but not where that should be (remove the key that holds it)", ref)
		}
		o.Meta().UID = doc.UID
		d.objects[ref] = o
	}
	return d, nil
}

// finish gives new objects their identities and attachments their epochs, and judges the whole. old is nil if
// what was there is not valid.
func (d *Draft) finish(mark *Mark, old *api.Objects) (*api.Objects, error) {
	for _, o := range d.fresh {
		if e, ok := o.(*api.ENI); ok && e.Attachment != nil {
			mark.Revision = max(mark.Revision, e.Attachment.Epoch) // so that every later epoch is greater
		}
	}
	for i, ref := range sortedReferences(d.fresh) {
		o := d.fresh[ref]
		if o == nil {
			continue
		}
		if doc, ok := d.docs[ref]; ok {
			o.Meta().UID = doc.UID
		} else {
			// The revision that made it; the id of the change set, because after a restore the revision may come again.
			o.Meta().UID = fmt.Sprintf("%d-%s-%d", mark.Revision, mark.ID[:6], i)
		}
	}
	d.raiseEpochs(mark.Revision, old)
	docs, err := d.documents()
	if err != nil {
		return nil, err
	}
	return docs.Objects()
}

// documents returns the documents as they shall be.
func (d *Draft) documents() (Documents, error) {
	docs := maps.Clone(d.docs)
	for ref, o := range d.fresh {
		delete(docs, ref)
		if o == nil {
			continue
		}
		text, err := api.MarshalJSON(o)
		if err != nil {
			return nil, err
		}
		docs[ref] = Document{Text: text, UID: o.Meta().UID}
	}
	return docs, nil
}

// raiseEpochs gives each ENI that gets to another place the revision as its epoch, which is greater than any before;
// one that stays keeps its own. An instance that changes hosts takes its ENIs along.
func (d *Draft) raiseEpochs(revision uint64, old *api.Objects) {
	for _, o := range d.All() {
		e, ok := o.(*api.ENI)
		if !ok || e.Attachment == nil {
			continue
		}
		ref := api.ReferenceTo(e)
		if d.fresh[ref] == nil && d.fresh[api.Reference{Kind: "Instance", Name: e.Attachment.Instance}] == nil {
			continue
		}
		epoch := revision
		if old != nil {
			was := old.ENIs[e.Name]
			if was != nil && was.Attachment != nil && was.Attachment.Epoch > 0 && samePlace(was, e) && d.hostOf(e) == old.HostOf(was) {
				epoch = was.Attachment.Epoch
			}
		}
		if e.Attachment.Epoch == epoch {
			continue
		}
		moved, at := *e, *e.Attachment // others may hold what was read
		at.Epoch = epoch
		moved.Attachment = &at
		d.fresh[ref] = &moved
	}
}

func samePlace(a, b *api.ENI) bool {
	return a.Attachment.Instance == b.Attachment.Instance && a.Attachment.Index == b.Attachment.Index &&
		a.Attachment.Device == b.Attachment.Device
}

func (d *Draft) hostOf(e *api.ENI) string {
	i, _ := d.Get(api.Reference{Kind: "Instance", Name: e.Attachment.Instance}).(*api.Instance)
	if i == nil {
		return ""
	}
	return i.Host
}

// changes lists what differs, sorted.
func (d *Draft) changes() []Change {
	docs, err := d.documents()
	if err != nil {
		return nil // finish has succeeded with the same
	}
	var out []Change
	for _, ref := range sortedReferences(d.fresh) {
		c := Change{Reference: ref, Old: d.docs[ref].Text, New: docs[ref].Text}
		if !bytes.Equal(c.Old, c.New) {
			out = append(out, c)
		}
	}
	return out
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

// stage writes a change set that does not fit into a transaction: first where nobody looks, then the mark, then the keys.
func (s *Store) stage(ctx context.Context, p *Position, set *changeSet, finals []entry, logs []clientv3.Op) error {
	values, err := parts(finals)
	if err != nil {
		return err
	}
	var aside []clientv3.Op
	for i, value := range values {
		aside = append(aside, clientv3.OpPut(s.stagedParts(set.mark.ID)+digits(uint64(i)), string(value)))
	}
	if err := s.putAll(ctx, append(aside, logs...)); err != nil {
		return errors.Join(err, s.discard(ctx, set))
	}
	set.mark.Staged = true
	if err := s.setMark(ctx, p, &set.mark, s.pruneStaged(set.mark.ID)); err != nil {
		if errors.Is(err, errRace) {
			return errors.Join(err, s.discard(ctx, set))
		}
		return err // it may have been committed: the next writer finds out
	}
	now, err := s.Position(ctx)
	if err != nil {
		return err
	}
	if now.ID != set.mark.ID || !now.Staged {
		return nil // somebody was kind enough
	}
	return s.finish(ctx, now)
}

// pruneStaged removes what writers that died before their commit have left: nobody else can commit it any more.
func (s *Store) pruneStaged(keep string) []clientv3.Op {
	return []clientv3.Op{
		clientv3.OpDelete(s.staged(), clientv3.WithRange(s.stagedParts(keep))),
		clientv3.OpDelete(clientv3.GetPrefixRangeEnd(s.stagedParts(keep)), clientv3.WithRange(clientv3.GetPrefixRangeEnd(s.staged()))),
	}
}

// discard removes what was staged for a commit that did not come.
func (s *Store) discard(ctx context.Context, set *changeSet) error {
	ops := []clientv3.Op{clientv3.OpDelete(s.stagedParts(set.mark.ID), clientv3.WithPrefix())}
	for view := range set.views {
		ops = append(ops, clientv3.OpDelete(s.log(view, set.mark.Revision)+"/"+set.mark.ID+"/", clientv3.WithPrefix()))
	}
	return s.putAll(ctx, ops)
}

// putAll does operations in as many transactions as it takes.
func (s *Store) putAll(ctx context.Context, ops []clientv3.Op, conditions ...clientv3.Cmp) error {
	for len(ops) > 0 {
		n, size := 0, 0
		for n < len(ops) && n < maxOperations && (n == 0 || size+len(ops[n].ValueBytes()) <= maxBytes) {
			size += len(ops[n].ValueBytes()) + len(ops[n].KeyBytes())
			n++
		}
		if err := s.transact(ctx, ops[:n], conditions); err != nil {
			return err
		}
		ops = ops[n:]
	}
	return nil
}

func (s *Store) transact(ctx context.Context, ops []clientv3.Op, conditions []clientv3.Cmp) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	r, err := s.client.Txn(ctx).If(conditions...).Then(ops...).Commit()
	if err != nil {
		return fmt.Errorf("write feed %s: %w", s.source, plainError(err))
	}
	if !r.Succeeded {
		return errRace
	}
	return nil
}

// finish puts the keys of a committed, staged change set in place. Several may do so at once: all write the same, and only
// as long as the mark stays.
func (s *Store) finish(ctx context.Context, p *Position) error {
	staged, err := s.entries(ctx, s.stagedParts(p.ID), p.at)
	if err != nil {
		return err
	}
	same := clientv3.Compare(clientv3.ModRevision(s.mark()), "=", p.modified)
	ops, _ := s.operations(staged)
	if err := s.putAll(ctx, ops, same); err != nil {
		return ignoreRace(err)
	}
	mark := p.Mark
	mark.Staged = false
	err = s.setMark(ctx, p, &mark, []clientv3.Op{clientv3.OpDelete(s.stagedParts(p.ID), clientv3.WithPrefix())})
	return ignoreRace(err)
}

// ignoreRace is for work that whoever was faster has done as well.
func ignoreRace(err error) error {
	if errors.Is(err, errRace) {
		return nil
	}
	return err
}
