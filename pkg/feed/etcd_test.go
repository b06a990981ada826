// SPDX-License-Identifier: Apache-2.0

package feed

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/eniplane/eniplane/pkg/api"
	"github.com/eniplane/eniplane/pkg/feed/etcd"
	"github.com/eniplane/eniplane/pkg/feed/etcdtest"
)

func TestEtcdFollowsAndRestarts(t *testing.T) {
	t.Parallel()
	b := newEtcdBench(t, etcdtest.Options{})
	b.start()
	if u := b.next(); u.Err == nil || !errors.Is(u.Err, etcd.ErrEmpty) {
		t.Fatalf("an empty feed says %v", u.Err)
	}
	b.commit(etcd.Options{}, exampleText(t))
	first := b.revision()
	if first.Number != 1 || first.Objects.ENIs["web-0"] == nil || first.Objects.HostOf(first.Objects.ENIs["db-0"]) != "host-b" {
		t.Fatalf("got %+v", first)
	}
	must(t, b.source.Commit(first))
	n := b.commit(etcd.Options{}, fmt.Sprintf(officeList, "192.0.2.1/32"))
	second := b.until("a change", at(n))
	if got := fmt.Sprint(second.Objects.PrefixLists["office"].Entries); got != "[192.0.2.1/32]" {
		t.Errorf("the list is %s", got)
	}
	b.restart()
	if u := b.next(); !u.Restored || u.Revision.Number != 2 || u.Revision.Objects.ENIs["db-0"] == nil || u.Revision.Hash != second.Hash {
		t.Fatalf("got %+v (%v)", u.Revision, u.Err)
	}
	if r := b.revision(); r.Number != 2 || r.Hash != second.Hash {
		t.Fatalf("got revision %d from the feed", r.Number)
	}
	b.commit(etcd.Options{}, "apiVersion: eniplane.io/v1alpha1\nkind: VPC\nmetadata: {name: other}\nspec: {vni: 99, cidrs: [10.0.0.0/16]}\n")
	if r := b.revision(); r.Number != 3 || r.Objects.VPCs["other"] != nil {
		t.Errorf("a change elsewhere: got %+v", r)
	}
}

// TestEtcdInvalidObject: an invalid object stays as it was, with what refers to it; the rest proceeds.
func TestEtcdInvalidObject(t *testing.T) {
	t.Parallel()
	b := newEtcdBench(t, etcdtest.Options{})
	n := b.commit(etcd.Options{}, exampleText(t)+manyENIs(1))
	b.start()
	good := b.until("the example", at(n))
	n = b.foreign("red", map[string]string{
		"SecurityGroup/web": `{"apiVersion":"eniplane.io/v1alpha1","kind":"SecurityGroup","metadata":{"name":"web","uid":"x"},"spec":{"vpc":"red","colour":"blue"}}`,
		"PrefixList/office": `{"apiVersion":"eniplane.io/v1alpha1","kind":"PrefixList","metadata":{"name":"office","uid":"y"},"spec":{"entries":["192.0.2.9/32"]}}`,
		"eni/db-0":          "this is no record",
	})
	r := b.until("a revision with something invalid", at(n))
	kept := strings.Join(r.Kept, "\n")
	for _, want := range []string{"SecurityGroup/web: ", "colour", "endpoint record of ENI db-0"} {
		if !strings.Contains(kept, want) {
			t.Errorf("%q is not reported: %q", want, kept)
		}
	}
	if r.Objects.SecurityGroups["web"].UID != good.Objects.SecurityGroups["web"].UID || r.Objects.ENIs["many-0"] == nil || r.Objects.ENIs["db-0"] == nil {
		t.Error("what is invalid did not stay as it was")
	}
	if got := fmt.Sprint(r.Objects.PrefixLists["office"].Entries); got != "[192.0.2.9/32]" {
		t.Errorf("the rest did not proceed: the list is %s", got)
	}
	n = b.commit(etcd.Options{Repair: true, Force: true}, "")
	if r := b.until("the repaired feed", at(n)); len(r.Kept) != 0 {
		t.Errorf("after the repair, kept is %q", r.Kept)
	}
}

