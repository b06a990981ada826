// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/eniplane/eniplane/bench"
	"github.com/eniplane/eniplane/bench/peer"
	"github.com/eniplane/eniplane/bench/wire/frames"
	"github.com/eniplane/eniplane/pkg/api"
)

// effectMetric is the time from the command, or the mark in the feed, to the first packet that passes.
var effectMetric = bench.Metric{Name: "change to effect", Unit: "ms", Better: bench.Lower}

// editor changes the policy of a subject: the port of the probe is opened or closed, by one element or by all of them.
// What can be written before is prepared; commit is what counts.
type editor interface {
	prepare(open, whole bool) error
	commit(ctx context.Context) error
}

// prepare implements editor: eniplane's feed knows whole groups only.
func (f *fed) prepare(open, _ bool) error {
	if open {
		return f.stage(deniedPort)
	}
	return f.stage(0)
}

func (f *fed) commit(context.Context) error { return f.mark() }

// direct is eniplane without feed and agent: compiler and loader, as what remains if a feed costs nothing.
type direct struct{ Ours }

// Name implements peer.Subject.
func (direct) Name() string { return bench.Ours + "-without-feed" }

// directEditor edits objects in memory.
type directEditor struct {
	*ours
	objects *api.Objects
}

func (d *directEditor) prepare(open, _ bool) (err error) {
	port := uint16(0)
	if open {
		port = deniedPort
	}
	d.objects, err = objectsOf(d.job, port)
	return err
}

func (d *directEditor) commit(ctx context.Context) error { return d.apply(ctx, d.objects) }

// nftEditor edits by nft: an element of the set, or the whole set in one transaction.
type nftEditor struct {
	job     *peer.Job
	command []string
}

func (n *nftEditor) prepare(open, whole bool) error {
	element := fmt.Sprintf("%s . udp . %d", n.job.Clients[0], deniedPort)
	if !whole {
		verb := "delete"
		if open {
			verb = "add"
		}
		n.command = []string{"nft", verb, "element", "ip", peer.Table, peer.Set, "{ " + element + " }"}
		return nil
	}
	elements := peer.Allowed(n.job, peer.V4)
	if open {
		elements = append(elements, element)
	}
	text := fmt.Sprintf("flush set ip %s %s\nadd element ip %s %s { %s }\n", peer.Table, peer.Set, peer.Table, peer.Set, strings.Join(elements, ", "))
	file := filepath.Join(n.job.Dir, "policy.nft")
	n.command = []string{"nft", "-f", file}
	return save(file, text)
}

func (n *nftEditor) commit(ctx context.Context) error {
	_, err := peer.Run(ctx, n.job.Host, "", n.command...)
	return err
}

// iptablesEditor edits by iptables: one rule, or the whole rule set.
type iptablesEditor struct {
	job     *peer.Job
	command []string
}

func (n *iptablesEditor) prepare(open, whole bool) error {
	rule := fmt.Sprintf("-s %s -p udp --dport %d -j ACCEPT", n.job.Clients[0], deniedPort)
	if !whole {
		verb := "-D"
		if open {
			verb = "-A"
		}
		program := strings.TrimSuffix(peer.Restorer(peer.V4), "-restore")
		n.command = append([]string{program, "-w", verb, "FORWARD"}, strings.Fields(rule)...)
		return nil
	}
	text := peer.IPTables{}.Text(n.job, peer.V4)
	if open {
		text = strings.TrimSuffix(text, "COMMIT\n") + "-A FORWARD " + rule + "\nCOMMIT\n"
	}
	file := filepath.Join(n.job.Dir, "policy.iptables")
	n.command = []string{peer.Restorer(peer.V4), "-w", "10", file}
	return save(file, text)
}

func (n *iptablesEditor) commit(ctx context.Context) error {
	_, err := peer.Run(ctx, n.job.Host, "", n.command...)
	return err
}

func save(file, text string) error {
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		return fmt.Errorf("write a policy: %w", err)
	}
	return nil
}

// probeRate is how often the policy is tried: what is found is not finer than this.
const probeRate = 50_000

// updates measures how long a change of policy takes to have effect, while packets try all the time.
func updates(ctx context.Context, r *bench.Run) error {
	sizes := []int{rulesUsual, 1000 - 2}
	switch r.Size {
	case bench.Tiny:
		sizes = []int{10}
	case bench.Full:
		sizes = []int{1, rulesUsual, 1000 - 2}
	}
	for _, rules := range sizes {
		if err := updatesOf(ctx, r, plan{enis: 1, flows: 64, rules: rules, closed: true}); err != nil {
			return err
		}
	}
	return nil
}

