// SPDX-License-Identifier: Apache-2.0

package feed

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/eniplane/eniplane/pkg/api"
	"github.com/eniplane/eniplane/pkg/feed/etcd"
)

// puts makes a change that puts objects of a text and deletes others.
func puts(t *testing.T, text string, deleted ...string) func(*etcd.Draft) error {
	t.Helper()
	objects, errs := api.Parse([]api.File{{Name: "test", Data: []byte(text)}})
	must(t, errorsOf(errs))
	return func(d *etcd.Draft) error {
		for _, o := range objects {
			d.Put(o)
		}
		for _, name := range deleted {
			d.Delete(referenceOf(name))
		}
		return nil
	}
}

func TestChangeDir(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.write("a.yaml", "# about a\n"+vpc("a", 1)+"---\n# about b\n"+vpc("b", 2))
	b.write("c.yaml", "# about c\n"+vpc("c", 3))
	b.write("l.json", `{"apiVersion":"v1","kind":"List","items":[{"apiVersion":"eniplane.io/v1alpha1","kind":"VPC","metadata":{"name":"l"},"spec":{"vni":9,"cidrs":["10.0.0.0/16"]}}]}`)
	b.write("REVISION", "4\n")
	b.start()
	b.revision()
	r, err := ChangeDir(b.dir, false, puts(t, vpc("b", 22)+"---\n"+vpc("d", 4)))
	must(t, err)
	if r.Revision != 5 || len(r.Changes) != 2 {
		t.Errorf("got %+v", r)
	}
	if rev := b.revision(); rev.Number != 5 || vni(rev, "b") != 22 || vni(rev, "d") != 4 || vni(rev, "a") != 1 {
		t.Errorf("got %+v", rev)
	}
	read := func(name string) string {
		text, err := os.ReadFile(filepath.Join(b.dir, name))
		must(t, err)
		return string(text)
	}
	for name, wants := range map[string][]string{
		"a.yaml": {"# about a", "# about b", "vni: 22"}, "c.yaml": {"# about c\n" + vpc("c", 3)}, "enictl.yaml": {"name: d"},
	} {
		for _, want := range wants {
			if !strings.Contains(read(name), want) {
				t.Errorf("%s does not hold %q:\n%s", name, want, read(name))
			}
		}
	}
	for name, change := range map[string]func(*etcd.Draft) error{
		"invalid":   puts(t, vpc("a", 22)),
		"in a List": puts(t, vpc("l", 99)),
		"an error":  func(*etcd.Draft) error { return fmt.Errorf("no") },
	} {
		before := read("a.yaml") + read("c.yaml") + read("enictl.yaml") + read("l.json") + read("REVISION")
		if _, err := ChangeDir(b.dir, false, change); err == nil {
			t.Errorf("%s: no error", name)
		}
		if diff := cmp.Diff(before, read("a.yaml")+read("c.yaml")+read("enictl.yaml")+read("l.json")+read("REVISION")); diff != "" {
			t.Errorf("%s changed files: %s", name, diff)
		}
	}
	if r, err := ChangeDir(b.dir, false, puts(t, vpc("b", 22))); err != nil || len(r.Changes) != 0 || r.Revision != 5 {
		t.Errorf("the same again: %+v, %v", r, err)
	}
	if r, err := ChangeDir(b.dir, true, puts(t, vpc("b", 23))); err != nil || len(r.Changes) != 1 || strings.Contains(read("a.yaml"), "23") {
		t.Errorf("without writing: %+v, %v", r, err)
	}
	_, err = ChangeDir(b.dir, false, puts(t, vpc("e", 5), "VPC/a", "VPC/d"))
	must(t, err)
	if rev := b.revision(); rev.Number != 6 || vni(rev, "a") != 0 || vni(rev, "d") != 0 || vni(rev, "e") != 5 || vni(rev, "b") != 22 {
		t.Errorf("got %+v", rev)
	}
}

// TestChangeDirTogether: who changes at the same time loses nothing.
func TestChangeDirTogether(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.write("a.yaml", vpc("a", 1))
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			if _, err := ChangeDir(b.dir, false, puts(t, vpc(fmt.Sprintf("n%d", i), 10+i))); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	b.start()
	if r := b.revision(); len(r.Objects.VPCs) != 9 {
		t.Errorf("%d VPCs, want 9", len(r.Objects.VPCs))
	}
}
