// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"maps"

	"github.com/eniplane/eniplane/pkg/api"
	"github.com/eniplane/eniplane/pkg/migrate"
)

// claim says that an instance is where it moves to, by the word of that host or by what was seen of it, before the feed
// says so. It counts until the feed agrees, or takes the migration back.
type claim struct {
	to    string
	epoch uint64 // of the attachments there; 0 = the one that follows
}

// Arrived says that an instance that moves here has been seen here, as by the announcement of its addresses (gratuitous
// ARP, RARP, unsolicited NA) at a prepared port: it is here from now on, and the host that it has left is told. It does
// not wait. That the instance does not move here changes nothing.
func (a *Agent) Arrived(instance string) {
	select {
	case a.arrivals <- instance:
	default: // guests announce themselves more than once
	}
}

// departed follows the word of the host to which an ENI of this one moves.
func (a *Agent) departed(ctx context.Context, d migrate.Departure) {
	if a.current == nil {
		return
	}
	if e := a.current.Objects.ENIs[d.ENI]; e != nil && e.Attachment != nil && d.Epoch > e.Attachment.Epoch {
		a.claim(ctx, e.Attachment.Instance, claim{to: d.To, epoch: d.Epoch})
	}
}

// claim brings into force that an instance is where it moves to.
func (a *Agent) claim(ctx context.Context, instance string, c claim) {
	if _, known := a.claims[instance]; known || a.current == nil || !claimable(a.current.Objects, instance, c) {
		return
	}
	a.claims[instance] = c
	a.Log.Info("an instance is where it moves to", "instance", instance, "host", c.to)
	if err := a.apply(ctx, a.current, terms{restored: a.revision().Restored}); err != nil {
		delete(a.claims, instance) // it is told again
	}
}

// claimable tells whether the feed has the instance on its way to the host of the claim.
func claimable(objects *api.Objects, instance string, c claim) bool {
	i := objects.Instances[instance]
	return i != nil && i.Migration != nil && i.Migration.To == c.to && i.Host != c.to
}

// claimed returns the objects with what claims say, and the ENIs that are here by a claim: the feed will give them their
// epochs. Claims of which the feed says nothing any more end.
func (a *Agent) claimed(objects *api.Objects) (*api.Objects, map[string]bool) {
	maps.DeleteFunc(a.claims, func(instance string, c claim) bool { return !claimable(objects, instance, c) })
	if len(a.claims) == 0 {
		return objects, nil
	}
	with, open := *objects, map[string]bool{}
	with.Instances, with.ENIs = maps.Clone(objects.Instances), maps.Clone(objects.ENIs)
	for instance, c := range a.claims {
		moved, migration := *objects.Instances[instance], *objects.Instances[instance].Migration
		moved.Host, moved.Migration = c.to, &migration
		with.Instances[instance] = &moved
		for name, e := range objects.ENIs {
			if e.Attachment == nil || e.Attachment.Instance != instance {
				continue
			}
			at := *e.Attachment
			at.Device, at.Epoch = migration.Device(e), max(at.Epoch+1, c.epoch)
			there := *e
			there.Attachment = &at
			with.ENIs[name] = &there
			open[name] = c.to == a.Host
		}
	}
	return &with, open
}
