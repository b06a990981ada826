// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/eniplane/eniplane/pkg/dataplane"
	"github.com/eniplane/eniplane/pkg/lab"
)

// What the limited ENIs may have and try to open, and the shortest that an established UDP flow can live.
const (
	quotaLimit  = 100
	quotaTries  = 200
	quotaStream = 60 * time.Second
	quotaPort   = 8400
	// quotaAgain is how long after the deadlines of its flows an ENI may open others, and quotaTurn the tick of the
	// flow clock: a deadline is kept in whole ticks, rounded to the ENI's good.
	quotaAgain = 1500 * time.Millisecond
	quotaTurn  = 600 * time.Millisecond
)

// quotaENI is an ENI at its limit.
type quotaENI struct {
	name   string
	family lab.Family
	from   lab.Spot
	to     netip.AddrPort
	live   *transfer
	open   []*net.UDPConn
	silent time.Time // the last packet of the open ones, at the earliest and
	since  time.Time // at the latest
}

// TestFlowLimit: an ENI opens as many flows as it may have and no more, those go on, and when they end it opens others,
// with the agent dead.
func TestFlowLimit(t *testing.T) {
	l := common(t)
	good, err := os.ReadFile(filepath.Join(l.FeedDir(), objectsFile))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { putGood(t, l, good) })
	enis := []*quotaENI{{name: "a2", family: lab.IPv4}, {name: "a1", family: lab.IPv6}}
	var edits []lab.Edit
	for _, e := range enis {
		forgetFlows(t, l, "host-a", e.name)
		edits = append(edits, lab.Edit{Kind: "ENI", Name: e.name, Change: func(spec *yaml.Node) error {
			if err := lab.Set(spec, "timeouts", map[string]any{"udp": 30, "udpStream": int(quotaStream.Seconds())}); err != nil {
				return err
			}
			return lab.Set(spec, "limits", map[string]any{"flows": quotaLimit})
		}})
	}
	edit(t, l, edits)
	for _, e := range enis {
		e.begin(t, l)
		e.fill(t, l)
	}
	if err := l.KillAgent("host-a"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { revive(t, l, "host-a") })
	for _, e := range enis {
		e.goOn(t, l)
	}
	t.Run("again", func(t *testing.T) {
		for _, e := range enis {
			t.Run(e.name, func(t *testing.T) {
				t.Parallel() // their deadlines are about the same
				e.again(t, l)
			})
		}
	})
}

// forgetFlows ends what earlier tests left, and waits until it does not count any more.
func forgetFlows(t *testing.T, l *lab.Lab, host, eni string) {
	t.Helper()
	index := uint32(0)
	for _, f := range flowsOf(t, l, host, eni) {
		index = f.ENI
	}
	m, err := dataplane.OpenPinned(dataplane.PinDir(l.AgentBPFFS(), host), false)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if _, err := m.EndFlows(func(f dataplane.Flow) bool { return f.ENI == index }); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(answerWait); flowUse(t, l, host, eni).Flows != 0; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s still has %d flows", eni, flowUse(t, l, host, eni).Flows)
		}
	}
}

func revive(t *testing.T, l *lab.Lab, host string) {
	t.Helper()
	if err := l.StartAgent(host); err != nil {
		t.Fatal(err)
	}
	if err := l.WaitReady(t.Context(), host); err != nil && t.Context().Err() == nil {
		t.Fatal(err)
	}
}

func (e *quotaENI) begin(t *testing.T, l *lab.Lab) {
	t.Helper()
	from, to, err := l.Spots(e.name, "b1", e.family)
	if err != nil {
		t.Fatal(err)
	}
	server, err := l.ListenUDP(to, quotaPort)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Close() })
	go echoDatagrams(server)
	e.from, e.to = from, netip.AddrPortFrom(to.Addr, quotaPort)
	e.live = startTransfer(t, l, e.name, "b1", e.family, quotaPort)
	e.live.goesOn(t, "before the limit")
}

// connect makes a flow established: it is heard, answered, and heard again. It tells whether that was possible.
func (e *quotaENI) connect(t *testing.T, l *lab.Lab, wait time.Duration) (*net.UDPConn, bool) {
	t.Helper()
	c := connectUDP(t, l, e.from, e.to.Addr(), e.to.Port())
	return c, speak(t, c, wait) && speak(t, c, answerWait)
}

