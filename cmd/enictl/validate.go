// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"reflect"

	"github.com/spf13/cobra"

	"github.com/eniplane/eniplane/pkg/api"
)

func newValidateCommand(a *app) *cobra.Command {
	var paths []string
	c := &cobra.Command{
		Use: "validate -f FILE|DIR", Short: "Say everything that is wrong with a set of objects",
		Long: "Say everything that is wrong with a set of objects, one line each: file, line, object, field.\n" +
			"All files and directories together are one revision, as an agent would read it.",
		Args: args(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error {
			if len(paths) == 0 {
				return usagef("-f is required: a file, or a directory of *.yaml, *.yml and *.json")
			}
			return a.validate(paths)
		},
	}
	c.Flags().StringArrayVarP(&paths, "file", "f", nil, "file or directory; may be repeated")
	return c
}

// problem is an api.Error for JSON and YAML.
type problem struct {
	File    string `json:"file"`
	Line    int    `json:"line,omitempty"`
	Kind    string `json:"kind,omitempty"`
	Name    string `json:"name,omitempty"`
	Path    string `json:"path,omitempty"`
	Message string `json:"message"`
}

func (a *app) validate(paths []string) error {
	files, err := api.ReadPaths(paths...)
	if err != nil {
		return err
	}
	objects, wrong := api.Decode(files)
	switch a.output.String() {
	case "table", "wide":
		for _, e := range wrong {
			fmt.Fprintln(a.err, e)
		}
	default:
		l := list{}
		for _, e := range wrong {
			l.rows = append(l.rows, row{name: e.Error(), value: problem{
				File: e.File, Line: e.Line, Kind: e.Kind, Name: e.Name, Path: e.Path, Message: e.Msg,
			}})
		}
		if err := a.print(l); err != nil {
			return err
		}
	}
	if len(wrong) > 0 {
		return errReported
	}
	fmt.Fprintf(a.err, "%d objects are valid\n", count(objects))
	return nil
}

// count is the number of objects that were written down: not the region's defaults.
func count(objects *api.Objects) int {
	n := len(objects.All())
	if reflect.DeepEqual(objects.Region, api.NewObjects().Region) {
		n--
	}
	return n
}
