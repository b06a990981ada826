// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"context"
	"errors"
	"time"

	"github.com/eniplane/eniplane/bench/peer"
	"github.com/eniplane/eniplane/bench/wire/frames"
)

// floor is the least that a path can do: a program that only drops, or only sends on, in one direction.
type floor struct {
	hook     frames.Hook
	redirect bool
	kind     kind
	dir      direction
}

// Name implements peer.Subject.
func (f floor) Name() string {
	name := "floor-xdp"
	if f.hook == frames.TC {
		name = "floor-tc"
	}
	if f.redirect {
		return name + "-redirect"
	}
	return name + "-drop"
}

// floored is a floor at work.
type floored struct {
	job       *peer.Job
	attached  *frames.Attached
	redirects bool // else packets end at the floor itself
}

// Start implements peer.Subject. It finds its devices by the names in the job.
func (f floor) Start(_ context.Context, j *peer.Job) (peer.Running, error) {
	uplink, err := peer.Index(j.Host, j.Uplink.Name)
	if err != nil {
		return nil, err
	}
	var ports []int
	for _, e := range j.ENIs {
		p, err := peer.Index(j.Host, e.Port.Name)
		if err != nil {
			return nil, err
		}
		ports = append(ports, p)
	}
	from, to := []int{uplink}, ports
	if f.dir == out {
		from, to = ports, []int{uplink}
	}
	r := &floored{job: j, redirects: f.redirect}
	return r, j.Host.Do(func() (err error) {
		if !f.redirect {
			r.attached, err = frames.NewDropper(f.hook, f.measuredPort(), from)
			return err
		}
		r.attached, err = frames.NewRedirector(f.hook, from, to, f.choice())
		return err
	})
}

// measuredPort is the port of packets as they are on the way, with what is around them.
func (f floor) measuredPort() uint16 {
	if f.kind.overlay && f.dir == in {
		return vxlanPort
	}
	return servicePort
}

// choice is where the address of the ENI is in a packet that comes in.
func (f floor) choice() frames.Choice {
	site := site{plan: plan{enis: 1, flows: 1, remotes: 1}}
	flows := site.flowsOf(f.kind, f.dir)
	return frames.Choice{Offset: flows.ENIOffset(), Base: flows.ENI.Addr}
}

// CPUTime implements peer.Running.
func (*floored) CPUTime() (time.Duration, error) { return 0, nil }

// Close implements peer.Running.
func (r *floored) Close() error {
	if r.attached == nil {
		return errors.New("take a floor off: it is not attached")
	}
	return r.job.Host.Do(r.attached.Close)
}
