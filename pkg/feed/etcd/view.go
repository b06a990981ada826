// SPDX-License-Identifier: Apache-2.0

package etcd

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/eniplane/eniplane/pkg/api"
)

// View is what one host is sent, at a moment. It is a value: Follow makes another one.
type View struct {
	Position
	Host string
	// Other says that the view does not follow from the one before: of another cluster, or of another history of
	// this one, as after a restore.
	Other bool

	docs    map[string]Documents // by view
	records map[string]*Records  // by VPC
	present []string             // VPCs, sorted
	extra   []string             // VPCs that are followed although the host no longer has them, sorted
}

// Documents returns all documents of the view.
func (v *View) Documents() Documents {
	all := Documents{}
	for _, docs := range v.docs {
		maps.Copy(all, docs)
	}
	return all
}

// Records returns the endpoint records by VPC.
func (v *View) Records() map[string]*Records { return v.records }

// Place returns of which cluster and change set a view is.
func (v *View) Place() Place {
	return Place{Cluster: v.Cluster, Revision: v.Mark.Revision, ID: v.ID, Force: v.Force}
}

// Place names a state of a feed, across restarts.
type Place struct {
	Cluster  uint64 `json:"cluster"`
	Revision uint64 `json:"revision"`
	ID       string `json:"id"`
	Force    uint64 `json:"force,omitempty"`
}

// errStale says that a view cannot be followed and must be listed.
var errStale = errors.New("the view cannot be followed")

// View reads what a host is sent. last is what it had before, nil if nothing; keep names VPCs that it shall be sent
// in any case.
func (s *Store) View(ctx context.Context, host string, last *View, keep []string) (*View, error) {
	for attempt := 1; ; attempt++ {
		v, err := s.viewOnce(ctx, host, last, keep)
		// What was the present a moment ago may be compacted now.
		if !errors.Is(err, rpctypes.ErrCompacted) || attempt == compactedRetries {
			return v, err
		}
	}
}

func (s *Store) viewOnce(ctx context.Context, host string, last *View, keep []string) (*View, error) {
	p, err := s.Position(ctx)
	if err != nil {
		return nil, err
	}
	if p.modified == 0 {
		return nil, fmt.Errorf("read feed %s: %w", s.source, ErrEmpty)
	}
	if last != nil {
		v, err := s.follow(ctx, last, p, keep)
		if !errors.Is(err, errStale) {
			return v, err
		}
	}
	return s.listView(ctx, host, last, p, keep)
}

// listView reads a view from the keys.
func (s *Store) listView(ctx context.Context, host string, last *View, p *Position, keep []string) (*View, error) {
	v := &View{Position: *p, Host: host, docs: map[string]Documents{}, records: map[string]*Records{}}
	if last != nil {
		follows, err := s.follows(ctx, last.Place(), p)
		if err != nil {
			return nil, err
		}
		v.Other = !follows
	}
	for _, view := range []string{regionView, hostView(host)} {
		if err := s.readDocuments(ctx, v, view); err != nil {
			return nil, err
		}
	}
	return v, s.readVPCs(ctx, v, keep)
}

// Follows tells whether a feed is still the one of a place: the same cluster, with the same past.
func (s *Store) Follows(ctx context.Context, place Place, v *View) (bool, error) {
	return s.follows(ctx, place, &v.Position)
}

