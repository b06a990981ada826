// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"os/exec"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/eniplane/eniplane/pkg/dataplane"
	"github.com/eniplane/eniplane/pkg/lab"
)

// eips is how many EIPs of each family one ENI has, as many as private IPs.
const eips = 21

// seat is where an EIP of each family can be: private IPs of an ENI.
type seat struct {
	eni, node string
	v4, v6    string
}

// The seats of testdata/eips-objects.yaml beside those of many. blueA and blueB are another tenant's.
var (
	nearSeat  = seat{"near", "vm-near", "10.0.1.100", "fd00:1:0:1::100"}
	farSeat   = seat{"far", "vm-far", "10.0.1.200", "fd00:1:0:1::200"}
	blueASeat = seat{"blue-a", "vm-blue-a", "10.0.1.10", "fd00:1:0:1::10"}
	blueBSeat = seat{"blue-b", "vm-blue-b", "10.0.1.200", "fd00:1:0:1::200"}
)

// manySeat is a private IP of many.
func manySeat(i int) seat {
	return seat{"many", "vm-many", fmt.Sprintf("10.0.1.%d", 10+i), fmt.Sprintf("fd00:1:0:1::%d", 10+i)}
}

func (s seat) addr(f lab.Family) netip.Addr {
	if f == lab.IPv6 {
		return netip.MustParseAddr(s.v6)
	}
	return netip.MustParseAddr(s.v4)
}

// spot is the seat as others see it.
func (s seat) spot(public netip.Addr, f lab.Family) lab.Spot {
	return lab.Spot{Node: s.node, Addr: public, Local: s.addr(f)}
}

func eipAddr(i int, f lab.Family) netip.Addr {
	if f == lab.IPv6 {
		return netip.MustParseAddr(fmt.Sprintf("2001:db8:113::%d", 50+i))
	}
	return netip.MustParseAddr(fmt.Sprintf("203.0.113.%d", 50+i))
}

// bind gives the EIPs of a number to a seat, nil = to nobody.
func bind(i int, to *seat) []lab.Edit {
	var edits []lab.Edit
	for _, f := range []lab.Family{lab.IPv4, lab.IPv6} {
		fields := map[string]string{"address": eipAddr(i, f).String()}
		if to != nil {
			fields["eni"], fields["privateIP"] = to.eni, to.addr(f).String()
		}
		name := fmt.Sprintf("e%d-v%d", i, map[lab.Family]int{lab.IPv4: 4, lab.IPv6: 6}[f])
		edits = append(edits, lab.Edit{Kind: "EIP", Name: name, Change: func(spec *yaml.Node) error { return spec.Encode(fields) }})
	}
	return edits
}

// TestManyEIPs: one ENI with 21 private IPs of each family, each with its EIP, all in use at once; and what becomes of
// traffic when an EIP moves.
func TestManyEIPs(t *testing.T) {
	l := upFrom(t, "testdata/eips-lab.yaml", false)
	for _, f := range []lab.Family{lab.IPv4, lab.IPv6} {
		t.Run("reserved/"+f.String(), func(t *testing.T) { reservedEIP(t, l, f) })
	}
	var all []lab.Edit
	for i := range eips {
		s := manySeat(i)
		all = append(all, bind(i, &s)...)
	}
	edit(t, l, all)
	for _, f := range []lab.Family{lab.IPv4, lab.IPv6} {
		t.Run("together/"+f.String(), func(t *testing.T) { eipsTogether(t, l, f) })
		t.Run("each/"+f.String(), func(t *testing.T) { eipsEach(t, l, f) })
	}
	t.Run("moves", func(t *testing.T) { eipMoves(t, l) })
	t.Run("verbs", func(t *testing.T) { eipVerbs(t, l) })
	balanced(t, l)
}

// reservedEIP: an EIP of nobody is not answered for, and a private IP without an EIP does not get out.
func reservedEIP(t *testing.T, l *lab.Lab, f lab.Family) {
	client, _ := spots(t, l, internetNode, internetNode, f)
	s := manySeat(7)
	ctx, cancel := context.WithTimeout(t.Context(), answerWait)
	defer cancel()
	q := lab.Probe{From: client, To: s.spot(eipAddr(7, f), f), Protocol: "udp", Port: 7070, Wait: 10 * silence}
	if answer, err := l.Probe(ctx, q); err != nil || answer.Allowed {
		t.Errorf("an EIP of nobody answers (%v)", err)
	}
	noEIP(t, l, s, f)
}