// TestEtcdQuarantine: deletes beyond the ratio wait, everything else proceeds, and somebody may say that they are meant.
func TestEtcdQuarantine(t *testing.T) {
	t.Parallel()
	b := newEtcdBench(t, etcdtest.Options{})
	n := b.commit(etcd.Options{}, exampleText(t)+manyENIs(12))
	b.start()
	b.until("the example", at(n))
	var all []string
	for i := range 12 {
		all = append(all, fmt.Sprintf("ENI/many-%d", i), fmt.Sprintf("Instance/many-%d", i))
	}
	enis := func(r *Revision) (local int) {
		for _, e := range r.Objects.ENIs {
			if r.Objects.HostOf(e) == "host-a" {
				local++
			}
		}
		return local
	}
	n = b.commit(etcd.Options{}, "", all[:8]...)
	if r := b.until("four deletes", at(n)); enis(r) != 9 || len(r.Kept) != 0 {
		t.Errorf("four deletes: %d ENIs, kept %q", enis(r), r.Kept)
	}
	n = b.commit(etcd.Options{}, "", all[8:]...)
	r := b.until("eight deletes", at(n))
	if enis(r) != 9 || !strings.Contains(strings.Join(r.Kept, "\n"), "ENI/many-11: its deletion waits") {
		t.Errorf("eight deletes: %d ENIs, kept %q", enis(r), r.Kept)
	}
	n = b.commit(etcd.Options{}, fmt.Sprintf(officeList, "192.0.2.7/32"))
	r = b.until("another change", at(n))
	if got := fmt.Sprint(r.Objects.PrefixLists["office"].Entries); enis(r) != 9 || got != "[192.0.2.7/32]" {
		t.Errorf("another change: %d ENIs, list %s", enis(r), got)
	}
	b.restart() // what waits goes on waiting
	r = b.until("the feed after a restart", at(n))
	if enis(r) != 9 {
		t.Errorf("after a restart: %d ENIs", enis(r))
	}
	n = b.commit(etcd.Options{Force: true}, "")
	if r := b.until("what was released", at(n)); enis(r) != 1 || len(r.Kept) != 0 {
		t.Errorf("released: %d ENIs, kept %q", enis(r), r.Kept)
	}
}

// TestEtcdDisconnected: after a gap in which more was written than is kept, and compacted, the host has what the feed has.
func TestEtcdDisconnected(t *testing.T) {
	t.Parallel()
	b := newEtcdBench(t, etcdtest.Options{})
	n := b.commit(etcd.Options{}, exampleText(t))
	w := newWire(t, b.cluster.Members[0].URL)
	b.urls = "http://" + w.listener.Addr().String()
	b.start()
	b.until("the example", at(n))
	w.stall(true)
	for i := range 20 {
		n = b.commit(etcd.Options{}, fmt.Sprintf(officeList, fmt.Sprintf("192.0.2.%d/32", i)))
	}
	r, err := b.client.Get(context.Background(), testPrefix+"/mark")
	must(t, err)
	_, err = b.client.Compact(context.Background(), r.Header.Revision)
	must(t, err)
	u := b.next()
	if u.Err == nil || !strings.Contains(u.Err.Error(), "no member answers in time") {
		t.Errorf("while nothing comes through: %+v (%v)", u.Revision, u.Err)
	}
	w.stall(false)
	w.cut()
	last := b.until("the last change", at(n))
	if got := fmt.Sprint(last.Objects.PrefixLists["office"].Entries); got != "[192.0.2.19/32]" {
		t.Errorf("the list is %s", got)
	}
	// A cut without a gap says nothing but errors, and the next change comes.
	w.cut()
	n = b.commit(etcd.Options{}, fmt.Sprintf(officeList, "192.0.2.77/32"))
	b.until("a change after a cut", at(n))
}

// TestEtcdSlow: over a long way a large change set comes whole.
func TestEtcdSlow(t *testing.T) {
	t.Parallel()
	b := newEtcdBench(t, etcdtest.Options{})
	w := newWire(t, b.cluster.Members[0].URL)
	w.slow(100 * time.Millisecond)
	b.urls = "http://" + w.listener.Addr().String()
	b.commit(etcd.Options{}, exampleText(t))
	b.start()
	b.until("the example", at(1))
	n := b.commit(etcd.Options{}, manyENIs(100))
	if r := b.until("a large change set", at(n)); r.Objects.ENIs["many-99"] == nil || r.Objects.ENIs["many-0"] == nil {
		t.Error("the change set is not whole")
	}
}

