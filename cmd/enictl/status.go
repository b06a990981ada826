// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/eniplane/eniplane/loader"
	"github.com/eniplane/eniplane/pkg/agent"
	"github.com/eniplane/eniplane/pkg/compile"
	"github.com/eniplane/eniplane/pkg/dataplane"
)

// hostStatus is what the agent wrote last, and what is true now whether it lives or not.
type hostStatus struct {
	*agent.Status
	AgentRunning bool    `json:"agentRunning"`
	InForce      uint64  `json:"inForce"`        // the revision that the programs judge by; 0 = none
	FeedAge      float64 `json:"feedAgeSeconds"` // how long the feed has given nothing usable

	Flows *flowStatus `json:"flows,omitempty"` // as the programs count them
	Rates []rateDrops `json:"rates,omitempty"`

	Caps []loader.CapUse `json:"caps,omitempty"` // of this network namespace

	WrongENIs []wrongENI `json:"wrongENIs,omitempty"`
}

func newStatusCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "status", Short: "Say what is in force on this host, and what is not and why",
		Args: args(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error { return a.status() },
	}
}

func (a *app) status() error {
	host, err := a.oneHost()
	if err != nil {
		return err
	}
	dir := dataplane.HostStateDir(a.stateDir, host)
	s := hostStatus{}
	s.Status, err = agent.ReadStatus(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("no agent of host %s has kept a status in %s: start enid --host %s, "+
			"or give the --state-dir that it was started with", host, dir, host)
	case err != nil:
		return err
	}
	if s.AgentRunning, err = agent.Running(dir); err != nil {
		s.Problems = append(s.Problems, err.Error())
	}
	age := s.Age(a.now())
	if !s.AgentRunning { // nobody has listened since
		age = max(age, a.now().Sub(s.Updated))
	}
	s.FeedAge = age.Seconds()
	err = a.withMaps(true, func(m pinnedMaps, names compile.Names) (err error) {
		if s.InForce, _, err = m.Active(); err == nil {
			s.Flows, err = readFlowStatus(m, names)
		}
		if err == nil {
			s.Rates, err = readRateDrops(m, names)
		}
		if err == nil {
			s.WrongENIs, err = readWrongENIs(m, names)
		}
		return err
	})
	if err != nil {
		s.Problems = append(s.Problems, err.Error())
	}
	ports := map[string]string{}
	for _, e := range s.ENIs {
		ports[e.Device] = e.Name
	}
	if s.Caps, err = a.caps(ports); err != nil {
		s.Problems = append(s.Problems, err.Error())
	}
	if f := a.output.String(); f != "table" && f != "wide" {
		return a.printOne(row{name: host, value: s}, nil)
	}
	return a.printStatus(&s)
}

func (a *app) printStatus(s *hostStatus) error {
	line := func(key, format string, args ...any) {
		fmt.Fprintf(a.out, "%-10s%s\n", key, fmt.Sprintf(format, args...))
	}
	line("host", "%s", s.Host)
	if s.AgentRunning {
		line("agent", "running since %s (pid %d, %s)", s.Started.Format(time.RFC3339), s.PID, s.Version)
	} else {
		line("agent", "not running; last heard of %s. What is in force stays in force", s.Updated.Format(time.RFC3339))
	}
	line("revision", "%s", revisionLine(s))
	line("feed", "%s", feedLine(s))
	line("uplinks", "%s", dash(strings.Join(s.Uplinks, ", ")))
	line("enis", "%s", phaseCounts(s.ENIs))
	if s.Flows != nil {
		line("flows", "%s", s.Flows)
		for _, text := range s.Flows.limits() {
			line("limit", "%s", text)
		}
	}
	for _, w := range s.WrongENIs {
		line("routing", "%s", w)
	}
	for _, d := range s.Rates {
		line("limit", "%s", d)
	}
	for _, text := range capLines(s.Caps, s.EIPs) {
		line("cap", "%s", text)
	}
	for _, p := range s.Problems {
		line("problem", "%s", p)
	}
	if s.Revision != nil {
		for _, k := range s.Revision.Kept {
			line("as it was", "%s", k)
		}
	}
	for _, o := range s.Obstacles {
		line("obstacle", "%s", o)
	}
	for _, f := range s.Foreign {
		line("foreign", "%s (id %d) runs before ours at %s of %s", f.Program, f.ID, f.Hook, f.Device)
	}
	for _, e := range s.Errors {
		if e.Text == s.Feed.Error {
			continue // said above
		}
		for n, text := range strings.Split(e.Text, "\n") {
			if n == 0 {
				line("error", "%s %s", e.Time.Format(time.RFC3339), text)
			} else {
				line("", "%s", text)
			}
		}
	}
	if len(s.ENIs) > 0 {
		fmt.Fprintln(a.out)
		if err := a.table(eniRows(s.ENIs, s.Flows)); err != nil {
			return err
		}
	}
	if len(s.EIPs) > 0 {
		fmt.Fprintln(a.out)
		return a.table(eipRows(s.EIPs))
	}
	return nil
}

