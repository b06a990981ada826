// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/eniplane/eniplane/pkg/agent"
)

func newVersionCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version of enictl", Args: args(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error {
			v := agent.BuildVersion()
			return a.printOne(row{name: v.Version, value: v}, func(w io.Writer) {
				fmt.Fprintf(w, "enictl %s (commit %s, %s)\n", v.Version, dash(v.Commit), v.Go)
			})
		},
	}
}
