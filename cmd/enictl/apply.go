// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/eniplane/eniplane/pkg/api"
	"github.com/eniplane/eniplane/pkg/feed"
	"github.com/eniplane/eniplane/pkg/feed/etcd"
)

func newApplyCommand(a *app) *cobra.Command {
	var paths []string
	var force, dryRun bool
	c := &cobra.Command{
		Use: "apply -f FILE|DIR [--force]", Short: "Create or change objects of a feed, all or none",
		Long: "Create or change objects of a feed. All files together are one change set: it is written if the feed\n" +
			"as a whole is valid with it, also when others write at the same time, and agents see all of it or nothing.\n" +
			"In etcd with --force, agents also carry out the deletes that they hold back because of --max-delete-ratio; it needs no -f.",
		Example: "  enictl apply --feed etcd:https://10.0.0.1:2379/prod -f objects.yaml --wait",
		Args:    args(cobra.NoArgs),
	}
	w := a.writes(c)
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		if len(paths) == 0 && !force {
			return usagef("-f is required: a file, or a directory of *.yaml, *.yml and *.json")
		}
		change, err := w.applied(paths)
		if err != nil {
			return err
		}
		return w.commit(cmd.Context(), etcd.Options{Force: force, Repair: force, DryRun: dryRun}, change)
	}
	c.Flags().StringArrayVarP(&paths, "file", "f", nil, "file or directory; may be repeated")
	c.Flags().BoolVar(&force, "force", false, "release the deletes that agents hold back, and render all views afresh")
	c.Flags().BoolVar(&dryRun, "dry-run", false, "do everything but write")
	return c
}

// applied reads files into a change that puts their objects.
func (a *app) applied(paths []string) (func(*etcd.Draft) error, error) {
	files, err := api.ReadPaths(paths...)
	if err != nil {
		return nil, err
	}
	if _, wrong := api.Parse(files); len(wrong) > 0 {
		return nil, api.Errors(wrong)
	}
	return func(d *etcd.Draft) error {
		objects, _ := api.Parse(files) // anew: an attempt that lost a race may have changed the last ones
		for _, o := range objects {
			d.Put(o)
		}
		return nil
	}, nil
}

func newDeleteCommand(a *app) *cobra.Command {
	var paths []string
	var force bool
	c := &cobra.Command{
		Use: "delete KIND NAME.. | -f FILE|DIR", Short: "Delete objects of a feed, all or none",
		Long: "Delete objects of a feed. What others still refer to is not deleted. A host that would lose more than\n" +
			"--max-delete-ratio of its ENIs keeps them until `enictl apply --force`, or with --force here.",
		Args: func(_ *cobra.Command, got []string) error {
			if len(paths) == 0 && len(got) < 2 || len(paths) > 0 && len(got) > 0 {
				return usagef("say what to delete: KIND NAME.., or -f FILE")
			}
			return nil
		},
	}
	w := a.writes(c)
	c.RunE = func(cmd *cobra.Command, got []string) error {
		refs, err := a.named(got, paths)
		if err != nil {
			return err
		}
		return w.commit(cmd.Context(), etcd.Options{Force: force}, func(d *etcd.Draft) error {
			for _, ref := range refs {
				if d.Get(ref) == nil {
					return fmt.Errorf("the feed has no %s %q", ref.Kind, ref.Name)
				}
				d.Delete(ref)
			}
			return nil
		})
	}
	c.Flags().StringArrayVarP(&paths, "file", "f", nil, "file or directory with the objects; may be repeated")
	c.Flags().BoolVar(&force, "force", false, "hosts shall not hold the deletes back")
	return c
}

// named returns the objects that arguments or files name.
func (a *app) named(got, paths []string) ([]api.Reference, error) {
	var refs []api.Reference
	if len(got) > 0 {
		kind, err := parseKind(got[0])
		if err != nil {
			return nil, err
		}
		if kind == allKinds {
			return nil, usagef("name the kind to delete")
		}
		for _, name := range got[1:] {
			refs = append(refs, api.Reference{Kind: kind, Name: name})
		}
		return refs, nil
	}
	files, err := api.ReadPaths(paths...)
	if err != nil {
		return nil, err
	}
	objects, wrong := api.Parse(files)
	if len(wrong) > 0 {
		return nil, api.Errors(wrong)
	}
	for _, o := range objects {
		refs = append(refs, api.ReferenceTo(o))
	}
	return refs, nil
}

