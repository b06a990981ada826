// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/eniplane/eniplane/pkg/api"
)

func newDescribeCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "describe KIND NAME", Short: "Show an object with what it refers to, what refers to it, and its state",
		Long: "Show an object of the revision that the agent applied last, or of --feed, with what it refers to, what refers\n" +
			"to it, and for an ENI of this host the state that the agent saw last.",
		Args: args(cobra.ExactArgs(2)),
		ValidArgsFunction: func(cmd *cobra.Command, got []string, _ string) ([]string, cobra.ShellCompDirective) {
			return a.completeObject(cmd.Context(), got), cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, got []string) error { return a.describe(cmd.Context(), got[0], got[1]) },
	}
}

// description is an object and its surroundings.
type description struct {
	Object   any      `json:"object"`
	RefersTo []string `json:"refersTo"`
	UsedBy   []string `json:"usedBy"`
	Host     string   `json:"host,omitempty"` // of an attached ENI
	VPC      string   `json:"vpc,omitempty"`  // of an ENI
	State    string   `json:"state,omitempty"`
	Reason   string   `json:"reason,omitempty"`
}

func (a *app) describe(ctx context.Context, word, name string) error {
	kind, err := parseKind(word)
	if err != nil {
		return err
	}
	objects, err := a.objects(ctx)
	if err != nil {
		return err
	}
	all := objects.All()
	i := slices.IndexFunc(all, func(o api.Object) bool { return o.Kind() == kind && o.Meta().Name == name })
	if i < 0 {
		return fmt.Errorf("no %s %q", kind, name)
	}
	states := a.eniStates()
	r, err := objectRow(objects, all[i], states)
	if err != nil {
		return err
	}
	d := description{Object: r.value, RefersTo: []string{}, UsedBy: []string{}}
	for _, ref := range api.References(all[i]) {
		d.RefersTo = append(d.RefersTo, ref.String())
	}
	self := api.ReferenceTo(all[i])
	for _, o := range all {
		if slices.Contains(api.References(o), self) {
			d.UsedBy = append(d.UsedBy, api.ReferenceTo(o).String())
		}
	}
	if e, ok := all[i].(*api.ENI); ok {
		d.Host, d.VPC = objects.HostOf(e), objects.VPCOf(e).Name
		d.State, d.Reason = string(states[name].Phase), states[name].Reason
	}
	yaml, err := api.MarshalYAML(all[i])
	if err != nil {
		return err
	}
	return a.printOne(row{name: r.name, value: d}, func(w io.Writer) { d.write(w, string(yaml)) })
}

// write shows the description to people.
func (d *description) write(w io.Writer, yaml string) {
	fmt.Fprint(w, yaml)
	line := func(key, value string) {
		if value != "" {
			fmt.Fprintf(w, "%-12s%s\n", key, value)
		}
	}
	fmt.Fprintln(w, "---")
	line("host", d.Host)
	line("vpc", d.VPC)
	line("state", strings.TrimSpace(d.State+" "+d.Reason))
	line("refers to", dash(strings.Join(d.RefersTo, ", ")))
	line("used by", dash(strings.Join(d.UsedBy, ", ")))
}
