// SPDX-License-Identifier: Apache-2.0

package etcd_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/eniplane/eniplane/pkg/api"
	"github.com/eniplane/eniplane/pkg/feed/etcd"
	"github.com/eniplane/eniplane/pkg/feed/etcdtest"
)

// open connects to a feed below a prefix of the test's own.
func open(t *testing.T, c *etcdtest.Cluster) *etcd.Store {
	t.Helper()
	return openAt(t, c, "/"+strings.ToLower(strings.ReplaceAll(t.Name(), "/", "-")))
}

func openAt(t *testing.T, c *etcdtest.Cluster, prefix string) *etcd.Store {
	t.Helper()
	config, err := etcd.ParseSource(c.URLs() + prefix)
	if err != nil {
		t.Fatal(err)
	}
	if c.TLS != nil {
		config.Files = etcd.Files{CA: c.TLS.CA, Cert: c.TLS.ClientCert, Key: c.TLS.ClientKey}
	}
	s, err := etcd.Open(context.Background(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// put makes a change that puts objects of a text.
func put(t *testing.T, text string) func(*etcd.Draft) error {
	t.Helper()
	return func(d *etcd.Draft) error {
		objects, errs := api.Parse([]api.File{{Name: "test", Data: []byte(text)}})
		if len(errs) > 0 {
			return api.Errors(errs)
		}
		for _, o := range objects {
			d.Put(o)
		}
		return nil
	}
}

func commit(t *testing.T, s *etcd.Store, change func(*etcd.Draft) error) *etcd.Result {
	t.Helper()
	r, err := s.Commit(context.Background(), etcd.Options{By: "test"}, change)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func example(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../../../examples/two-hosts.yaml")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// contents is what a view holds, as text.
func contents(v *etcd.View) map[string]string {
	out := map[string]string{}
	for ref, doc := range v.Documents() {
		out[ref.String()] = string(doc.Text)
	}
	for vpc, records := range v.Records() {
		for name, line := range records.All() {
			out["record "+vpc+"/"+name] = line
		}
	}
	return out
}

// followed checks that a view which followed equals one that is listed afresh, and returns it.
func followed(t *testing.T, s *etcd.Store, last *etcd.View) *etcd.View {
	t.Helper()
	v, err := s.View(context.Background(), last.Host, last, nil)
	if err != nil {
		t.Fatal(err)
	}
	fresh, err := s.View(context.Background(), last.Host, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(contents(fresh), contents(v)); diff != "" {
		t.Errorf("the view that followed is not the one that is listed:\n%s", diff)
	}
	return v
}

func TestCommitAndView(t *testing.T) {
	s := open(t, etcdtest.Start(t, etcdtest.Options{}))
	ctx := context.Background()
	if _, err := s.View(ctx, "host-a", nil, nil); !errors.Is(err, etcd.ErrEmpty) {
		t.Fatalf("an empty feed: %v", err)
	}
	if r := commit(t, s, put(t, example(t))); r.Revision != 1 {
		t.Fatalf("the first revision is %d", r.Revision)
	}
	if r := commit(t, s, put(t, example(t))); r.Revision != 1 || len(r.Changes) != 0 {
		t.Fatalf("the same again is revision %d with %d changes", r.Revision, len(r.Changes))
	}
	a, err := s.View(ctx, "host-a", nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	has := contents(a)
	for _, want := range []string{"ENI/web-0", "Instance/web-vm", "Host/host-b", "VPC/red", "PrefixList/office", "record red/db-0"} {
		if _, ok := has[want]; !ok {
			t.Errorf("host-a is not sent %s", want)
		}
	}
	for _, no := range []string{"ENI/db-0", "VPC/blue", "Instance/db-vm", "record blue/blue-0"} {
		if _, ok := has[no]; ok {
			t.Errorf("host-a is sent %s", no)
		}
	}
	// A change of what is not here is nothing to do; a VPC that comes is listed, one that goes is forgotten.
	commit(t, s, func(d *etcd.Draft) error {
		d.Delete(api.Reference{Kind: "EIP", Name: "web-public"})
		return nil
	})
	a = followed(t, s, a)
	move := func(to string) func(*etcd.Draft) error {
		return func(d *etcd.Draft) error {
			i := *d.Get(api.Reference{Kind: "Instance", Name: "blue-vm"}).(*api.Instance)
			i.Host = to
			d.Put(&i)
			return nil
		}
	}
	r := commit(t, s, move("host-a"))
	a = followed(t, s, a)
	if _, ok := contents(a)["VPC/blue"]; !ok {
		t.Error("host-a is not sent the VPC of an instance that came")
	}
	objects := read(t, s)
	for name, e := range objects.ENIs {
		if e.Attachment.Instance == "blue-vm" && e.Attachment.Epoch != r.Revision {
			t.Errorf("ENI %s moved in revision %d and has epoch %d", name, r.Revision, e.Attachment.Epoch)
		}
	}
	commit(t, s, move("host-b"))
	a = followed(t, s, a)
	if _, ok := contents(a)["VPC/blue"]; ok {
		t.Error("host-a is still sent a VPC that it no longer has")
	}
	// One that lags by many follows by the logs.
	lag := a
	for i := range 5 {
		commit(t, s, put(t, fmt.Sprintf("apiVersion: eniplane.io/v1alpha1\nkind: PrefixList\nmetadata: {name: office}\nspec: {entries: [192.0.2.%d/32]}\n", i)))
	}
	followed(t, s, lag)
}

// read returns the objects of the feed, which must be valid.
func read(t *testing.T, s *etcd.Store) *api.Objects {
	t.Helper()
	_, docs, err := s.Read(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	objects, err := docs.Objects()
	if err != nil {
		t.Fatal(err)
	}
	return objects
}

// A new object under an old name is another one.
func TestIdentity(t *testing.T) {
	s := open(t, etcdtest.Start(t, etcdtest.Options{}))
	commit(t, s, put(t, example(t)))
	before := read(t, s).EIPs["web-public"].UID
	commit(t, s, put(t, example(t)))
	if now := read(t, s).EIPs["web-public"].UID; now != before {
		t.Errorf("applied again, the UID went from %s to %s", before, now)
	}
	commit(t, s, func(d *etcd.Draft) error {
		d.Delete(api.Reference{Kind: "EIP", Name: "web-public"})
		return nil
	})
	commit(t, s, put(t, example(t)))
	if now := read(t, s).EIPs["web-public"].UID; now == before {
		t.Errorf("made again, it has the UID of the old one: %s", now)
	}
}

// bigSet is a change set far beyond one transaction.
func bigSet(t *testing.T, enis int) string {
	t.Helper()
	var b strings.Builder
	b.WriteString(example(t))
	b.WriteString("\n---\napiVersion: eniplane.io/v1alpha1\nkind: VPC\nmetadata: {name: big}\nspec: {vni: 77, cidrs: [10.0.0.0/8]}\n" +
		"---\napiVersion: eniplane.io/v1alpha1\nkind: Subnet\nmetadata: {name: big}\nspec: {vpc: big, cidrs: [10.0.0.0/8]}\n" +
		"---\napiVersion: eniplane.io/v1alpha1\nkind: SecurityGroup\nmetadata: {name: big}\nspec: {vpc: big}\n" +
		"---\napiVersion: eniplane.io/v1alpha1\nkind: Instance\nmetadata: {name: big}\nspec: {host: host-a, type: g-large}\n")
	ip := netip.MustParseAddr("10.1.0.1")
	for i := range enis {
		at := ""
		if i == 0 {
			at = ", attachment: {instance: big, index: 0, device: big0}"
		}
		fmt.Fprintf(&b, "---\napiVersion: eniplane.io/v1alpha1\nkind: ENI\nmetadata: {name: big-%06d}\nspec: {subnet: big, mac: \"02:00:%02x:%02x:%02x:00\", ips: [%s], securityGroups: [big]%s}\n",
			i, i>>16, i>>8&255, i&255, ip, at)
		ip = ip.Next()
	}
	return b.String()
}

// TestLargeChangeSet: whoever looks while it is put in place sees all of it or nothing, also when the writer dies.
func TestLargeChangeSet(t *testing.T) {
	c := etcdtest.Start(t, etcdtest.Options{})
	s := open(t, c)
	commit(t, s, put(t, example(t)))
	first, err := s.View(context.Background(), "host-a", nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	const enis = 1500
	small := len(read(t, s).ENIs)
	stop, looked := make(chan struct{}), make(chan string, 1)
	go func() {
		seen := map[int]int{}
		defer func() {
			looked <- fmt.Sprint(slices.Sorted(func(yield func(int) bool) {
				for n := range seen {
					if !yield(n) {
						return
					}
				}
			}))
		}()
		for {
			select {
			case <-stop:
				return
			default:
			}
			_, docs, err := s.Read(context.Background())
			if err != nil {
				t.Error(err)
				return
			}
			n := 0
			for ref := range docs {
				if ref.Kind == "ENI" {
					n++
				}
			}
			seen[n]++
			v, err := s.View(context.Background(), "host-a", nil, nil)
			if err != nil {
				t.Error(err)
				return
			}
			if r := v.Records()["big"]; r != nil {
				count := 0
				for range r.All() {
					count++
				}
				if count != enis {
					t.Errorf("a view shows %d of %d records", count, enis)
				}
			}
		}
	}()
	commit(t, s, put(t, bigSet(t, enis)))
	close(stop)
	if got, want := <-looked, fmt.Sprint([]int{small, small + enis}); got != want && got != fmt.Sprint([]int{small}) {
		t.Errorf("numbers of ENIs that were seen: %s, want %s", got, want)
	}
	followed(t, s, first)
	if left := keys(t, c, s, "/staged/"); left != 0 {
		t.Errorf("%d staged keys are left", left)
	}
	if got := len(read(t, s).ENIs); got != small+enis {
		t.Errorf("%d ENIs, want %d", got, small+enis)
	}
}

// TestWriterDies: one that dies before the commit has changed nothing; one that dies after it has changed everything, and the
// next one finishes its work.
func TestWriterDies(t *testing.T) {
	c := etcdtest.Start(t, etcdtest.Options{})
	s := open(t, c)
	commit(t, s, put(t, example(t)))
	small, prefix := len(read(t, s).ENIs), "/"+strings.ToLower(t.Name())
	for _, tt := range []struct {
		step   string
		staged bool
		enis   int
	}{
		{"commit", false, small},
		{"put in place", true, small + 400},
		{"finish", true, small + 450},
	} {
		t.Run(tt.step, func(t *testing.T) {
			ctx := context.Background()
			dying := openAt(t, c, prefix)
			dying.DieBefore(tt.step)
			if _, err := dying.Commit(ctx, etcd.Options{}, put(t, bigSet(t, max(400, tt.enis-small)))); err == nil {
				t.Fatal("the writer did not die")
			}
			p, err := s.Position(ctx)
			if err != nil {
				t.Fatal(err)
			}
			if got := len(read(t, s).ENIs); got != tt.enis {
				t.Errorf("%d ENIs, want %d", got, tt.enis)
			}
			if p.Staged != tt.staged {
				t.Errorf("staged is %t: the test does not test what it should", p.Staged)
			}
			v, err := s.View(ctx, "host-a", nil, nil)
			if err != nil {
				t.Fatal(err)
			}
			if _, ok := contents(v)["record big/big-000399"]; ok != (tt.enis > small) {
				t.Errorf("the view shows the last record: %t", ok)
			}
			commit(t, s, put(t, fmt.Sprintf("apiVersion: eniplane.io/v1alpha1\nkind: PrefixList\nmetadata: {name: office}\nspec: {entries: [192.0.2.%d/32]}\n", len(tt.step))))
			followed(t, s, v)
			if got := len(read(t, s).ENIs); got != tt.enis {
				t.Errorf("after the next commit: %d ENIs, want %d", got, tt.enis)
			}
		})
	}
	// What the first one left goes with the next large change set.
	commit(t, s, put(t, bigSet(t, 500)))
	r, err := c.Client(t).Get(context.Background(), prefix+"/staged/", clientv3.WithPrefix(), clientv3.WithCountOnly())
	if err != nil || r.Count != 0 {
		t.Errorf("%d staged keys are left, %v", r.Count, err)
	}
}

// TestLongDocument: the largest prefix list of the contract fits.
func TestLongDocument(t *testing.T) {
	s := open(t, etcdtest.Start(t, etcdtest.Options{}))
	var b strings.Builder
	b.WriteString("apiVersion: eniplane.io/v1alpha1\nkind: PrefixList\nmetadata: {name: office}\nspec:\n  entries:\n")
	for i := range api.MaxPrefixesPerENI - 10 {
		fmt.Fprintf(&b, "  - 2001:db8:%x:%x::/64\n", (i*40503)&0xffff, i>>8^(i*2654435761)&0xffff)
	}
	commit(t, s, put(t, example(t)))
	v, err := s.View(context.Background(), "host-a", nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	commit(t, s, put(t, b.String()))
	v = followed(t, s, v)
	if got := len(contents(v)["PrefixList/office"]); got < 2<<20 {
		t.Errorf("the list has %d bytes", got)
	}
}

// TestManyChangeSets: logs that are too old go, and who is that far behind lists.
func TestManyChangeSets(t *testing.T) {
	c := etcdtest.Start(t, etcdtest.Options{})
	s := open(t, c)
	commit(t, s, put(t, example(t)))
	v, err := s.View(context.Background(), "host-a", nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	list := func(i int) string {
		return fmt.Sprintf("apiVersion: eniplane.io/v1alpha1\nkind: PrefixList\nmetadata: {name: office}\nspec: {entries: [192.0.%d.%d/32]}\n", i>>8, i&255)
	}
	s.KeepLogs(10)
	for i := range 30 {
		commit(t, s, put(t, list(i)))
	}
	if logs, commits := keys(t, c, s, "/views/vpcs/red/log/"), keys(t, c, s, "/commits/"); logs != 11 || commits != 11 {
		t.Errorf("%d logs and %d commits are kept", logs, commits)
	}
	v = followed(t, s, v)
	if v.Other {
		t.Error("the view is said to be of another history")
	}
}

// keys counts the keys below a part of the feed.
func keys(t *testing.T, c *etcdtest.Cluster, s *etcd.Store, below string) int64 {
	t.Helper()
	prefix := "/" + strings.ToLower(strings.ReplaceAll(t.Name(), "/", "-"))
	r, err := c.Client(t).Get(context.Background(), prefix+below, clientv3.WithPrefix(), clientv3.WithCountOnly())
	if err != nil {
		t.Fatal(err)
	}
	return r.Count
}

// TestRace: writers that race never break a limit, and nobody's change is lost.
func TestRace(t *testing.T) {
	c := etcdtest.Start(t, etcdtest.Options{})
	s := open(t, c)
	commit(t, s, put(t, example(t)))
	free := 8
	for _, e := range read(t, s).ENIs {
		if e.Attachment != nil && e.Attachment.Instance == "db-vm" {
			free--
		}
	}
	const writers, each = 6, 3
	var wg sync.WaitGroup
	var mu sync.Mutex
	done, refused := 0, map[string]int{}
	for w := range writers {
		wg.Go(func() {
			own := open(t, c)
			for i := range each {
				ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
				_, err := own.Commit(ctx, etcd.Options{}, attachNext(w*each+i))
				cancel()
				mu.Lock()
				switch {
				case err == nil:
					done++
				case strings.Contains(err.Error(), "has at most 8"), strings.Contains(err.Error(), "no index is free"):
					refused["full"]++
				case strings.Contains(err.Error(), "is a private IP of"):
					refused["address"]++
				default:
					t.Error(err)
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	objects := read(t, s) // and judges all limits together
	attached := 0
	for _, e := range objects.ENIs {
		if e.Attachment != nil && e.Attachment.Instance == "db-vm" {
			attached++
		}
	}
	if done != free || attached != 8 {
		t.Errorf("%d writers succeeded on %d free places, %d are taken (refused: %v)", done, free, attached, refused)
	}
}

// attachNext adds an ENI at the next free index of db-vm. Every third has the same address as the one before.
func attachNext(n int) func(*etcd.Draft) error {
	return func(d *etcd.Draft) error {
		taken := map[int]bool{}
		for _, o := range d.All() {
			if e, ok := o.(*api.ENI); ok && e.Attachment != nil && e.Attachment.Instance == "db-vm" {
				taken[e.Attachment.Index] = true
			}
		}
		index := 0
		for taken[index] {
			index++
		}
		if index > 7 {
			return errors.New("no index is free")
		}
		d.Put(&api.ENI{
			Metadata: api.Metadata{Name: fmt.Sprintf("race-%d", n)}, Subnet: "red-db", MAC: api.MAC{2, 0, 0, 0xee, 0, byte(n)},
			IPs: []netip.Addr{netip.AddrFrom4([4]byte{10, 0, 2, byte(100 + n - n%3/2)})}, SecurityGroups: []string{"db"}, SourceDestCheck: true,
			OnPolicyChange: api.Reevaluate, Timeouts: api.DefaultTimeouts(), Limits: api.DefaultLimits(),
			Attachment: &api.Attachment{Instance: "db-vm", Index: index, Device: fmt.Sprintf("race%d", n)},
		})
		return nil
	}
}
