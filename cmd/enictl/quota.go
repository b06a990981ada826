// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"

	"github.com/eniplane/eniplane/pkg/compile"
	"github.com/eniplane/eniplane/pkg/dataplane"
)

// flowStatus is how the flows of the host are divided among its ENIs.
type flowStatus struct {
	Flows    uint32     `json:"flows"`
	Max      uint32     `json:"max"`
	Borrowed uint32     `json:"borrowed"`
	Pool     uint32     `json:"borrowable"`
	ENIs     []eniFlows `json:"enis"`
}

// eniFlows are those of one ENI.
type eniFlows struct {
	Name string `json:"eni"`
	dataplane.ENIFlows
	AtLimit bool `json:"atLimit"` // it opens no more
}

func readFlowStatus(m pinnedMaps, names compile.Names) (*flowStatus, error) {
	q, err := m.FlowQuota()
	if err != nil {
		return nil, err
	}
	s := &flowStatus{Flows: q.Flows, Max: q.Max, Borrowed: q.Borrowed, Pool: q.Pool}
	for i := range q.ENIs {
		e := &q.ENIs[i]
		s.ENIs = append(s.ENIs, eniFlows{eniName(names, e.ENI), *e, q.AtLimit(e)})
	}
	return s, nil
}

// String is the line of the host.
func (s *flowStatus) String() string {
	text := fmt.Sprintf("%d of %d", s.Flows, s.Max)
	if s.Borrowed > 0 {
		text += fmt.Sprintf(", %d of %d borrowed beyond what is guaranteed", s.Borrowed, s.Pool)
	}
	return text
}

// limits has a line for each ENI at its limit or near it.
func (s *flowStatus) limits() []string {
	var lines []string
	for i := range s.ENIs {
		e := &s.ENIs[i]
		switch {
		case e.Flows >= e.Limit:
			lines = append(lines, fmt.Sprintf("ENI %s has all %d flows that it may have and opens no more (FLOW_QUOTA): raise its limits.flows", e.Name, e.Limit))
		case e.AtLimit:
			lines = append(lines, fmt.Sprintf("ENI %s has %d flows, %d of them borrowed, and opens no more (FLOW_QUOTA): the host has none left to lend; raise --max-flows or move instances",
				e.Name, e.Flows, e.Flows-e.Guaranteed))
		case e.Near():
			lines = append(lines, fmt.Sprintf("ENI %s has %d of the %d flows that it may have", e.Name, e.Flows, e.Limit))
		}
	}
	return lines
}

// of is what an ENI has, of what it may have.
func (s *flowStatus) of(name string) string {
	if s != nil {
		for i := range s.ENIs {
			if e := &s.ENIs[i]; e.Name == name {
				return fmt.Sprintf("%d/%d", e.Flows, e.Limit)
			}
		}
	}
	return "-"
}
