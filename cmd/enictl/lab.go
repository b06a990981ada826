// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/eniplane/eniplane/pkg/lab"
)

// exampleTopology is what `lab up` and `lab demo` take without -f, seen from the top of the tree.
const exampleTopology = "examples/two-hosts-lab.yaml"

// labCommand is what all lab commands share: which lab.
type labCommand struct{ name string }

func newLabCommand() *cobra.Command {
	l := &labCommand{}
	c := group("lab", "Build hosts, instances and an internet on this machine, and play with them",
		l.upCommand(), l.statusCommand(), l.execCommand(), l.pingCommand(), l.migrateCommand(),
		l.breakCommand(), l.downCommand(), l.demoCommand(),
	)
	c.Long = "A lab is a small cloud in network namespaces: hosts with their own agent, instances, and an\n" +
		"internet on the segment of the uplinks. It needs root. Several labs may be up side by side."
	c.PersistentFlags().StringVar(&l.name, "lab", "", "name of the lab; not needed if only one is up")
	return c
}

// exitStatus ends enictl with a code and without a further word.
type exitStatus int

func (e exitStatus) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

// ExitCode is the code.
func (e exitStatus) ExitCode() int { return int(e) }

func (l *labCommand) upCommand() *cobra.Command {
	var topology string
	var o lab.Options
	c := &cobra.Command{
		Use: "up [-f topology.yaml]", Short: "Build a lab and start its agents",
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			path, err := findTopology(topology)
			if err != nil {
				return err
			}
			o.Name, o.Progress = l.name, cmd.OutOrStdout()
			up, err := lab.Up(cmd.Context(), path, o)
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "\n%s\nTry:\n", up.Diagram())
			for _, s := range up.Suggestions() {
				fmt.Fprintln(cmd.OutOrStdout(), "  "+s)
			}
			return nil
		},
	}
	c.Flags().StringVarP(&topology, "file", "f", "", "topology, a file of kind Lab (default the example)")
	c.Flags().StringVar(&o.Enid, "enid", "", "the agent's binary (default: beside enictl, else in $PATH)")
	c.Flags().BoolVar(&o.NoAgents, "no-agents", false, "only namespaces and cables")
	return c
}

// findTopology is the given file, or the example in the working directory or beside bin/.
func findTopology(given string) (string, error) {
	if given != "" {
		return given, nil
	}
	places := []string{exampleTopology}
	if self, err := os.Executable(); err == nil {
		places = append(places, filepath.Join(filepath.Dir(filepath.Dir(self)), exampleTopology))
	}
	for _, p := range places {
		if _, err := os.Stat(p); err == nil {
			return p, nil
		}
	}
	return "", usagef("which topology? give -f FILE; the example %s is not here", exampleTopology)
}

func (l *labCommand) downCommand() *cobra.Command {
	return &cobra.Command{
		Use: "down", Short: "Remove a lab with all it made; may be repeated",
		Args: args(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error {
			name := l.name
			if name == "" {
				names, err := lab.List()
				if err != nil || len(names) == 0 {
					return err
				}
				if len(names) > 1 {
					return usagef("several labs are up, choose one with --lab: %s", strings.Join(names, ", "))
				}
				name = names[0]
			}
			return lab.Down(name)
		},
	}
}

func (l *labCommand) statusCommand() *cobra.Command {
	return &cobra.Command{
		Use: "status", Short: "Show the nodes of a lab and how they are",
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			found, err := l.open()
			if err != nil {
				return err
			}
			s, err := found.Status(cmd.Context())
			if err != nil {
				return err
			}
			if f := cmd.Flag("output"); f != nil && f.Value.String() == "json" {
				enc := json.NewEncoder(cmd.OutOrStdout())
				enc.SetIndent("", "  ")
				return enc.Encode(s)
			}
			return printLab(cmd.OutOrStdout(), s)
		},
	}
}

func printLab(out io.Writer, s *lab.Status) error {
	fmt.Fprintf(out, "lab       %s, feed at revision %d in %s\nenictl    --bpffs %s --state-dir %s --host HOST\n\n",
		s.Name, s.Revision, s.Feed, s.BPFFS, s.StateDir)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "KIND\tNAME\tHOST\tSTATE\tNAMESPACE\tADDRESSES")
	for _, n := range s.Nodes {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", n.Kind, n.Name, dash(n.Host), n.State, n.Namespace,
			dash(strings.Join(n.Addresses, " ")))
	}
	return w.Flush()
}

func (l *labCommand) demoCommand() *cobra.Command {
	var topology string
	var o lab.Options
	c := &cobra.Command{
		Use: "demo", Short: "Tell the story: allowed, denied and why, an EIP, a moved instance; leaves nothing behind",
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			path, err := findTopology(topology)
			if err != nil {
				return err
			}
			o.Name = l.name
			if o.Name == "" {
				o.Name = fmt.Sprintf("demo-%d", os.Getpid())
			}
			coloured := isTerminal(os.Stdout) && os.Getenv("NO_COLOR") == ""
			return lab.Demo(cmd.Context(), path, o, cmd.OutOrStdout(), coloured)
		},
	}
	c.Flags().StringVarP(&topology, "file", "f", "", "topology with the objects of the example")
	c.Flags().StringVar(&o.Enid, "enid", "", "the agent's binary (default: beside enictl, else in $PATH)")
	return c
}

// open opens the chosen lab; one that is not there is a plain message.
func (l *labCommand) open() (*lab.Lab, error) {
	found, err := lab.Open(l.name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("lab %s is not up", l.name)
	}
	return found, err
}