// noEIP wants nothing to get out from a private IP.
func noEIP(t *testing.T, l *lab.Lab, s seat, f lab.Family) {
	t.Helper()
	before := counters(t, l)
	client, err := l.ListenUDP(s.spot(s.addr(f), f), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	_, to := spots(t, l, internetNode, internetNode, f)
	if _, err := client.WriteToUDPAddrPort([]byte("let me out"), netip.AddrPortFrom(to.Addr, 7105)); err != nil {
		t.Fatal(err)
	}
	if !waitCounted(t, l, before, s.eni, dataplane.Out, dataplane.ReasonNoEIP, answerWait) {
		t.Errorf("NO_EIP is not counted at %s for %s; dropped: %v", s.eni, s.addr(f), lab.Drops(counters(t, l).Since(before)))
	}
}

// eipsTogether: a connection to each EIP on one port and one from each private IP, all open at once and all carrying
// bytes of their own at once. Who is seen is always the EIP that belongs to the private IP.
func eipsTogether(t *testing.T, l *lab.Lab, f lab.Family) {
	const bytes = 256 << 10
	client, _ := spots(t, l, internetNode, internetNode, f)
	var lines []line
	for i := range eips {
		eip, s := eipAddr(i, f), manySeat(i)
		in := call(t, l, client, s.spot(eip, f), 443)
		if got := in.caller(); got != client.Addr {
			t.Errorf("%s sees its client as %s, want %s", s.addr(f), got, client.Addr)
		}
		if got := addrOf(in.far.LocalAddr()); got != s.addr(f) {
			t.Errorf("a connection to %s reaches %s, want %s", eip, got, s.addr(f))
		}
		out := call(t, l, s.spot(eip, f), client, 9000+uint16(i))
		if got := out.caller(); got != eip {
			t.Errorf("the internet sees %s as %s, want %s", s.addr(f), got, eip)
		}
		lines = append(lines, in, out)
	}
	each(t, lines, func(x line) error { return x.carries(bytes) })
}

// eipsEach: datagrams and pings, in and out.
func eipsEach(t *testing.T, l *lab.Lab, f lab.Family) {
	client, _ := spots(t, l, internetNode, internetNode, f)
	for i := range eips {
		s := manySeat(i).spot(eipAddr(i, f), f)
		for _, q := range []lab.Probe{
			{From: client, To: s, Protocol: "udp", Port: 53}, {From: client, To: s, Protocol: "icmp"},
			{From: s, To: client, Protocol: "udp", Port: 53}, {From: s, To: client, Protocol: "icmp"},
		} {
			q.Wait = answerWait
			if answer, err := l.Probe(context.Background(), q); err != nil || !answer.Allowed {
				t.Errorf("%s from %s to %s: %v %v", q.Protocol, q.From, q.To, err, answer.Why)
			}
		}
	}
}

// eipVerbs: an EIP is released, bound and moved by enictl.
func eipVerbs(t *testing.T, l *lab.Lab) {
	const last = eips - 1
	enictl := func(verb string, more ...string) {
		command := append([]string{"eip", verb, fmt.Sprintf("e%d-v4", last), "--feed", "dir:" + l.FeedDir()}, more...)
		if out, err := exec.Command(labs.binary(t, "enictl"), command...).CombinedOutput(); err != nil {
			t.Fatalf("enictl %q: %v\n%s", command, err, out)
		}
		revision, err := l.Revision()
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := l.WaitRevisionAll(ctx, revision); err != nil {
			t.Fatal(err)
		}
	}
	home := manySeat(last)
	enictl("disassociate")
	noEIP(t, l, home, lab.IPv4)
	enictl("associate", "--eni", "near")
	each(t, eipLines(t, l, nearSeat, last, lab.IPv4), func(x line) error { return x.carries(64 << 10) })
	enictl("associate", "--eni", "many", "--private-ip", home.v4)
	each(t, eipLines(t, l, home, last, lab.IPv4), func(x line) error { return x.carries(64 << 10) })
}
