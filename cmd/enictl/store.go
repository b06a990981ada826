// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/user"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/eniplane/eniplane/pkg/api"
	"github.com/eniplane/eniplane/pkg/feed"
	"github.com/eniplane/eniplane/pkg/feed/etcd"
)

// etcdScheme begins a --feed that verbs can change.
const etcdScheme = "etcd:"

// dirScheme begins a --feed that is a directory.
const dirScheme = "dir:"

// openStore connects to the feed in etcd that --feed names.
func (a *app) openStore(ctx context.Context) (*etcd.Store, error) {
	source, ok := strings.CutPrefix(a.feed, etcdScheme)
	if !ok {
		return nil, usagef("--feed %q is not in etcd (write etcd:https://HOST:PORT/PREFIX)", a.feed)
	}
	config, err := etcd.ParseSource(source)
	if err != nil {
		return nil, usageError{err}
	}
	config.Files = a.etcd
	if err := config.Check(); err != nil {
		return nil, usageError{err}
	}
	return etcd.Open(ctx, config)
}

// withStore runs do with the feed that --feed names.
func (a *app) withStore(ctx context.Context, do func(*etcd.Store) error) error {
	switch {
	case a.feed == "":
		return usagef("--feed is required: etcd:https://HOST:PORT/PREFIX")
	case strings.HasPrefix(a.feed, dirScheme):
		return usagef("--feed %s is a directory, where no host tells its status (use enictl status on each host)", a.feed)
	}
	s, err := a.openStore(ctx)
	if err != nil {
		return err
	}
	return errors.Join(do(s), s.Close())
}

// readStore returns the objects that a feed in etcd holds.
func (a *app) readStore(ctx context.Context) (*api.Objects, error) {
	s, err := a.openStore(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { _ = s.Close() }()
	_, docs, err := s.Read(ctx)
	if err != nil {
		return nil, err
	}
	return docs.Objects()
}

// writer is what all verbs that change a feed share.
type writer struct {
	*app
	wait    bool
	timeout time.Duration
}

// writes adds the flags of a writer to a command.
func (a *app) writes(c *cobra.Command) *writer {
	w := &writer{app: a}
	c.Flags().BoolVar(&w.wait, "wait", false, "wait until every host has applied it")
	c.Flags().DurationVar(&w.timeout, "timeout", time.Minute, "how long to wait for other writers and for the hosts")
	return w
}

// commit changes the feed and says what came of it.
func (w *writer) commit(ctx context.Context, opts etcd.Options, change func(*etcd.Draft) error) error {
	return w.commitThen(ctx, opts, change, func(*etcd.Result) {})
}

// commitThen is commit for who needs the result.
func (w *writer) commitThen(ctx context.Context, opts etcd.Options, change func(*etcd.Draft) error, then func(*etcd.Result)) error {
	if path, ok := strings.CutPrefix(w.feed, dirScheme); ok {
		if w.wait || opts.Force {
			return usagef("--wait and --force need a feed in etcd; deletes in a directory are released by its file FORCE")
		}
		result, err := feed.ChangeDir(path, opts.DryRun, change)
		if err != nil {
			return err
		}
		then(result)
		return w.printChanges(result, opts)
	}
	return w.withStore(ctx, func(s *etcd.Store) error {
		opts.By = whoami()
		limited, cancel := context.WithTimeout(ctx, w.timeout)
		defer cancel()
		result, err := s.Commit(limited, opts, change)
		if err != nil {
			return err
		}
		then(result)
		if err := w.printChanges(result, opts); err != nil {
			return err
		}
		if !w.wait {
			return nil
		}
		return w.waitFor(limited, s, result.Revision)
	})
}

// printChanges says what a change set did, a line per object.
func (w *writer) printChanges(r *etcd.Result, opts etcd.Options) error {
	l := list{columns: columns("OBJECT", "CHANGE"), empty: "nothing to change"}
	for _, c := range r.Changes {
		name, what := strings.ToLower(c.Kind)+"/"+c.Name, "changed"
		switch {
		case c.Old == nil:
			what = "created"
		case c.New == nil:
			what = "deleted"
		}
		l.rows = append(l.rows, row{name: name, cells: []string{name, what}, value: struct {
			Object   string `json:"object"`
			Change   string `json:"change"`
			Revision uint64 `json:"revision"`
		}{name, what, r.Revision}})
	}
	if err := w.print(l); err != nil {
		return err
	}
	switch {
	case opts.Force:
		fmt.Fprintf(w.err, "revision %d; deletes that waited up to here are released\n", r.Revision)
	case r.Revision != 0: // else of a directory without REVISION
		fmt.Fprintf(w.err, "revision %d\n", r.Revision)
	}
	return nil
}

// whoami names the writer, for people who look into the feed.
func whoami() string {
	name := "enictl"
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	if host, err := os.Hostname(); err == nil {
		name += "@" + host
	}
	return name
}

// find returns an object of a draft, or an error that says what to do.
func find[T api.Object](d *etcd.Draft, name string) (obj T, err error) {
	found, ok := d.Get(api.Reference{Kind: obj.Kind(), Name: name}).(T)
	if !ok {
		return obj, fmt.Errorf("the feed has no %s %q (enictl get %s lists them)", obj.Kind(), name, strings.ToLower(obj.Kind()))
	}
	return found, nil
}
