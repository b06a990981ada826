// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"net/netip"

	"github.com/eniplane/eniplane/pkg/compile"
	"github.com/eniplane/eniplane/pkg/dataplane"
)

// identity is what makes two readings the same flow.
type identity struct {
	eni, incarnation uint32
	protocol, origin string
	local, remote    netip.AddrPort
}

func identify(x *dataplane.Flow) identity {
	return identity{x.ENI, x.Incarnation, x.Protocol, x.Origin, x.Local, x.Remote}
}

// flowFlush names the flows that pass the filter, asks, and ends those: none that came after.
func (a *app) flowFlush(f *flowFilter, all, yes bool) error {
	if f.empty() != all {
		return usagef("say which flows: with filters, or --all for all flows of the host")
	}
	return a.withMaps(false, func(m pinnedMaps, names compile.Names) error {
		if err := f.resolve(names); err != nil {
			return err
		}
		flows, err := readFlows(m, names, f.match)
		if err != nil {
			return err
		}
		if err := a.print(flowRows(flows)); err != nil || len(flows) == 0 {
			return err
		}
		if !yes {
			if err := a.confirm(fmt.Sprintf("Delete these %d flows? Their TCP connections end.", len(flows))); err != nil {
				return err
			}
		}
		named := make(map[identity]bool, len(flows))
		for i := range flows {
			named[identify(&flows[i].Flow)] = true
		}
		ended, err := m.EndFlows(func(x dataplane.Flow) bool { return named[identify(&x)] })
		fmt.Fprintf(a.err, "%d of %d flows deleted\n", ended, len(flows))
		return err
	})
}
