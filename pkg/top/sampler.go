// SPDX-License-Identifier: Apache-2.0

// Package top shows the load of the ENIs of a host, again and again: who sends and receives how much, what is dropped and
// why, who opens connections. All of it is read from the maps (Sampler); the screen is that of a terminal (Screen).
package top

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/eniplane/eniplane/pkg/compile"
	"github.com/eniplane/eniplane/pkg/dataplane"
	"github.com/eniplane/eniplane/pkg/dataplane/flowtable"
)

// Maps are the maps of the host, as dataplane.Maps reads them.
type Maps interface {
	Counters(fn func(dataplane.Counter) bool, enis ...uint32) error
	Flows(fn func(dataplane.Flow) bool) error
	FlowQuota() (*dataplane.FlowQuota, error)
	RuleHits(id uint32) (uint64, error)
}

// Rate is what crosses a port in one direction, whatever becomes of it.
type Rate struct {
	Packets float64 `json:"packetsPerSecond"`
	Bits    float64 `json:"bitsPerSecond"`
}

// Load is that of one ENI since the last look.
type Load struct {
	ENI   string `json:"eni"`
	Index uint32 `json:"index"`
	Out   Rate   `json:"out"`
	In    Rate   `json:"in"`
	// Drops is the rate of dropped packets of both directions, Why the reason and direction of most of them.
	Drops  float64 `json:"dropsPerSecond"`
	Why    string  `json:"why,omitempty"`
	Opened float64 `json:"newFlowsPerSecond"` // connections that are known still
	Flows  uint32  `json:"flows"`
	Limit  uint32  `json:"flowLimit"`
}

// View is what one look has found.
type View struct {
	At    time.Time     `json:"at"`
	Since time.Duration `json:"sinceNanoseconds"` // the last look
	Flows uint32        `json:"flows"`
	Max   uint32        `json:"maxFlows"`
	Loads []Load        `json:"enis"` // by index; first the host itself, for packets of no ENI
	// Detail is about the ENI that is watched (Watched, 0 = none), nil if it is gone.
	Detail  *Detail `json:"-"`
	Watched uint32  `json:"-"`
}

// Detail is what one ENI's load is made of.
type Detail struct {
	Load
	Reasons []ReasonLoad
	Flows   []FlowLoad // those with most traffic first, at most maxShown
	Known   int        // how many flows it has
	Partly  bool       // too many to remember: no rates of single flows
	Rules   []RuleLoad // those that let its flows pass
}

// ReasonLoad is how much left an ENI in a direction by one reason.
type ReasonLoad struct {
	Direction dataplane.Direction
	Reason    dataplane.Reason
	Rate      float64 // packets per second
	Packets   uint64
}

// FlowLoad is a connection and its traffic.
type FlowLoad struct {
	dataplane.Flow
	Rule    string
	Out, In Rate
}

// RuleLoad is a rule of a security group with the connections of the ENI that it has let pass.
type RuleLoad struct {
	Rule  string
	Flows int
	Hits  uint64  // connections that it has decided on this host, of all ENIs
	Rate  float64 // of hits
}

const (
	maxShown      = 500    // flows of a Detail
	maxRemembered = 50_000 // flows whose last counters are kept for the next look: some 10 MB
)

// Sampler turns counters into rates. It is for one goroutine.
type Sampler struct {
	now  func() time.Time
	tick func() (uint32, error) // of the flow clock

	last     reading
	lastHits map[uint32]uint64
}

// reading is what is kept of one look for the next one.
type reading struct {
	at       time.Time
	tick     uint32
	counters map[counterKey]amount
	watched  uint32
	flows    map[flowKey]traffic
}

type counterKey struct {
	eni       uint32
	direction dataplane.Direction
	reason    dataplane.Reason
}

type amount struct{ packets, bytes uint64 }

type flowKey struct {
	protocol, origin string
	local, remote    string
	incarnation      uint32
}

type traffic struct{ out, in amount }

