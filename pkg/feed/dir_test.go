// SPDX-License-Identifier: Apache-2.0

package feed

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestOpen(t *testing.T) {
	for source, want := range map[string]string{
		"/etc/feed":              `open feed "/etc/feed": it has no scheme (write dir:PATH or etcd:https://HOST:PORT/PREFIX)`,
		"etcd:h:2379/p":          `feed etcd:h:2379/p: it has no http:// or https:// (write etcd:https://HOST:PORT[,HOST:PORT]/PREFIX)`,
		"etcd:http://h:2379":     `feed etcd:http://h:2379: it names no prefix (write etcd:http://h:2379/PREFIX)`,
		"etcd:http://h:2379,i/p": `feed etcd:http://h:2379,i/p: "i" is not HOST:PORT`,
		"k8s:":                   `open feed "k8s:": k8s: is not supported by this version (use dir:PATH or etcd:)`,
		"file:/x":                `open feed "file:/x": the scheme "file" is not known (use dir:PATH or etcd:)`,
		"dir:":                   `open feed "dir:": it names no directory (write dir:PATH)`,
	} {
		if _, err := Open(source, Options{StateDir: "/state"}); err == nil || err.Error() != want {
			t.Errorf("%s: got %v, want %s", source, err, want)
		}
	}
}

func TestUnmarked(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.write("a.yaml", vpc("a", 1))
	b.write("b.yml", vpc("b", 2))
	b.write("c.json", `{"apiVersion": "eniplane.io/v1alpha1", "kind": "VPC", "metadata": {"name": "c"}, "spec": {"vni": 3, "cidrs": ["10.0.0.0/16"]}}`)
	b.write(".a.yaml.swp", "not ours")
	b.write(".hidden.yaml", "not: ours")
	b.write("a.yaml~", "not: ours")
	b.write("README", "not ours")
	must(t, os.Mkdir(filepath.Join(b.dir, "sub"), 0o755))
	must(t, os.WriteFile(filepath.Join(b.dir, "sub", "d.yaml"), []byte("not: ours"), 0o644))
	b.start()
	r := b.revision()
	if r.Number != 1 || r.Marked || r.Forced || len(r.Objects.VPCs) != 3 || len(r.Files) != 3 {
		t.Fatalf("got %+v", r)
	}
	b.write("a.yaml", vpc("a", 9))
	if r := b.revision(); r.Number != 2 || vni(r, "a") != 9 {
		t.Fatalf("got %+v", r)
	}
	b.remove("b.yml")
	if r := b.revision(); r.Number != 3 || vni(r, "b") != 0 {
		t.Fatalf("got %+v", r)
	}
	b.write("README", "still not ours")
	b.write("c.json~", "still not ours")
	now := time.Now()
	must(t, os.Chtimes(filepath.Join(b.dir, "a.yaml"), now, now))
	b.silence(500 * time.Millisecond)
}

func TestInvalidRevision(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.write("a.yaml", vpc("a", 1))
	b.start()
	b.revision()
	b.write("a.yaml", "kind: [\n")
	b.failure("refuse feed dir:" + b.dir + ": a.yaml:2: is not valid YAML or JSON: did not find expected node content (correct the text)")
	b.write("a.yaml", vpc("a", 0))
	b.failure("refuse feed dir:" + b.dir + `: a.yaml:4: VPC/a: spec.vni: "0" is not a number of 1 to 16777215`)
	b.silence(300 * time.Millisecond)
	b.write("a.yaml", vpc("a", 1))
	if r := b.revision(); r.Number != 1 {
		t.Errorf("got revision %d, want 1 again when the error has passed", r.Number)
	}
}

func TestMarked(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.write("a.yaml", vpc("a", 1))
	b.write("REVISION", "7\n")
	b.start()
	if r := b.revision(); r.Number != 7 || !r.Marked {
		t.Fatalf("got %+v", r)
	}
	b.write("a.yaml", vpc("a", 2))
	b.silence(400 * time.Millisecond) // a writer at work, it seems
	b.failure("refuse feed dir:" + b.dir + ": REVISION is still 7, but the content is not what it was (write a greater number when all files are complete)")
	b.write("REVISION", "6")
	b.failure("refuse feed dir:" + b.dir + ": REVISION is 6, older than 7 which has been seen (write a greater number)")
	b.write("REVISION", "eight")
	b.failure("refuse feed dir:" + b.dir + `: REVISION holds "eight", not a number of 1 to 4611686018427387904 (write one, after all other files)`)
	b.write("REVISION", "8")
	if r := b.revision(); r.Number != 8 || vni(r, "a") != 2 {
		t.Fatalf("got %+v", r)
	}
	b.write("REVISION", "9")
	if r := b.revision(); r.Number != 9 || vni(r, "a") != 2 {
		t.Fatalf("a greater number of the same content: got %+v", r)
	}
	b.remove("REVISION")
	if r := b.revision(); r.Number != 9 || r.Marked {
		t.Fatalf("without mark: got %+v", r)
	}
	b.write("a.yaml", vpc("a", 3))
	if r := b.revision(); r.Number != 10 || vni(r, "a") != 3 {
		t.Fatalf("got %+v", r)
	}
}