// speak sends a datagram and tells whether it came back.
func speak(t *testing.T, c *net.UDPConn, wait time.Duration) bool {
	t.Helper()
	text := []byte(fmt.Sprintf("%s at %s", c.LocalAddr(), time.Now()))
	if _, err := c.Write(text); err != nil {
		t.Fatal(err)
	}
	if wait == 0 {
		return false
	}
	if err := c.SetReadDeadline(time.Now().Add(wait)); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 2*len(text))
	n, err := c.Read(got)
	return err == nil && bytes.Equal(got[:n], text)
}

// fill opens twice what the ENI may have: the first ones pass, and exactly the others are FLOW_QUOTA.
func (e *quotaENI) fill(t *testing.T, l *lab.Lab) {
	t.Helper()
	before := counters(t, l)
	had := int(flowUse(t, l, "host-a", e.name).Flows)
	if had == 0 || had > 10 {
		t.Fatalf("%s has %d flows before it opens any, want few", e.name, had)
	}
	e.silent = time.Now()
	for i := range quotaTries {
		if beyond := i >= quotaLimit-had; beyond {
			e.connect(t, l, 0)
			continue
		}
		c, passed := e.connect(t, l, answerWait)
		if !passed {
			t.Fatalf("%s: flow number %d of %d did not come about; dropped: %v", e.name, had+i+1, quotaLimit, lab.Drops(counters(t, l).Since(before)))
		}
		e.open = append(e.open, c)
	}
	want := uint64(quotaTries - len(e.open))
	if !waitCounted(t, l, before, e.name, dataplane.Out, dataplane.ReasonFlowQuota, answerWait) {
		t.Errorf("%s: nothing was FLOW_QUOTA", e.name)
	}
	time.Sleep(silence)
	if n := counted(t, l, before, e.name, dataplane.Out, dataplane.ReasonFlowQuota); n != want {
		t.Errorf("%s: %d packets were FLOW_QUOTA, want %d", e.name, n, want)
	}
	if use := flowUse(t, l, "host-a", e.name); use.Flows != quotaLimit || use.Limit != quotaLimit {
		t.Errorf("%s has %d flows of %d, want %d", e.name, use.Flows, use.Limit, quotaLimit)
	}
}

// goOn: what is open is not harmed by what cannot be opened, nor by the death of the agent.
func (e *quotaENI) goOn(t *testing.T, l *lab.Lab) {
	t.Helper()
	e.live.goesOn(t, "at the limit")
	e.silent = time.Now()
	for _, c := range e.open {
		if !speak(t, c, answerWait) {
			t.Errorf("%s: the established flow of %s is dead", e.name, c.LocalAddr())
		}
	}
	e.since = time.Now()
}

// again tries until a new flow comes about, which must be neither before the deadline of the old ones nor long after it.
func (e *quotaENI) again(t *testing.T, l *lab.Lab) {
	t.Helper()
	earliest, latest := e.silent.Add(quotaStream-quotaTurn), e.since.Add(quotaStream+quotaAgain)
	time.Sleep(time.Until(earliest) - 2*quotaTurn)
	var tried time.Time
	for came := false; !came; {
		tried = time.Now()
		if _, came = e.connect(t, l, 100*time.Millisecond); came {
			break
		}
		if tried.After(latest.Add(answerWait)) {
			t.Fatalf("%s opens nothing %v after the deadline of its flows", e.name, tried.Sub(e.since.Add(quotaStream)))
		}
	}
	if tried.Before(earliest) || tried.After(latest) {
		t.Errorf("%s opened a flow %v after its others were last used, want %v to %v", e.name,
			tried.Sub(e.since), earliest.Sub(e.since), latest.Sub(e.since))
	}
	t.Logf("%s: the first new flow %v after the deadline of the first old one, agent dead", e.name, tried.Sub(e.silent.Add(quotaStream)).Round(time.Millisecond))
	time.Sleep(time.Until(latest))
	had := int(flowUse(t, l, "host-a", e.name).Flows)
	if had > 10 {
		t.Errorf("%s still has %d flows, but all but few are past their deadline", e.name, had)
	}
	for i := range quotaLimit - had {
		if _, came := e.connect(t, l, answerWait); !came {
			t.Fatalf("%s: of %d new flows number %d does not come about", e.name, quotaLimit-had, i+1)
		}
	}
	e.live.goesOn(t, "while others begin and end")
	e.live.end(t)
}
