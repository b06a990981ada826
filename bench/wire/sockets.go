// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/eniplane/eniplane/bench"
	"github.com/eniplane/eniplane/bench/peer"
	"github.com/eniplane/eniplane/pkg/lab"
)

// The metrics of real sockets.
var (
	bulkMetric    = bench.Metric{Name: "throughput", Unit: "Mbit/s", Better: bench.Higher}
	p50Metric     = bench.Metric{Name: "round trip p50", Unit: "us", Better: bench.Lower}
	p99Metric     = bench.Metric{Name: "round trip p99", Unit: "us", Better: bench.Lower}
	connectMetric = bench.Metric{Name: "connections", Unit: "1/s", Better: bench.Higher}
)

// laneCase is one way to join two guests, with those who do it.
type laneCase struct {
	lanePlan
	subjects []peer.Subject
	rival    string // with whom we are compared
	goal     *bench.Goal
}

// params are its conditions.
func (l laneCase) params() bench.Params {
	p := bench.Params{"hosts": "1"}
	if l.across {
		p["hosts"] = "2"
		p["uplink"] = map[bool]string{false: "tx off", true: "tx on"}[l.offload]
	}
	if l.tap {
		p["guest"] = "tap"
	}
	return p
}

// lanes are the ways that a run measures: on one host, across two, into a tap.
func lanes(size bench.Size, local, across *bench.Goal) []laneCase {
	onOne := []peer.Subject{peer.Forward{}, Ours{}, peer.NFTables{}, peer.Bridge{}}
	onTwo := []peer.Subject{peer.Bridge{}, peer.Bridge{Filter: true}, Ours{}}
	all := []laneCase{
		{lanePlan{}, onOne, peer.Forward{}.Name(), local},
		{lanePlan{across: true}, append(slices.Clone(onTwo), peer.OVS{}), peer.Bridge{Filter: true}.Name(), across},
		{lanePlan{across: true, tap: true}, onTwo, peer.Bridge{Filter: true}.Name(), across},
	}
	if size == bench.Full {
		all = append(all, laneCase{lanePlan{across: true, offload: true}, onTwo, peer.Bridge{Filter: true}.Name(), nil},
			laneCase{lanePlan{tap: true}, onOne, peer.Forward{}.Name(), nil})
	}
	return all
}

// race is subjects joined to lanes of their own, measured in turn.
type race struct {
	run   *bench.Run
	lanes []*lane
}

// newRace builds all lanes of a case.
func newRace(ctx context.Context, r *bench.Run, line laneCase) (_ *race, err error) {
	c := &race{run: r}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.Close())
		}
	}()
	if err := sweep(); err != nil {
		return nil, err
	}
	for _, subject := range line.subjects {
		l, err := newLane(ctx, line.lanePlan, subject)
		var unable *peer.Unable
		if errors.As(err, &unable) {
			r.Missing(subject.Name(), line.params(), "%s", unable.Reason)
			continue
		}
		if err != nil {
			return nil, err
		}
		c.lanes = append(c.lanes, l)
	}
	return c, nil
}

// Close removes all lanes.
func (c *race) Close() error {
	var errs []error
	for _, l := range slices.Backward(c.lanes) {
		errs = append(errs, l.Close())
	}
	c.lanes = nil
	return errors.Join(errs...)
}

// inTurn runs a measurement on every lane, round by round, after one that does not count. A measurement gives several
// figures; values are by lane and figure.
func (c *race) inTurn(ctx context.Context, measure func(*lane) ([]float64, error)) (map[*lane][][]float64, error) {
	values := map[*lane][][]float64{}
	order := slices.Clone(c.lanes)
	for round := range c.run.Repeats + 1 {
		for _, l := range order {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			figures, err := measure(l)
			if err != nil {
				return nil, fmt.Errorf("measure %s: %w", l.subject.Name(), err)
			}
			if round == 0 {
				values[l] = make([][]float64, len(figures))
				continue
			}
			for i, f := range figures {
				values[l][i] = append(values[l][i], f)
			}
		}
		slices.Reverse(order)
	}
	return values, nil
}