// A mark that is written after everything else makes a revision at once, also while the writer
// never rests for 50 ms.
func TestMarkNeedsNoRest(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.write("a.yaml", vpc("a", 1))
	b.write("REVISION", "1")
	b.start()
	b.revision()
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for n := 2; ; n++ {
			select {
			case <-stop:
				return
			case <-time.After(5 * time.Millisecond):
			}
			b.write("a.yaml", vpc("a", n))
			b.write("REVISION", fmt.Sprint(n))
		}
	}()
	for range 5 {
		if r := b.revision(); uint64(vni(r, "a")) != r.Number {
			t.Errorf("revision %d holds what belongs to %d", r.Number, vni(r, "a"))
		}
	}
	close(stop)
	for {
		select {
		case <-b.updates:
			continue
		case <-stopped:
		}
		break
	}
}

func TestEmptyDirectory(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.start()
	b.failure("refuse feed dir:" + b.dir + ": there is no object file and no REVISION (add objects, or REVISION if there shall be none)")
	b.write("a.yaml", vpc("a", 1))
	b.revision()
	b.write("a.yaml", "# all commented out\n")
	b.failure("refuse feed dir:" + b.dir + ": the files hold nothing but a region, and there is no REVISION (add objects, or REVISION if there shall be none)")
	b.remove("a.yaml")
	b.failure("refuse feed dir:" + b.dir + ": there is no object file and no REVISION (add objects, or REVISION if there shall be none)")
	b.write("REVISION", "2")
	if r := b.revision(); r.Number != 2 || len(r.Objects.VPCs) != 0 {
		t.Fatalf("got %+v", r)
	}
}

func TestDirectoryComesAndGoes(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	gone := "read feed dir:" + b.dir + ": open " + b.dir + ": no such file or directory"
	must(t, os.Remove(b.dir))
	b.start()
	b.failure(gone)
	must(t, os.Mkdir(b.dir, 0o755))
	b.write("a.yaml", vpc("a", 1))
	b.revision()
	must(t, os.RemoveAll(b.dir))
	for {
		u := b.next()
		if u.Err == nil {
			t.Fatalf("got revision %d of a directory that goes", u.Revision.Number)
		}
		if u.Err.Error() == gone {
			break
		}
	}
	must(t, os.WriteFile(b.dir, nil, 0o644))
	if u := b.next(); u.Err == nil || !strings.Contains(u.Err.Error(), "not a directory") {
		t.Errorf("a file for a directory: %v", u.Err)
	}
	must(t, os.Remove(b.dir))
	b.failure(gone)
	must(t, os.Mkdir(b.dir, 0o755))
	b.write("a.yaml", vpc("a", 2))
	if r := b.revision(); r.Number != 2 {
		t.Errorf("got revision %d, want 2", r.Number)
	}
}

func TestForce(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.write("a.yaml", vpc("a", 1))
	b.start()
	first := b.revision()
	b.write("FORCE", first.Hash+"\n")
	if r := b.revision(); !r.Forced || r.Number != 1 {
		t.Fatalf("got %+v", r)
	}
	b.write("a.yaml", vpc("a", 2))
	if r := b.revision(); r.Forced {
		t.Fatal("FORCE of another content counts")
	}
	b.write("REVISION", "5")
	if r := b.revision(); r.Forced {
		t.Fatal("FORCE of another revision counts")
	}
	b.write("FORCE", "5")
	if r := b.revision(); !r.Forced || r.Number != 5 {
		t.Fatalf("got %+v", r)
	}
	b.write("REVISION", "6")
	if r := b.revision(); r.Forced {
		t.Fatal("FORCE of the previous revision counts")
	}
}

