// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/eniplane/eniplane/pkg/feed/etcd"
	"github.com/eniplane/eniplane/pkg/feed/etcdtest"
)

// TestEtcdVerbs runs the verbs on a feed in etcd, one after the other.
func TestEtcdVerbs(t *testing.T) {
	c := etcdtest.Start(t, etcdtest.Options{})
	h := newHost(t)
	feed := []string{"--feed", "etcd:" + c.URLs() + "/verbs"}
	bad := filepath.Join(t.TempDir(), "bad.yaml")
	text := "apiVersion: eniplane.io/v1alpha1\nkind: ENI\nmetadata: {name: twin}\nspec: {subnet: red-db, mac: \"02:00:00:00:77:77\", ips: [10.0.2.10], securityGroups: [db]}\n"
	if err := os.WriteFile(bad, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	good := filepath.Join(t.TempDir(), "good.yaml")
	if err := os.WriteFile(good, []byte(strings.Replace(text, "10.0.2.10]", "10.0.2.77]", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		line string
		code int
		out  string // in the output
		err  string // in the errors
	}{
		{"get enis", exitDone, "", "no ENI"},
		{"sync", exitDone, "", "the feed has no hosts"},
		{"eni detach web-0", exitError, "", `the feed has no ENI "web-0"`},
		{"diff -f " + example, exitDone, "+ kind: ENI", ""},
		{"apply --dry-run -f " + example, exitDone, "eni/web-0", ""},
		{"get enis", exitDone, "", "no ENI"},
		{"apply -f " + example, exitDone, "created", "revision 1"},
		{"apply -f " + example, exitDone, "", "nothing to change"},
		{"get enis", exitDone, "web-0", ""},
		{"get eni web-0 -o yaml", exitDone, "epoch: 1", ""},
		{"describe eip web-public", exitDone, "ENI/web-0", ""},
		{"validate", exitDone, "", "is valid"},
		{"validate -f " + bad, exitError, "", "10.0.2.10 is a private IP of ENI/db-0 too"},
		{"apply -f " + bad, exitError, "", "10.0.2.10 is a private IP of ENI/db-0 too"},
		{"apply -f " + good, exitDone, "eni/twin", "revision 2"},
		{"diff -f " + good, exitDone, "", "no difference"},
		{"eni attach twin --instance standby-vm --device tap9", exitDone, "eni/twin", "revision 3"},
		{"eni attach twin --instance standby-vm --device tap9", exitDone, "", "nothing to change"},
		{"eni attach twin --instance db-vm --device tap9", exitError, "", "is attached to instance standby-vm already"},
		{"eni migrate twin --instance web-vm --device eni-web-0", exitError, "", "is the port of"},
		{"eni migrate twin --instance nowhere --device tap9", exitError, "", `no Instance "nowhere"`},
		{"eni migrate twin --instance web-vm --device tap9", exitDone, "eni/twin", "revision 4"},
		{"get eni twin -o yaml", exitDone, "epoch: 4", ""},
		{"get eni twin -o yaml", exitDone, "index: 1", ""},
		{"eip associate web-public --eni twin", exitDone, "eip/web-public", "revision 5"},
		{"eip associate web-public --eni twin --private-ip 10.0.2.99", exitError, "", "is no private IP of ENI/twin"},
		{"delete eni twin", exitError, "", `ENI "twin" does not exist`},
		{"eip disassociate web-public", exitDone, "eip/web-public", "revision 6"},
		{"eni detach twin", exitDone, "eni/twin", "revision 7"},
		{"instance migrate web-vm --to nowhere", exitError, "", `no Host "nowhere"`},
		{"instance migrate web-vm", exitUsage, "", "--to is required"},
		{"instance migrate web-vm --cancel", exitError, "", "does not move"},
		{"eni migrate twin --instance web-vm --device tap9", exitError, "", "is attached nowhere"},
		{"delete eni twin", exitDone, "deleted", "revision 8"},
		{"delete eni twin", exitError, "", `the feed has no ENI "twin"`},
		{"apply --force", exitDone, "", "deletes that waited up to here are released"},
		{"sync --wait --timeout 100ms", exitError, "", "host-b: no agent tells its status"},
		{"apply -f " + good + " --wait --timeout 300ms", exitError, "", "2 of 2 hosts have not applied revision 10 in time"},
	} {
		got := h.run(append(strings.Fields(tt.line), feed...)...)
		if got.code != tt.code || !strings.Contains(got.out, tt.out) || !strings.Contains(got.err, tt.err) {
			t.Errorf("%s: exit code %d, want %d\n%s%s\nwant %q %q", tt.line, got.code, tt.code, got.out, got.err, tt.out, tt.err)
		}
	}
}

// TestEtcdSync: it waits for agents, and does not believe those of another history.
func TestEtcdSync(t *testing.T) {
	c := etcdtest.Start(t, etcdtest.Options{})
	h := newHost(t)
	source := c.URLs() + "/sync"
	feed := []string{"--feed", "etcd:" + source}
	if got := h.run(append([]string{"apply", "-f", example}, feed...)...); got.code != exitDone {
		t.Fatal(got.err)
	}
	config, err := etcd.ParseSource(source)
	if err != nil {
		t.Fatal(err)
	}
	s, err := etcd.Open(context.Background(), config)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	p, err := s.Position(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	tell := func(host, id string, kept ...string) {
		t.Helper()
		err := s.Reporter(host).Put(context.Background(), &etcd.Status{Host: host, Revision: p.Revision, ID: id, Kept: kept,
			ENIs: []etcd.ENIStatus{{Name: "x", State: "Degraded", Reason: "no room"}}})
		if err != nil {
			t.Fatal(err)
		}
	}
	tell("host-a", p.ID, "ENI/y: its deletion waits")
	tell("host-b", "another")
	got := h.run(append([]string{"sync", "--wait", "--timeout", "100ms"}, feed...)...)
	if got.code != exitError || !strings.Contains(got.err, "1 of 2 hosts") || !strings.Contains(got.err, "host-b: has revision 1 of another history") {
		t.Errorf("exit code %d: %s", got.code, got.err)
	}
	go func() {
		time.Sleep(100 * time.Millisecond)
		tell("host-b", p.ID)
	}()
	got = h.run(append([]string{"sync", "--wait"}, feed...)...)
	if got.code != exitDone || !strings.Contains(got.err, "all 2 hosts") || !strings.Contains(got.err, "host-a: as it was: ENI/y") ||
		!strings.Contains(got.err, "ENI x is Degraded: no room") {
		t.Errorf("exit code %d: %s", got.code, got.err)
	}
	if got = h.run(append([]string{"sync"}, feed...)...); !strings.Contains(got.out, "1 Degraded") {
		t.Errorf("exit code %d: %s", got.code, got.out)
	}
}

// TestEtcdRacingVerbs: commands that race for the places of an instance and for one EIP leave a valid feed.
func TestEtcdRacingVerbs(t *testing.T) {
	c := etcdtest.Start(t, etcdtest.Options{})
	feed := []string{"--feed", "etcd:" + c.URLs() + "/race"}
	var text strings.Builder
	for i := range 10 {
		fmt.Fprintf(&text, "---\napiVersion: eniplane.io/v1alpha1\nkind: ENI\nmetadata: {name: r%d}\nspec: {subnet: red-db, mac: \"02:00:00:00:88:%02x\", ips: [10.0.2.%d], securityGroups: [db]}\n", i, i, 100+i)
	}
	file := filepath.Join(t.TempDir(), "race.yaml")
	if err := os.WriteFile(file, []byte(text.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := newHost(t).run(append([]string{"apply", "-f", example, "-f", file}, feed...)...); got.code != exitDone {
		t.Fatal(got.err)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	codes := map[int]int{}
	for i := range 10 {
		h := newHost(t)
		wg.Go(func() {
			got := h.run(append([]string{"eni", "attach", fmt.Sprintf("r%d", i), "--instance", "standby-vm", "--device", fmt.Sprintf("r%d", i)}, feed...)...)
			also := h.run(append([]string{"eip", "associate", "web-public", "--eni", fmt.Sprintf("r%d", i)}, feed...)...)
			mu.Lock()
			defer mu.Unlock()
			codes[got.code]++
			if also.code != exitDone {
				t.Errorf("associate: %s", also.err)
			}
		})
	}
	wg.Wait()
	if codes[exitDone] != 8 || codes[exitError] != 2 {
		t.Errorf("exit codes %v, want 8 of %d and 2 of %d: an instance has 8 places", codes, exitDone, exitError)
	}
	if got := newHost(t).run(append([]string{"validate"}, feed...)...); got.code != exitDone {
		t.Errorf("the feed is not valid: %s", got.err)
	}
}