func revisionLine(s *hostStatus) string {
	if s.Revision == nil && s.InForce != 0 {
		return fmt.Sprintf("%d in the maps; this agent has applied none yet", s.InForce)
	}
	if s.Revision == nil {
		return "none applied yet"
	}
	text := fmt.Sprintf("%s, applied %s", s.Revision, s.Revision.Applied.Format(time.RFC3339))
	if f := s.Revision.Feed; f != nil && f.Revision != s.Revision.Number {
		text += fmt.Sprintf(", %d of the feed", f.Revision)
	}
	if s.Revision.Restored {
		text += ", the last good one restored from disk"
	}
	if s.InForce != 0 && s.InForce != s.Revision.Number {
		text += fmt.Sprintf("; the maps hold %d", s.InForce)
	}
	return text
}

func feedLine(s *hostStatus) string {
	age := time.Duration(s.FeedAge) * time.Second
	switch {
	case s.Feed.Error != "":
		return fmt.Sprintf("%s, nothing usable for %s: %s", s.Feed.Source, age, s.Feed.Error)
	case s.Feed.Heard.IsZero():
		return fmt.Sprintf("%s, nothing heard for %s", s.Feed.Source, age)
	case !s.AgentRunning:
		return fmt.Sprintf("%s, last change %s; nobody has listened for %s", s.Feed.Source, s.Feed.Heard.Format(time.RFC3339), age)
	}
	return fmt.Sprintf("%s, last change %s", s.Feed.Source, s.Feed.Heard.Format(time.RFC3339))
}

func phaseCounts(enis []agent.ENIStatus) string {
	n := map[loader.Phase]int{}
	for _, e := range enis {
		n[e.Phase]++
	}
	text := fmt.Sprintf("%d Ready, %d Waiting, %d Degraded", n[loader.Ready], n[loader.Waiting], n[loader.Degraded])
	if moves := n[loader.Prepared] + n[loader.Left]; moves > 0 {
		text += fmt.Sprintf(", %d Prepared, %d Left", n[loader.Prepared], n[loader.Left])
	}
	return text
}

func eniRows(enis []agent.ENIStatus, flows *flowStatus) list {
	l := list{columns: columns("ENI", "STATE", "DEVICE", "REASON", "|", "INDEX", "IFINDEX", "FLOWS")}
	for _, e := range enis {
		l.rows = append(l.rows, row{name: e.Name, cells: []string{
			e.Name, string(e.Phase), e.Device, dash(e.Reason), fmt.Sprint(e.Index), fmt.Sprint(e.Ifindex), flows.of(e.Name),
		}})
	}
	return l
}

func eipRows(eips []agent.EIPStatus) list {
	l := list{columns: columns("EIP", "ENI", "PRIVATE-IP", "ANNOUNCED", "|", "GATEWAY")}
	for _, e := range eips {
		l.rows = append(l.rows, row{name: e.Address.String(), cells: []string{
			e.Address.String(), e.ENI, e.Private.String(), map[bool]string{true: "yes", false: "no"}[e.Announced],
			map[bool]string{true: "yes", false: "no"}[e.Gateway],
		}})
	}
	return l
}
