// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/eniplane/eniplane/pkg/guest"
)

// guestFile is where a guest keeps what the host says of its ENIs.
const guestFile = "/etc/eniplane/guest.yaml"

// guestCommand is what the commands share that run inside an instance: from where it knows its ENIs.
type guestCommand struct {
	*app
	file string
	from string
}

func newGuestCommand(a *app) *cobra.Command {
	g := &guestCommand{app: a}
	c := group("guest", "Inside an instance: policy routing for several ENIs, and what is wrong with it",
		g.describeCommand(), g.routesCommand(), g.checkCommand())
	c.Long = "An instance with several ENIs must send each reply by the ENI whose private IP is its source: the host drops\n" +
		"what leaves by another one. `describe` prints on the host what an instance must know of its ENIs; `routes` and\n" +
		"`check` run in the instance and read it from " + guestFile + ", or from a metadata service."
	return c
}

// source adds the flags that say from where the machine is read.
func (g *guestCommand) source(c *cobra.Command) *cobra.Command {
	c.Flags().StringVarP(&g.file, "file", "f", guestFile, "file of kind Guest; - is the standard input")
	c.Flags().StringVar(&g.from, "from", "", "metadata service to ask instead, as http://169.254.169.254")
	return c
}

func (g *guestCommand) machine(ctx context.Context) (*guest.Machine, error) {
	if g.from != "" {
		return guest.ReadService(ctx, g.from)
	}
	return guest.ReadFile(g.file, g.in)
}

func (g *guestCommand) describeCommand() *cobra.Command {
	return &cobra.Command{
		Use: "describe INSTANCE", Short: "Print what an instance must know of its ENIs, as a file for it",
		Long: "Print what an instance must know of its ENIs: their MACs, private IPs, subnets and gateways. It is read from\n" +
			"the revision that the agent applied last, or from --feed. The output belongs into " + guestFile + "\n" +
			"of the instance.",
		Example: "  enictl guest describe web-vm > guest.yaml\n  enictl guest describe web-vm --feed dir:/etc/eniplane/feed -o json",
		Args:    args(cobra.ExactArgs(1)),
		ValidArgsFunction: func(cmd *cobra.Command, got []string, _ string) ([]string, cobra.ShellCompDirective) {
			return g.completeObject(cmd.Context(), append([]string{"instance"}, got...)), cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, got []string) error {
			objects, err := g.objects(cmd.Context())
			if err != nil {
				return err
			}
			m, err := guest.Describe(objects, got[0])
			if err != nil {
				return err
			}
			var failed error
			err = g.printOne(row{name: m.Name, value: m.File()}, func(w io.Writer) { failed = writeYAML(w, m.File()) })
			if err == nil {
				err = failed
			}
			return err
		},
	}
}

func (g *guestCommand) routesCommand() *cobra.Command {
	var apply, remove bool
	var watch time.Duration
	c := &cobra.Command{
		Use: "routes", Short: "Print or apply the addresses, routing tables and rules that several ENIs need",
		Long: "Print what is missing as commands of ip(8), or with --apply do it: the private IPs on the device with the ENI's\n" +
			"MAC, a routing table per ENI, a rule per private IP that leads to it, and a default route of the main table by\n" +
			"the ENI of index 0 if nobody else made one. A second run finds nothing to do.\n\n" +
			"What it makes has protocol 69, tables 69000-69007 and priorities 6900-6908. What has another protocol is never\n" +
			"changed or removed. Packets to devices that are no ENIs (containers, tunnels) keep the routes of the main table.",
		Example: "  enictl guest routes                # what would be done, as shell commands\n" +
			"  enictl guest routes --apply\n  enictl guest routes --apply --watch 10s\n  enictl guest routes --remove",
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case apply && remove:
				return usagef("--apply or --remove, not both")
			case watch != 0 && (!apply || watch < time.Second):
				return usagef("--watch needs --apply and at least 1s")
			case remove:
				return g.remove()
			}
			if err := g.routes(cmd.Context(), apply); err != nil || watch == 0 {
				return err
			}
			return g.watch(cmd.Context(), watch)
		},
	}
	c.Flags().BoolVar(&apply, "apply", false, "do it, instead of printing it (needs root)")
	c.Flags().BoolVar(&remove, "remove", false, "take away all that was made (needs root)")
	c.Flags().DurationVar(&watch, "watch", 0, "with --apply: look again at this interval, until interrupted")
	return g.source(c)
}

