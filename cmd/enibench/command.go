// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/eniplane/eniplane/bench"
	"github.com/eniplane/eniplane/pkg/testroot"
)

// app is what enibench works with.
type app struct {
	out, err  io.Writer
	scenarios []bench.Scenario
}

// usageError is a mistake in the arguments.
type usageError struct{ error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// run returns the exit code: 0 done, 1 error, 2 usage.
func run(ctx context.Context, a *app, arguments []string) int {
	root := newRootCommand(a)
	root.SetArgs(arguments)
	root.SetOut(a.out)
	root.SetErr(a.err)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	fmt.Fprintln(a.err, "enibench:", err)
	if errors.As(err, &usageError{}) {
		return 2
	}
	return 1
}

func newRootCommand(a *app) *cobra.Command {
	root := &cobra.Command{
		Use: "enibench", Short: "Measure eniplane against what people use today",
		Long: "enibench measures eniplane on one Linux machine, as root. Times drift with the load of a machine:\n" +
			"only the ratios of one run mean something.\n\n" +
			"Exit codes: 0 done, 1 error, 2 usage.",
		SilenceErrors: true, SilenceUsage: true,
		Args: func(cmd *cobra.Command, got []string) error {
			if len(got) > 0 {
				return usagef("unknown command %q for %q", got[0], cmd.CommandPath())
			}
			return usagef("say what to do: list, run, compare or report; --help shows more")
		},
		RunE: func(*cobra.Command, []string) error { return nil },
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.AddCommand(newListCommand(a), newRunCommand(a), newCompareCommand(a), newReportCommand(a))
	return root
}

// args makes a wrong number of arguments a usage error.
func args(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, got []string) error {
		if err := check(cmd, got); err != nil {
			return usageError{err}
		}
		return nil
	}
}

func newListCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the scenarios; those with a star are the quick ones",
		Args: args(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error {
			tab := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
			for i := range a.scenarios {
				s := &a.scenarios[i]
				mark := " "
				if s.Quick {
					mark = "*"
				}
				fmt.Fprintf(tab, "%s %s\t%s\n", mark, s.Name, s.Help)
			}
			return tab.Flush()
		},
	}
}

func newRunCommand(a *app) *cobra.Command {
	var size, out string
	settings := bench.Settings{}
	c := &cobra.Command{
		Use: "run [GROUP | SCENARIO | PATTERN]...", Short: "Run scenarios and print what they found",
		Long: "Run scenarios and print what they found. Without names: the quick ones, or with --size full all of\n" +
			"them. --out keeps the results after each scenario, for report and compare.",
		Example: "  enibench run policy\n  enibench run --size full --out results.json 'cost/*'",
		RunE: func(cmd *cobra.Command, words []string) error {
			settings.Size = bench.Size(size)
			if err := checkSettings(settings); err != nil {
				return err
			}
			chosen, err := bench.Select(a.scenarios, words, settings.Size != bench.Full)
			if err != nil {
				return usageError{err}
			}
			if os.Geteuid() != 0 {
				return errors.New("run as root: scenarios load BPF programs and make network namespaces")
			}
			if err := testroot.Sweep(); err != nil { // what a run left that was killed
				return err
			}
			return a.run(cmd.Context(), settings, chosen, out)
		},
	}
	c.Flags().StringVar(&size, "size", string(bench.Quick), "tiny (only shows that it works), quick or full")
	c.Flags().IntVar(&settings.Repeats, "repeats", 5, "rounds of each measurement")
	c.Flags().Uint64Var(&settings.Seed, "seed", 1, "of everything that is drawn at random")
	c.Flags().IntVar(&settings.CPU, "cpu", 0, "CPU for what is measured on one")
	c.Flags().StringVar(&out, "out", "", "file for the results, as JSON")
	return c
}

func checkSettings(s bench.Settings) error {
	switch {
	case s.Size != bench.Tiny && s.Size != bench.Quick && s.Size != bench.Full:
		return usagef("--size %q: want tiny, quick or full", s.Size)
	case s.Repeats < 1:
		return usagef("--repeats %d: want at least 1", s.Repeats)
	case s.CPU < 0:
		return usagef("--cpu %d: want the number of a CPU", s.CPU)
	}
	return nil
}

func (a *app) run(ctx context.Context, settings bench.Settings, chosen []bench.Scenario, out string) error {
	runner := bench.Runner{Settings: settings, Progress: a.err}
	if out != "" {
		runner.Keep = func(r *bench.Report) error { return r.Save(out) }
	}
	report, err := runner.Do(ctx, chosen)
	return errors.Join(bench.Text(a.out, report), err)
}

func newReportCommand(a *app) *cobra.Command {
	var format string
	c := &cobra.Command{
		Use: "report FILE.json", Short: "Show the results of a run in another form",
		Long: "Show the results of a run in another form: a table, JSON, lines for benchstat, or one page with\n" +
			"plots that needs no network.",
		Example: "  enibench report bin/bench.json --format html > bench.html",
		Args:    args(cobra.ExactArgs(1)),
		RunE: func(_ *cobra.Command, got []string) error {
			write, ok := formats()[format]
			if !ok {
				return usagef("--format %q: want text, json, benchstat or html", format)
			}
			report, err := bench.Load(got[0])
			if err != nil {
				return err
			}
			return write(a.out, report)
		},
	}
	c.Flags().StringVar(&format, "format", "text", "text, json, benchstat or html")
	return c
}

func formats() map[string]func(io.Writer, *bench.Report) error {
	return map[string]func(io.Writer, *bench.Report) error{
		"text": bench.Text, "json": bench.JSON, "benchstat": bench.Benchstat, "html": bench.HTML,
	}
}

func newCompareCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "compare OLD.json NEW.json", Short: "Compare two runs figure by figure",
		Long: "Compare two runs figure by figure. Two runs differ also by what else the machine did: trust the\n" +
			"ratios within each run, which are compared too, more than single figures.",
		Args: args(cobra.ExactArgs(2)),
		RunE: func(_ *cobra.Command, got []string) error {
			before, err := bench.Load(got[0])
			if err != nil {
				return err
			}
			after, err := bench.Load(got[1])
			if err != nil {
				return err
			}
			return bench.Compare(a.out, before, after)
		},
	}
}
