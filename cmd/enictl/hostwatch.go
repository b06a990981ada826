// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/eniplane/eniplane/pkg/agent"
	"github.com/eniplane/eniplane/pkg/api"
	"github.com/eniplane/eniplane/pkg/dataplane"
	"github.com/eniplane/eniplane/pkg/feed/etcd"
)

// watchEvery is the pause between looks at what agents say.
const watchEvery = 20 * time.Millisecond

// hostWatch is what a verb learns of the agents while it works.
type hostWatch interface {
	// objects are those of the feed now.
	objects(context.Context) (*api.Objects, error)
	// hearsAll tells whether all hosts of the feed can be waited for.
	hearsAll(*api.Objects) bool
	// hosts are those to wait for, of all; from and to are among them.
	hosts(objects *api.Objects, from, to string) []string
	// waitApplied waits until hosts have applied a revision.
	waitApplied(ctx context.Context, hosts []string, revision uint64) error
	// copies are those of flows from a host.
	copies(ctx context.Context, host string) ([]etcd.CopyStatus, error)
	close()
}

// watch returns what is known of the agents of the feed.
func (a *app) watch(ctx context.Context) (hostWatch, error) {
	if path, ok := strings.CutPrefix(a.feed, dirScheme); ok {
		return &stateWatch{app: a, path: path}, nil
	}
	s, err := a.openStore(ctx)
	if err != nil {
		return nil, err
	}
	return &storeWatch{store: s}, nil
}

// storeWatch reads what agents say in etcd.
type storeWatch struct{ store *etcd.Store }

func (w *storeWatch) close()                     { _ = w.store.Close() }
func (w *storeWatch) hearsAll(*api.Objects) bool { return true }

func (w *storeWatch) objects(ctx context.Context) (*api.Objects, error) {
	_, docs, err := w.store.Read(ctx)
	if err != nil {
		return nil, err
	}
	return docs.Objects()
}

func (w *storeWatch) hosts(objects *api.Objects, _, _ string) []string {
	return slices.Sorted(maps.Keys(objects.Hosts))
}

func (w *storeWatch) waitApplied(ctx context.Context, hosts []string, revision uint64) error {
	var last []hostSync
	for {
		now, err := syncs(ctx, w.store, revision)
		switch {
		case err == nil:
			last = slices.DeleteFunc(now, func(h hostSync) bool { return !slices.Contains(hosts, h.Host) })
			if !slices.ContainsFunc(last, func(h hostSync) bool { return !h.Synced }) {
				return nil
			}
		case ctx.Err() == nil:
			return err
		}
		select {
		case <-ctx.Done():
			return laggards(last, revision)
		case <-time.After(watchEvery):
		}
	}
}

func (w *storeWatch) copies(ctx context.Context, host string) ([]etcd.CopyStatus, error) {
	all, err := w.store.Statuses(ctx)
	if err != nil || all[host] == nil {
		return nil, err
	}
	return all[host].Copies, nil
}

// stateWatch reads what agents on this machine keep in their state directories.
type stateWatch struct {
	*app
	path string
}

func (w *stateWatch) close() {}

func (w *stateWatch) objects(context.Context) (*api.Objects, error) {
	files, err := api.ReadPaths(w.path)
	if err != nil {
		return nil, err
	}
	objects, wrong := api.Decode(files)
	if len(wrong) > 0 {
		return nil, api.Errors(wrong)
	}
	return objects, nil
}

func (w *stateWatch) status(host string) (*agent.Status, error) {
	dir := dataplane.HostStateDir(w.stateDir, host)
	s, err := agent.ReadStatus(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("host %s keeps no status in %s, and a directory tells none back: run this where its state is, "+
			"give the --state-dir that its agent has, or use a feed in etcd", host, dir)
	}
	return s, err
}

func (w *stateWatch) here(host string) bool {
	_, err := w.status(host)
	return err == nil
}

func (w *stateWatch) hearsAll(objects *api.Objects) bool {
	for host := range objects.Hosts {
		if !w.here(host) {
			return false
		}
	}
	return true
}

func (w *stateWatch) hosts(objects *api.Objects, from, to string) []string {
	hosts := []string{from, to}
	for host := range objects.Hosts {
		if w.here(host) {
			hosts = append(hosts, host)
		}
	}
	slices.Sort(hosts)
	return slices.Compact(hosts)
}

func (w *stateWatch) waitApplied(ctx context.Context, hosts []string, revision uint64) error {
	if revision == 0 {
		return errors.New("the directory has no REVISION, so nobody can know when a change is in force (give it one)")
	}
	for {
		var late []string
		for _, host := range hosts {
			s, err := w.status(host)
			switch {
			case err != nil:
				return err
			case s.Revision != nil && s.Revision.Number >= revision:
			case s.Feed.Error != "":
				late = append(late, fmt.Sprintf("  %s: %s", host, s.Feed.Error))
			default:
				late = append(late, fmt.Sprintf("  %s: has not applied it", host))
			}
		}
		if len(late) == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%d of %d hosts have not applied revision %d in time:\n%s", len(late), len(hosts), revision, strings.Join(late, "\n"))
		case <-time.After(watchEvery):
		}
	}
}

func (w *stateWatch) copies(_ context.Context, host string) ([]etcd.CopyStatus, error) {
	s, err := w.status(host)
	if err != nil {
		return nil, err
	}
	var out []etcd.CopyStatus
	for _, c := range s.Copies {
		out = append(out, etcd.CopyStatus{ENI: c.ENI, To: c.To, Whole: c.Whole, Error: c.Error})
	}
	return out, nil
}
