// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/eniplane/eniplane/pkg/dataplane"
	"github.com/eniplane/eniplane/pkg/lab/netnsdir"
)

// deniedWait is how long the demo waits for a packet that must not come.
const deniedWait = 500 * time.Millisecond

// allowedWait is how long it waits for one that must: an idle machine needs a millisecond.
const allowedWait = 5 * time.Second

// story is a demo on its way: it tells what it does and remembers what went wrong.
type story struct {
	*Lab
	out      io.Writer
	coloured bool
	failed   int
}

// Demo tells the story of the project on a fresh lab of the example topology and takes the lab
// down again, whatever happens. An error means that something was not as it must be.
func Demo(ctx context.Context, topologyPath string, o Options, out io.Writer, coloured bool) (err error) {
	start := time.Now()
	s := &story{out: out, coloured: coloured}
	s.chapter("Two hosts, two tenants with the same addresses, one public address")
	o.Progress = out
	if s.Lab, err = Up(ctx, topologyPath, o); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.end(start)) }()
	fmt.Fprintf(out, "\n%s", s.Diagram())
	for _, chapter := range []func(context.Context) error{
		s.allowed, s.denied, s.tenants, s.public, s.agentDies, s.moves,
	} {
		if err := chapter(ctx); err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	return nil
}

// end takes the lab down, looks for what is left and sums up.
func (s *story) end(start time.Time) error {
	s.chapter("Nothing stays behind")
	if err := Down(s.Plan.Lab); err != nil {
		return err
	}
	var left []string
	for _, node := range s.Plan.Nodes() {
		if _, err := os.Lstat(filepath.Join(netnsdir.Dir, s.Namespace(node))); err == nil {
			left = append(left, s.Namespace(node))
		}
	}
	for host, p := range s.Agents {
		if p.Alive() {
			left = append(left, "agent of "+host)
		}
	}
	if _, err := os.Lstat(s.dir); err == nil {
		left = append(left, s.dir)
	}
	s.line(len(left) == 0, "namespaces, devices, nft tables, pins, agents and files are gone", fmt.Sprint(left))
	fmt.Fprintf(s.out, "\n%d s in all\n", int(time.Since(start).Seconds()))
	if s.failed > 0 {
		return fmt.Errorf("%d steps of the demo are not as they must be", s.failed)
	}
	return nil
}

func (s *story) paint(colour, text string) string {
	if !s.coloured {
		return text
	}
	return "\x1b[" + colour + "m" + text + "\x1b[0m"
}

func (s *story) chapter(title string) {
	fmt.Fprintf(s.out, "\n%s\n", s.paint("1", title))
}

// line tells one step and whether it is as it must be.
func (s *story) line(ok bool, what, detail string) {
	if ok {
		fmt.Fprintf(s.out, "  %s  %s\n", s.paint("32", "ok  "), what)
		return
	}
	s.failed++
	fmt.Fprintf(s.out, "  %s  %s: %s\n", s.paint("31", "FAIL"), what, detail)
}

// note tells a measurement that is neither right nor wrong.
func (s *story) note(format string, args ...any) {
	fmt.Fprintf(s.out, "        "+format+"\n", args...)
}

// passes tells a probe that must be answered.
func (s *story) passes(ctx context.Context, what, from, to, protocol string, port uint16, f Family) error {
	src, dst, err := s.Spots(from, to, f)
	if err != nil {
		return err
	}
	answer, err := s.Probe(ctx, Probe{From: src, To: dst, Protocol: protocol, Port: port, Wait: allowedWait})
	if err = errors.Join(err, ctx.Err()); err != nil {
		return err
	}
	s.line(answer.Allowed, fmt.Sprintf("%s  [%s]", what, describe(src, dst, protocol, port)), fmt.Sprint(answer.Why))
	return nil
}

// fails tells a probe that must be dropped for a reason, counted at an ENI.
func (s *story) fails(ctx context.Context, what, from, to, protocol string, port uint16, reason dataplane.Reason, eni string) error {
	src, dst, err := s.Spots(from, to, IPv4)
	if err != nil {
		return err
	}
	before, err := s.Counters()
	if err != nil {
		return err
	}
	answer, err := s.Probe(ctx, Probe{From: src, To: dst, Protocol: protocol, Port: port, Wait: deniedWait})
	if err = errors.Join(err, ctx.Err()); err != nil {
		return err
	}
	after, err := s.Counters()
	if err != nil {
		return err
	}
	s.dropped(fmt.Sprintf("%s  [%s]", what, describe(src, dst, protocol, port)), answer, after.Since(before), reason, eni)
	return nil
}

// dropped tells whether a packet was dropped, and for the right reason at the right place.
func (s *story) dropped(what string, answer Answer, moved []Moved, reason dataplane.Reason, eni string) {
	for _, m := range moved {
		if m.Reason == reason && m.ENI == eni && !answer.Allowed {
			s.line(true, what, "")
			s.note("%s: %s (%d packets)", m.CounterKey, reason.Help(), m.Packets)
			return
		}
	}
	s.line(false, what, fmt.Sprintf("answered: %t, counted: %v, want %s at %s", answer.Allowed, Drops(moved), reason, eni))
}

func describe(from, to Spot, protocol string, port uint16) string {
	if protocol == "icmp" {
		return fmt.Sprintf("%s > %s ping", from.Local, to.Addr)
	}
	return fmt.Sprintf("%s > %s %s %d", from.Local, to.Addr, protocol, port)
}
