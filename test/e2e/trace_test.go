// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"

	"github.com/eniplane/eniplane/pkg/dataplane"
	"github.com/eniplane/eniplane/pkg/lab"
)

// traced is what `enictl trace -o json` says of a packet.
type traced struct {
	Packet, From, Verdict, At, Rule, To, Leaves string
	NAT                                         []string
	Reason                                      struct{ Reason string }
	Stages                                      []struct{ Stage, At, Result, Detail string }
	Reply                                       *traced
}

// question is one line of enictl trace. Addresses are written as names: {a1}, {internet}, {eip a1}.
type question struct {
	host, eni, how, packet string
	only                   lab.Family
	one                    bool // exists in the family `only` alone
	more                   []string

	verdict, at, reason, rule string
	says                      []string // in the details or elsewhere
}

func questions() []question {
	return []question{
		{host: "host-a", eni: "a1", how: "--out", packet: "tcp {a1}:40000 > {b2}:443", verdict: "delivered", at: "a1 out", rule: "egress open/any", says: []string{"host-b", "vxlan 2001"}},
		{host: "host-b", eni: "b2", how: "--in", packet: "tcp {a1}:40000 > {b2}:443", verdict: "delivered", at: "b2 in", rule: "ingress strict/cidr", says: []string{"from host host-a"}},
		{host: "host-b", eni: "b2", how: "--in", packet: "tcp {a1}:40000 > {b2}:444", verdict: "denied", at: "b2 in", reason: "SG_DENIED", says: []string{"strict"}},
		{host: "host-b", eni: "b2", how: "--in", packet: "tcp {a1}:40000 > {b2}:443", more: []string{"--flags", "."}, verdict: "denied", at: "b2 in", reason: "NO_FLOW"},
		{host: "host-a", eni: "a1", how: "--out", packet: "udp {a1}:4000 > {b2}:4321", one: true, only: lab.IPv4, verdict: "denied", at: "a1 out", reason: "NACL_DENIED", rule: "egress front/50"},
		{host: "host-a", eni: "a1", how: "--out", packet: "tcp {a1}:40000 > {a3}:5432", more: []string{"--both-directions"}, verdict: "delivered", at: "a3 in", rule: "ingress strict/group", says: []string{"to a3 on this host", "delivered to a3"}},
		{host: "host-a", eni: "a3", how: "--in", packet: "tcp {a1}:40000 > {a3}:5433", verdict: "denied", at: "a3 in", reason: "SG_DENIED"},
		{host: "host-a", eni: "a1", how: "--out", packet: "{icmp} {a1} > {a3}", more: []string{"--both-directions"}, verdict: "delivered", at: "a3 in", rule: "ingress strict/{ping}"},
		{host: "host-a", eni: "a1", how: "--out", packet: "47 {a1} > {a3}", verdict: "delivered", at: "a3 in", rule: "ingress strict/gre"},
		{host: "host-a", eni: "a1", how: "--out", packet: "48 {a1} > {a3}", verdict: "denied", at: "a3 in", reason: "SG_DENIED"},
		{host: "host-a", eni: "a1", how: "--in", packet: "tcp {internet}:40000 > {eip a1}:443", more: []string{"--both-directions"}, verdict: "delivered", at: "a1 in", rule: "ingress open/any", says: []string{"destination {eip a1} becomes {a1}"}},
		{host: "host-a", eni: "a1", how: "--in", packet: "tcp {internet}:40000 > {eip a1}:23", verdict: "denied", at: "a1 in", reason: "NACL_DENIED", says: []string{"front/5"}},
		{host: "host-a", eni: "a1", how: "--out", packet: "tcp {a1}:40000 > {internet}:443", more: []string{"--both-directions"}, verdict: "delivered", at: "a1 out", says: []string{"source {a1} becomes {eip a1}", "to the internet by uplink0"}},
		{host: "host-a", eni: "a1", how: "--out", packet: "tcp {a1}:40000 > 198.18.0.7:80", one: true, only: lab.IPv4, verdict: "denied", at: "a1 out", reason: "BLACKHOLE"},
		{host: "host-b", eni: "mute", how: "--out", packet: "tcp {mute}:40000 > {b2}:443", verdict: "denied", at: "mute out", reason: "SG_DENIED", says: []string{"mute"}},
		{host: "host-a", eni: "a1", how: "--out", packet: "tcp {a2}:40000 > {b2}:443", verdict: "denied", at: "a1 out", reason: "SPOOFED_IP"},
	}
}

