// SPDX-License-Identifier: Apache-2.0

// Command enibench runs benchmarks, as root:
//
//	enibench flowtable [-rounds N] [-steps N]
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"

	flowbench "github.com/eniplane/eniplane/bench/flowtable"
)

const usage = `enibench runs eniplane's benchmarks, as root.

Usage:
  enibench flowtable [-rounds N] [-steps N]   the flow table against a kernel hash, in ns per operation
`

func main() {
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

// run is enibench with its surroundings injected. It returns the exit code: 1 for an error, 2 for a wrong usage.
func run(args []string, stdout, stderr io.Writer) int {
	if len(args) == 1 && (args[0] == "-h" || args[0] == "--help" || args[0] == "help") {
		fmt.Fprint(stdout, usage)
		return 0
	}
	if len(args) == 0 || args[0] != "flowtable" {
		fmt.Fprint(stderr, usage)
		return 2
	}
	fs := flag.NewFlagSet("enibench flowtable", flag.ContinueOnError)
	fs.SetOutput(stderr)
	rounds := fs.Uint("rounds", 7, "how often each program runs")
	steps := fs.Uint("steps", 1<<20, "operations per run")
	switch err := fs.Parse(args[1:]); {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil || fs.NArg() > 0 || *rounds == 0 || *steps == 0 || *steps > 1<<30:
		fmt.Fprint(stderr, usage)
		return 2
	}
	if err := flowbench.Run(stdout, int(*rounds), uint32(*steps)); err != nil {
		fmt.Fprintln(stderr, "enibench:", err)
		return 1
	}
	return 0
}
