// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/eniplane/eniplane/pkg/dataplane"
	"github.com/eniplane/eniplane/pkg/lab"
)

// Probes must be answered within answerWait, however busy the machine; one that is denied is given
// up once its reason was counted and silence followed.
const (
	answerWait = 10 * time.Second
	silence    = 40 * time.Millisecond
)

// probe is a question between two nodes, ENIs or addresses.
type probe struct {
	from, to string
	protocol string
	port     uint16
	family   lab.Family
}

func (p probe) String() string {
	return fmt.Sprintf("%s>%s %s %d %s", p.from, p.to, p.protocol, p.port, p.family)
}

// resolve finds the ends; a destination that nobody has is taken as it is.
func (p probe) resolve(t *testing.T, l *lab.Lab) lab.Probe {
	t.Helper()
	q := lab.Probe{Protocol: p.protocol, Port: p.port, Wait: answerWait}
	var err error
	if q.From, q.To, err = l.Spots(p.from, p.to, p.family); err == nil {
		return q
	}
	addr, errAddr := netip.ParseAddr(p.to)
	if errAddr != nil {
		t.Fatal(err)
	}
	if q.From, _, err = l.Spots(p.from, p.from, lab.Family(addr.Is6())); err != nil {
		t.Fatal(err)
	}
	q.To = lab.Spot{Addr: addr, Local: addr}
	return q
}

func counters(t *testing.T, l *lab.Lab) lab.Counters {
	t.Helper()
	c, err := l.Counters()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// allowed wants an answer.
func allowed(t *testing.T, l *lab.Lab, p probe) {
	t.Helper()
	before := counters(t, l)
	answer, err := l.Probe(context.Background(), p.resolve(t, l))
	if err != nil {
		t.Fatalf("%s: %v", p, err)
	}
	if !answer.Allowed {
		t.Errorf("%s: denied (%v), want allowed; dropped: %v", p, answer.Why, lab.Drops(counters(t, l).Since(before)))
	}
}

// denied wants silence, and the reason counted where it must be.
func denied(t *testing.T, l *lab.Lab, p probe, at string, direction dataplane.Direction, reason dataplane.Reason) {
	t.Helper()
	before := counters(t, l)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	type result struct {
		answer lab.Answer
		err    error
	}
	done := make(chan result, 1)
	q := p.resolve(t, l)
	q.Wait = 3 * time.Second
	go func() {
		answer, err := l.Probe(ctx, q)
		done <- result{answer, err}
	}()
	counted := waitCounted(t, l, before, at, direction, reason, q.Wait)
	time.Sleep(silence)
	cancel()
	r := <-done
	if r.err != nil {
		t.Fatalf("%s: %v", p, r.err)
	}
	if r.answer.Allowed {
		t.Errorf("%s: allowed, want denied", p)
	}
	if !counted {
		t.Errorf("%s: no %s counted at %s %s; dropped: %v", p, reason, at, direction, lab.Drops(counters(t, l).Since(before)))
	}
}

// waitCounted waits until a reason was counted at an ENI.
func waitCounted(t *testing.T, l *lab.Lab, before lab.Counters, at string, direction dataplane.Direction,
	reason dataplane.Reason, limit time.Duration,
) bool {
	t.Helper()
	for end := time.Now().Add(limit); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		for _, m := range counters(t, l).Since(before) {
			if m.ENI == at && m.Direction == direction && m.Reason == reason {
				return true
			}
		}
	}
	return false
}