// routeChanges is what `guest routes` prints.
type routeChanges struct {
	Machine string   `json:"machine"`
	Applied bool     `json:"applied"`
	Changes []string `json:"changes"`
	Notes   []string `json:"notes"`
}

// look reads what the machine should be, and what its kernel holds.
func (g *guestCommand) look(ctx context.Context) (*guest.Machine, *guest.Kernel, error) {
	m, err := g.machine(ctx)
	if err != nil {
		return nil, nil, err
	}
	k, err := guest.Look()
	return m, k, err
}

func (g *guestCommand) routes(ctx context.Context, apply bool) error {
	m, k, err := g.look(ctx)
	if err != nil {
		return err
	}
	want := guest.Plan(m, k)
	return g.carryOut(routeChanges{Machine: m.Name, Applied: apply, Notes: want.Notes}, guest.Changes(want, k))
}

func (g *guestCommand) remove() error {
	k, err := guest.Look()
	if err != nil {
		return err
	}
	return g.carryOut(routeChanges{Applied: true}, guest.Removal(k))
}

// carryOut applies changes if it is asked to, and says what they are.
func (g *guestCommand) carryOut(r routeChanges, changes []guest.Change) error {
	if r.Applied {
		if err := guest.Apply(changes); err != nil {
			return err
		}
	}
	r.Changes = []string{}
	for _, c := range changes {
		r.Changes = append(r.Changes, c.Command)
	}
	if r.Notes == nil {
		r.Notes = []string{}
	}
	return g.printOne(row{name: r.Machine, value: r}, func(w io.Writer) {
		for _, n := range r.Notes {
			fmt.Fprintf(w, "# %s\n", n)
		}
		for _, c := range r.Changes {
			fmt.Fprintln(w, c)
		}
		if len(r.Changes) == 0 {
			fmt.Fprintln(w, "# nothing to change")
		}
	})
}

// watch applies again and again. An error is said and tried again: the service may be away for a moment.
func (g *guestCommand) watch(ctx context.Context, every time.Duration) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if err := g.again(ctx); err != nil {
			fmt.Fprintf(g.err, "Error: %v\n", err)
		}
	}
}

// again applies and says only what it changed.
func (g *guestCommand) again(ctx context.Context) error {
	m, k, err := g.look(ctx)
	if err != nil {
		return err
	}
	changes := guest.Changes(guest.Plan(m, k), k)
	if len(changes) == 0 {
		return nil
	}
	return g.carryOut(routeChanges{Machine: m.Name, Applied: true}, changes)
}

func (g *guestCommand) checkCommand() *cobra.Command {
	return g.source(&cobra.Command{
		Use: "check", Short: "Find replies that would leave by another ENI than their packets came in by",
		Long: "Ask the kernel by which device the replies leave from each private IP: to its gateway, to the internet, and to\n" +
			"the subnets of the other ENIs. Says what is wrong and how to mend it. Needs no root.\n\n" +
			"Exit codes: 0 all is well, 1 something is wrong.",
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error { return g.replies(cmd.Context()) },
	})
}

func (g *guestCommand) replies(ctx context.Context) error {
	m, k, err := g.look(ctx)
	if err != nil {
		return err
	}
	l := list{
		columns: columns("ENI", "PROBLEM", "MEND", "|", "ADDRESS", "PEER", "WANT", "GOT"),
		empty:   "every reply leaves by the ENI that its packet came in by",
	}
	for _, p := range guest.Check(m, k, guest.Leave) {
		l.rows = append(l.rows, row{
			name: p.ENI, value: p,
			cells: []string{p.ENI, p.Text, p.Mend, dash(p.Address), dash(p.Peer), dash(p.Want), dash(p.Got)},
		})
	}
	if err := g.print(l); err != nil {
		return err
	}
	if len(l.rows) > 0 {
		return errReported
	}
	return nil
}
