// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/spf13/cobra"

	"github.com/eniplane/eniplane/pkg/agent"
	"github.com/eniplane/eniplane/pkg/api"
	"github.com/eniplane/eniplane/pkg/feed"
)

func newGetCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "get KIND [NAME]", Short: "Show objects of the last good revision, or of --feed",
		Long: "Show objects of the revision that the agent applied last, or with --feed those that the feed holds.\n" +
			"KIND is one of " + kindWords() + ", a plural,\n" +
			"or a short name: it, rtb, pl, nacl, sg; or all. ENIs of this host show the state that the agent saw\n" +
			"last. Security groups and network ACLs show with -o wide, json and yaml how many connections each rule has\n" +
			"decided on this host. What -o json and -o yaml print can be read back: by a feed, or by enictl validate.",
		Example: "  enictl get enis\n  enictl get sg web -o yaml\n  enictl get subnets --feed dir:/etc/eniplane/feed\n" +
			"  enictl get all -o yaml > feed.yaml",
		Args: func(cmd *cobra.Command, got []string) error {
			if len(got) == 0 {
				return usagef("say what to get: all, %s", kindWords())
			}
			return args(cobra.MaximumNArgs(2))(cmd, got)
		},
		ValidArgsFunction: func(cmd *cobra.Command, got []string, _ string) ([]string, cobra.ShellCompDirective) {
			return a.completeObject(cmd.Context(), got), cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, got []string) error {
			name := ""
			if len(got) == 2 {
				name = got[1]
			}
			return a.get(cmd.Context(), got[0], name)
		},
	}
}

// completeObject offers kinds, then the names of a kind.
func (a *app) completeObject(ctx context.Context, got []string) []string {
	var words []string
	switch len(got) {
	case 0:
		words = append(words, strings.ToLower(allKinds))
		for _, kind := range api.Kinds() {
			words = append(words, strings.ToLower(kind))
		}
	case 1:
		kind, err := parseKind(got[0])
		if err != nil {
			return nil
		}
		objects, err := a.objects(ctx)
		if err != nil {
			return nil
		}
		for _, o := range objects.All() {
			if o.Kind() == kind {
				words = append(words, o.Meta().Name)
			}
		}
	}
	return words
}

// allKinds stands for every kind.
const allKinds = "All"

// parseKind finds a kind by its name in any case, its plural or its short name.
func parseKind(word string) (string, error) {
	word = strings.ToLower(word)
	if word == strings.ToLower(allKinds) {
		return allKinds, nil
	}
	short := map[string]string{
		"it": "InstanceType", "rtb": "RouteTable", "pl": "PrefixList", "nacl": "NetworkACL", "sg": "SecurityGroup",
	}
	for _, w := range []string{word, strings.TrimSuffix(word, "s")} {
		if kind, ok := short[w]; ok {
			return kind, nil
		}
		for _, kind := range api.Kinds() {
			if strings.ToLower(kind) == w {
				return kind, nil
			}
		}
	}
	return "", usagef("no kind %q; there are all, %s", word, kindWords())
}

// kindWords lists the kinds as one writes them on a command line.
func kindWords() string { return strings.ToLower(strings.Join(api.Kinds(), ", ")) }

func (a *app) get(ctx context.Context, word, name string) error {
	kind, err := parseKind(word)
	if err != nil {
		return err
	}
	if kind == allKinds && name != "" {
		return usagef("name the kind of %q", name)
	}
	objects, err := a.objects(ctx)
	if err != nil {
		return err
	}
	states := a.eniStates()
	var counted hits
	rules := kind == "SecurityGroup" || kind == "NetworkACL"
	if rules {
		counted = a.ruleHits()
	}
	l := list{columns: objectColumns(kind), empty: "no " + kind}
	for _, o := range objects.All() {
		if kind != allKinds && o.Kind() != kind || name != "" && o.Meta().Name != name {
			continue
		}
		r, err := objectRow(objects, o, states)
		if err != nil {
			return err
		}
		if kind == allKinds {
			r.cells = []string{o.Kind(), o.Meta().Name}
		}
		if rules {
			if err := counted.addHits(&r, o); err != nil {
				return err
			}
		}
		l.rows = append(l.rows, r)
	}
	if name == "" {
		return a.printObjects(l)
	}
	if len(l.rows) == 0 {
		return fmt.Errorf("no %s %q", kind, name)
	}
	if f := a.output.String(); f == "table" || f == "wide" {
		return a.table(l)
	}
	return a.printOne(l.rows[0], nil)
}

// printObjects prints JSON as a List and YAML as documents, so that the feed can read them back; the
// rest as any list.
func (a *app) printObjects(l list) error {
	switch a.output {
	case "json":
		return writeJSON(a.out, api.NewList(l.values()))
	case "yaml":
	default:
		return a.print(l)
	}
	for i, v := range l.values() {
		if i > 0 {
			fmt.Fprintln(a.out, "---")
		}
		if err := writeYAML(a.out, v); err != nil {
			return err
		}
	}
	return nil
}

// objects reads what the feed holds, or the last good revision.
func (a *app) objects(ctx context.Context) (*api.Objects, error) {
	switch {
	case strings.HasPrefix(a.feed, etcdScheme):
		return a.readStore(ctx)
	case a.feed != "":
		return readFeed(a.feed)
	}
	dir, err := a.hostDir()
	if err != nil {
		return nil, err
	}
	rev, err := feed.LastGood(dir)
	if err != nil {
		return nil, err
	}
	if rev == nil {
		return nil, fmt.Errorf("no agent has applied a revision with its state in %s: "+
			"`enictl status` says why, --feed dir:PATH reads objects from their source", dir)
	}
	return rev.Objects, nil
}

func readFeed(source string) (*api.Objects, error) {
	path, ok := strings.CutPrefix(source, "dir:")
	if !ok {
		return nil, usagef("--feed %q is not supported by this version: want dir:PATH or etcd:http(s)://HOST:PORT/PREFIX", source)
	}
	files, err := api.ReadPaths(path)
	if err != nil {
		return nil, err
	}
	objects, wrong := api.Decode(files)
	if len(wrong) > 0 {
		return nil, api.Errors(wrong)
	}
	return objects, nil
}

// eniStates reads what the agent saw last, if there is one host and its agent ever ran.
func (a *app) eniStates() map[string]agent.ENIStatus {
	states := map[string]agent.ENIStatus{}
	dir, err := a.hostDir()
	if err != nil {
		return states // objects of a feed exist without a host
	}
	s, err := agent.ReadStatus(dir)
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			fmt.Fprintf(a.err, "No states of ENIs are shown: %v\n", err)
		}
		return states
	}
	for _, e := range s.ENIs {
		states[e.Name] = e
	}
	return states
}

// objectRow makes the row of an object. Its JSON is what the feed reads, with the state as status.
func objectRow(all *api.Objects, o api.Object, states map[string]agent.ENIStatus) (row, error) {
	text, err := api.MarshalJSON(o)
	if err != nil {
		return row{}, err
	}
	r := row{name: strings.ToLower(o.Kind()) + "/" + o.Meta().Name, cells: objectCells(all, o, states)}
	r.value = json.RawMessage(text)
	if s, ok := states[o.Meta().Name]; ok && o.Kind() == "ENI" {
		err = addStatus(&r, struct {
			State  string `json:"state"`
			Reason string `json:"reason,omitempty"`
		}{string(s.Phase), s.Reason})
	}
	return r, err
}