func (s *Store) follows(ctx context.Context, place Place, p *Position) (bool, error) {
	switch {
	case place.Cluster != p.Cluster || place.Revision > p.Mark.Revision:
		return false, nil
	case place.Revision == p.Mark.Revision:
		return place.ID == p.ID, nil
	case place.ID == p.Previous:
		return true, nil
	case place.Revision < p.Logs:
		return true, nil // its commit is forgotten: nobody can know, and all is listed anyway
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	r, err := s.client.Get(ctx, s.layout.commit(place.Revision), clientv3.WithRev(p.at))
	if err != nil {
		return false, fmt.Errorf("read feed %s: %w", s.source, plainError(err))
	}
	return len(r.Kvs) == 1 && string(r.Kvs[0].Value) == place.ID, nil
}

// readVPCs makes the view hold the VPCs that the host has, and those to keep, and no others.
func (s *Store) readVPCs(ctx context.Context, v *View, keep []string) error {
	v.extra = nil
	wanted := map[string]bool{}
	for _, vpc := range v.present {
		wanted[vpc] = true
	}
	for _, vpc := range keep {
		if !wanted[vpc] {
			wanted[vpc] = true
			v.extra = append(v.extra, vpc)
		}
	}
	slices.Sort(v.extra)
	for view := range v.docs {
		if vpc, ok := strings.CutPrefix(view, "vpcs/"); ok && !wanted[vpc] {
			delete(v.docs, view)
			delete(v.records, vpc)
		}
	}
	for _, vpc := range slices.Sorted(maps.Keys(wanted)) {
		if v.docs[vpcView(vpc)] != nil {
			continue
		}
		if err := s.readDocuments(ctx, v, vpcView(vpc)); err != nil {
			return err
		}
	}
	return nil
}

// readDocuments lists one view, with the staged change set if there is one.
func (s *Store) readDocuments(ctx context.Context, v *View, view string) error {
	v.docs[view] = Documents{}
	var records packer
	err := s.list(ctx, s.state(view), v.at, func(p pair) error {
		if name, ok := strings.CutPrefix(p.key, recordKind+"/"); ok {
			records.add(name, string(p.value))
			return nil
		}
		return v.put(view, p)
	})
	if err != nil {
		return err
	}
	if vpc, ok := strings.CutPrefix(view, "vpcs/"); ok {
		v.records[vpc] = records.done()
	}
	if !v.Staged {
		return nil
	}
	staged, err := s.entries(ctx, s.log(view, v.Mark.Revision)+"/"+v.ID+"/", v.at)
	if err != nil {
		return err
	}
	return v.apply(view, staged)
}

// put adds one key to a view.
func (v *View) put(view string, p pair) error {
	if vpc, ok := strings.CutPrefix(p.key, presentKind+"/"); ok {
		if i, found := slices.BinarySearch(v.present, vpc); !found {
			v.present = slices.Insert(slices.Clone(v.present), i, vpc)
		}
		return nil
	}
	ref, err := referenceOf(p.key)
	if err != nil {
		return fmt.Errorf("view %s: %w", view, err)
	}
	v.docs[view][ref] = documentOf(p)
	return nil
}

// apply puts what a change set changed into a view of which the maps are our own.
func (v *View) apply(view string, entries []entry) error {
	records := map[string]*string{}
	for _, e := range entries {
		if name, ok := strings.CutPrefix(e.Key, recordKind+"/"); ok {
			records[name] = nil
			if !e.Deleted {
				line := string(e.Value)
				records[name] = &line
			}
			continue
		}
		if !e.Deleted {
			if err := v.put(view, pair{key: e.Key, value: e.Value}); err != nil {
				return err
			}
			continue
		}
		if vpc, ok := strings.CutPrefix(e.Key, presentKind+"/"); ok {
			v.present = slices.DeleteFunc(slices.Clone(v.present), func(name string) bool { return name == vpc })
			continue
		}
		ref, err := referenceOf(e.Key)
		if err != nil {
			return fmt.Errorf("view %s: %w", view, err)
		}
		delete(v.docs[view], ref)
	}
	if vpc, ok := strings.CutPrefix(view, "vpcs/"); ok && len(records) > 0 {
		v.records[vpc] = v.records[vpc].Change(records)
	}
	return nil
}

// follow goes from a view to a later position by the logs.
func (s *Store) follow(ctx context.Context, last *View, p *Position, keep []string) (*View, error) {
	follows, err := s.follows(ctx, last.Place(), p)
	switch {
	case err != nil:
		return nil, err
	case !follows || last.Mark.Revision+1 < p.Logs:
		return nil, errStale
	}
	v := &View{
		Position: *p, Host: last.Host, docs: maps.Clone(last.docs), records: maps.Clone(last.records),
		present: last.present, extra: last.extra,
	}
	if last.Mark.Revision != p.Mark.Revision {
		ids, err := s.commitIDs(ctx, last.Mark.Revision, p)
		if err != nil {
			return nil, err
		}
		for view := range last.docs {
			if p.Previous == last.ID && !p.touches(view) {
				continue
			}
			if err := s.replay(ctx, v, view, last.Mark.Revision, ids); err != nil {
				return nil, err
			}
		}
	}
	return v, s.readVPCs(ctx, v, keep)
}

// commitIDs returns the ids of the change sets after a revision.
func (s *Store) commitIDs(ctx context.Context, after uint64, p *Position) (map[string]string, error) {
	if p.Mark.Revision == after+1 {
		return map[string]string{digits(p.Mark.Revision): p.ID}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	r, err := s.client.Get(ctx, s.layout.commit(after+1), clientv3.WithRange(clientv3.GetPrefixRangeEnd(s.commits())), clientv3.WithRev(p.at))
	if err != nil {
		return nil, fmt.Errorf("read feed %s: %w", s.source, plainError(err))
	}
	ids := map[string]string{}
	for _, kv := range r.Kvs {
		ids[strings.TrimPrefix(string(kv.Key), s.commits())] = string(kv.Value)
	}
	return ids, nil
}

// replay applies the logs of a view after a revision. Logs of change sets that were never committed are not ours.
func (s *Store) replay(ctx context.Context, v *View, view string, after uint64, ids map[string]string) error {
	prefix := s.layout.logs(view)
	from, end := s.log(view, after+1), clientv3.GetPrefixRangeEnd(prefix)
	cloned := false
	for {
		page, err := s.page(ctx, from, end, v.at)
		if err != nil {
			return fmt.Errorf("read feed %s: %w", s.source, plainError(err))
		}
		for _, kv := range page.Kvs {
			revision, rest, _ := strings.Cut(strings.TrimPrefix(string(kv.Key), prefix), "/")
			id, _, _ := strings.Cut(rest, "/")
			if ids[revision] != id {
				continue
			}
			entries, err := entriesOf(kv.Value)
			if err != nil {
				return fmt.Errorf("read feed %s: key %s: %w", s.source, kv.Key, err)
			}
			if !cloned {
				v.docs[view], cloned = maps.Clone(v.docs[view]), true
			}
			if err := v.apply(view, entries); err != nil {
				return err
			}
		}
		if !page.More {
			return nil
		}
		from = string(page.Kvs[len(page.Kvs)-1].Key) + "\x00"
	}
}

// Exist returns those of some objects that the feed still has, with the same identity, at the moment of a view.
func (s *Store) Exist(ctx context.Context, v *View, uids map[api.Reference]string) (map[api.Reference]bool, error) {
	found := map[api.Reference]bool{}
	for refs := range slices.Chunk(sortedReferences(uids), maxOperations) {
		var ops []clientv3.Op
		for _, ref := range refs {
			ops = append(ops, clientv3.OpGet(s.object(ref), clientv3.WithRev(v.at)))
		}
		ctx, cancel := context.WithTimeout(ctx, requestTimeout)
		r, err := s.client.Txn(ctx).Then(ops...).Commit()
		cancel()
		if err != nil {
			return nil, fmt.Errorf("read feed %s: %w", s.source, plainError(err))
		}
		for i, ref := range refs {
			for _, kv := range r.Responses[i].GetResponseRange().Kvs {
				value, err := unpack(kv.Value)
				if err != nil {
					return nil, fmt.Errorf("read feed %s: key %s: %w", s.source, kv.Key, err)
				}
				found[ref] = documentOf(pair{value: value, created: kv.CreateRevision}).UID == uids[ref]
			}
		}
	}
	if !v.Staged {
		return found, nil
	}
	staged, err := s.entries(ctx, s.stagedParts(v.ID), v.at)
	if err != nil {
		return nil, err
	}
	for _, e := range staged {
		name, ok := strings.CutPrefix(e.Key, "objects/")
		if !ok {
			continue
		}
		if ref, err := referenceOf(name); err == nil && uids[ref] != "" {
			found[ref] = !e.Deleted && documentOf(pair{value: e.Value}).UID == uids[ref]
		}
	}
	return found, nil
}

// Watch calls changed with each new mark, and when the connection to the members is another than it was, until ctx
// ends or the feed cannot be watched any more; it returns why.
func (s *Store) Watch(ctx context.Context, v *View, changed func()) error {
	ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
	defer cancel()
	go func() {
		// The watch does not say that it waits for a member; whoever asks for the mark learns it.
		conn := s.client.ActiveConnection()
		for state := conn.GetState(); conn.WaitForStateChange(ctx, state); state = conn.GetState() {
			changed()
		}
	}()
	for r := range s.client.Watch(ctx, s.mark(), clientv3.WithRev(v.at+1)) {
		if err := r.Err(); err != nil {
			return fmt.Errorf("watch feed %s: %w", s.source, plainError(err))
		}
		if len(r.Events) > 0 {
			changed()
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return fmt.Errorf("watch feed %s: the watch ended", s.source)
}
