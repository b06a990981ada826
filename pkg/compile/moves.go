// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"net/netip"

	"github.com/eniplane/eniplane/pkg/api"
)

// standing returns an ENI as it is attached to this host, nil if it is not. One that moves here is prepared as the
// attachment that follows; one that moved away from here as it was prepared to, stays as it was until all is settled.
func (c *compiler) standing(e *api.ENI) *api.ENI {
	if e.Attachment == nil && !c.leaving {
		return nil // as nearly all of many
	}
	if e.Attachment != nil {
		i := c.Objects.Instances[e.Attachment.Instance]
		if i.Host == c.Host {
			return e
		}
		if i.Migration == nil && !c.leaving {
			return nil
		}
	}
	if e.Attachment != nil && c.Objects.MovingTo(e) == c.Host {
		migration := c.Objects.Instances[e.Attachment.Instance].Migration
		c.prepared[e.Name] = 0
		return attachedAs(e, migration.Device(e), e.Attachment.Epoch+1)
	}
	was := c.leftAs(e)
	if was == nil {
		return nil
	}
	c.left[e.Name] = true
	return was
}

// leftAs returns the attachment that an ENI had here and has left, as it was prepared to, until that is over; nil if
// there is none. If the feed says from where it came, it is known by its slot, which outlives the agent.
func (c *compiler) leftAs(e *api.ENI) *api.ENI {
	old, told := c.previousENIs[e.Name], c.Objects.MovedFrom(e) == c.Host
	if slot, ok := c.alloc.old.ENIs[e.Name]; told && e.Attachment != nil && ok && slot.Device != "" && slot.UID == identity(e) &&
		!slot.Prepared && slot.Epoch < e.Attachment.Epoch {
		return attachedAs(e, slot.Device, slot.Epoch)
	}
	host := c.Objects.HostOf(e)
	if old == nil || (c.Settled || old.Told) && !told || old.Stage == Prepared || old.MovingTo != host || host == "" || old.UID != e.UID {
		return nil
	}
	return attachedAs(e, old.Device, old.Epoch)
}

func attachedAs(e *api.ENI, device string, epoch uint64) *api.ENI {
	attached, at := *e, api.Attachment{}
	if e.Attachment != nil {
		at = *e.Attachment
	}
	at.Device, at.Epoch = device, epoch
	attached.Attachment = &at
	return &attached
}

func (c *compiler) isPrepared(e *api.ENI) bool {
	_, ok := c.prepared[e.Name]
	return ok
}

// stand says how an ENI of this host stands in a migration.
func (c *compiler) stand(e *api.ENI, eni *ENI) {
	eni.MovingTo = c.Objects.MovingTo(e)
	switch {
	case c.isPrepared(e):
		eni.Stage = Prepared
		c.prepared[e.Name] = eni.Index
		return
	case c.left[e.Name]:
		there := c.Objects.ENIs[e.Name] // e is as it was attached here, which names the same instance
		eni.Stage, eni.MovingTo, eni.Told = Left, c.Objects.HostOf(there), c.Objects.MovedFrom(there) == c.Host
	}
	c.here[e.Name] = eni.Index
}

// addMove notes between which hosts an ENI moves, from when it is prepared until all is settled: until the feed says so, or
// for a time if it says nothing of the end. It returns those that may send as the ENI without being where it is.
func (c *compiler) addMove(e *api.ENI, hop *NextHop) (senders []netip.Addr) {
	own := c.Objects.Hosts[c.Host].VTEP
	at := hop.VTEP
	if !at.IsValid() {
		at = own
	}
	m := Move{NextHop: hop.Index, To: at}
	to, from := c.Objects.MovingTo(e), c.Objects.MovedFrom(e)
	old := c.previousMoves[hop.Index]
	switch {
	case to != "":
		m.From, m.To, m.Pending = at, c.Objects.Hosts[to].VTEP, true
	case from != "":
		m.From, m.Told = c.Objects.Hosts[from].VTEP, true
	case old != nil && old.To == at && !old.Told && !c.Settled:
		m.From = old.From
	default:
		return nil
	}
	c.out.Moves = append(c.out.Moves, m)
	for _, vtep := range []netip.Addr{m.From, m.To} {
		if vtep != own && vtep != hop.VTEP {
			senders = append(senders, vtep)
		}
	}
	c.senders[e.Name] = senders
	return senders
}
