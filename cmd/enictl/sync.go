// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/eniplane/eniplane/pkg/feed/etcd"
)

func newSyncCommand(a *app) *cobra.Command {
	var wait bool
	var timeout time.Duration
	var revision uint64
	c := &cobra.Command{
		Use: "sync [--wait]", Short: "Say which revision of a feed in etcd each host has applied, or wait until all have the last one",
		Long: "Say which revision of a feed in etcd each host has applied. With --wait, return when every host of the feed has\n" +
			"applied the last revision, or --revision, or a later one; after --timeout, name those that have not and fail.",
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withStore(cmd.Context(), func(s *etcd.Store) error {
				if !wait {
					return a.printSync(cmd.Context(), s)
				}
				if revision == 0 {
					p, err := s.Position(cmd.Context())
					if err != nil {
						return err
					}
					revision = p.Revision
				}
				ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
				defer cancel()
				return a.waitFor(ctx, s, revision)
			})
		},
	}
	c.Flags().BoolVar(&wait, "wait", false, "wait until every host has applied it")
	c.Flags().DurationVar(&timeout, "timeout", time.Minute, "how long to wait")
	c.Flags().Uint64Var(&revision, "revision", 0, "the revision to wait for (default the last one)")
	return c
}

// hostSync is how far a host is.
type hostSync struct {
	Host    string       `json:"host"`
	Synced  bool         `json:"synced"` // it has applied the last revision
	Problem string       `json:"problem,omitempty"`
	Status  *etcd.Status `json:"status,omitempty"` // absent = no agent tells
}

// syncs returns how far each host of the feed is on the way to a revision.
func syncs(ctx context.Context, s *etcd.Store, revision uint64) ([]hostSync, error) {
	now, err := s.Position(ctx)
	if err != nil {
		return nil, err
	}
	hosts, err := s.Hosts(ctx)
	if err != nil {
		return nil, err
	}
	statuses, err := s.Statuses(ctx)
	if err != nil {
		return nil, err
	}
	var out []hostSync
	for _, host := range hosts {
		h := hostSync{Host: host, Status: statuses[host]}
		switch st := h.Status; {
		case st == nil:
			h.Problem = "no agent tells its status"
		case st.Revision > now.Revision || st.Revision == now.Revision && st.ID != now.ID:
			h.Problem = fmt.Sprintf("has revision %d of another history of the feed", st.Revision)
		case st.Revision >= revision:
			h.Synced = true
		case st.Error != "":
			h.Problem = fmt.Sprintf("has revision %d: %s", st.Revision, st.Error)
		default:
			h.Problem = fmt.Sprintf("has revision %d", st.Revision)
		}
		out = append(out, h)
	}
	return out, nil
}

// waitFor waits until every host has applied a revision.
func (a *app) waitFor(ctx context.Context, s *etcd.Store, revision uint64) error {
	var last []hostSync
	for {
		now, err := syncs(ctx, s, revision)
		if err == nil {
			last = now
			if !slices.ContainsFunc(now, func(h hostSync) bool { return !h.Synced }) {
				return a.sayKept(now, revision)
			}
		} else if ctx.Err() == nil {
			return err
		}
		select {
		case <-ctx.Done():
			return laggards(last, revision)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// laggards is the error that names the hosts that have not applied a revision in time.
func laggards(hosts []hostSync, revision uint64) error {
	var late []string
	for _, h := range hosts {
		if !h.Synced {
			late = append(late, fmt.Sprintf("  %s: %s", h.Host, h.Problem))
		}
	}
	return fmt.Errorf("%d of %d hosts have not applied revision %d in time:\n%s", len(late), len(hosts), revision, strings.Join(late, "\n"))
}

// sayKept says what hosts that have applied a revision left as it was.
func (a *app) sayKept(hosts []hostSync, revision uint64) error {
	fmt.Fprintf(a.err, "all %d hosts have applied revision %d\n", len(hosts), revision)
	for _, h := range hosts {
		for _, kept := range h.Status.Kept {
			fmt.Fprintf(a.err, "%s: as it was: %s\n", h.Host, kept)
		}
		for _, e := range h.Status.ENIs {
			if e.State == "Degraded" {
				fmt.Fprintf(a.err, "%s: ENI %s is Degraded: %s\n", h.Host, e.Name, e.Reason)
			}
		}
	}
	return nil
}

// printSync shows how far each host is.
func (a *app) printSync(ctx context.Context, s *etcd.Store) error {
	p, err := s.Position(ctx)
	if err != nil {
		return err
	}
	hosts, err := syncs(ctx, s, p.Revision)
	if err != nil {
		return err
	}
	l := list{columns: columns("HOST", "REVISION", "SYNCED", "ENIS", "PROBLEM"), empty: "the feed has no hosts"}
	for _, h := range hosts {
		revision, states := "-", "-"
		if h.Status != nil {
			revision, states = fmt.Sprint(h.Status.Revision), eniStates(h.Status)
		}
		l.rows = append(l.rows, row{name: h.Host, value: h, cells: []string{
			h.Host, revision, map[bool]string{true: "yes", false: "no"}[h.Synced], states, dash(h.Problem),
		}})
	}
	return a.print(l)
}

// eniStates counts the ENIs of a host by state.
func eniStates(s *etcd.Status) string {
	n := map[string]int{}
	for _, e := range s.ENIs {
		n[e.State]++
	}
	var out []string
	for _, state := range slices.Sorted(maps.Keys(n)) {
		out = append(out, fmt.Sprintf("%d %s", n[state], state))
	}
	return dash(strings.Join(out, ", "))
}
