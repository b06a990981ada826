// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/eniplane/eniplane/loader"
	"github.com/eniplane/eniplane/pkg/agent"
	"github.com/eniplane/eniplane/pkg/compile"
	"github.com/eniplane/eniplane/pkg/dataplane"
)

// fakeMaps stands for the pinned maps of a host.
type fakeMaps struct {
	flows    []dataplane.Flow
	ended    []dataplane.Flow
	counters []dataplane.Counter
	closed   int
}

func (*fakeMaps) Names() []string { return []string{"active", "eip_in4", "endpoints4"} }

func (*fakeMaps) Active() (uint64, int, error) { return 7, 1, nil }

func (*fakeMaps) Dump(name string, _ compile.Names, fn func(any) error) error {
	if name != "endpoints4" {
		return nil
	}
	for _, r := range []dataplane.EndpointRow{
		{VPC: "red", Address: "10.0.1.10", NextHop: "web-0", Groups: "web"},
		{VPC: "red", Address: "10.0.2.10", NextHop: "db-0", Groups: "db"},
		{VPC: "blue", Address: "10.0.2.10", NextHop: "blue-0", Groups: "blue-open"},
	} {
		if err := fn(r); err != nil {
			return err
		}
	}
	return nil
}

func (f *fakeMaps) Counters(fn func(dataplane.Counter) bool, enis ...uint32) error {
	for _, c := range f.counters {
		if len(enis) == 0 || enis[0] == c.ENI {
			fn(c)
		}
	}
	return nil
}

func (f *fakeMaps) Flows(fn func(dataplane.Flow) bool) error {
	for _, x := range f.flows {
		if !fn(x) {
			break
		}
	}
	return nil
}

func (f *fakeMaps) EndFlows(match func(dataplane.Flow) bool) (int, error) {
	for _, x := range f.flows {
		if match(x) {
			f.ended = append(f.ended, x)
		}
	}
	return len(f.ended), nil
}

func (f *fakeMaps) FlowQuota() (*dataplane.FlowQuota, error) {
	return &dataplane.FlowQuota{Flows: 160, Max: 1000, Borrowed: 60, Pool: 500, ENIs: []dataplane.ENIFlows{
		{ENI: 1, Flows: 100, Limit: 100, Guaranteed: 50, HalfOpen: 16},
		{ENI: 2, Flows: 60, Limit: 65, Guaranteed: 50, HalfOpen: 16},
	}}, nil
}

func (f *fakeMaps) RuleHits(id uint32) (uint64, error) { return uint64(id) * 100, nil }

func (f *fakeMaps) Close() error { f.closed++; return nil }

func newFakeMaps() *fakeMaps {
	flow := func(eni uint32, local, remote, state string, opener dataplane.Direction) dataplane.Flow {
		return dataplane.Flow{
			ENI: eni, Incarnation: eni, Protocol: "tcp", State: state, Origin: "vpc", Opener: opener,
			Local: netip.MustParseAddrPort(local), Remote: netip.MustParseAddrPort(remote), Age: 3 * time.Second,
			Expires: 30 * time.Second, PacketsOut: 1, BytesOut: 2, PacketsIn: 3, BytesIn: 4,
		}
	}
	half := flow(1, "10.0.1.10:80", "192.0.2.1:55555", "opening", dataplane.In)
	half.Answered, half.Rule = true, 5
	sql := flow(1, "10.0.1.10:40000", "10.0.2.10:5432", "established", dataplane.Out)
	sql.Rule = 4
	return &fakeMaps{
		flows: []dataplane.Flow{ // not sorted
			flow(2, "10.0.2.10:5432", "10.0.1.10:40000", "established", dataplane.In),
			sql,
			half,
		},
		counters: []dataplane.Counter{
			{ENI: 0, Direction: dataplane.In, Reason: dataplane.ReasonContinue, Packets: 1, Bytes: 60},
			{ENI: 0, Direction: dataplane.In, Reason: dataplane.ReasonVXLANSource, Packets: 1, Bytes: 60},
			{ENI: 1, Direction: dataplane.Out, Reason: dataplane.ReasonContinue, Packets: 10, Bytes: 1000},
			{ENI: 1, Direction: dataplane.Out, Reason: dataplane.ReasonDelivered, Packets: 7, Bytes: 700},
			{ENI: 1, Direction: dataplane.Out, Reason: dataplane.ReasonSGDenied, Packets: 2, Bytes: 200},
			{ENI: 2, Direction: dataplane.In, Reason: dataplane.ReasonContinue, Packets: 5, Bytes: 500},
			{ENI: 2, Direction: dataplane.In, Reason: dataplane.ReasonDelivered, Packets: 5, Bytes: 500},
		},
	}
}

