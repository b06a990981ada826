// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/eniplane/eniplane/pkg/dataplane"
	"github.com/eniplane/eniplane/pkg/lab"
)

// What the two revisions say about who may send to b2. Rules and memberships change together, so that a packet
// judged by a part of one and a part of the other shows: the new rule with the old members, and the old rule with the
// new ones, deny those who are always allowed and allow those who never are.
const (
	always  = iota // a member of the group that the rule names, in both revisions
	never          // a member of the other one, in both
	oldOnly        // a member of the named group in the old revision only
	newOnly        // ... in the new one only
)

var editProbes = []struct {
	eni      string
	what     int
	old, new string // the group besides "open"
}{
	{"a1", always, "edit-old", "edit-new"},
	{"mute", always, "edit-old", "edit-new"},
	{"a2", never, "edit-new", "edit-old"},
	{"a3", never, "edit-new", "edit-old"},
	{"b1", oldOnly, "edit-old", "edit-old"},
	{"m", newOnly, "edit-new", "edit-new"},
}

// editRest is longer than an agent works on a revision after it has come into force: what is measured is one edit, not
// those that wait before it.
const editRest = 50 * time.Millisecond

const editGroups = `apiVersion: eniplane.io/v1alpha1
kind: SecurityGroup
metadata: {name: edit-old}
spec: {vpc: red}
---
apiVersion: eniplane.io/v1alpha1
kind: SecurityGroup
metadata: {name: edit-new}
spec: {vpc: red}
---
apiVersion: eniplane.io/v1alpha1
kind: SecurityGroup
metadata: {name: edited}
spec: {vpc: red}
`

// TestPolicyEditUnderLoad: while the feed edits rules and memberships together hundreds of times, each packet of many
// flows, old and new ones, is judged by the old or the new revision. How long it takes until the new one judges is
// logged, from the rename of REVISION on.
func TestPolicyEditUnderLoad(t *testing.T) {
	l := common(t)
	good, err := os.ReadFile(filepath.Join(l.FeedDir(), objectsFile))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { putGood(t, l, good) })
	if _, err := l.AddObject(editGroups); err != nil {
		t.Fatal(err)
	}
	newText := editRevision(t, l, true)
	oldText := editRevision(t, l, false)
	for _, f := range []struct {
		family lab.Family
		edits  int
	}{{lab.IPv4, 200}, {lab.IPv6, 100}} {
		t.Run(f.family.String(), func(t *testing.T) { editUnderLoad(t, l, f.family, f.edits, oldText, newText) })
	}
}

// editRevision brings one of the revisions into force and returns its text.
func editRevision(t *testing.T, l *lab.Lab, next bool) []byte {
	t.Helper()
	named := "sg/edit-old"
	if next {
		named = "sg/edit-new"
	}
	set := func(kind, name, field string, value any) lab.Edit {
		return lab.Edit{Kind: kind, Name: name, Change: func(spec *yaml.Node) error { return lab.Set(spec, field, value) }}
	}
	edits := []lab.Edit{
		set("SecurityGroup", "edited", "ingress", []any{
			map[string]any{"protocol": "udp", "ports": []any{editPort}, "from": []any{named}},
			map[string]any{"protocol": "tcp", "ports": []any{editPort}, "from": []any{named}},
		}),
		set("ENI", "b2", "securityGroups", []any{"edited"}),
	}
	for _, p := range editProbes {
		group := p.old
		if next {
			group = p.new
		}
		edits = append(edits, set("ENI", p.eni, "securityGroups", []any{"open", group}))
	}
	edit(t, l, edits)
	text, err := os.ReadFile(filepath.Join(l.FeedDir(), objectsFile))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// editUnderLoad edits to and fro; it begins and ends with the old revision.
func editUnderLoad(t *testing.T, l *lab.Lab, family lab.Family, edits int, oldText, newText []byte) {
	before := counters(t, l)
	load := startEditLoad(t, l, family)
	from, to, err := l.Spots("a1", "b2", family)
	if err != nil {
		t.Fatal(err)
	}
	stream, err := l.StartTCP(context.Background(), from, to, editPort)
	if err != nil {
		t.Fatal(err)
	}
	var took []time.Duration
	for i := range edits {
		text, what := newText, newOnly
		if i%2 == 1 {
			text, what = oldText, oldOnly
		}
		visible := publishNow(t, l, objectsFile, text, load)
		first, ok := load.firstArrival(what, visible, answerWait)
		if !ok {
			t.Fatalf("edit %d: %s after it was visible no packet was judged by it\n%s", i, answerWait, l.LogTail("host-b"))
		}
		took = append(took, first)
		time.Sleep(editRest)
	}
	if r := stream.Stop(); r.Broken != nil {
		t.Errorf("a connection that both revisions allow: %s", r)
	}
	load.stop()
	load.check(t)
	checkEditCounters(t, l, before, load, "b2", dataplane.In, dataplane.ReasonSGDenied)
	slices.Sort(took)
	t.Logf("%d edits under %d packets: from the visible revision to the first packet sent that it judges: median %v, 90 %% %v, longest %v",
		edits, load.total(), took[len(took)/2].Round(10*time.Microsecond), took[len(took)*9/10].Round(10*time.Microsecond),
		took[len(took)-1].Round(10*time.Microsecond))
}

// publishNow makes a text of a file the feed's next revision and returns the time on the clock of the load at which it
// is visible. Only the rename of the mark lies between that and the work that is measured.
func publishNow(t *testing.T, l *lab.Lab, file string, text []byte, load *editLoad) time.Duration {
	t.Helper()
	n, err := l.Revision()
	if err != nil {
		t.Fatal(err)
	}
	mark := filepath.Join(l.FeedDir(), "REVISION")
	for path, data := range map[string][]byte{
		filepath.Join(l.FeedDir(), file): text, mark: []byte(strconv.FormatUint(n+1, 10) + "\n"),
	} {
		if err := os.WriteFile(filepath.Join(l.FeedDir(), ".new-"+filepath.Base(path)), data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, path := range []string{filepath.Join(l.FeedDir(), file), mark} {
		if err := os.Rename(filepath.Join(l.FeedDir(), ".new-"+filepath.Base(path)), path); err != nil {
			t.Fatal(err)
		}
	}
	return load.now()
}

// checkEditCounters: exactly those packets were dropped for the reason that did not arrive, and nothing was lost
// otherwise.
func checkEditCounters(t *testing.T, l *lab.Lab, before lab.Counters, load *editLoad, eni string, d dataplane.Direction, reason dataplane.Reason) {
	t.Helper()
	want := load.missing()
	var got uint64
	for end := time.Now().Add(answerWait); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if got = counted(t, l, before, eni, d, reason); got == want {
			break
		}
	}
	if got != want {
		t.Errorf("%d packets were dropped at %s for %s, want %d: as many as were sent and did not arrive; all drops: %v",
			got, eni, reason, want, lab.Drops(counters(t, l).Since(before)))
	}
	if want == 0 {
		t.Error("no packet was denied: the load proves nothing")
	}
}
