// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/eniplane/eniplane/pkg/dataplane"
	"github.com/eniplane/eniplane/pkg/trace"
)

// fakeTracer denies what is not sent to port 443.
type fakeTracer struct{ asked []string }

func (f *fakeTracer) report(how string, eni uint32, q trace.Question) (*trace.Report, error) {
	f.asked = append(f.asked, fmt.Sprintf("%s %d %d %v:%d>%v:%d flags %d size %d icmp %v", how, eni, q.Protocol, q.Src, q.SrcPort, q.Dst, q.DstPort, q.Flags, q.Size, q.ICMP))
	r := &trace.Report{
		Packet: "tcp", From: "sent by web-0", Revision: 7, Verdict: "delivered", At: "web-0 out", Rule: "egress web/any",
		Reason: dataplane.ReasonDelivered.Explain(), To: "to db-0 on this host", Bytes: "00ff", Leaves: "tcp",
		Stages: []trace.Stage{{Stage: "security groups", At: "web-0 out", Result: "pass", Detail: "egress web/any allows tcp port 443"}},
	}
	if q.DstPort != 443 {
		r.Verdict, r.Rule, r.Reason, r.Bytes, r.Leaves, r.To = "denied", "", dataplane.ReasonSGDenied.Explain(), "", "", ""
		r.Stages[0].Result, r.Stages[0].Detail = "denied", "no rule of sg web egress allows tcp port 80"
	}
	return r, nil
}

func (f *fakeTracer) Out(eni uint32, q trace.Question) (*trace.Report, error) {
	return f.report("out", eni, q)
}

func (f *fakeTracer) In(eni uint32, q trace.Question, via string) (*trace.Report, error) {
	return f.report("in"+via, eni, q)
}

func (f *fakeTracer) Frame(eni uint32, frame []byte) (*trace.Report, error) {
	return f.report(fmt.Sprintf("frame of %d", len(frame)), eni, trace.Question{DstPort: 443})
}

func (f *fakeTracer) Reply(r *trace.Report) (*trace.Report, error) {
	if r.Rule == "" {
		return nil, trace.ErrNoReply
	}
	return f.report("reply", 0, trace.Question{DstPort: 443})
}

