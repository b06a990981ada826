// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/eniplane/eniplane/pkg/dataplane"
	"github.com/eniplane/eniplane/pkg/feed/etcdtest"
	"github.com/eniplane/eniplane/pkg/lab"
	"github.com/eniplane/eniplane/pkg/testroot"
)

// etcdHost is where etcd listens: the internet's address in the underlay, which all hosts reach.
const etcdHost = "192.168.100.254"

// etcdLab is a lab whose agents are fed from etcd.
type etcdLab struct {
	*lab.Lab
	t      *testing.T
	enictl string
	etcd   *etcdtest.Cluster
}

// upEtcd brings up a lab with the objects in etcd and its agents.
func upEtcd(t *testing.T) *etcdLab {
	t.Helper()
	testroot.Require(t)
	name := testroot.Name()
	labs.mu.Lock()
	labs.names = append(labs.names, name)
	labs.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	l, err := lab.Up(ctx, "testdata/lab.yaml", lab.Options{Name: name, NoAgents: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			logAgents(t, l)
		}
		if err := lab.Down(name); err != nil {
			t.Errorf("take the lab down: %v", err)
		}
	})
	e := &etcdLab{Lab: l, t: t, enictl: labs.binary(t, "enictl")}
	e.etcd = etcdtest.Start(t, etcdtest.Options{Host: etcdHost, In: func(do func() error) error {
		return l.In("internet", func(*lab.Namespace) error { return do() })
	}})
	l.Enid, l.Source = labs.binary(t, "enid"), "etcd:"+e.etcd.URLs()+"/lab"
	e.ctl(true, "apply", "-f", "testdata/objects.yaml")
	for _, h := range l.Plan.Hosts {
		if err := l.StartAgent(h.Name); err != nil {
			t.Fatal(err)
		}
	}
	e.ctl(true, "sync", "--wait", "--timeout", "2m")
	return e
}

// ctl runs enictl on the feed, where it can reach it, and returns what it says.
func (e *etcdLab) ctl(succeeds bool, args ...string) string {
	e.t.Helper()
	cmd := exec.Command(e.enictl, append(args, "--feed", e.Source)...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := e.In("internet", func(*lab.Namespace) error { return cmd.Start() }); err != nil {
		e.t.Fatal(err)
	}
	if err := cmd.Wait(); (err == nil) != succeeds {
		e.t.Fatalf("enictl %s: %v\n%s", strings.Join(args, " "), err, out.String())
	}
	return out.String()
}

// apply puts objects of a text into the feed and waits until all hosts have them.
func (e *etcdLab) apply(text string) {
	e.t.Helper()
	file := filepath.Join(e.t.TempDir(), "objects.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		e.t.Fatal(err)
	}
	e.ctl(true, "apply", "-f", file, "--wait")
}

// TestEtcdFeed: two agents are fed from etcd; ENIs come and go by verbs, rules change, and the feed may be gone for a while.
func TestEtcdFeed(t *testing.T) {
	e := upEtcd(t)
	web := probe{from: "a1", to: "b1", protocol: "tcp", port: 80}
	allowed(t, e.Lab, web)
	denied(t, e.Lab, probe{from: "a2", to: "b2", protocol: "tcp", port: 22}, "b2", dataplane.In, dataplane.ReasonSGDenied)

	e.ctl(true, "eni", "detach", "b1", "--wait")
	refused(t, e.Lab, web)
	allowed(t, e.Lab, probe{from: "a1", to: "a2", protocol: "tcp", port: 80})
	e.ctl(true, "eni", "attach", "b1", "--instance", "vm-b1", "--device", "eni-b1", "--wait")
	waitPhase(t, e.Lab, "host-b", "b1", "Ready")
	allowed(t, e.Lab, web)

	ssh := probe{from: "a2", to: "b2", protocol: "tcp", port: 8000}
	allowed(t, e.Lab, ssh)
	e.apply("apiVersion: eniplane.io/v1alpha1\nkind: SecurityGroup\nmetadata: {name: strict}\nspec: {vpc: red}\n")
	denied(t, e.Lab, ssh, "b2", dataplane.In, dataplane.ReasonSGDenied)

	// Without a feed all goes on, and a change that is made meanwhile comes in the end.
	e.etcd.Members[0].Kill()
	allowed(t, e.Lab, web)
	denied(t, e.Lab, ssh, "b2", dataplane.In, dataplane.ReasonSGDenied)
	waitRefused(t, e.Lab, "host-a")
	if err := e.StopAgent("host-b"); err != nil {
		t.Fatal(err)
	}
	if err := e.StartAgent("host-b"); err != nil { // it finds no feed, and the last good revision
		t.Fatal(err)
	}
	if err := e.WaitReady(context.Background(), "host-b"); err != nil {
		t.Fatal(err)
	}
	allowed(t, e.Lab, web)
	e.etcd.Members[0].Start()
	e.ctl(true, "apply", "-f", "testdata/objects.yaml", "--wait")
	allowed(t, e.Lab, ssh)
	if out := e.ctl(true, "sync"); !strings.Contains(out, "host-a") || strings.Contains(out, "Degraded") {
		t.Errorf("sync says\n%s", out)
	}
}

// refused wants silence, whatever the reason.
func refused(t *testing.T, l *lab.Lab, p probe) {
	t.Helper()
	q := p.resolve(t, l)
	q.Wait = time.Second
	answer, err := l.Probe(context.Background(), q)
	if err != nil {
		t.Fatal(err)
	}
	if answer.Allowed {
		t.Errorf("%s: allowed, want denied", p)
	}
}
