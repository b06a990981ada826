// SPDX-License-Identifier: Apache-2.0

package feed

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/eniplane/eniplane/pkg/api"
	"github.com/eniplane/eniplane/pkg/feed/etcd"
	"github.com/eniplane/eniplane/pkg/feed/etcdtest"
)

// etcdBench is a source of a prefix in a cluster, for host-a of the example.
type etcdBench struct {
	*bench
	cluster *etcdtest.Cluster
	store   *etcd.Store
	client  *clientv3.Client
	urls    string // at which the source finds the cluster
	files   etcd.Files
}

const testPrefix = "/eniplane/test"

func newEtcdBench(t *testing.T, opts etcdtest.Options) *etcdBench {
	t.Helper()
	c := etcdtest.Start(t, opts)
	b := &etcdBench{bench: newBench(t), cluster: c, urls: c.URLs(), client: c.Client(t)}
	if c.TLS != nil {
		b.files = etcd.Files{CA: c.TLS.CA, Cert: c.TLS.ClientCert, Key: c.TLS.ClientKey}
	}
	b.store = b.connect()
	b.openOther = func() (Source, error) {
		s, err := Open("etcd:"+b.urls+testPrefix, Options{StateDir: b.stateDir, Host: "host-a", MaxDeleteRatio: 0.2, Files: b.files})
		if err == nil {
			e := s.(*etcdSource)
			e.retryFirst, e.retryLast, e.look = 20*time.Millisecond, 100*time.Millisecond, 300*time.Millisecond
		}
		return s, err
	}
	return b
}

// connect makes a writer.
func (b *etcdBench) connect() *etcd.Store {
	b.t.Helper()
	config, err := etcd.ParseSource(b.cluster.URLs() + testPrefix)
	must(b.t, err)
	config.Files = b.files
	s, err := etcd.Open(context.Background(), config)
	must(b.t, err)
	b.t.Cleanup(func() { _ = s.Close() })
	return s
}

// commit puts objects of a text, and deletes others.
func (b *etcdBench) commit(opts etcd.Options, text string, deleted ...string) uint64 {
	b.t.Helper()
	r, err := b.store.Commit(context.Background(), opts, func(d *etcd.Draft) error {
		objects, errs := api.Parse([]api.File{{Name: "test", Data: []byte(text)}})
		if len(errs) > 0 {
			return api.Errors(errs)
		}
		for _, o := range objects {
			d.Put(o)
		}
		for _, name := range deleted {
			d.Delete(referenceOf(name))
		}
		return nil
	})
	must(b.t, err)
	return r.Revision
}

// until waits for a revision of which something is true, and commits each as the agent does.
func (b *etcdBench) until(what string, ok func(*Revision) bool) *Revision {
	b.t.Helper()
	var last Update
	for end := time.Now().Add(patient); time.Now().Before(end); {
		select {
		case last = <-b.updates:
		case <-time.After(time.Until(end)):
		}
		if last.Revision == nil || last.Restored {
			continue
		}
		must(b.t, b.source.Commit(last.Revision))
		if ok(last.Revision) {
			return last.Revision
		}
	}
	if last.Revision != nil {
		b.t.Fatalf("waited for %s; last came revision %d at %+v, kept %q", what, last.Revision.Number, last.Revision.Place, last.Revision.Kept)
	}
	b.t.Fatalf("waited for %s; last came the error %v", what, last.Err)
	return nil
}

func at(revision uint64) func(*Revision) bool {
	return func(r *Revision) bool { return r.Place.Revision == revision }
}

func exampleText(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../../examples/two-hosts.yaml")
	must(t, err)
	return string(text)
}

// manyENIs are ENIs many-0.. of one instance each on host-a.
func manyENIs(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "---\napiVersion: eniplane.io/v1alpha1\nkind: Instance\nmetadata: {name: many-%d}\nspec: {host: host-a, type: g-large}\n"+
			"---\napiVersion: eniplane.io/v1alpha1\nkind: ENI\nmetadata: {name: many-%d}\nspec: {subnet: red-web, mac: \"02:00:00:00:aa:%02x\", ips: [10.0.1.%d], securityGroups: [web], attachment: {instance: many-%d, index: 0, device: many%d}}\n",
			i, i, i, 100+i, i, i)
	}
	return b.String()
}

