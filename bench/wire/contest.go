// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/eniplane/eniplane/bench"
	"github.com/eniplane/eniplane/bench/peer"
	"github.com/eniplane/eniplane/bench/wire/frames"
)

// The metrics of packet rates.
var (
	rateMetric     = bench.Metric{Name: "rate", Unit: "packets/s", Better: bench.Higher}
	perCPUMetric   = bench.Metric{Name: "rate per CPU", Unit: "packets/s", Better: bench.Higher}
	costMetric     = bench.Metric{Name: "cost", Unit: "ns/packet", Better: bench.Lower}
	aboveMetric    = bench.Metric{Name: "cost above floor", Unit: "ns/packet", Better: bench.Lower}
	zeroLossMetric = bench.Metric{Name: "zero-loss rate", Unit: "packets/s", Better: bench.Higher}
	lossMetric     = bench.Metric{Name: "loss", Unit: "share", Better: bench.Lower}
)

// goals is where goals come from.
const goals = "issue 4"

func atLeast(limit float64) *bench.Goal {
	return &bench.Goal{Limit: limit, Better: bench.Higher, Source: goals}
}

func atMost(limit float64) *bench.Goal {
	return &bench.Goal{Limit: limit, Better: bench.Lower, Source: goals}
}

// entrant is a subject in a contest, at work on a site of its own.
type entrant struct {
	name    string
	site    *site
	traffic *traffic
	at      counter // where its packets end; nil = at the sink of the direction
	fresh   time.Time
	shots   []shot
}

// freshFor is how long flows stay as they were opened: conntrack forgets UDP after 30 s, and then knows it one-way only.
// Open vSwitch forgets it after 60.
const (
	freshFor        = 15 * time.Second
	freshForProcess = 45 * time.Second
)

// refresh opens all flows if that is long ago.
func (e *entrant) refresh(ctx context.Context) error {
	limit := freshFor
	if e.traffic.process {
		limit = freshForProcess
	}
	if _, bare := e.site.running.(*floored); bare || e.site.closed || time.Since(e.fresh) < limit {
		return nil // a floor knows no flows
	}
	if err := e.traffic.establish(ctx); err != nil {
		return fmt.Errorf("%s: %w%s", e.name, err, e.why())
	}
	e.fresh = time.Now()
	return nil
}

// contest is several subjects that do the same job, measured in turn.
type contest struct {
	run      *bench.Run
	plan     plan
	kind     kind
	entrants []*entrant
	gone     []*entrant // who failed on the way
}

// newContest puts all subjects to work. Who cannot do the job here is reported and left out, unless it is us.
func newContest(ctx context.Context, r *bench.Run, p plan, k kind, subjects []peer.Subject) (_ *contest, err error) {
	c := &contest{run: r, plan: p, kind: k}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.Close())
		}
	}()
	if err := sweep(); err != nil {
		return nil, err
	}
	for _, subject := range subjects {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		err := c.enter(ctx, subject)
		var unable *peer.Unable
		if errors.As(err, &unable) {
			r.Missing(subject.Name(), c.params(), "%s", unable.Reason)
			continue
		}
		if n := len(c.entrants); err != nil && n > 0 && c.entrants[n-1].name == subject.Name() && c.entrants[n-1].isProcess() && ctx.Err() == nil {
			c.drop(c.entrants[n-1], err)
			continue
		}
		if err != nil {
			return nil, err
		}
	}
	return c, nil
}

// isProcess tells whether a subject at work moves packets by a process.
func (e *entrant) isProcess() bool { return e.traffic != nil && e.traffic.process }

// enter puts one subject to work and opens all flows.
func (c *contest) enter(ctx context.Context, subject peer.Subject) error {
	s, err := newSite(ctx, c.plan, subject)
	if err != nil {
		return err
	}
	e := &entrant{name: subject.Name(), site: s}
	c.entrants = append(c.entrants, e)
	if e.traffic, err = newTraffic(s, c.kind, c.run.CPU); err != nil {
		return err
	}
	if f, ok := s.running.(*floored); ok && !f.redirects {
		e.at = f.attached
	}
	return e.refresh(ctx)
}

// why says what our counters know about packets that did not arrive.
func (e *entrant) why() string {
	o, ok := e.site.running.(*ours)
	if !ok {
		return ""
	}
	reasons, err := o.reasons()
	return fmt.Sprintf(" (counters: %v %v)", reasons, err)
}

// Close ends the contest and removes all sites.
func (c *contest) Close() error {
	var errs []error
	for _, e := range slices.Backward(append(c.entrants, c.gone...)) {
		if e.traffic != nil {
			errs = append(errs, e.traffic.Close())
		}
		errs = append(errs, e.site.Close())
	}
	c.entrants, c.gone = nil, nil
	return errors.Join(errs...)
}