// TestEtcdStatusDenied: an agent that may not write its status says so, and goes on with the feed.
func TestEtcdStatusDenied(t *testing.T) {
	t.Parallel()
	b := newEtcdBench(t, etcdtest.Options{})
	b.commit(etcd.Options{}, exampleText(t))
	ctx := context.Background()
	for _, do := range []func() error{
		func() error { _, err := b.client.RoleAdd(ctx, "reader"); return err },
		func() error {
			_, err := b.client.RoleGrantPermission(ctx, "reader", testPrefix+"/", clientv3.GetPrefixRangeEnd(testPrefix+"/"), clientv3.PermissionType(clientv3.PermRead))
			return err
		},
		func() error { _, err := b.client.UserAdd(ctx, "reader", "r"); return err },
		func() error { _, err := b.client.UserGrantRole(ctx, "reader", "reader"); return err },
		func() error { _, err := b.client.UserAdd(ctx, "root", "root"); return err },
		func() error { _, err := b.client.UserGrantRole(ctx, "root", "root"); return err },
		func() error { _, err := b.client.AuthEnable(ctx); return err },
	} {
		must(t, do())
	}
	user := filepath.Join(t.TempDir(), "user")
	must(t, os.WriteFile(user, []byte("reader:r\n"), 0o600))
	must(t, os.WriteFile(user+".root", []byte("root:root\n"), 0o600))
	b.files.User = user + ".root"
	b.store = b.connect()
	b.files.User = user
	b.start()
	b.until("the example", at(1))
	b.source.(Reporter).Report(&etcd.Status{Host: "host-a", Revision: 1})
	if u := b.next(); u.Err == nil || !strings.Contains(u.Err.Error(), "write the status") || !strings.Contains(u.Err.Error(), "permission denied") {
		t.Errorf("got %+v (%v)", u.Revision, u.Err)
	}
	n := b.commit(etcd.Options{}, fmt.Sprintf(officeList, "192.0.2.1/32"))
	b.until("a change", at(n))
}

// TestEtcdRestored: the cluster comes back with an older state, and goes on from there. The host takes it, but deletes wait.
func TestEtcdRestored(t *testing.T) {
	t.Parallel()
	b := newEtcdBench(t, etcdtest.Options{})
	m := b.cluster.Members[0]
	b.commit(etcd.Options{}, exampleText(t))
	m.Kill()
	backup := filepath.Join(t.TempDir(), "backup")
	must(t, os.CopyFS(backup, os.DirFS(m.DataDir())))
	m.Start()
	n := b.commit(etcd.Options{}, manyENIs(10))
	b.start()
	b.until("ten ENIs more", at(n))
	n = b.commit(etcd.Options{}, fmt.Sprintf(officeList, "192.0.2.1/32"))
	before := b.until("a change", at(n))
	m.Kill()
	must(t, os.RemoveAll(m.DataDir()))
	must(t, os.CopyFS(m.DataDir(), os.DirFS(backup)))
	m.Start()
	r := b.until("the older state", at(1))
	if r.Number <= before.Number {
		t.Errorf("the number went from %d to %d", before.Number, r.Number)
	}
	if r.Objects.ENIs["many-3"] == nil || !strings.Contains(strings.Join(r.Kept, "\n"), "ENI/many-3: its deletion waits") {
		t.Errorf("the older state deleted ENIs: kept %q", r.Kept)
	}
	// The numbers of the new history meet those of the old one.
	for i := range 3 {
		n = b.commit(etcd.Options{}, fmt.Sprintf(officeList, fmt.Sprintf("192.0.2.%d/32", 50+i)))
	}
	r = b.until("another history", at(n))
	if got := fmt.Sprint(r.Objects.PrefixLists["office"].Entries); got != "[192.0.2.52/32]" || r.Objects.ENIs["many-3"] == nil {
		t.Errorf("in the other history the list is %s, kept %q", got, r.Kept)
	}
	n = b.commit(etcd.Options{Force: true}, "")
	if r := b.until("released", at(n)); r.Objects.ENIs["many-3"] != nil {
		t.Error("what was released is still there")
	}
}

// TestEtcdOtherCluster: another cluster at the same address is another feed.
func TestEtcdOtherCluster(t *testing.T) {
	t.Parallel()
	b := newEtcdBench(t, etcdtest.Options{})
	w := newWire(t, b.cluster.Members[0].URL)
	b.urls = "http://" + w.listener.Addr().String()
	n := b.commit(etcd.Options{}, exampleText(t)+manyENIs(10))
	b.start()
	first := b.until("the example", at(n))
	other := newEtcdBench(t, etcdtest.Options{})
	other.commit(etcd.Options{}, exampleText(t))
	_, w.to, _ = strings.Cut(other.cluster.Members[0].URL, "://")
	w.cut()
	r := b.until("the other cluster", func(r *Revision) bool { return r.Place.Cluster != first.Place.Cluster })
	if r.Objects.ENIs["many-3"] == nil {
		t.Error("another cluster deleted ENIs")
	}
	if r.Objects.ENIs["web-0"].UID != first.Objects.ENIs["web-0"].UID {
		t.Log("web-0 is another object there, and waits") // its deletion counts with the others
	}
	n = other.commit(etcd.Options{Force: true}, "")
	if r := b.until("released", at(n)); r.Objects.ENIs["many-3"] != nil || r.Objects.ENIs["web-0"] == nil {
		t.Error("the release was not taken")
	}
}