// NewSampler makes a sampler that has not looked yet.
func NewSampler() *Sampler { return &Sampler{now: time.Now, tick: flowtable.Now} }

// Look reads the maps. Watch is the index of the ENI that Detail shall be about, 0 = none. The first look has no rates.
func (s *Sampler) Look(m Maps, names compile.Names, watch uint32) (*View, error) {
	now := reading{at: s.now(), counters: map[counterKey]amount{}, watched: watch}
	var err error
	if now.tick, err = s.tick(); err != nil {
		return nil, err
	}
	quota, err := m.FlowQuota()
	if err != nil {
		return nil, err
	}
	if err := m.Counters(func(c dataplane.Counter) bool {
		now.counters[counterKey{c.ENI, c.Direction, c.Reason}] = amount{c.Packets, c.Bytes}
		return true
	}); err != nil {
		return nil, err
	}
	l := look{Sampler: s, now: &now, names: names, opened: map[uint32]int{}}
	if err := m.Flows(l.flow); err != nil {
		return nil, err
	}
	v := &View{At: now.at, Flows: quota.Flows, Max: quota.Max, Watched: watch}
	if !s.last.at.IsZero() {
		v.Since = now.at.Sub(s.last.at)
	}
	v.Loads = l.loads(quota)
	if watch != 0 {
		if v.Detail, err = l.detail(m, v.Loads); err != nil {
			return nil, err
		}
	}
	s.last = now
	return v, nil
}

// look is one in the making.
type look struct {
	*Sampler
	now     *reading
	names   compile.Names
	opened  map[uint32]int // flows since the last look, by ENI
	watched []FlowLoad
}

// flow takes one into account.
func (l *look) flow(f dataplane.Flow) bool {
	// In whole ticks, in which flows are dated: those of a tick belong to one look.
	if f.Age < flowtable.Ticks(l.now.tick-l.last.tick) {
		l.opened[f.ENI]++
	}
	if l.now.watched != 0 && f.ENI == l.now.watched {
		l.watched = append(l.watched, FlowLoad{Flow: f, Rule: l.names.Rule(f.Rule)})
	}
	return true
}

// perSecond is a rate since the last look; counters that were cleared meanwhile begin at 0.
func (l *look) perSecond(now, last uint64) float64 {
	if l.last.at.IsZero() || now < last {
		return 0
	}
	return float64(now-last) / l.now.at.Sub(l.last.at).Seconds()
}

func (l *look) rate(now, last amount) Rate {
	return Rate{Packets: l.perSecond(now.packets, last.packets), Bits: 8 * l.perSecond(now.bytes, last.bytes)}
}

func (l *look) loads(quota *dataplane.FlowQuota) []Load {
	loads := []Load{{ENI: "(host)"}}
	at := map[uint32]int{0: 0}
	for _, e := range quota.ENIs {
		at[e.ENI] = len(loads)
		name := l.names.ENIs[e.ENI]
		if name == "" {
			name = fmt.Sprintf("#%d", e.ENI)
		}
		loads = append(loads, Load{ENI: name, Index: e.ENI, Flows: e.Flows, Limit: e.Limit})
	}
	worst := map[uint32]float64{}
	keys := make([]counterKey, 0, len(l.now.counters))
	for k := range l.now.counters {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, compareKeys) // so that of equal reasons always the same is named
	for _, k := range keys {
		i, known := at[k.eni]
		if !known {
			continue
		}
		load, rate := &loads[i], l.rate(l.now.counters[k], l.last.counters[k])
		switch {
		case k.reason == dataplane.ReasonContinue && k.direction == dataplane.Out:
			load.Out = rate
		case k.reason == dataplane.ReasonContinue:
			load.In = rate
		case k.reason.IsDrop():
			load.Drops += rate.Packets
			if rate.Packets > worst[k.eni] {
				worst[k.eni], load.Why = rate.Packets, k.reason.String()+" "+k.direction.String()
			}
		}
	}
	if ticks := l.now.tick - l.last.tick; !l.last.at.IsZero() && ticks > 0 {
		for eni, n := range l.opened {
			if i, known := at[eni]; known {
				loads[i].Opened = float64(n) / flowtable.Ticks(ticks).Seconds()
			}
		}
	}
	return loads
}

