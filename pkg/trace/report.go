// SPDX-License-Identifier: Apache-2.0

package trace

import (
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/eniplane/eniplane/pkg/dataplane"
	"github.com/eniplane/eniplane/pkg/dataplane/flowtable"
)

// Report says what becomes of a packet, stage by stage.
type Report struct {
	Packet   string                `json:"packet"`
	From     string                `json:"from"`
	Revision uint64                `json:"revision"`
	Stages   []Stage               `json:"stages"`
	Verdict  string                `json:"verdict"` // delivered, redirected, answered, consumed, denied, left to the host
	At       string                `json:"at"`      // the ENI, and the direction seen from it, where that was decided
	Rule     string                `json:"rule,omitempty"`
	Reason   dataplane.Explanation `json:"reason"`
	To       string                `json:"to,omitempty"` // where it goes
	NAT      []string              `json:"nat,omitempty"`
	Leaves   string                `json:"leaves,omitempty"` // the packet as it leaves
	Bytes    string                `json:"bytes,omitempty"`  // of it, in hex
	Next     string                `json:"next,omitempty"`   // who judges it after this host, and how to ask there
	Reply    *Report               `json:"reply,omitempty"`
	outcome  *Outcome
	hop      *dataplane.NextHopFacts // of the flow that the packet belongs to; nil = none
}

// Stage is a step on the way.
type Stage struct {
	Stage  string `json:"stage"`
	At     string `json:"at"`
	Result string `json:"result"` // pass, new, known, denied, or why the packet ends here
	Detail string `json:"detail"`
}

// Allowed tells whether the packet reaches somebody who was meant by it.
func (r *Report) Allowed() bool {
	return !r.Reason.Reason.IsDrop() && r.Reason.Reason != dataplane.ReasonNotOurs
}

// stages in the order in which a packet comes by them, by direction.
var stageOrder = map[dataplane.Direction][]string{
	dataplane.Out: {"port", "parse", "source", "neighbours", "flow", "security groups", "network ACL", "route", "EIP", "next hop"},
	dataplane.In:  {"uplink", "overlay", "parse", "EIP", "port", "flow", "route", "network ACL", "security groups", "next hop"},
}

// report puts an outcome into words.
func (t *Tracer) report(from string, frame []byte, out *Outcome) (*Report, error) {
	r := &Report{Packet: Describe(frame), From: from, Revision: t.look.Revision, outcome: out}
	reason := dataplane.ReasonNotOurs
	last := Crossing{}
	for _, c := range out.Crossings {
		if c.ENI == 0 && len(out.Crossings) > 1 {
			continue // an answer of ours
		}
		if err := t.stages(r, c, out); err != nil {
			return nil, err
		}
		last, reason = c, c.Reason
	}
	r.Reason = reason.Explain()
	r.Verdict = verdict(reason)
	if len(out.Crossings) > 0 {
		r.At = t.place(last)
	}
	if r.Reason.Reason == dataplane.ReasonDelivered && r.hop != nil && r.hop.VTEP.IsValid() && !r.hop.Gateway && last.Direction == dataplane.Out {
		r.Next = fmt.Sprintf("host %s judges it, too; there: enictl trace --eni %s --in %q",
			t.hostName(r.hop.VTEP), t.names.NextHops[r.hop.Index], plain(frame))
	}
	if r.Allowed() || out.Action == Redirect {
		r.Leaves, r.Bytes = Describe(out.Frame), hex.EncodeToString(out.Frame)
		r.NAT = nat(frame, out.Frame)
	}
	return r, nil
}

// plain is a frame as a question.
func plain(frame []byte) string {
	text, _, _ := strings.Cut(Describe(frame), " [")
	text, _, _ = strings.Cut(text, " type ")
	return text
}

func verdict(r dataplane.Reason) string {
	switch {
	case r.IsDrop():
		return "denied"
	case r == dataplane.ReasonNotOurs:
		return "left to the host"
	}
	return strings.ToLower(r.String())
}

func (t *Tracer) place(c Crossing) string {
	if c.ENI == 0 {
		return "the host"
	}
	return t.eniName(c.ENI) + " " + c.Direction.String()
}

