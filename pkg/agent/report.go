// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"reflect"

	"github.com/eniplane/eniplane/loader"
	"github.com/eniplane/eniplane/pkg/feed"
	"github.com/eniplane/eniplane/pkg/feed/etcd"
)

// programmed is how the feed calls an ENI that is Ready.
const programmed = "Programmed"

// report tells a feed that can hold it how this host is, whenever that has changed.
func (a *Agent) report(s Status) {
	to, ok := a.Source.(feed.Reporter)
	if !ok {
		return
	}
	r := feedStatus(&s)
	if reflect.DeepEqual(r, a.reported) {
		return
	}
	a.reported = r
	to.Report(r)
}

// feedStatus is what the feed is told of a status.
func feedStatus(s *Status) *etcd.Status {
	r := &etcd.Status{Host: s.Host, Version: s.Version, Error: s.Feed.Error, ENIs: []etcd.ENIStatus{}}
	if s.Revision != nil {
		r.Applied, r.Kept = s.Revision.Applied, s.Revision.Kept
		if place := s.Revision.Feed; place != nil {
			r.Revision, r.ID = place.Revision, place.ID
		}
	}
	for _, e := range s.ENIs {
		if e.Phase == loader.Prepared || e.Phase == loader.Left {
			continue // the host speaks for it that has it
		}
		state := string(e.Phase)
		if e.Phase == loader.Ready {
			state = programmed
		}
		r.ENIs = append(r.ENIs, etcd.ENIStatus{Name: e.Name, State: state, Reason: e.Reason})
	}
	for _, c := range s.Copies {
		r.Copies = append(r.Copies, etcd.CopyStatus{ENI: c.ENI, To: c.To, Whole: c.Whole, Error: c.Error})
	}
	return r
}