// TestEtcdSecured: TLS with certificates of both sides, and a user whose password changes.
func TestEtcdSecured(t *testing.T) {
	t.Parallel()
	b := newEtcdBench(t, etcdtest.Options{TLS: etcdtest.NewCertificates(t)})
	ctx := context.Background()
	for _, do := range []func() error{
		func() error { _, err := b.client.RoleAdd(ctx, "agent"); return err },
		func() error {
			_, err := b.client.RoleGrantPermission(ctx, "agent", testPrefix+"/", clientv3.GetPrefixRangeEnd(testPrefix+"/"), clientv3.PermissionType(clientv3.PermRead))
			return err
		},
		func() error {
			_, err := b.client.RoleGrantPermission(ctx, "agent", testPrefix+"/status/host-a", "", clientv3.PermissionType(clientv3.PermReadWrite))
			return err
		},
		func() error { _, err := b.client.UserAdd(ctx, "agent", "first"); return err },
		func() error { _, err := b.client.UserGrantRole(ctx, "agent", "agent"); return err },
		func() error { _, err := b.client.UserAdd(ctx, "root", "root"); return err },
		func() error { _, err := b.client.UserGrantRole(ctx, "root", "root"); return err },
		func() error { b.commit(etcd.Options{}, exampleText(t)); return nil },
		func() error { _, err := b.client.AuthEnable(ctx); return err },
	} {
		must(t, do())
	}
	user := filepath.Join(t.TempDir(), "user")
	must(t, os.WriteFile(user, []byte("agent:wrong\n"), 0o600))
	b.files.User = user
	b.start()
	if u := b.next(); u.Err == nil || !strings.Contains(u.Err.Error(), "authentication failed") {
		t.Fatalf("with a wrong password: %v", u.Err)
	}
	must(t, os.WriteFile(user, []byte("agent:first\n"), 0o600))
	r := b.until("the feed with the right password", at(1))
	b.source.(Reporter).Report(&etcd.Status{Host: "host-a", Revision: r.Place.Revision, ID: r.Place.ID})
	must(t, os.WriteFile(user+".root", []byte("root:root\n"), 0o600))
	b.files.User = user + ".root"
	root := b.connect()
	waitStatus(t, root, "host-a", 1)
	wrong := b.files
	wrong.User, wrong.CA = user, etcdtest.NewCertificates(t).CA
	config, err := etcd.ParseSource(b.cluster.URLs() + testPrefix)
	must(t, err)
	config.Files = wrong
	short, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	if s, err := etcd.Open(short, config); err == nil {
		_, err = s.Position(short)
		_ = s.Close()
		if err == nil {
			t.Error("a member that another authority signed was believed")
		}
	}
}

// TestEtcdThreeMembers: one member after the other is killed and comes back while writers write; the host sees only whole
// change sets, in order, and has the last one in the end.
func TestEtcdThreeMembers(t *testing.T) {
	t.Parallel()
	b := newEtcdBench(t, etcdtest.Options{Members: 3})
	b.commit(etcd.Options{}, exampleText(t))
	b.commit(etcd.Options{}, twins(0))
	b.start()
	var last uint64
	written := make(chan uint64)
	go func() {
		n := uint64(0)
		for i := 1; i <= 60; i++ {
			ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
			r, err := b.store.Commit(ctx, etcd.Options{}, func(d *etcd.Draft) error {
				objects, errs := api.Parse([]api.File{{Name: "twins", Data: []byte(twins(i))}})
				for _, o := range objects {
					d.Put(o)
				}
				return errorsOf(errs)
			})
			cancel()
			if err == nil {
				n = r.Revision
			}
		}
		written <- n
	}()
	churned := make(chan struct{})
	defer func() { <-churned }()
	go func() {
		defer close(churned)
		for _, m := range b.cluster.Members {
			time.Sleep(300 * time.Millisecond)
			m.Kill()
			time.Sleep(700 * time.Millisecond)
			m.Start()
			time.Sleep(time.Second)
		}
	}()
	var number, want uint64
	for end := time.Now().Add(2 * patient); want == 0 || last < want; {
		if time.Now().After(end) {
			t.Fatalf("the host has revision %d, the feed %d", last, want)
		}
		select {
		case want = <-written:
		case u := <-b.updates:
			if u.Revision == nil || u.Restored || u.Revision.Place.Revision < 2 {
				continue
			}
			if a, b := fmt.Sprint(u.Revision.Objects.SecurityGroups["web"].Labels), fmt.Sprint(u.Revision.Objects.SecurityGroups["db"].Labels); a != b {
				t.Fatalf("revision %d is not whole: %s, %s", u.Revision.Number, a, b)
			}
			if u.Revision.Number <= number || u.Revision.Place.Revision < last {
				t.Errorf("after revision %d (%d) came %d (%d)", number, last, u.Revision.Number, u.Revision.Place.Revision)
			}
			number, last = u.Revision.Number, u.Revision.Place.Revision
			must(t, b.source.Commit(u.Revision))
		case <-time.After(100 * time.Millisecond):
		}
	}
	if last < 30 {
		t.Errorf("only %d revisions were written: the test tests little", last)
	}
}