// stages tells the story of a packet at one ENI.
func (t *Tracer) stages(r *Report, c Crossing, out *Outcome) error {
	at := t.place(c)
	add := func(stage, result, detail string) { r.Stages = append(r.Stages, Stage{stage, at, result, detail}) }
	order := stageOrder[c.Direction]
	end := slices.Index(order, c.Reason.Stage())
	denied := func() { add(c.Reason.Stage(), result(c.Reason), c.Reason.Help()) }
	e, err := t.look.ENI(c.ENI)
	if err != nil {
		return err
	}
	if e == nil || end < 0 {
		denied()
		return nil
	}
	before, known := flowAt(out.Before, c.ENI)
	after, made := flowAt(out.After, c.ENI)
	j := judgedAt(out.Judged, c.ENI)
	for i, stage := range order {
		switch {
		case i > end:
			return nil
		case i == end && c.Reason != dataplane.ReasonDelivered:
			text, rule := t.why(c.Reason, e, j, before)
			add(stage, result(c.Reason), text)
			r.Rule = rule
			return nil
		case stage == "port":
			add(stage, "pass", t.port(e))
		case stage == "source":
			add(stage, "pass", fmt.Sprintf("MAC and address are those of %s", t.eniName(c.ENI)))
		case stage == "flow" && known:
			add(stage, "known", t.flow(&before, &after))
		case stage == "flow" && made:
			add(stage, "new", "opens a connection")
		case stage == "EIP" && c.Direction == dataplane.Out && made && after.NAT.IsValid():
			add(stage, "pass", fmt.Sprintf("source %v becomes %v", after.Local, after.NAT))
		case stage == "EIP" && c.Direction == dataplane.In && made && after.NAT.IsValid():
			add(stage, "pass", fmt.Sprintf("destination %v becomes %v", after.NAT, after.Local))
		case stage == "security groups" && j != nil:
			add(stage, "pass", t.group(e, j))
		case stage == "network ACL" && j != nil && e.NACL:
			add(stage, "pass", t.acl(j))
		case stage == "route" && j != nil && c.Direction == dataplane.Out:
			add(stage, "pass", t.nextHop(j.NextHop))
		}
	}
	r.Rule = t.rule(after.Rule)
	if r.hop, err = t.look.NextHop(after.Nexthop); err != nil {
		return err
	}
	r.To = t.leaves(out, c)
	add("next hop", "pass", r.To)
	return nil
}

// result is the word for what ended a packet, or let it go.
func result(r dataplane.Reason) string {
	if r.IsDrop() {
		return "denied"
	}
	return strings.ToLower(r.String())
}

func flowAt(flows []flowtable.Flow, eni uint32) (flowtable.Flow, bool) {
	i := slices.IndexFunc(flows, func(f flowtable.Flow) bool { return f.ENI == eni })
	if i < 0 {
		return flowtable.Flow{}, false
	}
	return flows[i], true
}

// judgedAt finds the judgement on the connection at an ENI; nil = none was made.
func judgedAt(all []dataplane.Judged, eni uint32) *dataplane.Judged {
	for i := range slices.Backward(all) {
		if all[i].ENI == eni && !all[i].Packet {
			return &all[i]
		}
	}
	return nil
}

// why says what denied a packet, and by which rule.
func (t *Tracer) why(r dataplane.Reason, e *dataplane.ENIFacts, j *dataplane.Judged, known flowtable.Flow) (text, rule string) {
	set := func(in, out uint32) string {
		id := out
		if j.Direction == dataplane.In {
			id = in
		}
		if name := t.names.Rulesets[id]; name != "" {
			return name
		}
		return "none"
	}
	switch {
	case j == nil && known.Reason != 0 && dataplane.Reason(known.Reason) == r:
		return "the connection is blocked since a change: " + r.Help(), ""
	case j == nil:
		return r.Help(), ""
	case r == dataplane.ReasonSGDenied:
		return fmt.Sprintf("%s allows %s", noRuleOf(set(e.SGIn, e.SGOut)), service(j)), ""
	case r == dataplane.ReasonNACLDenied && j.NACLRule == 0:
		return fmt.Sprintf("%s matches %s", noRuleOf(set(e.NACLIn, e.NACLOut)), service(j)), ""
	case r == dataplane.ReasonNACLDenied:
		rule = t.rule(j.NACLRule)
		return rule + " denies " + service(j), rule
	}
	return r.Help(), ""
}

func noRuleOf(set string) string {
	if set == "none" {
		return "there is no rule: nothing"
	}
	return "no rule of " + set
}

// service is what a judgement was about.
func service(j *dataplane.Judged) string {
	name := protocolName(j.Protocol)
	switch j.Protocol {
	case protoTCP, protoUDP:
		name = fmt.Sprintf("%s port %d", name, j.Port)
	case protoICMP, protoICMPv6:
		name = fmt.Sprintf("%s type %d code %d", name, j.Port>>8, j.Port&0xff)
	}
	if j.Direction == dataplane.In {
		return fmt.Sprintf("%s from %v", name, j.Remote)
	}
	return fmt.Sprintf("%s to %v", name, j.Remote)
}

