// SPDX-License-Identifier: Apache-2.0

// Command enibench measures eniplane against what people use today, on one Linux machine, as root.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/eniplane/eniplane/bench/catalog"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	code := run(ctx, &app{out: os.Stdout, err: os.Stderr, scenarios: catalog.Scenarios()}, os.Args[1:])
	stop()
	os.Exit(code)
}
