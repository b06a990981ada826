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
)

// Revision is one whole, valid state of all objects.
type Revision struct {
	Number  uint64 // only grows: from REVISION, or one more than the last seen
	Hash    string // of the names and contents of the files
	Marked  bool   // Number is from REVISION
	Forced  bool   // FORCE names this revision: it may delete more than --max-delete-ratio
	Objects *api.Objects
	Files   []api.File
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

// Open returns the source that --feed names. Its last good revision is kept in stateDir.
func Open(source, stateDir string) (Source, error) {
	scheme, rest, ok := strings.Cut(source, ":")
	switch {
	case !ok:
		return nil, fmt.Errorf("open feed %q: it has no scheme (write dir:PATH)", source)
	case scheme == "etcd" || scheme == "k8s":
		return nil, fmt.Errorf("open feed %q: %s: is not supported by this version (use dir:PATH)", source, scheme)
	case scheme != "dir":
		return nil, fmt.Errorf("open feed %q: the scheme %q is not known (use dir:PATH)", source, scheme)
	case rest == "":
		return nil, fmt.Errorf("open feed %q: it names no directory (write dir:PATH)", source)
	case stateDir == "":
		return nil, errors.New("open feed: there is no directory for its state (give one)")
	}
	path, err := filepath.Abs(rest)
	if err != nil {
		return nil, fmt.Errorf("open feed %q: %w", source, err)
	}
	return newDir(path, stateDir), nil
}