func newDiffCommand(a *app) *cobra.Command {
	var paths []string
	c := &cobra.Command{
		Use: "diff -f FILE|DIR", Short: "Show what apply would change in a feed",
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if len(paths) == 0 {
				return usagef("-f is required: a file, or a directory of *.yaml, *.yml and *.json")
			}
			change, err := a.applied(paths)
			if err != nil {
				return err
			}
			if path, ok := strings.CutPrefix(a.feed, dirScheme); ok {
				r, err := feed.ChangeDir(path, true, change)
				if err != nil {
					return err
				}
				return a.printDiff(r.Changes)
			}
			return a.withStore(cmd.Context(), func(s *etcd.Store) error {
				r, err := s.Commit(cmd.Context(), etcd.Options{DryRun: true}, change)
				if err != nil {
					return err
				}
				return a.printDiff(r.Changes)
			})
		},
	}
	c.Flags().StringArrayVarP(&paths, "file", "f", nil, "file or directory; may be repeated")
	return c
}

// printDiff shows each object that changes as YAML, with - and + before the lines that do.
func (a *app) printDiff(changes []etcd.Change) error {
	if len(changes) == 0 {
		fmt.Fprintln(a.err, "no difference")
		return nil
	}
	for _, c := range changes {
		fmt.Fprintln(a.out, c.Reference)
		old, err := yamlLines(c.Old)
		if err != nil {
			return err
		}
		fresh, err := yamlLines(c.New)
		if err != nil {
			return err
		}
		for _, line := range diffLines(old, fresh) {
			fmt.Fprintln(a.out, line)
		}
	}
	return nil
}

// yamlLines writes a document as lines of YAML.
func yamlLines(text []byte) ([]string, error) {
	if text == nil {
		return nil, nil
	}
	objects, wrong := api.Parse([]api.File{{Name: "feed", Data: text}})
	if len(wrong) > 0 { // it can be shown as it is
		return strings.Split(string(text), "\n"), nil
	}
	yaml, err := api.MarshalYAML(objects...)
	return strings.Split(strings.TrimRight(string(yaml), "\n"), "\n"), err
}

// diffLines puts - before lines that go, + before those that come and a blank before those that stay. What both have at
// their ends stays; between, the longest common sequence does.
func diffLines(old, fresh []string) []string {
	var out, tail []string
	for len(old) > 0 && len(fresh) > 0 && old[0] == fresh[0] {
		out, old, fresh = append(out, "  "+old[0]), old[1:], fresh[1:]
	}
	for len(old) > 0 && len(fresh) > 0 && old[len(old)-1] == fresh[len(fresh)-1] {
		tail = append([]string{"  " + old[len(old)-1]}, tail...)
		old, fresh = old[:len(old)-1], fresh[:len(fresh)-1]
	}
	const most = 2000 // lines of which the common ones are looked for; beyond, all go and come
	if len(old) <= most && len(fresh) <= most {
		out = append(out, commonLines(old, fresh)...)
	} else {
		for _, line := range old {
			out = append(out, "- "+line)
		}
		for _, line := range fresh {
			out = append(out, "+ "+line)
		}
	}
	return append(out, tail...)
}

func commonLines(old, fresh []string) (out []string) {
	common := make([][]int, len(old)+1) // length of the longest common sequence of what is left
	for i := range common {
		common[i] = make([]int, len(fresh)+1)
	}
	for i := len(old) - 1; i >= 0; i-- {
		for j := len(fresh) - 1; j >= 0; j-- {
			common[i][j] = max(common[i+1][j], common[i][j+1])
			if old[i] == fresh[j] {
				common[i][j] = common[i+1][j+1] + 1
			}
		}
	}
	i, j := 0, 0
	for i < len(old) || j < len(fresh) {
		switch {
		case i < len(old) && j < len(fresh) && old[i] == fresh[j]:
			out = append(out, "  "+old[i])
			i, j = i+1, j+1
		case j == len(fresh) || i < len(old) && common[i+1][j] >= common[i][j+1]:
			out = append(out, "- "+old[i])
			i++
		default:
			out = append(out, "+ "+fresh[j])
			j++
		}
	}
	return out
}
