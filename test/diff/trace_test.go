// SPDX-License-Identifier: Apache-2.0

package diff

import (
	"bytes"
	"errors"
	"fmt"
	"hash/maphash"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/eniplane/eniplane/pkg/compile"
	"github.com/eniplane/eniplane/pkg/dataplane"
	"github.com/eniplane/eniplane/pkg/pkttest"
	"github.com/eniplane/eniplane/pkg/trace"
)

// tracing asks a twin about packets before the programs get them.
type tracing struct {
	twin    *trace.Twin
	seed    maphash.Seed
	asked   int
	judged  int
	out     *trace.Outcome // of the last packet; nil = it was not asked about
	got     pkttest.QuickResult
	packet  pkttest.QuickPacket
	changed string
}

// lookEvery is after how many packets all maps are looked at, also those that take long.
const lookEvery = 400

// send sends a packet, after asking about it.
func (p *player) send(packet pkttest.QuickPacket) (pkttest.QuickResult, bool, error) {
	t := p.tracing
	if t == nil {
		return p.q.Send(packet)
	}
	t.out = nil
	if !slices.Contains(trace.Programs(), packet.At.Program) || packet.Linear != 0 {
		return p.q.Send(packet)
	}
	out, askErr := t.ask(p.q, packet)
	got, ok, err := p.q.Send(packet)
	if err == nil && ok != (askErr == nil) {
		return got, ok, fmt.Errorf("the program takes the packet (%v), the twin says %w", ok, askErr)
	}
	t.out, t.got, t.packet = out, got, packet
	return got, ok, err
}

// ask runs a packet through the twin and looks whether any live map changes.
func (t *tracing) ask(q *pkttest.Quick, packet pkttest.QuickPacket) (*trace.Outcome, error) {
	all := t.asked%lookEvery == 0
	t.asked++
	q.Give(packet)
	before, err := q.Fingerprints(t.seed, all)
	if err != nil {
		return nil, err
	}
	if err := t.twin.Begin(); err != nil {
		return nil, err
	}
	ask := trace.Packet{
		Program: packet.At.Program, Ifindex: q.Ifindex(packet.At.Device), Frame: packet.Frame, Mark: packet.Mark, GSO: packet.GSO,
	}
	if packet.Tunnel != nil {
		ask.Tunnel = &trace.Tunnel{VNI: packet.Tunnel.VNI, Remote: netip.MustParseAddr(packet.Tunnel.Remote), Policy: packet.Tunnel.Policy}
	}
	out, err := t.twin.Run(ask)
	after, printErr := q.Fingerprints(t.seed, all)
	t.changed = ""
	for name, sum := range before {
		if after[name] != sum {
			t.changed += fmt.Sprintf("the trace of a packet has changed the live map %s\n", name)
		}
	}
	return out, errors.Join(err, printErr)
}

