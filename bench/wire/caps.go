// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strconv"

	"github.com/eniplane/eniplane/bench"
	"github.com/eniplane/eniplane/bench/peer"
	"github.com/eniplane/eniplane/pkg/api"
)

// cappedOurs is eniplane with a cap for all ENIs, in one direction.
type cappedOurs struct {
	Ours
	mbps    int
	ingress bool
}

// Start implements peer.Subject.
func (c cappedOurs) Start(ctx context.Context, j *peer.Job) (peer.Running, error) {
	o := newOurs(j)
	err := o.open(ctx)
	if err == nil {
		var objects *api.Objects
		if objects, err = objectsOf(j, 0); err == nil {
			for _, e := range objects.ENIs {
				if c.ingress {
					e.Limits.IngressMbps = c.mbps
				} else {
					e.Limits.EgressMbps = c.mbps
				}
			}
			err = o.apply(ctx, objects)
		}
	}
	if err != nil {
		return nil, errors.Join(err, o.Close())
	}
	return o, nil
}

// The metrics of caps. A cap counts bytes of layer 2, iperf3 payload: the share is corrected for headers.
var (
	capMetric  = bench.Metric{Name: "share of the cap", Unit: "1", Better: bench.Higher}
	fairMetric = bench.Metric{Name: "slowest stream of its fair share", Unit: "1", Better: bench.Higher}
)

// capSource is who promises what a cap does.
const capSource = "issue 5"

// caps measures how exactly TCP gets what a cap in Mbit/s allows.
func caps(ctx context.Context, r *bench.Run) error {
	if _, err := exec.LookPath("iperf3"); err != nil {
		r.Missing("", nil, "iperf3 is not installed: deploy/install-deps.sh bench installs it")
		return nil
	}
	rates, streams, seconds := []int{10, 100, 1000}, []int{4}, 2
	switch r.Size {
	case bench.Tiny:
		rates, seconds = []int{100}, 0
	case bench.Full:
		streams, seconds = []int{1, 4}, 5
	}
	for _, ingress := range []bool{false, true} {
		for _, mbps := range rates {
			if ingress && r.Size == bench.Quick && mbps != 100 {
				continue
			}
			for _, n := range streams {
				if err := capOf(ctx, r, cappedOurs{mbps: mbps, ingress: ingress}, n, seconds); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func capOf(ctx context.Context, r *bench.Run, subject cappedOurs, streams, seconds int) (err error) {
	c, err := newRace(ctx, r, laneCase{lanePlan: lanePlan{across: true}, subjects: []peer.Subject{subject}})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	const headers, segment = 14 + 20 + 32, 1450 - 20 - 32 // of a segment behind the overlay's MTU
	values, err := c.inTurn(ctx, func(l *lane) ([]float64, error) {
		rates, err := l.iperfEach(ctx, streams, seconds)
		if err != nil {
			return nil, err
		}
		sum := 0.0
		for _, rate := range rates {
			sum += rate
		}
		share := sum * (headers + segment) / segment / float64(subject.mbps)
		return []float64{share, slices.Min(rates) * float64(streams) / sum}, nil
	})
	if err != nil {
		return err
	}
	params := bench.Params{"cap": strconv.Itoa(subject.mbps), "streams": strconv.Itoa(streams), "direction": "out"}
	if subject.ingress {
		params["direction"] = "in"
	}
	share := c.record(capMetric, params, values, 0, "", nil)[subject.Name()]
	r.Check(fmt.Sprintf("%s, at least (%s)", capMetric.Name, params), share, &bench.Goal{Limit: 0.95, Better: bench.Higher, Source: capSource})
	r.Check(fmt.Sprintf("%s, at most (%s)", capMetric.Name, params), share, &bench.Goal{Limit: 1.05, Better: bench.Lower, Source: capSource})
	if streams > 1 {
		slowest := c.record(fairMetric, params, values, 1, "", nil)[subject.Name()]
		r.Check(fmt.Sprintf("%s (%s)", fairMetric.Name, params), slowest, &bench.Goal{Limit: 0.5, Better: bench.Higher, Source: capSource})
	}
	return nil
}
