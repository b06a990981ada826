// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/gdamore/tcell/v2"
	"github.com/spf13/cobra"

	"github.com/eniplane/eniplane/pkg/compile"
	"github.com/eniplane/eniplane/pkg/top"
)

// minInterval is the shortest one of top: a look at a million flows takes a good part of it.
const minInterval = 200 * time.Millisecond

func newTopCommand(a *app) *cobra.Command {
	var every time.Duration
	c := &cobra.Command{
		Use: "top", Short: "Show the load of the ENIs again and again: traffic, drops and why, new connections",
		Long: "Show the load of the ENIs again and again: what each sends and gets (dropped or not), what of it is dropped and\n" +
			"mostly why, and how many connections are new. Enter shows the flows of an ENI, Tab the reasons and rules.\n\n" +
			"Without a terminal, or with -o, it prints the rates of one interval and ends.",
		Example: "  enictl top\n  enictl top --interval 10s -o json",
		Args:    args(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			return a.top(c.Context(), every, c.Flags().Changed("output"))
		},
	}
	c.Flags().DurationVar(&every, "interval", 2*time.Second, "between two looks")
	return c
}

func (a *app) top(ctx context.Context, every time.Duration, once bool) error {
	if every < minInterval {
		return usagef("--interval %v: want %v or more", every, minInterval)
	}
	host, err := a.oneHost()
	if err != nil {
		return err
	}
	sampler := top.NewSampler()
	// The maps are opened for each look: an agent of another build brings others.
	look := func(watch uint32) (v *top.View, err error) {
		err = a.withMaps(true, func(m pinnedMaps, names compile.Names) error {
			v, err = sampler.Look(m, names, watch)
			return err
		})
		return v, err
	}
	if once || !a.terminal {
		return a.topOnce(ctx, every, look)
	}
	term, err := tcell.NewScreen()
	if err != nil {
		return fmt.Errorf("open the terminal: %w", err)
	}
	a.err = io.Discard // the screen is the terminal's; what is wrong stands in its first line
	return top.NewScreen(host, every, term).Run(ctx, look)
}

func (a *app) topOnce(ctx context.Context, every time.Duration, look top.Looker) error {
	if _, err := look(0); err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(every):
	}
	v, err := look(0)
	if err != nil {
		return err
	}
	l := list{columns: columns("ENI", "OUT-BIT/S", "OUT-PKT/S", "IN-BIT/S", "IN-PKT/S", "DROPS/S", "NEW/S", "FLOWS", "MOST-DROPS", "|", "FLOW-LIMIT")}
	for _, x := range v.Loads {
		l.rows = append(l.rows, row{name: x.ENI, value: x, cells: []string{
			x.ENI, top.Short(x.Out.Bits), top.Short(x.Out.Packets), top.Short(x.In.Bits), top.Short(x.In.Packets),
			top.Short(x.Drops), top.Short(x.Opened), fmt.Sprint(x.Flows), dash(x.Why), fmt.Sprint(x.Limit),
		}})
	}
	return a.print(l)
}
