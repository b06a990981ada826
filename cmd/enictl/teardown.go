// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/eniplane/eniplane/loader"
	"github.com/eniplane/eniplane/pkg/dataplane"
)

func newTeardownCommand(a *app) *cobra.Command {
	var yes bool
	c := &cobra.Command{
		Use: "teardown", Short: "Remove everything of eniplane from this host",
		Long: "Remove everything of eniplane from this host: programs, maps and their pins, guards, the VXLAN\n" +
			"device, and the host's state directory. Its ENIs stop passing packets. Run it in the host's\n" +
			"network namespace, with the agent stopped.",
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error { return a.teardownHost(cmd.Context(), yes) },
	}
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return c
}

func (a *app) teardownHost(ctx context.Context, yes bool) error {
	host, err := a.oneHost()
	if err != nil {
		return err
	}
	pins, state := dataplane.PinDir(a.bpffs, host), dataplane.HostStateDir(a.stateDir, host)
	if !yes {
		question := fmt.Sprintf("Remove the dataplane of host %s (pins in %s, state in %s)? "+
			"Its ENIs stop passing packets.", host, pins, state)
		if err := a.confirm(question); err != nil {
			return err
		}
	}
	err = a.teardown(ctx, loader.Options{Host: host, BPFFS: a.bpffs, StateDir: a.stateDir})
	if errors.Is(err, loader.ErrNothing) { // a second run is no mistake, a wrong name is: say what was found
		fmt.Fprintln(a.err, err)
		return nil
	}
	if err != nil {
		return err
	}
	if err := os.RemoveAll(state); err != nil {
		return fmt.Errorf("remove the state of host %s: %w", host, err)
	}
	fmt.Fprintf(a.err, "host %s is clean\n", host)
	return nil
}

// confirm asks on the terminal and wants a yes.
func (a *app) confirm(question string) error {
	fmt.Fprintf(a.err, "%s [y/N] ", question)
	answer, err := bufio.NewReader(a.in).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("read the answer: %w", err)
	}
	switch strings.ToLower(strings.TrimSpace(answer)) {
	case "y", "yes":
		return nil
	}
	return errors.New("nothing was changed: not confirmed (--yes does not ask)")
}
