// SPDX-License-Identifier: Apache-2.0

// Command enictl inspects and explains eniplane on one host. Nouns read, verbs change. It reads the
// pinned maps and the state directory, so it works with the agent dead.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/eniplane/eniplane/loader"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	code := run(ctx, env{
		in: os.Stdin, out: os.Stdout, err: os.Stderr,
		getenv: os.Getenv, terminal: isTerminal(os.Stdout), now: time.Now,
		open: openPinned, teardown: loader.Teardown, check: checkFeatures, caps: loader.ReadCaps,
		traces: openTracer,
	}, os.Args[1:])
	stop()
	os.Exit(code)
}