// rule names a rule as people find it: "ingress web/https".
func (t *Tracer) rule(id uint32) string {
	if id == 0 {
		return ""
	}
	if n, known := t.names.Rules[id]; known {
		return strings.TrimSpace(n.Direction + " " + n.Name)
	}
	return fmt.Sprintf("rule %d", id)
}

func (t *Tracer) port(e *dataplane.ENIFacts) string {
	return fmt.Sprintf("%s is ready at %s", t.eniName(e.Index), deviceName(e.Ifindex))
}

func (t *Tracer) group(e *dataplane.ENIFacts, j *dataplane.Judged) string {
	switch {
	case j.Rule != 0:
		return t.rule(j.Rule) + " allows " + service(j)
	case j.Kept:
		return "onPolicyChange: keep leaves the connection alone"
	}
	return "allow " + service(j)
}

func (t *Tracer) acl(j *dataplane.Judged) string {
	text := "allows " + service(j)
	switch {
	case j.SameSubnet:
		return "not asked: the packet stays in the subnet"
	case j.NACLRule != 0:
		text = t.rule(j.NACLRule) + " " + text
	}
	if j.ReplyDenied {
		text += "; but it denies the answers"
	}
	return text
}

// flow describes a connection that the packet belongs to.
func (t *Tracer) flow(before, after *flowtable.Flow) string {
	opener := t.eniName(before.ENI)
	if before.Flags&1 != 0 {
		opener = "the peer"
	}
	text := fmt.Sprintf("%s, opened by %s, %d packets out, %d in", stateName(before.State), opener, before.Packets[0], before.Packets[1])
	if rule := t.rule(before.Rule); rule != "" {
		text += ", allowed by " + rule
	}
	if after.State != before.State {
		text += "; becomes " + stateName(after.State)
	}
	return text
}

func stateName(state uint8) string {
	if names := []string{"ended", "opening", "established", "closing", "blocked"}; int(state) < len(names) {
		return names[state]
	}
	return fmt.Sprint(state)
}

// nextHop names where a judgement sends the packet.
func (t *Tracer) nextHop(index uint32) string {
	hop, err := t.look.NextHop(index)
	switch {
	case err != nil || hop == nil:
		return "nowhere"
	case hop.Internet:
		return "internet"
	case hop.Gateway:
		return "internet, by the gateway " + t.hostName(hop.VTEP)
	case hop.ENI != 0:
		return "eni/" + t.eniName(hop.ENI) + " on this host"
	}
	name := t.names.NextHops[index]
	if name == "" {
		name = fmt.Sprintf("#%d", index)
	}
	return fmt.Sprintf("eni/%s on host %s", name, t.hostName(hop.VTEP))
}

// leaves says how a delivered packet leaves an ENI's side.
func (t *Tracer) leaves(out *Outcome, c Crossing) string {
	for _, other := range out.Received {
		if c.Direction == dataplane.Out && other.Direction == dataplane.In && other.ENI != 0 {
			return "to " + t.eniName(other.ENI) + " on this host"
		}
	}
	device := deviceName(out.Ifindex)
	_, outer := inside(out.Frame)
	switch {
	case c.Direction == dataplane.In:
		return fmt.Sprintf("delivered to %s at %s", t.eniName(c.ENI), device)
	case out.Tunnel != nil:
		return fmt.Sprintf("VXLAN %d to host %s by %s", out.Tunnel.VNI, t.hostName(out.Tunnel.Remote), device)
	case out.Neighbour:
		return "to the internet by " + device + ", next hop by the host's routes"
	case outer.dst.IsValid():
		return fmt.Sprintf("VXLAN to host %s by %s", t.hostName(outer.dst), device)
	}
	return "waits for its turn at the shaper " + device
}

// nat lists the addresses that were replaced.
func nat(before, after []byte) []string {
	if inner, _ := inside(after); inner != nil {
		after = inner
	}
	was, is := tuples(before), tuples(after)
	if len(was) == 0 || len(is) == 0 || was[0].v6() != is[0].v6() || was[0].protocol != is[0].protocol {
		return nil
	}
	var list []string
	for _, a := range []struct {
		what    string
		was, is netip.Addr
	}{{"source", was[0].src, is[0].src}, {"destination", was[0].dst, is[0].dst}} {
		if a.was != a.is {
			list = append(list, fmt.Sprintf("%s %v becomes %v", a.what, a.was, a.is))
		}
	}
	return list
}
