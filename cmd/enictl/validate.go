// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"

	"github.com/spf13/cobra"

	"github.com/eniplane/eniplane/pkg/api"
	"github.com/eniplane/eniplane/pkg/feed/etcd"
)

func newValidateCommand(a *app) *cobra.Command {
	var paths []string
	c := &cobra.Command{
		Use: "validate -f FILE|DIR", Short: "Say everything that is wrong with a set of objects",
		Long: "Say everything that is wrong with a set of objects, one line each: file, line, object, field.\n" +
			"All files and directories together are one revision, as an agent would read it. With --feed in etcd, they are\n" +
			"judged together with what the feed holds, as enictl apply would; without -f, the feed itself is.",
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if strings.HasPrefix(a.feed, etcdScheme) {
				return a.validateWithFeed(cmd.Context(), paths)
			}
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
	if err := a.printWrong(wrong); err != nil {
		return err
	}
	fmt.Fprintf(a.err, "%d objects are valid\n", count(objects))
	return nil
}

// validateWithFeed judges files together with a feed in etcd.
func (a *app) validateWithFeed(ctx context.Context, paths []string) error {
	files, err := api.ReadPaths(paths...)
	if err != nil {
		return err
	}
	objects, wrong := api.Parse(files)
	if len(wrong) > 0 {
		return a.printWrong(wrong)
	}
	return a.withStore(ctx, func(s *etcd.Store) error {
		_, err := s.Commit(ctx, etcd.Options{DryRun: true}, func(d *etcd.Draft) error {
			for _, o := range objects {
				d.Put(o)
			}
			return nil
		})
		var invalid api.Errors
		if errors.As(err, &invalid) {
			return a.printWrong(invalid)
		}
		if err == nil {
			fmt.Fprintf(a.err, "the feed with these %d objects is valid\n", len(objects))
		}
		return err
	})
}

// printWrong prints what is wrong in the chosen format, and ends the command if there is anything.
func (a *app) printWrong(wrong []*api.Error) error {
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