// record keeps one figure of all lanes and the ratio to the rival. It returns the results by subject.
func (c *race) record(metric bench.Metric, params bench.Params, values map[*lane][][]float64, figure int, rival string, goal *bench.Goal) map[string]*bench.Result {
	results := map[string]*bench.Result{}
	for _, l := range c.lanes {
		name := l.subject.Name()
		results[name] = c.run.Record(bench.Result{Subject: name, Params: params, Metric: metric, Values: values[l][figure]})
	}
	if of, to := results[bench.Ours], results[rival]; of != nil && to != nil {
		c.run.Ratio(fmt.Sprintf("%s, %s / %s (%s)", metric.Name, bench.Ours, rival, params), of, to, goal)
	}
	return results
}

// bulk measures TCP streams by iperf3.
func bulk(ctx context.Context, r *bench.Run) error {
	if _, err := exec.LookPath("iperf3"); err != nil {
		r.Missing("", nil, "iperf3 is not installed: deploy/install-deps.sh bench installs it")
		return nil
	}
	streams, seconds := []int{1}, 1
	switch r.Size {
	case bench.Tiny:
		streams, seconds = []int{1}, 0
	case bench.Full:
		streams, seconds = []int{1, 4, 16}, 4
	}
	for _, line := range lanes(r.Size, atLeast(0.95), atLeast(1)) {
		if err := bulkLine(ctx, r, line, streams, seconds); err != nil {
			return err
		}
	}
	return nil
}

func bulkLine(ctx context.Context, r *bench.Run, line laneCase, streams []int, seconds int) (err error) {
	c, err := newRace(ctx, r, line)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	for _, n := range streams {
		values, err := c.inTurn(ctx, func(l *lane) ([]float64, error) {
			rate, err := l.iperf(ctx, n, seconds)
			return []float64{rate}, err
		})
		if err != nil {
			return err
		}
		params := line.params()
		params["streams"] = strconv.Itoa(n)
		goal := line.goal
		if n > 1 {
			goal = nil // promised of one stream
		}
		c.record(bulkMetric, params, values, 0, line.rival, goal)
	}
	return nil
}

// latency measures requests and answers of one byte, and connections for one of them.
func latency(ctx context.Context, r *bench.Run) error {
	count := map[bench.Size]int{bench.Tiny: 50, bench.Quick: 20_000, bench.Full: 50_000}[r.Size]
	for _, line := range lanes(r.Size, atMost(1.05), nil) {
		if line.tap && r.Size != bench.Full {
			continue
		}
		if err := latencyLine(ctx, r, line, count); err != nil {
			return err
		}
	}
	return nil
}

func latencyLine(ctx context.Context, r *bench.Run, line laneCase, count int) (err error) {
	c, err := newRace(ctx, r, line)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	for _, mode := range []string{"tcp", "udp", "connect"} {
		times := count
		if mode == "connect" {
			times /= 5
		}
		values, err := c.inTurn(ctx, func(l *lane) ([]float64, error) {
			times := times
			if _, process := l.subject.(peer.OVS); process {
				times = (times + 9) / 10 // it takes that much longer
			}
			a, err := l.ask(ctx, mode, times)
			return []float64{a.P50, a.P99, a.Rate}, err
		})
		if err != nil {
			return err
		}
		params := line.params()
		params["mode"] = mode
		if mode == "connect" {
			c.record(connectMetric, params, values, 2, line.rival, nil)
			continue
		}
		c.record(p50Metric, params, values, 0, line.rival, nil)
		c.record(p99Metric, params, values, 1, line.rival, line.goal)
	}
	return nil
}

// startLimit is how long a server may take until it listens.
const startLimit = 10 * time.Second