// host is a machine for enictl: directories of one host, and fakes for the kernel.
type host struct {
	bpffs, state string
	feed         string // directory with the example; FEED in a command line
	maps         *fakeMaps
	openErr      error
	stdin        string
	env          map[string]string
	terminal     bool
	features     []feature
	caps         []loader.CapUse
	tornDown     []loader.Options
	tracer       fakeTracer
	traceErr     error
	now          time.Time
}

// newHost makes the directories as an agent of host-a would have left them.
func newHost(t *testing.T) *host {
	t.Helper()
	h := &host{
		bpffs: t.TempDir(), state: t.TempDir(), feed: t.TempDir(), maps: newFakeMaps(),
		now: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
	}
	dir := filepath.Join(h.state, "host-a")
	for _, d := range []string{filepath.Join(h.bpffs, "host-a"), dir} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(example)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(h.feed, "objects.yaml"), text, 0o600); err != nil {
		t.Fatal(err)
	}
	names := compile.Names{ENIs: map[uint32]string{1: "web-0", 2: "db-0"}, Rules: map[uint32]compile.RuleName{
		3: {Key: "sg/web@web ingress name https", Direction: "ingress", Name: "web/https"},
		4: {Key: "sg/web@web egress name any", Direction: "egress", Name: "web/any"},
		5: {Name: "web/gone"},
		6: {Key: "nacl/red-web@red-web ingress number 50", Direction: "ingress", Name: "red-web/50"},
	}}
	if err := dataplane.SaveNames(dir, names); err != nil {
		t.Fatal(err)
	}
	status := agent.Status{
		Host: "host-a", Version: "v1", PID: 1, Started: h.now.Add(-time.Hour), Updated: h.now,
		Revision: &agent.RevisionStatus{Number: 7, Hash: "0123456789abcdef", Applied: h.now.Add(-time.Minute)},
		Feed:     agent.FeedStatus{Source: "dir:/feed", Heard: h.now.Add(-time.Minute), Error: "syntax"},
		Uplinks:  []string{"uplink0"},
		Problems: []string{"uplink uplink0 is down"},
		ENIs: []agent.ENIStatus{
			{Name: "db-0", Phase: loader.Waiting, Device: "eni-db-0", Index: 2, Reason: "no device eni-db-0"},
			{Name: "web-0", Phase: loader.Ready, Device: "eni-web-0", Index: 1, Ifindex: 9},
		},
		EIPs: []agent.EIPStatus{{
			Address: netip.MustParseAddr("203.0.113.10"), ENI: "web-0",
			Private: netip.MustParseAddr("10.0.1.10"), Announced: true,
		}},
		Foreign: []loader.Foreign{{Device: "uplink0", Hook: "tcx ingress", Program: "other", ID: 5}},
		Errors: []agent.ErrorLine{
			{Time: h.now, Text: "syntax"}, // of the feed: said only once
			{Time: h.now, Text: "first line\nsecond line"},
		},
	}
	text, err = json.Marshal(status)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "status.json"), text, 0o600); err != nil {
		t.Fatal(err)
	}
	return h
}

// result is what one command line left.
type result struct {
	code     int
	out, err string
}

// run executes enictl in this process.
func (h *host) run(line ...string) result {
	var out, errs bytes.Buffer
	e := env{
		in: strings.NewReader(h.stdin), out: &out, err: &errs, terminal: h.terminal,
		getenv: func(k string) string { return h.env[k] },
		now:    func() time.Time { return h.now },
		open: func(dir string, _ bool) (pinnedMaps, error) {
			if dir != filepath.Join(h.bpffs, "host-a") {
				return nil, dataplane.ErrNotLoaded
			}
			return h.maps, h.openErr
		},
		check: func(string) []feature { return h.features },
		caps:  func(map[string]string) ([]loader.CapUse, error) { return h.caps, nil },
		traces: func(string, compile.Names) (tracer, func() error, error) {
			return &h.tracer, func() error { return nil }, h.traceErr
		},
		teardown: func(_ context.Context, o loader.Options) error {
			if o.Host != "host-a" {
				return fmt.Errorf("%w: no pins", loader.ErrNothing)
			}
			h.tornDown = append(h.tornDown, o)
			return nil
		},
	}
	directories := []string{"--bpffs", h.bpffs, "--state-dir", h.state}
	if line[0] == "__complete" {
		line = append([]string{line[0]}, append(directories, line[1:]...)...)
	} else {
		line = append(directories, line...)
	}
	for i := range line {
		line[i] = strings.Replace(line[i], "FEED", h.feed, 1)
	}
	code := run(context.Background(), e, line)
	return result{code: code, out: out.String(), err: errs.String()}
}
