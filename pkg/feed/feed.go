// SPDX-License-Identifier: Apache-2.0

// Package feed brings revisions of the control plane's objects to the agent. A revision is whole
// and valid, or it is not offered: what arrives half-written, old, torn or wrong is an error
// beside the revision in force, never instead of it.
package feed

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/eniplane/eniplane/pkg/api"
	"github.com/eniplane/eniplane/pkg/feed/etcd"
)

// Revision is one whole, valid state of all objects.
type Revision struct {
	Number  uint64 // only grows: from REVISION, or one more than the last seen
	Hash    string // of the names and contents of the files
	Marked  bool   // Number is from REVISION
	Forced  bool   // FORCE names this revision: it may delete more than --max-delete-ratio
	Objects *api.Objects
	Files   []api.File

	// Of a feed that can be ahead of what a host takes:
	Place *etcd.Place // where it is in the feed; nil for a directory
	Kept  []string    // objects that are as they were before, and why, sorted

	documents etcd.Documents // what Objects were made of
	records   map[string]*etcd.Records
}

// HowToForce says how to tell that the deletes of this revision are meant.
func (r *Revision) HowToForce() string {
	if r.Place != nil {
		return "run enictl apply --force"
	}
	return fmt.Sprintf("write %s into the file FORCE of the feed", r.ForceKey())
}

// ForceKey is what the file FORCE must hold for this revision.
func (r *Revision) ForceKey() string {
	if r.Marked {
		return fmt.Sprint(r.Number)
	}
	return r.Hash
}

// Update is one word of a source: a revision, or why there is none now. The same revision comes
// again when an error has passed, when FORCE names it, and after it was Restored.
type Update struct {
	Revision *Revision
	Restored bool // Revision is the last good one, from disk: the feed has not been heard yet
	Err      error
}

// Source offers revisions.
type Source interface {
	// Run sends updates until ctx ends, whatever the feed holds; it returns the reason of ctx.
	// inForce is the revision by which the programs judge, 0 if there is none: no number falls
	// below it, also when the state on disk is lost.
	Run(ctx context.Context, inForce uint64, updates chan<- Update) error

	// Commit keeps a revision on disk as the last good one. The agent calls it when the revision
	// is in force: until then it may still be refused.
	Commit(*Revision) error
}

// Reporter is a source whose feed can hold what agents say of their hosts.
type Reporter interface {
	// Report tells the status. It does not wait; the last one counts, and it is told again after a
	// disconnection.
	Report(*etcd.Status)
}

// Options are what a source must know of its agent.
type Options struct {
	StateDir       string // of the last good revision
	Host           string
	MaxDeleteRatio float64
	Files          etcd.Files // that authenticate the agent
}

// AlwaysDeletable is how many ENIs of a host a revision may delete whatever the ratio says.
const AlwaysDeletable = 4

// Braked tells whether going from `of` ENIs of a host to `gone` fewer deletes too much (invariant 7).
func Braked(gone, of int, ratio float64) bool {
	return gone > AlwaysDeletable && float64(gone) > ratio*float64(of)
}

// Open returns the source that --feed names.
func Open(source string, opts Options) (Source, error) {
	scheme, rest, ok := strings.Cut(source, ":")
	switch {
	case !ok:
		return nil, fmt.Errorf("open feed %q: it has no scheme (write dir:PATH or etcd:https://HOST:PORT/PREFIX)", source)
	case scheme == "k8s":
		return nil, fmt.Errorf("open feed %q: %s: is not supported by this version (use dir:PATH or etcd:)", source, scheme)
	case scheme != "dir" && scheme != "etcd":
		return nil, fmt.Errorf("open feed %q: the scheme %q is not known (use dir:PATH or etcd:)", source, scheme)
	case opts.StateDir == "":
		return nil, errors.New("open feed: there is no directory for its state (give one)")
	case scheme == "etcd":
		return openEtcd(rest, opts)
	case opts.Files != etcd.Files{}:
		return nil, fmt.Errorf("open feed %q: certificates and users are for etcd: only (remove them)", source)
	case rest == "":
		return nil, fmt.Errorf("open feed %q: it names no directory (write dir:PATH)", source)
	}
	path, err := filepath.Abs(rest)
	if err != nil {
		return nil, fmt.Errorf("open feed %q: %w", source, err)
	}
	return newDir(path, opts.StateDir), nil
}