// server runs a program in the second guest while work is done. It listens when somebody can connect to it.
func (l *lane) server(command []string, work func() error) (err error) {
	cmd := exec.Command(command[0], command[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := l.guests[1].Do(cmd.Start); err != nil {
		return fmt.Errorf("start %s: %w", command[0], err)
	}
	defer func() {
		err = errors.Join(err, cmd.Process.Kill())
		_ = cmd.Wait() // we killed it
	}()
	if err := listening(l.guests[1], servicePort); err != nil {
		return err
	}
	return work()
}

// listening waits until a TCP port of a namespace is listened to, without connecting to it.
func listening(n *lab.Namespace, port uint16) error {
	needle := fmt.Sprintf(":%04X ", port)
	for end := time.Now().Add(startLimit); ; time.Sleep(2 * time.Millisecond) {
		found := false
		if err := n.Do(func() error {
			for _, file := range []string{"/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"} {
				data, err := os.ReadFile(file)
				if err != nil && !errors.Is(err, os.ErrNotExist) {
					return fmt.Errorf("look who listens: %w", err)
				}
				found = found || listens(string(data), needle)
			}
			return nil
		}); err != nil {
			return err
		}
		if found {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("nobody listens to port %d of %s within %s", port, n.Name, startLimit)
		}
	}
}

// listens looks for a listening socket (state 0A) in the text of /proc/net/tcp.
func listens(table, port string) bool {
	for line := range strings.Lines(table) {
		fields := strings.Fields(line)
		if len(fields) > 3 && fields[3] == "0A" && strings.HasSuffix(fields[1]+" ", port) {
			return true
		}
	}
	return false
}

// iperf runs one transfer, of 0 seconds a short one, and returns Mbit/s as received.
func (l *lane) iperf(ctx context.Context, streams, seconds int) (rate float64, err error) {
	rates, err := l.iperfEach(ctx, streams, seconds)
	for _, r := range rates {
		rate += r
	}
	return rate, err
}

// iperfEach is iperf for each stream.
func (l *lane) iperfEach(ctx context.Context, streams, seconds int) (rates []float64, err error) {
	port := strconv.Itoa(servicePort)
	ctx, cancel := context.WithTimeout(ctx, 4*time.Duration(seconds)*time.Second+startLimit)
	defer cancel()
	much := []string{"-t", strconv.Itoa(seconds)}
	if seconds == 0 {
		much = []string{"-n", "4M"}
	}
	err = l.server([]string{"iperf3", "-s", "-1", "-p", port}, func() error {
		command := []string{"iperf3", "-c", l.addrs[1].String(), "-p", port, "-P", strconv.Itoa(streams), "-J"}
		out, err := peer.Run(ctx, l.guests[0], "", append(command, much...)...)
		if err != nil {
			return err
		}
		var report struct {
			End struct {
				Streams []struct {
					Receiver struct {
						Rate float64 `json:"bits_per_second"`
					} `json:"receiver"`
				} `json:"streams"`
			} `json:"end"`
		}
		if err := json.Unmarshal([]byte(out), &report); err != nil {
			return fmt.Errorf("read iperf3's report: %w", err)
		}
		for _, s := range report.End.Streams {
			rates = append(rates, s.Receiver.Rate/1e6)
		}
		return nil
	})
	if err == nil && len(rates) != streams {
		err = fmt.Errorf("iperf3 reports %d streams, want %d", len(rates), streams)
	}
	return rates, err
}

// ask runs the tool on both sides.
func (l *lane) ask(ctx context.Context, mode string, count int) (a answer, err error) {
	self, err := os.Executable()
	if err != nil {
		return a, fmt.Errorf("find this program: %w", err)
	}
	at := netip.AddrPortFrom(l.addrs[1], servicePort).String()
	err = l.server([]string{self, ToolCommand, "serve", at}, func() error {
		out, err := peer.Run(ctx, l.guests[0], "", self, ToolCommand, mode, at, strconv.Itoa(count))
		if err != nil {
			return err
		}
		if err := json.Unmarshal([]byte(out), &a); err != nil {
			return fmt.Errorf("read the tool's answer: %w", err)
		}
		return nil
	})
	return a, err
}
