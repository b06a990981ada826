// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	"github.com/eniplane/eniplane/pkg/lab"
)

// status is what these tests want to know of /status.
type status struct {
	Revision struct{ Number uint64 }
	Feed     struct{ Error string }
	ENIs     []struct{ Name, Phase, Reason string }
}

// agentStatus asks an agent; one that is just starting is given time.
func agentStatus(t *testing.T, l *lab.Lab, host string) (s status) {
	t.Helper()
	code, body, err := l.AgentGet(context.Background(), host, "/status")
	for end := time.Now().Add(answerWait); err != nil && time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		code, body, err = l.AgentGet(context.Background(), host, "/status")
	}
	if err != nil || code != 200 {
		t.Fatalf("/status of %s: %d, %v", host, code, err)
	}
	if err := json.Unmarshal([]byte(body), &s); err != nil {
		t.Fatalf("/status of %s: %v", host, err)
	}
	return s
}

// phaseWait is long enough for an agent that starts in an emulated machine.
const phaseWait = time.Minute

// waitPhase waits until an agent reports a phase of an ENI.
func waitPhase(t *testing.T, l *lab.Lab, host, eni, phase string) {
	t.Helper()
	var last string
	for end := time.Now().Add(phaseWait); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		for _, e := range agentStatus(t, l, host).ENIs {
			if e.Name == eni {
				last = e.Phase + " " + e.Reason
				if e.Phase == phase {
					return
				}
			}
		}
	}
	t.Fatalf("%s on %s is %q, want %s\n%s", eni, host, last, phase, l.LogTail(host))
}

// unharmed runs UDP both ways and TCP between pairs of nodes while something happens, and wants
// nothing lost, repeated or broken.
func unharmed(t *testing.T, l *lab.Lab, pairs [][2]string, happens func()) {
	t.Helper()
	var stop []func()
	for i, pair := range pairs {
		from, to, err := l.Spots(pair[0], pair[1], lab.IPv4)
		if err != nil {
			t.Fatal(err)
		}
		// TCP first: once it is connected, every neighbour on the way is resolved, and a datagram that
		// waited for one too long is not mistaken for one that the agent lost.
		tcp, err := l.StartTCP(context.Background(), from, to, uint16(8200+i))
		if err != nil {
			t.Fatal(err)
		}
		udp, err := l.StartUDP(from, to, uint16(8100+i))
		if err != nil {
			t.Fatal(err)
		}
		stop = append(stop, func() {
			u, c := udp.Stop(), tcp.Stop()
			if u.Lost() != 0 || u.Repeated != 0 || u.Returned == 0 {
				t.Errorf("UDP %s > %s: %s, %d repeated", from, to, u, u.Repeated)
			}
			if c.Broken != nil || c.Blocks == 0 {
				t.Errorf("TCP %s > %s: %s", from, to, c)
			}
			t.Logf("%s > %s: UDP %s; TCP %s", from, to, u, c)
		})
	}
	time.Sleep(100 * time.Millisecond)
	happens()
	time.Sleep(100 * time.Millisecond)
	for _, s := range stop {
		s()
	}
}

// TestAgentKilled: both agents die by SIGKILL under traffic, stay dead for a while, and come back.
func TestAgentKilled(t *testing.T) {
	l := common(t)
	pairs := [][2]string{{"a1", "a2"}, {"a1", "b1"}, {"a3", "b1"}, {internetNode, "b1"}, {"a1", internetNode}}
	unharmed(t, l, pairs, func() {
		for range 2 {
			for _, h := range l.Plan.Hosts {
				if err := l.KillAgent(h.Name); err != nil {
					t.Fatal(err)
				}
			}
			time.Sleep(200 * time.Millisecond)
			for _, h := range l.Plan.Hosts {
				if err := l.StartAgent(h.Name); err != nil {
					t.Fatal(err)
				}
				if err := l.WaitReady(context.Background(), h.Name); err != nil {
					t.Fatal(err)
				}
			}
		}
	})
}

// TestAgentStopped is the same with SIGTERM.
func TestAgentStopped(t *testing.T) {
	l := common(t)
	unharmed(t, l, [][2]string{{"a1", "b1"}, {internetNode, "b1"}}, func() {
		for _, h := range l.Plan.Hosts {
			if err := l.StopAgent(h.Name); err != nil {
				t.Fatal(err)
			}
			if err := l.StartAgent(h.Name); err != nil {
				t.Fatal(err)
			}
			if err := l.WaitReady(context.Background(), h.Name); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// TestMissingDevice: an ENI whose device is not there waits, harms nobody, and comes up with it.
func TestMissingDevice(t *testing.T) {
	l := common(t)
	unharmed(t, l, [][2]string{{"a1", "b1"}}, func() {
		if err := l.UnplugPort("a2"); err != nil {
			t.Fatal(err)
		}
		waitPhase(t, l, "host-a", "a2", "Waiting")
		if code, body, err := l.AgentGet(context.Background(), "host-a", "/readyz"); code != 200 {
			t.Errorf("one ENI without a device makes the host unready: %d %s %v", code, body, err)
		}
		if err := l.PlugPort("a2"); err != nil {
			t.Fatal(err)
		}
		waitPhase(t, l, "host-a", "a2", "Ready")
	})
	allowed(t, l, probe{from: "a2", to: "b1", protocol: "tcp", port: 80})
	allowed(t, l, probe{from: "a1", to: "a2", protocol: "udp", port: 80})
}
