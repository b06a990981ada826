// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/eniplane/eniplane/pkg/dataplane"
	"github.com/eniplane/eniplane/pkg/lab"
)

func (l *labCommand) execCommand() *cobra.Command {
	return &cobra.Command{
		Use: "exec NODE -- COMMAND...", Short: "Run a command in the network namespace of an instance, a host or the internet",
		Args: args(cobra.MinimumNArgs(2)),
		RunE: func(cmd *cobra.Command, got []string) error {
			found, err := l.open()
			if err != nil {
				return err
			}
			return found.Exec(cmd.Context(), got[0], got[1:], cmd.InOrStdin(), cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
}

func (l *labCommand) pingCommand() *cobra.Command {
	var tcp, udp uint16
	var v6 bool
	var wait time.Duration
	c := &cobra.Command{
		Use:   "ping FROM TO [--tcp PORT | --udp PORT]",
		Short: "Ask whether a packet passes, and show the counters that moved",
		Long: "FROM and TO are an instance, an ENI, a host, `internet`, or an address of one of them. With --tcp\n" +
			"or --udp a listener is opened at TO for the moment. Exit code 0 if it passed, 3 if not.",
		Args: args(cobra.ExactArgs(2)),
		RunE: func(cmd *cobra.Command, got []string) error {
			found, err := l.open()
			if err != nil {
				return err
			}
			p := lab.Probe{Protocol: "icmp", Wait: wait}
			switch {
			case tcp != 0 && udp != 0:
				return usagef("--tcp or --udp, not both")
			case tcp != 0:
				p.Protocol, p.Port = "tcp", tcp
			case udp != 0:
				p.Protocol, p.Port = "udp", udp
			}
			if p.From, p.To, err = found.Spots(got[0], got[1], lab.Family(v6)); err != nil {
				return err
			}
			return ping(cmd.Context(), found, p, cmd.OutOrStdout())
		},
	}
	c.Flags().Uint16Var(&tcp, "tcp", 0, "connect to this port instead of ICMP echo")
	c.Flags().Uint16Var(&udp, "udp", 0, "send a datagram to this port instead of ICMP echo")
	c.Flags().BoolVarP(&v6, "ipv6", "6", false, "use the IPv6 addresses of the nodes")
	c.Flags().DurationVar(&wait, "wait", time.Second, "how long to wait for the answer")
	return c
}

// ping sends one probe and tells its fate.
func ping(ctx context.Context, l *lab.Lab, p lab.Probe, out io.Writer) error {
	before, err := l.Counters()
	if err != nil {
		return err
	}
	answer, err := l.Probe(ctx, p)
	if err != nil {
		return err
	}
	after, err := l.Counters()
	if err != nil {
		return err
	}
	what := p.Protocol
	if p.Port != 0 {
		what = fmt.Sprintf("%s %d", p.Protocol, p.Port)
	}
	fate := fmt.Sprintf("allowed, %.2f ms", float64(answer.RTT.Microseconds())/1000)
	if !answer.Allowed {
		fate = "denied: " + answer.Why.Error()
	}
	fmt.Fprintf(out, "%s > %s %s: %s\n", p.From, p.To, what, fate)
	for _, m := range after.Since(before) {
		if m.Reason == dataplane.ReasonContinue {
			continue // what came in: the others say what became of it
		}
		fmt.Fprintf(out, "  +%d %s: %s\n", m.Packets, m.CounterKey, m.Reason.Help())
	}
	if !answer.Allowed {
		return exitStatus(exitDenied)
	}
	return nil
}

func (l *labCommand) migrateCommand() *cobra.Command {
	var to, peer string
	c := &cobra.Command{
		Use: "migrate INSTANCE --to HOST", Short: "Move an instance to another host under load, and measure what is lost",
		Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, got []string) error {
			found, err := l.open()
			if err != nil {
				return err
			}
			if to == "" {
				return usagef("where to? give --to HOST")
			}
			r, err := found.Migrate(cmd.Context(), got[0], to, peer)
			if err != nil {
				return err
			}
			out := cmd.OutOrStdout()
			fmt.Fprintf(out, "%s moved from %s to %s, ready there after %d ms; measured against %s\n", r.Instance, r.From, r.To, r.Prepare.Milliseconds(), r.Peer)
			fmt.Fprintf(out, "UDP  %s\nTCP  %s\n", r.UDP, r.TCP)
			return nil
		},
	}
	c.Flags().StringVar(&to, "to", "", "the host that gets it")
	c.Flags().StringVar(&peer, "peer", "internet", "the node at the other end of the measuring streams")
	return c
}

func (l *labCommand) breakCommand() *cobra.Command {
	var repair bool
	c := group("break", "Do harm, to see what holds",
		l.breakOne("agent HOST", "Kill the agent of a host; with --repair start it again", func(found *lab.Lab, host string) (string, error) {
			if repair {
				return "started", found.StartAgent(host)
			}
			return "killed; what is in force stays in force", found.KillAgent(host)
		}),
		l.breakOne("program HOST", "Detach the programs of a host behind the agent's back", func(found *lab.Lab, host string) (string, error) {
			links, err := found.DetachPrograms(host)
			return fmt.Sprintf("%d links detached", len(links)), err
		}),
		l.breakOne("port ENI", "Delete the device of an ENI; with --repair make it again", func(found *lab.Lab, eni string) (string, error) {
			if repair {
				return "made again", found.PlugPort(eni)
			}
			return "deleted", found.UnplugPort(eni)
		}),
		l.breakOne("sg GROUP", "Take the ingress rules out of a security group", func(found *lab.Lab, name string) (string, error) {
			revision, err := found.EmptyGroup(name)
			return fmt.Sprintf("emptied in revision %d of the feed", revision), err
		}),
	)
	c.PersistentFlags().BoolVar(&repair, "repair", false, "undo it")
	return c
}

func (l *labCommand) breakOne(use, short string, do func(found *lab.Lab, what string) (string, error)) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, got []string) error {
			found, err := l.open()
			if err != nil {
				return err
			}
			done, err := do(found, got[0])
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: %s\n", got[0], done)
			return err
		},
	}
}