// compareTrace says how what the twin has said differs from what became of the packet.
func (p *player) compareTrace(hits []string) string {
	t := p.tracing
	if t == nil || t.out == nil {
		return ""
	}
	out, got := t.out, t.got
	type words struct {
		Verdict, Device string
		Neighbour       bool
		Mark            uint32
		Tunnel          pkttest.Tunnel
	}
	want := words{Verdict: got.Verdict.String(), Mark: got.Mark}
	said := words{Verdict: string(out.Action), Mark: out.Mark}
	if got.Verdict == pkttest.Redirect {
		want.Device, want.Neighbour = got.Device, got.Neighbour
		if got.Tunnel != nil {
			want.Tunnel = *got.Tunnel
		}
	}
	if out.Action == trace.Redirect {
		said.Device, said.Neighbour = p.q.DeviceName(out.Ifindex), out.Neighbour
		if out.Tunnel != nil {
			said.Tunnel = pkttest.Tunnel{VNI: out.Tunnel.VNI, Remote: out.Tunnel.Remote.String(), Policy: out.Tunnel.Policy}
		}
	}
	sent, told := got.Frame, out.Frame
	switch { // the twin does not know by which next hops others have just left
	case want.Neighbour && !said.Neighbour && out.Action == trace.Redirect:
		want.Neighbour, sent = false, resolved(sent)
	case said.Neighbour && !want.Neighbour && got.Verdict == pkttest.Redirect:
		said.Neighbour, told = false, resolved(told)
	}
	var counts []pkttest.Count
	for _, c := range slices.Concat(out.Received, out.Crossings) {
		counts = append(counts, pkttest.Count{ENI: p.q.ENIName(c.ENI), Direction: c.Direction, Reason: c.Reason, Packets: c.Packets})
	}
	var rules []string
	for _, id := range out.Hits {
		rules = append(rules, hitName(p.state.Names.Rules[id]))
	}
	hits = slices.Clone(hits)
	slices.Sort(hits)
	slices.Sort(rules)
	text := t.changed
	if want != said || !sameCounts(counts, got.Counts) || !slices.Equal(hits, rules) {
		text += fmt.Sprintf("%s, %d bytes\n%s", t.packet.At.Program, len(t.packet.Frame), pkttest.Show(t.packet.Frame))
		text += fmt.Sprintf("trace    %+v %v %q\nprograms %+v %v %q\n", said, counts, rules, want, got.Counts, hits)
	}
	if out.Action != trace.Drop && !bytes.Equal(told, sent) {
		text += "the packet leaves (want = programs):\n" + pkttest.Diff(sent, told)
	}
	t.judged += len(out.Judged)
	return text
}

func hitName(n compile.RuleName) string { return strings.TrimSpace(n.Direction + " " + n.Name) }

// tracePackets is how many packets TestTrace asks about; ENIPLANE_DIFF_PACKETS, _TIME and _SEED say otherwise.
const tracePackets = 4000

// What trace says of a packet is what then becomes of it, and it changes nothing.
func TestTrace(t *testing.T) {
	p := newPlayer(newHost(t, ownsAll))
	var twin *trace.Twin
	if err := p.q.Do(func() (err error) { twin, err = trace.New(p.q.TwinSpec(), p.q.Maps()); return err }); err != nil {
		t.Fatalf("make the twins: %+v", err)
	}
	t.Cleanup(func() { _ = twin.Close() })
	p.tracing = &tracing{twin: twin, seed: maphash.MakeSeed()}
	l := effortOf(t)
	if os.Getenv(envPackets) == "" {
		l.packets = tracePackets
	}
	begin := time.Now()
	for seed := l.seed; !t.Failed() && int64(p.tracing.asked) < l.packets && (l.until.IsZero() || time.Now().Before(l.until)); seed++ {
		if err := p.q.Do(func() error { return p.fuzz(t, seed) }); err != nil {
			t.Fatalf("play: %+v", err)
		}
	}
	t.Logf("%d packets asked about in %v, %d judgements noted; they became %v", p.tracing.asked, time.Since(begin), p.tracing.judged, p.seen)
	if p.tracing.judged == 0 {
		t.Error("no judgement was noted")
	}
}

// A twin with a live map that programs write to is never run.
func TestTwinThatWrites(t *testing.T) {
	q := newHost(t, ownsAll)
	live := map[string]bool{}
	for _, name := range q.Maps().All() {
		live[name] = true
	}
	for _, name := range []string{dataplane.MapFlows4, dataplane.MapFlows6, dataplane.MapCounters, dataplane.MapFlowUsage, "rates", "fragments"} {
		if !live[name] {
			t.Errorf("no live map %s", name)
		}
	}
	err := trace.Check("port", q.Program(dataplane.ProgramPort), q.Maps())
	if err == nil || !strings.Contains(err.Error(), "would write") {
		t.Errorf("the program itself passes for a twin: %v", err)
	}
}
