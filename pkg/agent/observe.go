// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/eniplane/eniplane/loader"
	"github.com/eniplane/eniplane/pkg/compile"
	"github.com/eniplane/eniplane/pkg/dataplane"
)

// Status returns what the agent says of its host now.
func (a *Agent) Status() Status {
	a.mu.Lock()
	defer a.mu.Unlock()
	s := a.status.clone()
	s.Problems = append(s.Problems, a.Announcer.Problems()...)
	if a.Migrator != nil {
		s.Copies = a.Migrator.Status()
	}
	return s
}

// revision names the revision that this agent brought into force, nil if none.
func (a *Agent) revision() *RevisionStatus {
	return a.Status().Revision
}

// ready tells whether an ENI carries packets. The caller holds mu.
func (a *Agent) ready(eni string) bool {
	return slices.ContainsFunc(a.status.ENIs, func(e ENIStatus) bool {
		return e.Name == eni && e.Phase == loader.Ready
	})
}

// observe takes over what the loader reports of devices, nil after some errors.
func (a *Agent) observe(report *loader.Report) {
	if report == nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	before := map[string]ENIStatus{}
	for _, e := range a.status.ENIs {
		before[e.Name] = e
	}
	a.status.ENIs = a.eniStatus(report)
	a.status.Foreign = report.Foreign
	a.logNew("problem of this host", a.status.Problems, report.Problems)
	a.status.Problems = slices.Clone(report.Problems)
	a.status.EIPs = a.eipStatus()
	for _, e := range a.status.ENIs {
		if old := before[e.Name]; old.Phase != e.Phase || old.Reason != e.Reason {
			a.Log.Info("ENI", "eni", e.Name, "state", e.Phase, "device", e.Device, "reason", e.Reason)
		}
	}
}

// lookAround notes what stands in the way of the overlay, and logs what is new of it.
func (a *Agent) lookAround() {
	found := a.Obstacles()
	a.mu.Lock()
	defer a.mu.Unlock()
	a.logNew("in the way of the overlay", a.status.Obstacles, found)
	a.status.Obstacles = found
}

// logNew warns of what was not there at the last look.
func (a *Agent) logNew(message string, before, now []string) {
	for _, what := range now {
		if !slices.Contains(before, what) {
			a.Log.Warn(message, "what", what)
		}
	}
}

// eniStatus joins what the compiler and the loader say of each ENI. The caller holds mu.
func (a *Agent) eniStatus(report *loader.Report) []ENIStatus {
	index := map[string]uint32{}
	if a.inForce != nil {
		for i := range a.inForce.ENIs {
			index[a.inForce.ENIs[i].Name] = a.inForce.ENIs[i].Index
		}
	}
	byName := map[string]ENIStatus{}
	for name, s := range report.ENIs {
		byName[name] = ENIStatus{
			Name: name, UID: a.local[name], Phase: s.Phase, Device: s.Device, Ifindex: s.Ifindex,
			Index: index[name], Reason: s.Message,
		}
	}
	for name, err := range a.degraded {
		if _, here := a.local[name]; !here {
			continue // of another host: noteUnreachable
		}
		s := byName[name]
		s.Name, s.UID, s.Phase, s.Reason = name, a.local[name], loader.Degraded, err.Error()
		byName[name] = s
	}
	return slices.SortedFunc(maps.Values(byName), func(x, y ENIStatus) int { return strings.Compare(x.Name, y.Name) })
}

// eipStatus lists the EIPs in force. The caller holds mu.
func (a *Agent) eipStatus() []EIPStatus {
	if a.inForce == nil {
		return a.status.EIPs
	}
	announced := map[EIPStatus]bool{}
	for _, e := range a.status.EIPs {
		announced[e] = true
	}
	var list []EIPStatus
	for _, e := range a.inForce.EIPs {
		s := EIPStatus{Address: e.Addr, ENI: a.inForce.Names.ENIs[e.ENI], Private: e.Private, Announced: true, Class: e.Class}
		if e.ENI == 0 {
			s.ENI, s.Gateway = a.inForce.Names.NextHops[e.NextHop], true
		}
		s.Announced = announced[s]
		list = append(list, s)
	}
	slices.SortFunc(list, func(x, y EIPStatus) int {
		return cmp.Or(x.Address.Compare(y.Address), strings.Compare(x.ENI, y.ENI))
	})
	return list
}

// refuse notes why what the feed says is not in force.
func (a *Agent) refuse(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.status.Feed.Error = err.Error()
	a.status.noteError(time.Now(), err)
}

// fail logs and counts what could not be applied or repaired. It returns the error.
func (a *Agent) fail(what string, err error) error {
	a.Log.Error(what+", what is in force stays", "err", err)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.applyErrors++
	a.status.noteError(time.Now(), err)
	return err
}

// noteError keeps and logs an error that fails nothing.
func (a *Agent) noteError(err error) {
	a.Log.Error("error", "err", err)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.status.noteError(time.Now(), err)
}

// noteUnreachable notes in one line what could not be compiled of ENIs on other hosts.
func (a *Agent) noteUnreachable() {
	var away []string
	for _, name := range slices.Sorted(maps.Keys(a.degraded)) {
		if _, here := a.local[name]; !here {
			away = append(away, name)
		}
	}
	if len(away) > 0 {
		a.noteError(fmt.Errorf("%d ENIs of other hosts cannot be reached from here, the first is %s: %w",
			len(away), away[0], a.degraded[away[0]]))
	}
}

// saveEvery is how old the time in the status file gets while nothing changes.
const saveEvery = time.Minute

// save writes the status file if there is something to say.
func (a *Agent) save() {
	s := a.Status()
	a.report(s)
	s.Updated = time.Time{}
	text, err := json.Marshal(s)
	if err != nil {
		a.Log.Error("cannot encode the status", "err", err)
		return
	}
	now := time.Now()
	if bytes.Equal(text, a.saved) && now.Sub(a.savedAt) < saveEvery {
		return
	}
	s.Updated = now
	if err := writeJSON(filepath.Join(a.StateDir, statusFile), s); err != nil {
		a.Log.Error("cannot keep the status", "err", err)
		return
	}
	a.saved, a.savedAt = text, now
	a.mu.Lock()
	a.status.Updated = now
	a.mu.Unlock()
}

// keepNames tells the CLI what numbers mean. Nobody but people needs names, so nothing waits for them or fails without.
func (a *Agent) keepNames(names compile.Names) {
	if err := dataplane.SaveNames(a.StateDir, names); err != nil {
		a.noteError(err)
		return
	}
	a.names = names
}

// mergeNames returns the names of both; where one number has two names, the new one.
func mergeNames(old, fresh compile.Names) compile.Names {
	return compile.Names{
		ENIs:      merge(old.ENIs, fresh.ENIs),
		NextHops:  merge(old.NextHops, fresh.NextHops),
		VPCs:      merge(old.VPCs, fresh.VPCs),
		Subnets:   merge(old.Subnets, fresh.Subnets),
		GroupSets: merge(old.GroupSets, fresh.GroupSets),
		Tables:    merge(old.Tables, fresh.Tables),
		Rulesets:  merge(old.Rulesets, fresh.Rulesets),
		Rules:     merge(old.Rules, fresh.Rules),
		Hosts:     merge(old.Hosts, fresh.Hosts),
	}
}

func merge[K comparable, V any](old, fresh map[K]V) map[K]V {
	all := make(map[K]V, len(old)+len(fresh))
	maps.Copy(all, old)
	maps.Copy(all, fresh)
	return all
}
