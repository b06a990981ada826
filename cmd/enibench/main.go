// SPDX-License-Identifier: Apache-2.0

// Command enibench measures eniplane against what people use today, on one Linux machine, as root.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/eniplane/eniplane/bench/catalog"
	"github.com/eniplane/eniplane/bench/wire"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == wire.ToolCommand { // started by a scenario, inside a guest
		if err := wire.Tool(os.Args[2:], os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, "enibench:", err)
			os.Exit(1)
		}
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	code := run(ctx, &app{out: os.Stdout, err: os.Stderr, scenarios: catalog.Scenarios()}, os.Args[1:])
	stop()
	os.Exit(code)
}
