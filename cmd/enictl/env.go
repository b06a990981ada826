// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/eniplane/eniplane/loader"
	"github.com/eniplane/eniplane/pkg/compile"
)

// The exit codes of the contract.
const (
	exitDone   = 0
	exitError  = 1
	exitUsage  = 2
	exitDenied = 3 // of what asks whether a packet passes
)

// env is all that enictl takes from the process, so that tests run it in theirs.
type env struct {
	in       io.Reader
	out, err io.Writer
	getenv   func(string) string
	terminal bool // out is one
	now      func() time.Time
	open     func(dir string, readOnly bool) (pinnedMaps, error)
	teardown func(context.Context, loader.Options) error
	check    func(bpffs string) []feature
	caps     func(ports map[string]string) ([]loader.CapUse, error)
	traces   func(pinDir string, names compile.Names) (tracer, func() error, error)
}

// usageError is a mistake in the arguments.
type usageError struct{ error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// errReported ends a command whose output has said already what is wrong.
var errReported = errors.New("reported")

// run executes one command line and returns the exit code.
func run(ctx context.Context, e env, args []string) int {
	root := newRootCommand(&app{env: e})
	root.SetArgs(args)
	root.SetIn(e.in)
	root.SetOut(e.out)
	root.SetErr(e.err)
	cmd, err := root.ExecuteContextC(ctx)
	var status interface{ ExitCode() int }
	switch {
	case err == nil:
		return exitDone
	case errors.As(err, &status): // says it all: a denied probe, a command that was run
		return status.ExitCode()
	case errors.Is(err, errReported):
		return exitError
	case errors.As(err, &usageError{}):
		fmt.Fprintf(e.err, "Error: %v\nRun '%s --help' for usage.\n", err, cmd.CommandPath())
		return exitUsage
	case errors.Is(err, fs.ErrPermission):
		fmt.Fprintf(e.err, "Error: %v (this needs root)\n", err)
		return exitError
	default:
		fmt.Fprintf(e.err, "Error: %v\n", err)
		return exitError
	}
}

// args turns a mistake in the number of arguments into a usage error.
func args(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, got []string) error {
		if err := check(cmd, got); err != nil {
			return usageError{err}
		}
		return nil
	}
}

// group is a command that only holds others.
func group(use, short string, commands ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{
		Use: use, Short: short,
		Args: func(cmd *cobra.Command, got []string) error {
			if len(got) > 0 {
				return usagef("unknown command %q for %q", got[0], cmd.CommandPath())
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	c.AddCommand(commands...)
	return c
}

func isTerminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}
