// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/eniplane/eniplane/pkg/feed"
	"github.com/eniplane/eniplane/pkg/feed/etcd"
)

// reportingFeed is a feed that can hold the status.
type reportingFeed struct {
	*fakeFeed
	told []*etcd.Status
}

func (f *reportingFeed) Report(s *etcd.Status) { f.told = append(f.told, s) }

// TestReport: the feed is told what is in force, what was kept and why, what is degraded, and only when that changes.
func TestReport(t *testing.T) {
	w := newWorld(t)
	f := &reportingFeed{fakeFeed: w.feed}
	w.agent.Source = f
	w.kernel.waiting = map[string]bool{"eni-2": true}
	rev := w.revision(7, objects(t, names(1, 2), nil))
	rev.Place, rev.Kept = &etcd.Place{Cluster: 1, Revision: 5, ID: "x"}, []string{"ENI/y: because"}
	w.agent.save()
	w.say(feed.Update{Revision: rev})
	w.agent.save()
	w.agent.save()
	w.say(feed.Update{Err: errors.New("no member answers")})
	w.agent.save()
	want := []*etcd.Status{
		{Host: "host-a", ENIs: []etcd.ENIStatus{}},
		{Host: "host-a", Revision: 5, ID: "x", Kept: []string{"ENI/y: because"}, ENIs: []etcd.ENIStatus{
			{Name: "eni-1", State: "Programmed"}, {Name: "eni-2", State: "Waiting", Reason: "no device eni-2"}}},
		{Host: "host-a", Revision: 5, ID: "x", Kept: []string{"ENI/y: because"}, Error: "no member answers", ENIs: []etcd.ENIStatus{
			{Name: "eni-1", State: "Programmed"}, {Name: "eni-2", State: "Waiting", Reason: "no device eni-2"}}},
	}
	if diff := cmp.Diff(want, f.told, cmpopts.IgnoreFields(etcd.Status{}, "Version", "Applied")); diff != "" {
		t.Error(diff)
	}
}

// TestBrakeOfEtcd: what the source could not judge, because the last good revision was lost, the agent does; and says
// what to do there.
func TestBrakeOfEtcd(t *testing.T) {
	w := newWorld(t)
	w.say(feed.Update{Revision: w.revision(1, objects(t, names(1, 10), nil))})
	rev := w.revision(2, objects(t, names(1, 2), nil))
	rev.Place = &etcd.Place{Revision: 2}
	w.say(feed.Update{Revision: rev})
	w.wantInForce(1)
	if err := w.agent.Status().Feed.Error; !strings.Contains(err, "enictl apply --force") {
		t.Errorf("the error is %q", err)
	}
}
