// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/eniplane/eniplane/pkg/api"
	"github.com/eniplane/eniplane/pkg/dataplane"
	"github.com/eniplane/eniplane/pkg/feed/etcd"
)

// app is one run of enictl: what the process gives and what the global flags say.
type app struct {
	env
	host     string
	bpffs    string
	stateDir string
	feed     string
	etcd     etcd.Files
	output   format
	color    string
}

func newRootCommand(a *app) *cobra.Command {
	root := group("enictl", "Inspect and explain eniplane on this host",
		newValidateCommand(a), newGetCommand(a), newDescribeCommand(a),
		newApplyCommand(a), newDeleteCommand(a), newDiffCommand(a), newENICommand(a), newInstanceCommand(a), newEIPCommand(a), newSyncCommand(a),
		newMapCommand(a), newFlowCommand(a), newCountersCommand(a), newTopCommand(a), newTraceCommand(a), newExplainCommand(a),
		newStatusCommand(a), newCheckCommand(a), newTeardownCommand(a), newVersionCommand(a),
		newGuestCommand(a), newLabCommand(),
	)
	root.Long = "enictl inspects and explains eniplane on one host. Nouns read, verbs change. It reads the\n" +
		"pinned maps and the state directory, so it works with the agent dead.\n\n" +
		"Exit codes: 0 done or allowed, 1 error, 2 usage, 3 denied."
	root.SilenceErrors, root.SilenceUsage = true, true
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.PersistentPreRunE = func(cmd *cobra.Command, _ []string) error { return a.checkFlags() }

	flags := root.PersistentFlags()
	flags.StringVar(&a.host, "host", "", "host to look at; not needed if the directories hold only one")
	flags.StringVar(&a.bpffs, "bpffs", dataplane.DefaultBPFFS, "where the agents pin")
	flags.StringVar(&a.stateDir, "state-dir", dataplane.DefaultStateDir, "where the agents keep their state")
	flags.StringVar(&a.feed, "feed", "", "the feed to change, or to read instead of the last good revision: dir:PATH or etcd:http(s)://HOST:PORT[,..]/PREFIX")
	flags.StringVar(&a.etcd.CA, "etcd-ca", "", "file of the authorities that sign the members of etcd (default those of the system)")
	flags.StringVar(&a.etcd.Cert, "etcd-cert", "", "file of the own certificate for etcd")
	flags.StringVar(&a.etcd.Key, "etcd-key", "", "file of its key")
	flags.StringVar(&a.etcd.User, "etcd-user", "", "file with one line USER:PASSWORD for etcd")
	flags.VarP(&a.output, "output", "o", "table, wide, json, yaml or name")
	flags.StringVar(&a.color, "color", "auto", "auto, always or never; NO_COLOR counts too")
	// The error, here and below, is for a flag that does not exist.
	_ = root.RegisterFlagCompletionFunc("host", func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return a.hosts(), cobra.ShellCompDirectiveNoFileComp
	})
	for name, words := range map[string][]string{"output": formats, "color": colors} {
		_ = root.RegisterFlagCompletionFunc(name, cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp))
	}
	return root
}

var colors = []string{"auto", "always", "never"}

func (a *app) checkFlags() error {
	if !slices.Contains(colors, a.color) {
		return usagef("--color %q: want auto, always or never", a.color)
	}
	if problem := api.NameProblem(a.host); a.host != "" && problem != "" { // it becomes a part of paths
		return usagef("--host %q is not a name: it %s", a.host, problem)
	}
	return nil
}

// coloured says whether to use colours: as told, else on a terminal without NO_COLOR
// (https://no-color.org: set and not empty).
func (a *app) coloured() bool {
	if a.color == "auto" {
		return a.terminal && a.getenv("NO_COLOR") == ""
	}
	return a.color == "always"
}

// oneHost returns --host, or the only host that has a directory here.
func (a *app) oneHost() (string, error) {
	if a.host != "" {
		return a.host, nil
	}
	hosts := a.hosts()
	switch len(hosts) {
	case 1:
		return hosts[0], nil
	case 0:
		return "", fmt.Errorf("no host has pins in %s or state in %s: no agent has run on this machine with these "+
			"directories; start enid, or give the --bpffs and --state-dir that it was started with", a.bpffs, a.stateDir)
	default:
		return "", usagef("several hosts are here, choose one with --host: %s", strings.Join(hosts, ", "))
	}
}

// hosts lists the hosts that have pins or state here.
func (a *app) hosts() []string {
	return slices.Compact(slices.Sorted(slices.Values(append(subdirs(a.bpffs), subdirs(a.stateDir)...))))
}

// hostDir returns the host's state directory.
func (a *app) hostDir() (string, error) {
	host, err := a.oneHost()
	if err != nil {
		return "", err
	}
	return dataplane.HostStateDir(a.stateDir, host), nil
}

// subdirs lists the directories in dir that can belong to a host; none if it cannot be read.
func subdirs(dir string) []string {
	var names []string
	entries, _ := os.ReadDir(dir) // what is missing holds no host
	for _, e := range entries {
		if e.IsDir() && api.NameProblem(e.Name()) == "" {
			names = append(names, e.Name())
		}
	}
	return names
}
