// SPDX-License-Identifier: Apache-2.0

// Package loader owns everything of eniplane in the kernel of one host: maps, programs, links and
// their pins, the VXLAN device, the guards, and the ordered way from one revision to the next.
//
// All methods must be called from a thread inside the host's network namespace.
package loader

import (
	"context"
	"errors"
	"log/slog"

	"github.com/eniplane/eniplane/pkg/compile"
	"github.com/eniplane/eniplane/pkg/dataplane"
)

var errNotBuilt = errors.New("loader: being built")

// Options say for which host a loader works and where it keeps things.
type Options struct {
	Host     string
	BPFFS    string // default dataplane.DefaultBPFFS; the host's pins are in BPFFS/Host
	StateDir string // default dataplane.DefaultStateDir; the host's files are in StateDir/Host
	MaxFlows uint32 // default 1048576
	Log      *slog.Logger
}

// Loader is the one writer of a host's dataplane.
type Loader struct{}

// Open takes the host's lock, adopts what is pinned or creates it, and brings the programs of this
// version into force. It needs no feed: what was in force stays in force.
func Open(ctx context.Context, opts Options) (*Loader, error) { return nil, errNotBuilt }

// Phase says how far an ENI is.
type Phase string

// The phases of an ENI.
const (
	Ready    Phase = "Ready"    // its packets pass
	Waiting  Phase = "Waiting"  // its device does not exist
	Degraded Phase = "Degraded" // something failed, it carries nothing
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
	Repairs  []string             `json:"repairs,omitempty"` // what was found wrong and put right
	Written  int                  `json:"written"`           // map entries
	Deleted  int                  `json:"deleted"`
}

// Apply brings a revision into force: all of it or, with an error, nothing. ENIs whose own device
// fails are reported and do not fail the revision.
func (l *Loader) Apply(ctx context.Context, st *compile.State) (*Report, error) {
	return nil, errNotBuilt
}

// Reconcile looks at devices, links and guards again and repairs what differs from the revision in
// force. Before the first Apply it only repairs what needs no revision.
func (l *Loader) Reconcile(ctx context.Context) (*Report, error) { return nil, errNotBuilt }

// Status returns the last report.
func (l *Loader) Status() Report { return Report{} }

// Maps returns the live maps, for metrics. They are closed by Close.
func (l *Loader) Maps() *dataplane.Maps { return nil }

// Close releases the lock and leaves everything pinned and running.
func (l *Loader) Close() error { return errNotBuilt }

// Teardown removes everything of one host: links, pins, guards, the VXLAN device, run-time files.
// Ports are set down first, so nothing passes them meanwhile.
func Teardown(ctx context.Context, opts Options) error { return errNotBuilt }