// A writer that holds its file open is not done, however long it rests.
func TestFileOpenForWriting(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.write("a.yaml", vpc("a", 1))
	b.start()
	b.revision()
	f, err := os.Create(filepath.Join(b.dir, "b.yaml"))
	must(t, err)
	_, err = f.WriteString(vpc("b", 2) + "---\n")
	must(t, err)
	b.silence(400 * time.Millisecond)
	b.failure("read feed dir:" + b.dir + ": b.yaml is open for writing (waiting until nobody writes)")
	_, err = f.WriteString(vpc("c", 3))
	must(t, err)
	must(t, f.Close())
	if r := b.revision(); vni(r, "b") != 2 || vni(r, "c") != 3 {
		t.Fatalf("got %+v", r)
	}
}

func TestWhatIsNoFile(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.write("a.yaml", vpc("a", 1))
	must(t, os.Symlink("nowhere", filepath.Join(b.dir, "b.yaml")))
	b.start()
	b.failure("read feed dir:" + b.dir + ": " + filepath.Join(b.dir, "b.yaml") + " is a link to nothing (remove or mend it)")
	b.remove("b.yaml")
	b.revision()
	must(t, os.Mkdir(filepath.Join(b.dir, "c.yaml"), 0o755))
	b.failure("read feed dir:" + b.dir + ": " + filepath.Join(b.dir, "c.yaml") + " is no regular file (remove it)")
}

// Kubernetes mounts a ConfigMap as links through ..data, which it renames.
func TestConfigMap(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	version := func(name string, n int) {
		dir := filepath.Join(b.dir, name)
		must(t, os.Mkdir(dir, 0o755))
		must(t, os.WriteFile(filepath.Join(dir, "REVISION"), []byte(fmt.Sprint(n)), 0o644))
		must(t, os.WriteFile(filepath.Join(dir, "a.yaml"), []byte(vpc("a", n)), 0o644))
		must(t, os.WriteFile(filepath.Join(dir, "b.yaml"), []byte(vpc("b", n+1000)), 0o644))
		must(t, os.Symlink(name, filepath.Join(b.dir, "..data_tmp")))
		must(t, os.Rename(filepath.Join(b.dir, "..data_tmp"), filepath.Join(b.dir, "..data")))
	}
	version("..1", 1)
	for _, name := range []string{"REVISION", "a.yaml", "b.yaml"} {
		must(t, os.Symlink("..data/"+name, filepath.Join(b.dir, name)))
	}
	b.start()
	for n := 1; n <= 4; n++ {
		if n > 1 {
			version(fmt.Sprintf("..%d", n), n)
			must(t, os.RemoveAll(filepath.Join(b.dir, fmt.Sprintf("..%d", n-1))))
		}
		if r := b.revision(); r.Number != uint64(n) || vni(r, "a") != uint32(n) || vni(r, "b") != uint32(n+1000) {
			t.Fatalf("revision %d: got %+v", n, r)
		}
	}
}

// A directory may be swapped as a whole, by a link or by renaming.
func TestSwappedDirectory(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	root := filepath.Dir(b.dir)
	must(t, os.Remove(b.dir))
	for n := 1; n <= 3; n++ {
		dir := filepath.Join(root, fmt.Sprintf("v%d", n))
		must(t, os.Mkdir(dir, 0o755))
		must(t, os.WriteFile(filepath.Join(dir, "a.yaml"), []byte(vpc("a", n)), 0o644))
		must(t, os.Symlink(dir, b.dir+".tmp"))
		must(t, os.Rename(b.dir+".tmp", b.dir))
		if n == 1 {
			b.start()
		}
		if r := b.revision(); vni(r, "a") != uint32(n) {
			t.Fatalf("got %+v", r)
		}
	}
}

func TestWithoutInotify(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.write("a.yaml", vpc("a", 1))
	w := &watcher{}
	d := newDir(b.dir, b.stateDir)
	d.poll = 20 * time.Millisecond
	updates := make(chan Update, 10)
	r := &run{dir: d, ctx: t.Context(), updates: updates, watch: w}
	for n := 2; n <= 4; n++ {
		for len(updates) == 0 {
			w.follow(b.dir)
			w.wait(t.Context(), r.step())
		}
		if u := <-updates; u.Err != nil || vni(u.Revision, "a") != uint32(n-1) {
			t.Fatalf("got %+v", u)
		}
		b.write("a.yaml", vpc("a", n))
	}
}
