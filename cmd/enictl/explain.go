// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/eniplane/eniplane/pkg/dataplane"
)

func newExplainCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "explain [REASON...]", Short: "Say what a reason means, why packets come to it, and what to do",
		Long: "Say what a reason means, why packets come to it, and what to do. Reasons are what `enictl counters`,\n" +
			"`enictl trace` and the metrics name. Without one, all are listed.",
		Example: "  enictl explain SG_DENIED",
		Args:    args(cobra.ArbitraryArgs),
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return reasonNames(), cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(_ *cobra.Command, got []string) error { return a.explain(got) },
	}
}

func reasonNames() []string {
	var names []string
	for _, r := range dataplane.Reasons() {
		names = append(names, r.String())
	}
	return names
}

func (a *app) explain(names []string) error {
	reasons := dataplane.Reasons()
	if len(names) > 0 {
		reasons = nil
	}
	for _, name := range names {
		r, err := dataplane.ParseReason(strings.ReplaceAll(strings.ToUpper(name), "-", "_"))
		if err != nil {
			return usagef("%q is no reason; `enictl explain` lists them", name)
		}
		reasons = append(reasons, r)
	}
	l := list{columns: columns("REASON", "KIND", "STAGE", "MEANING", "|", "NUMBER", "WHY", "DO")}
	for _, r := range reasons {
		l.rows = append(l.rows, explainRow(r))
	}
	if a.output.String() == "table" && len(names) > 0 {
		for _, r := range reasons {
			if err := a.sayReason(r.Explain()); err != nil {
				return err
			}
		}
		return nil
	}
	return a.print(l)
}

func explainRow(r dataplane.Reason) row {
	x := r.Explain()
	return row{
		name:  r.String(),
		cells: []string{r.String(), x.Kind, x.Stage, x.Help, fmt.Sprint(x.Number), x.Why, x.Do},
		value: x,
	}
}

// sayReason shows a reason to people.
func (a *app) sayReason(x dataplane.Explanation) error {
	_, err := fmt.Fprintf(a.out, "%s: %s\n  kind   %s\n  stage  %s\n  why    %s\n  do     %s\n", x.Reason, x.Help, x.Kind, x.Stage, x.Why, x.Do)
	return err
}