func updatesOf(ctx context.Context, r *bench.Run, p plan) (err error) {
	k := kind{family: peer.V4, protocol: frames.UDP, port: deniedPort}
	c, err := newContest(ctx, r, p, k, []peer.Subject{fedOurs{}, direct{}, peer.NFTables{}, peer.IPTables{}})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	for _, whole := range []bool{false, true} {
		values, turn := map[*entrant][]float64{}, 0
		err := c.rounds(ctx, func(e *entrant) (shot, error) {
			ms, err := e.change(ctx, whole, turn%p.flows)
			turn++
			if turn > len(c.entrants) { // the first round does not count
				values[e] = append(values[e], ms)
			}
			return shot{}, err
		})
		if err != nil {
			return err
		}
		params := bench.Params{"rules": fmt.Sprint(p.rules), "change": map[bool]string{false: "one element", true: "whole group"}[whole]}
		results := map[string]*bench.Result{}
		for _, e := range c.entrants {
			results[e.name] = r.Record(bench.Result{Subject: e.name, Params: params, Metric: effectMetric, Values: values[e]})
		}
		goal := atMost(1.0 / 10)
		if whole {
			goal = atMost(1.0 / 50)
		}
		if whole && p.rules < 900 {
			goal = nil // promised of a group of 1000
		}
		c.ratio(results, "nftables", goal)
		if !whole {
			goal = nil
		}
		c.ratio(results, "iptables-ipset", goal)
	}
	return nil
}

// editor is how the policy of an entrant is changed.
func (e *entrant) editor() editor {
	switch e.name {
	case peer.NFTables{}.Name():
		return &nftEditor{job: &e.site.job}
	case peer.IPTables{}.Name():
		return &iptablesEditor{job: &e.site.job}
	}
	if o, ok := e.site.running.(*ours); ok {
		return &directEditor{ours: o}
	}
	return e.site.running.(*fed)
}

// change opens the port for the probe and returns after how many milliseconds it passed; then it closes it again. Each
// change is tried with another flow, since some let flows live on that their policy would not admit any more.
func (e *entrant) change(ctx context.Context, whole bool, flow int) (float64, error) {
	const limit = 20 * time.Second
	edit := e.editor()
	if err := edit.prepare(true, whole); err != nil {
		return 0, err
	}
	if err := e.traffic.inside.Watch(); err != nil {
		return 0, err
	}
	stop := e.traffic.probe(ctx, flow)
	time.Sleep(50 * time.Millisecond)
	first, _, err := e.traffic.inside.Watched()
	if err == nil && first != 0 {
		err = fmt.Errorf("change the policy of %s: the probe passes before", e.name)
	}
	begin := monotonic()
	if err == nil {
		err = edit.commit(ctx)
	}
	for end := time.Now().Add(limit); err == nil && first == 0; time.Sleep(time.Millisecond) {
		if first, _, err = e.traffic.inside.Watched(); err == nil && time.Now().After(end) {
			err = fmt.Errorf("change the policy of %s: no effect within %s%s", e.name, limit, e.why())
		}
	}
	if err = errors.Join(err, stop()); err != nil {
		return 0, err
	}
	if err := edit.prepare(false, whole); err != nil {
		return 0, err
	}
	if err := edit.commit(ctx); err != nil {
		return 0, err
	}
	if f, ok := edit.(*fed); ok {
		if err := f.inForce(ctx); err != nil {
			return 0, err
		}
	}
	time.Sleep(100 * time.Millisecond) // the agent cleans up behind itself
	return float64((first - begin).Nanoseconds()) / 1e6, nil
}

// probe sends packets of one flow until it is stopped, from the CPU of measurements.
func (t *traffic) probe(ctx context.Context, flow int) (stop func() error) {
	ctx, cancel := context.WithCancel(ctx)
	var failed atomic.Pointer[error]
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, err := t.run(ctx, t.in, in, frames.Batch{First: flow, Flows: 1, Packets: 1 << 40, Rate: probeRate})
		if err != nil && ctx.Err() == nil {
			failed.Store(&err)
		}
	}()
	return func() error {
		cancel()
		<-done
		if err := failed.Load(); err != nil {
			return *err
		}
		return nil
	}
}

// monotonic is the clock of the sinks.
func monotonic() time.Duration {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts) // the clock is always there
	return time.Duration(ts.Nano())
}