// words puts addresses in the place of names.
func (q *question) words(t *testing.T, l *lab.Lab, f lab.Family, text string) string {
	t.Helper()
	pairs := []string{"{icmp}", map[lab.Family]string{lab.IPv4: "icmp", lab.IPv6: "icmpv6"}[f], "{ping}", map[lab.Family]string{lab.IPv4: "ping", lab.IPv6: "ping6"}[f]}
	for _, eni := range []string{"a1", "a2", "a3", "b2", "mute"} {
		s, _, err := l.Spots(eni, eni, f)
		if err != nil {
			t.Fatal(err)
		}
		pairs = append(pairs, "{"+eni+"}", s.Local.String())
	}
	_, eip, err := l.Spots(internetNode, "a1", f)
	if err != nil {
		t.Fatal(err)
	}
	internet, _, err := l.Spots(internetNode, "a1", f)
	if err != nil {
		t.Fatal(err)
	}
	pairs = append(pairs, "{eip a1}", eip.Addr.String(), "{internet}", internet.Local.String())
	if f == lab.IPv6 {
		for i := 1; i < len(pairs); i += 2 {
			if strings.Contains(pairs[i], ":") && strings.Contains(text, pairs[i-1]+":") {
				text = strings.ReplaceAll(text, pairs[i-1]+":", "["+pairs[i]+"]:")
			}
		}
	}
	return strings.NewReplacer(pairs...).Replace(text)
}

func askTrace(t *testing.T, l *lab.Lab, host string, line ...string) (traced, string, int) {
	t.Helper()
	enictl := labs.binary(t, "enictl")
	all := append([]string{enictl, "trace", "--host", host, "--bpffs", l.AgentBPFFS(), "--state-dir", l.AgentStateDir()}, line...)
	out, errOut, code := execute(t, l, host, all...)
	// The agents make the twins beside their work: 2 s of CPU time each.
	for end := time.Now().Add(6 * commandWait); code == 1 && strings.Contains(errOut, "no trace twins") && time.Now().Before(end); {
		time.Sleep(100 * time.Millisecond)
		out, errOut, code = execute(t, l, host, all...)
	}
	var r traced
	if slices.Contains(line, "json") && (code == 0 || code == 3) {
		if err := json.Unmarshal([]byte(out), &r); err != nil {
			t.Fatalf("%v: %v in %s%s", line, err, out, errOut)
		}
	}
	return r, out + errOut, code
}

// TestTraceInTheLab: enictl says of packets what becomes of them, from an ENI, from another host and from the internet.
func TestTraceInTheLab(t *testing.T) {
	l := common(t)
	for _, f := range []lab.Family{lab.IPv4, lab.IPv6} {
		for _, q := range questions() {
			if q.one && q.only != f {
				continue
			}
			t.Run(fmt.Sprintf("%s %s", f, q.packet), func(t *testing.T) { q.ask(t, l, f) })
		}
	}
}

func (q *question) ask(t *testing.T, l *lab.Lab, f lab.Family) {
	packet := q.words(t, l, f, q.packet)
	line := append([]string{"--eni", q.eni, q.how, packet, "-o", "json"}, q.more...)
	r, text, code := askTrace(t, l, q.host, line...)
	want := 0
	if q.verdict == "denied" {
		want = 3
	}
	if code != want {
		t.Fatalf("exit code %d, want %d: %s", code, want, text)
	}
	if r.Verdict != q.verdict || r.At != q.at || q.reason != "" && r.Reason.Reason != q.reason {
		t.Errorf("%s at %s (%s), want %s at %s (%s): %s", r.Verdict, r.At, r.Reason.Reason, q.verdict, q.at, q.reason, text)
	}
	if rule := q.words(t, l, f, q.rule); rule != "" && r.Rule != rule {
		t.Errorf("rule %q, want %q: %s", r.Rule, rule, text)
	}
	for _, s := range q.says {
		if s = q.words(t, l, f, s); !strings.Contains(text, s) {
			t.Errorf("it does not say %q: %s", s, text)
		}
	}
	if slices.Contains(q.more, "--both-directions") {
		if r.Reply == nil || r.Reply.Verdict != "delivered" || !slices.ContainsFunc(r.Reply.Stages, func(s struct{ Stage, At, Result, Detail string }) bool {
			return s.Stage == "flow" && s.Result == "known"
		}) {
			t.Errorf("the answer does not come back by the flow: %s", text)
		}
	}
	_, table, again := askTrace(t, l, q.host, append([]string{"--eni", q.eni, q.how, packet}, q.more...)...)
	if again != code || !strings.Contains(table, "verdict: "+q.verdict) {
		t.Errorf("as a table, exit code %d: %s", again, table)
	}
}

