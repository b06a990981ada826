// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"

	"github.com/eniplane/eniplane/pkg/compile"
	"github.com/eniplane/eniplane/pkg/dataplane"
	"github.com/eniplane/eniplane/pkg/lab"
)

const objectsFile = "objects.yaml"

// dump is every entry of every map of a host that a revision decides.
func dump(t *testing.T, l *lab.Lab, host string) map[string][]string {
	t.Helper()
	maps, err := dataplane.OpenPinned(dataplane.PinDir(l.AgentBPFFS(), host), true)
	if err != nil {
		t.Fatal(err)
	}
	defer maps.Close()
	all := map[string][]string{}
	for _, name := range maps.Names() {
		if strings.HasPrefix(name, "flow") || name == dataplane.MapCounters {
			continue // what packets write
		}
		if err := maps.Dump(name, compile.Names{}, func(row any) error {
			if exit, ok := row.(dataplane.ExitRow); ok {
				exit.Until = 0 // a lease, which is renewed
				row = exit
			}
			text, err := json.Marshal(row)
			all[name] = append(all[name], string(text))
			return err
		}); err != nil {
			t.Fatalf("dump %s: %v", name, err)
		}
	}
	if len(all["enis"]) == 0 || len(all["endpoints4"]) == 0 {
		t.Fatalf("the dump of %s is empty", host)
	}
	return all
}

// TestBadFeed: whatever is wrong with a revision, it changes nothing, says so, and the next good one
// is taken.
func TestBadFeed(t *testing.T) {
	l := common(t)
	path := filepath.Join(l.FeedDir(), objectsFile)
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	rows := []struct{ name, old, new string }{
		{"syntax", "kind: Host", "kind: [Host"},
		{"unknown field", "zone: az-1,", "zone: az-1, colour: red,"},
		{"dangling name", "subnet: front", "subnet: nowhere"},
		{"duplicate MAC", "02:00:00:00:0a:03", "02:00:00:00:0a:02"},
		{"duplicate IP", "10.0.2.30,", "10.0.2.50,"},
		{"duplicate VNI", "vni: 2002", "vni: 2001"},
		{"IP outside its subnet", "10.0.2.30,", "10.0.9.30,"},
		{"not supported", "privateIP: 10.0.1.10", "privateIP: 10.0.1.10, vip: x"},
		{"everything gone", string(good), "# nothing\n"},
	}
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) {
			text := strings.Replace(string(good), r.old, r.new, 1)
			if text == string(good) {
				t.Fatalf("the feed does not hold %q", r.old)
			}
			before := map[string]map[string][]string{}
			for _, h := range l.Plan.Hosts {
				before[h.Name] = dump(t, l, h.Name)
			}
			if _, err := l.PutFeed(objectsFile, []byte(text)); err != nil {
				t.Fatal(err)
			}
			for _, h := range l.Plan.Hosts {
				waitRefused(t, l, h.Name)
				if diff := cmp.Diff(before[h.Name], dump(t, l, h.Name)); diff != "" {
					t.Errorf("the maps of %s changed:\n%s", h.Name, diff)
				}
			}
			allowed(t, l, probe{from: "a1", to: "b1", protocol: "tcp", port: 80})
			putGood(t, l, good)
		})
	}
}

// putGood brings the good feed back and waits until nothing is wrong any more.
func putGood(t *testing.T, l *lab.Lab, good []byte) {
	t.Helper()
	revision, err := l.PutFeed(objectsFile, good)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.WaitRevisionAll(context.Background(), revision); err != nil {
		t.Fatal(err)
	}
}

// waitRefused waits until an agent says that it does not take what the feed holds.
func waitRefused(t *testing.T, l *lab.Lab, host string) {
	t.Helper()
	for end := time.Now().Add(answerWait); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if s := agentStatus(t, l, host); s.Feed.Error != "" {
			return
		}
	}
	t.Fatalf("the agent of %s does not complain\n%s", host, l.LogTail(host))
}

// TestRuleChange: a rule that goes denies the live flow too, and a rule that comes back revives it.
func TestRuleChange(t *testing.T) {
	l := common(t)
	good, err := os.ReadFile(filepath.Join(l.FeedDir(), objectsFile))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { putGood(t, l, good) })
	for _, target := range []string{"a3", "b2"} {
		from, to, err := l.Spots("a1", target, lab.IPv4)
		if err != nil {
			t.Fatal(err)
		}
		stream, err := l.StartUDP(from, to, 53)
		if err != nil {
			t.Fatal(err)
		}
		waitFlows(t, stream, true)
		revision, err := l.EditFeed(lab.Edit{Kind: "SecurityGroup", Name: "strict", Change: func(spec *yaml.Node) error {
			return lab.Set(spec, "ingress", []any{})
		}})
		if err != nil {
			t.Fatal(err)
		}
		if err := l.WaitRevisionAll(context.Background(), revision); err != nil {
			t.Fatal(err)
		}
		waitFlows(t, stream, false)
		denied(t, l, probe{from: "a1", to: target, protocol: "tcp", port: 8000}, target, dataplane.In, dataplane.ReasonSGDenied)
		putGood(t, l, good)
		waitFlows(t, stream, true)
		stream.Stop()
	}
}

// waitFlows waits until datagrams of a stream come back, or until none has for a while.
func waitFlows(t *testing.T, s *lab.UDPStream, flows bool) {
	t.Helper()
	for end := time.Now().Add(answerWait); time.Now().Before(end); {
		before := s.Returned()
		time.Sleep(50 * time.Millisecond)
		if (s.Returned() > before) == flows {
			return
		}
	}
	t.Fatalf("datagrams come back: want %t", flows)
}