// params are the conditions.
func (c *contest) params() bench.Params {
	p := bench.Params{
		"enis": fmt.Sprint(c.plan.enis), "flows": fmt.Sprint(c.plan.flows), "rules": fmt.Sprint(max(c.plan.rules, 1)),
		"family": fmt.Sprint(int(c.kind.family)),
	}
	if c.kind.size > 0 {
		p["frame"] = fmt.Sprint(c.kind.size)
	}
	return p
}

// inTurn lets all send as fast as it goes, round by round, every second round in reverse, after one that does not count.
func (c *contest) inTurn(ctx context.Context, d direction, packets uint64) error {
	return c.rounds(ctx, func(e *entrant) (shot, error) {
		if err := e.refresh(ctx); err != nil {
			return shot{}, err
		}
		return e.traffic.send(ctx, d, c.batch(e.traffic.few(packets)), e.at)
	})
}

// few makes fewer of packets that processes move, a hundred times slower.
func (t *traffic) few(packets uint64) uint64 {
	if t.process {
		return packets / 10
	}
	return packets
}

// batch is so many packets over all flows, but each flow at least once.
func (c *contest) batch(packets uint64) frames.Batch {
	return frames.Batch{Flows: c.plan.flows, Packets: max(packets, uint64(c.plan.flows)), Seed: uint32(c.run.Seed)}
}

func (c *contest) rounds(ctx context.Context, shoot func(*entrant) (shot, error)) error {
	order := slices.Clone(c.entrants)
	for _, e := range order {
		e.shots = nil
	}
	for round := range c.run.Repeats + 1 {
		for _, e := range order {
			if err := ctx.Err(); err != nil {
				return err
			}
			s, err := shoot(e)
			if err != nil && e.traffic.process && ctx.Err() == nil {
				c.drop(e, err)
				continue
			}
			if err != nil {
				return fmt.Errorf("measure %s: %w", e.name, err)
			}
			if round > 0 {
				e.shots = append(e.shots, s)
			}
		}
		order = slices.DeleteFunc(order, func(e *entrant) bool { return slices.Contains(c.gone, e) })
		slices.Reverse(order)
	}
	return nil
}

// drop leaves out a process that fails: it may have got no CPU in time, which says nothing about the others.
func (c *contest) drop(e *entrant, err error) {
	c.run.Missing(e.name, c.params(), "it failed: %v", err)
	c.gone = append(c.gone, e)
	c.entrants = slices.DeleteFunc(c.entrants, func(other *entrant) bool { return other == e })
}

// find is the entrant of a name; nil if it could not enter.
func (c *contest) find(name string) *entrant {
	for _, e := range c.entrants {
		if e.name == name {
			return e
		}
	}
	return nil
}

// values applies a figure to all rounds.
func (e *entrant) values(of func(shot) float64) []float64 {
	values := make([]float64, len(e.shots))
	for i, s := range e.shots {
		values[i] = of(s)
	}
	return values
}

// record keeps the figures of all entrants and returns the results by metric and subject.
func (c *contest) record(params bench.Params) map[string]map[string]*bench.Result {
	results := map[string]map[string]*bench.Result{}
	for _, m := range []struct {
		metric bench.Metric
		of     func(shot) float64
	}{{rateMetric, shot.rate}, {costMetric, shot.cost}, {perCPUMetric, func(s shot) float64 { return 1e9 / s.cost() }}} {
		results[m.metric.Name] = map[string]*bench.Result{}
		for _, e := range c.entrants {
			results[m.metric.Name][e.name] = c.run.Record(bench.Result{Subject: e.name, Params: params, Metric: m.metric, Values: e.values(m.of)})
		}
	}
	for _, e := range c.entrants {
		if lost := e.values(shot.lost); slices.Max(lost) > 0 {
			c.run.Record(bench.Result{Subject: e.name, Params: params, Metric: lossMetric, Values: lost})
		}
	}
	return results
}

// above records what packets cost more than at a floor of the same rounds.
func (c *contest) above(floor string, params bench.Params) map[string]*bench.Result {
	results := map[string]*bench.Result{}
	ground := c.find(floor)
	if ground == nil {
		return results
	}
	base := bench.Median(ground.values(shot.cost))
	for _, e := range c.entrants {
		if e == ground {
			continue
		}
		values := e.values(func(s shot) float64 { return s.cost() - base })
		results[e.name] = c.run.Record(bench.Result{Subject: e.name, Params: params, Metric: aboveMetric, Values: values})
	}
	return results
}

// ratio records what our result is of another's, if both are there.
func (c *contest) ratio(of map[string]*bench.Result, to string, goal *bench.Goal) {
	if of[bench.Ours] == nil || of[to] == nil {
		return
	}
	c.run.Ratio(fmt.Sprintf("%s, %s / %s (%s)", of[to].Metric.Name, bench.Ours, to, of[to].Params), of[bench.Ours], of[to], goal)
}
