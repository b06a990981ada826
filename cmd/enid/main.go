// SPDX-License-Identifier: Apache-2.0

// Command enid is the eniplane agent of one host: it fills the maps from the feed. What it brought
// into force stays in force when it ends, however it ends.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/pflag"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr, os.Getenv)
	stop()
	os.Exit(code)
}

// run is enid with its surroundings injected. It returns the exit code: 0 after a signal, 1 if it
// could not start, 2 for a mistake in the arguments or the file.
func run(ctx context.Context, args []string, stdout, stderr io.Writer, getenv func(string) string) int {
	cfg, err := parseConfig(args, stdout)
	if errors.Is(err, pflag.ErrHelp) {
		return 0
	}
	if err == nil {
		var log *slog.Logger
		if log, err = newLogger(stderr, getenv("ENID_LOG")); err == nil {
			err = serve(ctx, cfg, log)
		}
	}
	switch {
	case err == nil:
		return 0
	case errors.As(err, &usageError{}):
		fmt.Fprintf(stderr, "enid: %v\nRun 'enid --help' for usage.\n", err)
		return 2
	case errors.Is(err, fs.ErrPermission):
		fmt.Fprintf(stderr, "enid: %v (enid needs root)\n", err)
		return 1
	default:
		fmt.Fprintf(stderr, "enid: %v\n", err)
		return 1
	}
}

// newLogger makes the logger that ENID_LOG asks for: text (the default) or json.
func newLogger(w io.Writer, format string) (*slog.Logger, error) {
	switch format {
	case "", "text":
		return slog.New(slog.NewTextHandler(w, nil)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, nil)), nil
	}
	return nil, usageError{fmt.Errorf("ENID_LOG=%q: want text or json", format)}
}
