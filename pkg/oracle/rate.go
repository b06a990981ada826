// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"time"

	"github.com/eniplane/eniplane/pkg/api"
)

// bucket holds what an ENI may have of something at once.
type bucket struct {
	uid   string
	epoch uint64
	rate  int
	full  int64 // the moment when it is full again, in fractions
}

// fraction of a nanosecond in which buckets are kept.
const fraction = 16

// bucketDepth is the time in which a bucket fills up; at least one thing is always in it.
const bucketDepth = fraction << 25

// take takes n things out of the bucket of an ENI unless it is empty; then it may come to owe some. What it owes when
// the rate changes is forgiven. rate 0 is no limit.
func (b *bucket) take(e *api.ENI, rate, n int, now time.Duration) bool {
	if rate == 0 {
		return true
	}
	moment := int64(now) * fraction
	if b.uid != e.UID || b.epoch != e.Attachment.Epoch {
		*b = bucket{uid: e.UID, epoch: e.Attachment.Epoch, rate: rate, full: moment}
	}
	if b.rate != rate {
		b.full = min(b.full, moment+bucketDepth)
	}
	b.rate, b.full = rate, max(b.full, moment)
	if b.full-moment >= bucketDepth {
		return false
	}
	b.full += int64(n) * int64(time.Second) * fraction / int64(rate)
	return true
}

// buckets of an ENI.
type buckets struct{ packets, flows bucket }

func (m *Model) bucketsOf(e *api.ENI) *buckets {
	if m.buckets[e.Name] == nil {
		m.buckets[e.Name] = &buckets{}
	}
	return m.buckets[e.Name]
}

// ratePacket: may the packet pass the ENI, by how many pass it in a second?
func (r *run) ratePacket(e *api.ENI) Reason {
	if !r.bucketsOf(e).packets.take(e, e.Limits.PacketsPerSecond, r.wire.packets, r.now) {
		return PacketRate
	}
	return goOn
}

// rateFlow: may the ENI have a new flow now?
func (r *run) rateFlow(e *api.ENI) Reason {
	if !r.bucketsOf(e).flows.take(e, e.Limits.NewFlowsPerSecond, 1, r.now) {
		return FlowRate
	}
	return goOn
}
