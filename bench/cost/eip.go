// SPDX-License-Identifier: Apache-2.0

package cost

import (
	"context"
	"fmt"

	"github.com/eniplane/eniplane/bench"
	"github.com/eniplane/eniplane/bench/region"
	"github.com/eniplane/eniplane/pkg/dataplane"
	"github.com/eniplane/eniplane/pkg/pkttest"
)

// promised is a goal of issue 5.
func promised(limit float64) *bench.Goal {
	return &bench.Goal{Limit: limit, Better: bench.Lower, Source: "issue 5"}
}

// eipAdds holds packets of known flows with the internet against those with another host, which no EIP translates. What
// comes in by an EIP is found by the uplink's program, which passes on what comes by the overlay; so the EIP is charged
// with that, too. What goes out has no outer headers to write, which the overlay is charged with.
func eipAdds(ctx context.Context, r *bench.Run) error {
	cases := []region.Case{{Name: "base", Locals: 1, EIPs: true, Endpoints: 1}}
	limits := map[dataplane.Direction]float64{dataplane.Out: 30, dataplane.In: 60}
	return OnHost(ctx, r, cases, 1<<16, func(b *Bench) error {
		var probes []probe
		for _, family := range pkttest.Families() {
			for _, tcp := range []bool{false, true} {
				for _, dir := range []dataplane.Direction{dataplane.Out, dataplane.In} {
					for _, peer := range []Peer{Overlay, Internet} {
						t := Traffic{Peer: peer, Family: family, TCP: tcp, Flows: 1024}
						probes = append(probes, probe{traffic: t, opener: dataplane.Out, dir: dir})
					}
				}
			}
		}
		results, err := b.play(probes)
		if err != nil {
			return err
		}
		for i := 0; i < len(results); i += 2 {
			without, with := results[i], results[i+1]
			name := fmt.Sprintf("%s %s %s", with.Params["direction"], with.Params["family"], with.Params["protocol"])
			b.Check("added by an EIP, "+name, b.Added(with, without), promised(limits[probes[i].dir]))
			b.Ratio("with an EIP / by the overlay, "+name, with, without, nil)
		}
		return nil
	})
}