func TestTraceCommand(t *testing.T) {
	for _, tt := range []struct {
		name  string
		line  []string
		code  int
		want  string // in the output or the errors
		asked string
	}{
		{"allowed", []string{"--eni", "web-0", "--out", "tcp 10.0.1.10:40000 > 10.0.2.10:443"}, exitDone, "verdict: delivered", "out 1 6 10.0.1.10:40000>10.0.2.10:443 flags 0 size 0 icmp <nil>"},
		{"denied", []string{"--eni", "web-0", "--out", "tcp 10.0.1.10 > 10.0.2.10:80"}, exitDenied, "do:  Add a rule", "out 1 6 10.0.1.10:40000>10.0.2.10:80 flags 0 size 0 icmp <nil>"},
		{"rule", []string{"--eni", "web-0", "--out", "tcp 10.0.1.10 > 10.0.2.10:443"}, exitDone, "egress web/any allows", ""},
		{"in", []string{"--eni", "db-0", "--in", "tcp [fd00::1]:1 > [fd00::2]:443", "--via", "x", "--flags", "S.", "--size", "100"}, exitDone, "delivered", "inx 2 6 fd00::1:1>fd00::2:443 flags 18 size 100 icmp <nil>"},
		{"icmp", []string{"--eni", "db-0", "--in", "icmp 10.0.0.1 > 10.0.0.2", "--icmp", "3/4"}, exitDenied, "SG_DENIED", "in 2 1 10.0.0.1:0>10.0.0.2:0 flags 0 size 0 icmp &{3 4}"},
		{"both", []string{"--eni", "web-0", "--out", "tcp 10.0.1.10 > 10.0.2.10:443", "--both-directions"}, exitDone, "the answer: ", "reply"},
		{"json", []string{"--eni", "web-0", "--out", "tcp 10.0.1.10 > 10.0.2.10:443", "-o", "json"}, exitDone, `"bytes": "00ff"`, ""},
		{"denied json", []string{"--eni", "web-0", "--out", "tcp 10.0.1.10 > 10.0.2.10:80", "-o", "json"}, exitDenied, `"reason": "SG_DENIED"`, ""},
		{"pcap", []string{"--eni", "web-0", "--from-pcap", "PCAP"}, exitDone, "delivered", "frame of 60"},
		{"no eni", []string{"--out", "tcp 10.0.1.10 > 10.0.2.10:443"}, exitUsage, "want --eni NAME", ""},
		{"both ways", []string{"--eni", "web-0", "--out", "x", "--in", "y"}, exitUsage, "one of --out", ""},
		{"via out", []string{"--eni", "web-0", "--out", "x", "--via", "y"}, exitUsage, "goes with --in", ""},
		{"nobody", []string{"--eni", "nobody", "--out", "tcp 10.0.1.10 > 10.0.2.10:443"}, exitError, `no ENI "nobody"`, ""},
		{"no packet", []string{"--eni", "web-0", "--out", "tcp 10.0.1.10"}, exitUsage, "want PROTOCOL ADDRESS:PORT", ""},
		{"no port", []string{"--eni", "web-0", "--out", "tcp 10.0.1.10 > 10.0.2.10"}, exitUsage, "to which port", ""},
		{"families", []string{"--eni", "web-0", "--out", "47 10.0.1.10 > fd00::1"}, exitUsage, "not of one address family", ""},
		{"protocol", []string{"--eni", "web-0", "--out", "foo 10.0.1.10 > 10.0.1.11"}, exitUsage, `"foo" is not a protocol`, ""},
		{"flags", []string{"--eni", "web-0", "--out", "tcp 10.0.1.10 > 10.0.1.11:1", "--flags", "X"}, exitUsage, "no flags of TCP", ""},
		{"type", []string{"--eni", "web-0", "--out", "icmp 10.0.1.10 > 10.0.1.11", "--icmp", "echo"}, exitUsage, "want TYPE", ""},
		{"no file", []string{"--eni", "web-0", "--from-pcap", "/nowhere.pcap"}, exitError, "no such file", ""},
		{"pcap and more", []string{"--eni", "web-0", "--from-pcap", "PCAP", "--size", "9"}, exitUsage, "--from-pcap has all", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := newHost(t)
			for i := range tt.line {
				if tt.line[i] == "PCAP" {
					tt.line[i] = onePacket(t, 60, 60)
				}
			}
			got := h.run(append([]string{"trace"}, tt.line...)...)
			if got.code != tt.code || !strings.Contains(got.out+got.err, tt.want) {
				t.Errorf("exit code %d, want %d; want %q in\n%s\n%s", got.code, tt.code, tt.want, got.out, got.err)
			}
			if asked := strings.Join(h.tracer.asked, "\n"); !strings.Contains(asked, tt.asked) {
				t.Errorf("asked %q, want %q", asked, tt.asked)
			}
		})
	}
}

// onePacket writes a file with a packet, captured as far as `kept`.
func onePacket(t *testing.T, length, kept int) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "one.pcap")
	head := []byte{0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	head = append(head, byte(kept), 0, 0, 0, byte(length), 0, 0, 0)
	if err := os.WriteFile(path, append(head, make([]byte, kept)...), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestTraceOfCutPackets(t *testing.T) {
	h := newHost(t)
	if got := h.run("trace", "--eni", "web-0", "--from-pcap", onePacket(t, 100, 60)); got.code != exitError || !strings.Contains(got.err, "capture whole packets") {
		t.Errorf("exit code %d, %s", got.code, got.err)
	}
	h.traceErr = errors.New("restart enid")
	if got := h.run("trace", "--eni", "web-0", "--out", "udp 10.0.1.10 > 10.0.2.10:53"); got.code != exitError || !strings.Contains(got.err, "restart enid") {
		t.Errorf("exit code %d, %s", got.code, got.err)
	}
}

func TestExplain(t *testing.T) {
	h := newHost(t)
	if got := h.run("explain", "sg-denied"); got.code != exitDone || !strings.Contains(got.out, "SG_DENIED: no security group rule allows it") || !strings.Contains(got.out, "do     Add a rule") {
		t.Errorf("exit code %d, %s%s", got.code, got.out, got.err)
	}
	if got := h.run("explain", "NONSENSE"); got.code != exitUsage || !strings.Contains(got.err, "is no reason") {
		t.Errorf("exit code %d, %s", got.code, got.err)
	}
	if got := h.run("explain", "-o", "name"); strings.Count(got.out, "\n") != len(dataplane.Reasons()) {
		t.Errorf("%s", got.out)
	}
}
