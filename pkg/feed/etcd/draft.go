// SPDX-License-Identifier: Apache-2.0

package etcd

import (
	"bytes"
	"fmt"
	"maps"

	"github.com/eniplane/eniplane/pkg/api"
)

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

// Edit lets change work on documents that are in no store, and returns what differs if the whole is valid. New objects keep the
// identities that they give; what gets to another place gets the epoch.
func (d Documents) Edit(epoch uint64, change func(*Draft) error) ([]Change, error) {
	draft, err := newDraft(d)
	if err != nil {
		return nil, err
	}
	if err := change(draft); err != nil {
		return nil, err
	}
	old, err := d.Objects()
	if err != nil {
		old = nil
	}
	if _, err := draft.finish(&Mark{Revision: epoch}, old); err != nil {
		return nil, err
	}
	return draft.changes(), nil
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
		} else if mark.ID != "" {
			// The revision that made it; the id of the change set, because after a restore the revision may come again.
			o.Meta().UID = fmt.Sprintf("%d-%s-%d", mark.Revision, mark.ID[:6], i)
		}
	}
	d.noteDepartures(old)
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

// noteDepartures says of instances that are now where they moved to which host they have left, as long as their migration
// stays. One that goes elsewhere again has left nothing yet.
func (d *Draft) noteDepartures(old *api.Objects) {
	for ref, o := range d.fresh {
		i, ok := o.(*api.Instance)
		if !ok || i.Migration == nil {
			continue
		}
		from := ""
		if i.Migration.To == i.Host && old != nil && old.Instances[i.Name] != nil {
			if was := old.Instances[i.Name]; was.Host != i.Host {
				from = was.Host
			} else if was.Migration != nil && was.Migration.To == i.Host {
				from = was.Migration.From
			}
		}
		if i.Migration.From == from {
			continue
		}
		moved, migration := *i, *i.Migration // others may hold what was read
		migration.From = from
		moved.Migration = &migration
		d.fresh[ref] = &moved
	}
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
			if was != nil && was.Attachment != nil && samePlace(was, e) && d.hostOf(e) == old.HostOf(was) {
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