func compareKeys(x, y counterKey) int {
	return cmp.Or(cmp.Compare(x.eni, y.eni), cmp.Compare(x.direction, y.direction), cmp.Compare(x.reason, y.reason))
}

// detail is nil if the watched ENI is not there.
func (l *look) detail(m Maps, loads []Load) (*Detail, error) {
	i := slices.IndexFunc(loads, func(load Load) bool { return load.Index == l.now.watched })
	if i < 0 {
		return nil, nil
	}
	d := &Detail{Load: loads[i], Known: len(l.watched)}
	for k, a := range l.now.counters {
		if k.eni == l.now.watched && k.reason != dataplane.ReasonContinue {
			d.Reasons = append(d.Reasons, ReasonLoad{k.direction, k.reason, l.perSecond(a.packets, l.last.counters[k].packets), a.packets})
		}
	}
	slices.SortFunc(d.Reasons, func(x, y ReasonLoad) int {
		return cmp.Or(cmp.Compare(y.Rate, x.Rate), cmp.Compare(y.Packets, x.Packets), cmp.Compare(x.Direction, y.Direction), cmp.Compare(x.Reason, y.Reason))
	})
	l.flowRates(d)
	return d, l.rules(m, d)
}

// flowRates finds the flows with most traffic.
func (l *look) flowRates(d *Detail) {
	if d.Partly = len(l.watched) > maxRemembered; !d.Partly {
		l.now.flows = make(map[flowKey]traffic, len(l.watched))
	}
	for i := range l.watched {
		f := &l.watched[i]
		now := traffic{amount{f.PacketsOut, f.BytesOut}, amount{f.PacketsIn, f.BytesIn}}
		if d.Partly {
			continue
		}
		key := flowKey{f.Protocol, f.Origin, f.Local.String(), f.Remote.String(), f.Incarnation}
		l.now.flows[key] = now
		last, known := l.last.flows[key]
		// One that is not known has come since the last look, if that was about this ENI.
		if l.last.watched == l.now.watched && l.last.flows != nil && (known || f.Age <= flowtable.Ticks(l.now.tick-l.last.tick)) {
			f.Out, f.In = l.rate(now.out, last.out), l.rate(now.in, last.in)
		}
	}
	total := func(f *FlowLoad) uint64 { return f.BytesOut + f.BytesIn }
	slices.SortFunc(l.watched, func(x, y FlowLoad) int {
		return cmp.Or(cmp.Compare(y.Out.Bits+y.In.Bits, x.Out.Bits+x.In.Bits), cmp.Compare(total(&y), total(&x)),
			strings.Compare(x.Protocol, y.Protocol), x.Local.Compare(y.Local), x.Remote.Compare(y.Remote), strings.Compare(x.Origin, y.Origin))
	})
	d.Flows = l.watched[:min(len(l.watched), maxShown)]
}

// rules sums the flows of the ENI up by the rule that let them pass.
func (l *look) rules(m Maps, d *Detail) error {
	flows := map[uint32]int{}
	for i := range l.watched {
		if id := l.watched[i].Flow.Rule; id != 0 {
			flows[id]++
		}
	}
	hits := make(map[uint32]uint64, len(flows))
	for id, n := range flows {
		var err error
		if hits[id], err = m.RuleHits(id); err != nil {
			return err
		}
		r := RuleLoad{Rule: l.names.Rule(id), Flows: n, Hits: hits[id]}
		if last, known := l.lastHits[id]; known {
			r.Rate = l.perSecond(hits[id], last)
		}
		d.Rules = append(d.Rules, r)
	}
	l.lastHits = hits
	slices.SortFunc(d.Rules, func(x, y RuleLoad) int {
		return cmp.Or(cmp.Compare(y.Flows, x.Flows), strings.Compare(x.Rule, y.Rule))
	})
	return nil
}
