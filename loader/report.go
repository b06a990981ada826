// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"fmt"
	"log/slog"
	"maps"
)

// Phase says how far an ENI is.
type Phase string

// The phases of an ENI.
const (
	Ready    Phase = "Ready"    // its packets pass
	Waiting  Phase = "Waiting"  // its device does not exist
	Degraded Phase = "Degraded" // something failed, it carries nothing
	Prepared Phase = "Prepared" // it moves here
	Left     Phase = "Left"     // it has moved away, what still comes for it is sent on
)

// ENIStatus is the state of one ENI's port.
type ENIStatus struct {
	Phase   Phase  `json:"phase"`
	Device  string `json:"device"`
	Ifindex int    `json:"ifindex,omitempty"`
	Message string `json:"message,omitempty"` // why it is not Ready
}

// Foreign is a program of somebody else that runs before ours. It is left alone.
type Foreign struct {
	Device  string `json:"device"`
	Hook    string `json:"hook"`
	Program string `json:"program"`
	ID      uint32 `json:"id"`
}

// Report says what is in force after Apply or Reconcile.
type Report struct {
	Revision uint64               `json:"revision"` // in force; on an error this is the old one, or the new one not yet settled
	ENIs     map[string]ENIStatus `json:"enis"`     // by name
	Foreign  []Foreign            `json:"foreign,omitempty"`
	Problems []string             `json:"problems,omitempty"` // of the host: an uplink that is missing, say
	Repairs  []string             `json:"repairs,omitempty"`  // what was found wrong and put right
	Written  int                  `json:"written"`            // map entries
	Deleted  int                  `json:"deleted"`
}

func (r *Report) clone() *Report {
	c := *r
	c.ENIs = maps.Clone(r.ENIs)
	return &c
}

// count adds what a plan changes.
func (r *Report) count(p *plan) {
	r.Written += p.written
	r.Deleted += p.deleted
}

// repaired notes what was found wrong and put right, in the report and in the log.
func (r *Report) repaired(log *slog.Logger, format string, args ...any) {
	note := fmt.Sprintf(format, args...)
	r.Repairs = append(r.Repairs, note)
	log.Warn("repaired", "what", note)
}