const officeList = "apiVersion: eniplane.io/v1alpha1\nkind: PrefixList\nmetadata: {name: office}\nspec: {entries: [%s]}\n"

// foreign puts what no writer of ours does into the view of a VPC.
func (b *etcdBench) foreign(vpc string, keys map[string]string) uint64 {
	b.t.Helper()
	ctx := context.Background()
	p, err := b.store.Position(ctx)
	must(b.t, err)
	mark := p.Mark
	mark.Revision++
	mark.Previous, mark.ID, mark.Logs, mark.Many = mark.ID, fmt.Sprintf("foreign%d", mark.Revision), mark.Revision+1, true
	text, err := json.Marshal(mark)
	must(b.t, err)
	ops := []clientv3.Op{clientv3.OpPut(testPrefix+"/mark", string(text))}
	for key, value := range keys {
		if key = testPrefix + "/views/vpcs/" + vpc + "/state/" + key; value == "" {
			ops = append(ops, clientv3.OpDelete(key))
		} else {
			ops = append(ops, clientv3.OpPut(key, value))
		}
	}
	_, err = b.client.Txn(ctx).Then(ops...).Commit()
	must(b.t, err)
	return mark.Revision
}

// wire is a way to a member that can be cut and stalled.
type wire struct {
	listener net.Listener
	to       string
	mu       sync.Mutex
	stalled  bool
	delay    time.Duration // of each piece of data, each way
	conns    []net.Conn
}

func newWire(t *testing.T, member string) *wire {
	t.Helper()
	u, err := url.Parse(member)
	must(t, err)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	w := &wire{listener: l, to: u.Host}
	t.Cleanup(func() { _ = l.Close(); w.cut() })
	go w.accept()
	return w
}

func (w *wire) accept() {
	for {
		in, err := w.listener.Accept()
		if err != nil {
			return
		}
		out, err := net.Dial("tcp", w.to)
		if err != nil {
			_ = in.Close()
			continue
		}
		w.mu.Lock()
		w.conns = append(w.conns, in, out)
		w.mu.Unlock()
		go w.copy(in, out)
		go w.copy(out, in)
	}
}

func (w *wire) copy(to, from net.Conn) {
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		w.mu.Lock()
		stalled, delay := w.stalled, w.delay
		w.mu.Unlock()
		time.Sleep(delay)
		if err != nil || stalled && n == 0 {
			break
		}
		if stalled {
			continue // lost
		}
		if _, err := to.Write(buf[:n]); err != nil {
			break
		}
	}
	_, _ = to.Close(), from.Close()
}

// cut ends all connections.
func (w *wire) cut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range w.conns {
		_ = c.Close()
	}
	w.conns = nil
}

// slow makes the way long.
func (w *wire) slow(delay time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.delay = delay
}

// stall swallows everything, as a network does that is partitioned, or lets it through again.
func (w *wire) stall(on bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stalled = on
}

func waitStatus(t *testing.T, s *etcd.Store, host string, revision uint64) {
	t.Helper()
	var last any
	for end := time.Now().Add(patient); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		all, err := s.Statuses(context.Background())
		must(t, err)
		if got := all[host]; got != nil && got.Revision == revision {
			return
		}
		last = all
	}
	t.Fatalf("the status of %s does not come: %v", host, last)
}

func errorsOf(errs []*api.Error) error {
	if len(errs) > 0 {
		return api.Errors(errs)
	}
	return nil
}

// twins are two objects that say the same number.
func twins(n int) string {
	one := "---\napiVersion: eniplane.io/v1alpha1\nkind: SecurityGroup\nmetadata: {name: %s, labels: {n: \"%d\"}}\nspec: {vpc: red}\n"
	return fmt.Sprintf(one+one, "web", n, "db", n)
}