// TestTraceChangesNothing: no flow is made and nothing counted; what it says is what happens then.
func TestTraceChangesNothing(t *testing.T) {
	l := common(t)
	mute, b2, err := l.Spots("mute", "b2", lab.IPv4)
	if err != nil {
		t.Fatal(err)
	}
	packet := fmt.Sprintf("tcp %v:40123 > %v:443", mute.Local, b2.Local)
	before := counters(t, l)
	for range 3 {
		if r, text, code := askTrace(t, l, "host-b", "--eni", "mute", "--out", packet, "-o", "json"); code != 3 || r.Reason.Reason != "SG_DENIED" {
			t.Fatalf("exit code %d: %s", code, text)
		}
	}
	for _, m := range counters(t, l).Since(before) {
		if m.ENI == "mute" && m.Reason == dataplane.ReasonSGDenied {
			t.Errorf("it was counted: %v", m)
		}
	}
	denied(t, l, probe{from: "mute", to: "b2", protocol: "tcp", port: 443, family: lab.IPv4}, "mute", dataplane.Out, dataplane.ReasonSGDenied)
}

// TestTraceElsewhere: in another network namespace, with other devices and routes, there is no answer.
func TestTraceElsewhere(t *testing.T) {
	l := common(t)
	enictl := labs.binary(t, "enictl")
	line := []string{"--eni", "a1", "--out", "tcp 10.0.1.10:40000 > 10.0.2.10:443"}
	if _, text, code := askTrace(t, l, hostA, line...); code == 1 {
		t.Fatal(text)
	}
	for _, node := range []string{internetNode, "host-b"} {
		_, text, code := execute(t, l, node, append([]string{
			enictl, "trace", "--host", hostA, "--bpffs", l.AgentBPFFS(), "--state-dir", l.AgentStateDir(),
		}, line...)...)
		if code != 1 || !strings.Contains(text, "not the network namespace of the host") {
			t.Errorf("at %s: exit code %d: %s", node, code, text)
		}
	}
}

// TestTraceFromPcap: packets as tcpdump writes them, with the answers among them.
func TestTraceFromPcap(t *testing.T) {
	l := common(t)
	a1, a3, err := l.Spots("a1", "a3", lab.IPv4)
	if err != nil {
		t.Fatal(err)
	}
	syn := func(port layers.TCPPort) []byte {
		ip := &layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolTCP, SrcIP: a1.Local.AsSlice(), DstIP: a3.Local.AsSlice()}
		tcp := &layers.TCP{SrcPort: 40001, DstPort: port, SYN: true, Window: 1000}
		if err := tcp.SetNetworkLayerForChecksum(ip); err != nil {
			t.Fatal(err)
		}
		buf := gopacket.NewSerializeBuffer()
		eth := &layers.Ethernet{SrcMAC: []byte{2, 0, 0, 0, 0x0a, 1}, DstMAC: []byte{2, 0, 0x5e, 0, 0, 1}, EthernetType: layers.EthernetTypeIPv4}
		if err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, eth, ip, tcp); err != nil {
			t.Fatal(err)
		}
		return slices.Clone(buf.Bytes())
	}
	path := filepath.Join(t.TempDir(), "two.pcap")
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	w := pcapgo.NewWriter(file)
	if err := w.WriteFileHeader(65535, layers.LinkTypeEthernet); err != nil {
		t.Fatal(err)
	}
	for _, frame := range [][]byte{syn(5432), syn(5433)} {
		if err := w.WritePacket(gopacket.CaptureInfo{CaptureLength: len(frame), Length: len(frame)}, frame); err != nil {
			t.Fatal(err)
		}
	}
	_, text, code := askTrace(t, l, "host-a", "--eni", "a1", "--from-pcap", path)
	if code != 3 || !strings.Contains(text, "ingress strict/group") || !strings.Contains(text, "SG_DENIED") {
		t.Errorf("exit code %d: %s", code, text)
	}
}
