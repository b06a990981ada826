// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/eniplane/eniplane/pkg/compile"
	"github.com/eniplane/eniplane/pkg/dataplane"
	"github.com/eniplane/eniplane/pkg/trace"
)

// traceFlags are the flags of trace.
type traceFlags struct {
	eni, out, in, via string
	pcap              string
	both              bool
	flags, icmp       string
	size              int
}

// tracer is what enictl asks about packets.
type tracer interface {
	Out(eni uint32, q trace.Question) (*trace.Report, error)
	In(eni uint32, q trace.Question, via string) (*trace.Report, error)
	Frame(eni uint32, frame []byte) (*trace.Report, error)
	Reply(r *trace.Report) (*trace.Report, error)
}

func newTraceCommand(a *app) *cobra.Command {
	var f traceFlags
	c := &cobra.Command{
		Use: "trace --eni NAME --out|--in PACKET", Short: "Say what the programs in force do with a packet, and by which rule",
		Long: "Say what the programs in force do with a packet, stage by stage, which rule decides, what the packet becomes and\n" +
			"where it goes. Nothing is sent, and nothing changes: the programs run on copies of all that they write.\n\n" +
			"PACKET is \"PROTOCOL ADDRESS[:PORT] > ADDRESS[:PORT]\". Without --flags, TCP is a SYN: would a new connection pass?\n" +
			"An answer that another host judges is asked about there. Run it in the network namespace of the host.\n\n" +
			"Exit codes: 0 it passes, 1 error, 2 usage, 3 denied.",
		Example: `  enictl trace --eni web-0 --out "tcp 10.0.1.10:40000 > 10.0.2.9:443"` + "\n" +
			`  enictl trace --eni web-0 --in "tcp 198.51.100.7:40000 > 203.0.113.10:443" --both-directions` + "\n" +
			`  enictl trace --eni web-0 --out "icmp 10.0.1.10 > 10.0.2.9"` + "\n" +
			"  enictl trace --eni web-0 --from-pcap capture.pcap",
		Args: args(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error { return a.trace(&f) },
	}
	c.Flags().StringVar(&f.eni, "eni", "", "the ENI of this host that sends or receives the packet")
	c.Flags().StringVar(&f.out, "out", "", "a packet that the ENI sends")
	c.Flags().StringVar(&f.in, "in", "", "a packet to the ENI: to its EIP from the internet, to a private address from where the source is")
	c.Flags().StringVar(&f.via, "via", "", "with --in: the ENI that forwards the packet, if the source is not its own")
	c.Flags().StringVar(&f.pcap, "from-pcap", "", "packets of this file, captured at the port of the ENI or in its guest, one after the other")
	c.Flags().BoolVar(&f.both, "both-directions", false, "ask about the answer, too")
	c.Flags().StringVar(&f.flags, "flags", "", "of TCP, as tcpdump writes them: S, S., ., P., F., R (default S)")
	c.Flags().StringVar(&f.icmp, "icmp", "", "TYPE or TYPE/CODE of an ICMP packet (default an echo request)")
	c.Flags().IntVar(&f.size, "size", 0, "bytes of the IP packet (default as few as it can have)")
	a.completeENIs(c)
	return c
}

// question reads what the flags ask.
func (f *traceFlags) question() (q trace.Question, err error) {
	if given := btoi(f.out != "") + btoi(f.in != "") + btoi(f.pcap != ""); f.eni == "" || given != 1 {
		return q, usagef("want --eni NAME and one of --out PACKET, --in PACKET and --from-pcap FILE")
	}
	if f.via != "" && f.in == "" {
		return q, usagef("--via says how a packet comes in: it goes with --in")
	}
	if f.pcap != "" {
		if f.both || f.flags != "" || f.icmp != "" || f.size != 0 {
			return q, usagef("--from-pcap has all packets that are asked about: no --both-directions, --flags, --icmp or --size")
		}
		return q, nil
	}
	if q, err = trace.ParseQuestion(cmp.Or(f.out, f.in)); err != nil {
		return q, usageError{err}
	}
	if f.size < 0 || f.size > 0xffff {
		return q, usagef("--size %d: want 1 to 65535", f.size)
	}
	q.Size = f.size
	if q.Flags, err = trace.ParseFlags(f.flags); err != nil {
		return q, usageError{err}
	}
	if f.icmp == "" {
		return q, nil
	}
	kind, code, _ := strings.Cut(f.icmp, "/")
	t, err1 := strconv.ParseUint(kind, 10, 8)
	n, err2 := strconv.ParseUint(cmp.Or(code, "0"), 10, 8)
	if err1 != nil || err2 != nil {
		return q, usagef("--icmp %q: want TYPE or TYPE/CODE", f.icmp)
	}
	q.ICMP = &trace.ICMP{Type: uint8(t), Code: uint8(n)}
	return q, nil
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

func (a *app) trace(f *traceFlags) error {
	q, err := f.question()
	if err != nil {
		return err
	}
	var frames [][]byte
	if f.pcap != "" {
		if frames, err = trace.ReadFrames(f.pcap); err != nil {
			return err
		}
	}
	var reports []*trace.Report
	err = a.withTracer(func(t tracer, names compile.Names) error {
		indexes, err := eniIndexes(names, []string{f.eni})
		if err != nil {
			return err
		}
		for i, frame := range frames {
			r, err := t.Frame(indexes[0], frame)
			if err != nil {
				return fmt.Errorf("packet %d of %s: %w", i+1, f.pcap, err)
			}
			reports = append(reports, r)
		}
		if frames == nil && f.pcap == "" {
			r, err := f.ask(t, indexes[0], q)
			if err != nil {
				return err
			}
			reports = append(reports, r)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return a.showTraces(reports, f.pcap != "")
}

// ask asks about one packet and, if wanted, its answer.
func (f *traceFlags) ask(t tracer, eni uint32, q trace.Question) (r *trace.Report, err error) {
	if f.out != "" {
		r, err = t.Out(eni, q)
	} else {
		r, err = t.In(eni, q, f.via)
	}
	if err != nil || !f.both {
		return r, err
	}
	r.Reply, err = t.Reply(r)
	if errors.Is(err, trace.ErrNoReply) {
		err = nil
	}
	return r, err
}

// withTracer opens the trace twins of the host.
func (a *app) withTracer(fn func(tracer, compile.Names) error) (err error) {
	host, err := a.oneHost()
	if err != nil {
		return err
	}
	names, err := dataplane.LoadNames(dataplane.HostStateDir(a.stateDir, host))
	if err != nil {
		fmt.Fprintf(a.err, "Numbers are shown for names: %v\n", err)
	}
	t, closer, err := a.traces(dataplane.PinDir(a.bpffs, host), names)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closer()) }()
	return fn(t, names)
}

// openTracer is env.traces of the real program.
func openTracer(pinDir string, names compile.Names) (tracer, func() error, error) {
	maps, err := dataplane.OpenPinned(pinDir, true)
	if err != nil {
		return nil, nil, err
	}
	twin, err := trace.Open(pinDir, maps)
	if err != nil {
		return nil, nil, errors.Join(err, maps.Close())
	}
	closer := func() error { return errors.Join(twin.Close(), maps.Close()) }
	t, err := trace.NewTracer(twin, names)
	if err == nil {
		err = t.Here()
	}
	if err != nil {
		return nil, nil, errors.Join(err, closer())
	}
	return t, closer, nil
}

// deniedTrace ends a trace of which a packet does not pass.
type deniedTrace struct{ error }

// ExitCode implements what run asks of errors.
func (deniedTrace) ExitCode() int { return exitDenied }

func (a *app) showTraces(reports []*trace.Report, many bool) error {
	denied := false
	l := list{columns: columns("PACKET", "VERDICT", "AT", "REASON", "RULE", "|", "FROM", "TO")}
	for _, r := range reports {
		for x := r; x != nil; x = x.Reply {
			denied = denied || !x.Allowed()
		}
		l.rows = append(l.rows, row{
			name:  r.Packet,
			cells: []string{r.Packet, r.Verdict, dash(r.At), r.Reason.Reason.String(), dash(r.Rule), r.From, dash(r.To)},
			value: r,
		})
	}
	var err error
	switch {
	case many:
		err = a.print(l)
	case len(l.rows) == 1:
		err = a.printOne(l.rows[0], func(w io.Writer) { a.tellTrace(w, reports[0]) })
	}
	if err == nil && denied {
		err = deniedTrace{errors.New("denied")}
	}
	return err
}

// tellTrace shows a trace to people.
func (a *app) tellTrace(w io.Writer, r *trace.Report) {
	fmt.Fprintf(w, "%s, %s, revision %d\n", r.Packet, r.From, r.Revision)
	l := list{columns: columns("STAGE", "AT", "RESULT", "DETAIL")}
	for _, s := range r.Stages {
		l.rows = append(l.rows, row{cells: []string{s.Stage, s.At, s.Result, s.Detail}})
	}
	if len(l.rows) > 0 {
		_ = a.table(l) // to a.out, which w is
	}
	for _, n := range r.NAT {
		fmt.Fprintf(w, "NAT: %s\n", n)
	}
	if r.Leaves != "" {
		fmt.Fprintf(w, "leaves as: %s\n", r.Leaves)
	}
	if a.output == "wide" && r.Bytes != "" {
		fmt.Fprintf(w, "bytes: %s\n", r.Bytes)
	}
	fmt.Fprintf(w, "verdict: %s", a.paint(r.Verdict))
	if !r.Allowed() {
		fmt.Fprintf(w, " at %s: %s, %s\n  why: %s\n  do:  %s\n", dash(r.At), r.Reason.Reason, r.Reason.Help, r.Reason.Why, r.Reason.Do)
	} else {
		fmt.Fprintln(w)
	}
	if r.Next != "" {
		fmt.Fprintf(w, "  %s\n", r.Next)
	}
	if r.Reply != nil {
		fmt.Fprint(w, "\nthe answer: ")
		a.tellTrace(w, r.Reply)
	}
}
