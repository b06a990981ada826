// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

// feature is one thing that eniplane needs of this machine, and whether it is there.
type feature struct {
	Name   string `json:"name"`
	State  string `json:"state"`            // ok, warning or missing
	Needs  string `json:"needs"`            // kernel option or version, or what to look after
	Detail string `json:"detail,omitempty"` // what was found
}

// The states of a feature.
const (
	featureOK      = "ok"
	featureWarning = "warning"
	featureMissing = "missing"
)

func newCheckCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "check", Short: "Say whether this kernel and machine can run eniplane",
		Long: "Say whether this kernel and machine can run eniplane: each feature by name, with the kernel\n" +
			"option it needs. Features are tried in a network namespace that is thrown away, as root.\n" +
			"Run it in the host's network namespace to see what stands in the way of the overlay.",
		Args: args(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error { return a.checkMachine() },
	}
}

func (a *app) checkMachine() error {
	l := list{columns: columns("FEATURE", "STATE", "NEEDS", "DETAIL")}
	missing := 0
	for _, f := range a.check(a.bpffs) {
		if f.State == featureMissing {
			missing++
		}
		l.rows = append(l.rows, row{
			name: f.Name, cells: []string{f.Name, f.State, f.Needs, dash(f.Detail)}, value: f,
		})
	}
	if err := a.print(l); err != nil {
		return err
	}
	if missing > 0 {
		fmt.Fprintf(a.err, "%d of %d features are missing: enid cannot work here\n", missing, len(l.rows))
		return errReported
	}
	return nil
}
