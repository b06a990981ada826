// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/eniplane/eniplane/pkg/api"
)

// idOf finds the id of an ingress rule of a group by its place.
func idOf(t *testing.T, obj *api.Objects, st *State, group string, index int) uint32 {
	t.Helper()
	want := GroupRules(obj.SecurityGroups[group], "ingress")[index]
	for id, name := range st.Names.Rules {
		if name == want {
			return id
		}
	}
	t.Fatalf("rule %v has no id: %v", want, st.Names.Rules)
	return 0
}

func nameless(port uint16) api.Rule {
	return api.Rule{
		Protocol: proto(6), Ports: []api.PortRange{{From: port, To: port}},
		Peers: []api.Peer{{Prefix: prefixes("10.0.0.0/8")[0]}},
	}
}

func named(name string, port uint16) api.Rule {
	r := nameless(port)
	r.Name = name
	return r
}

// TestRuleIDsStay: an id belongs to a rule by its object, its direction and its name or text, and what
// happens to the other rules does not matter to it.
func TestRuleIDsStay(t *testing.T) {
	rules := func(list ...api.Rule) func(*api.Objects) {
		return func(o *api.Objects) { o.SecurityGroups["db"].Ingress = list }
	}
	start := []api.Rule{named("a", 1), nameless(2), nameless(3), nameless(2), named("a", 4)}
	for _, tt := range []struct {
		name   string
		change func(*api.Objects)
		want   []int // by new index: the old one, -1 = a new id
	}{
		{"nothing", rules(start...), []int{0, 1, 2, 3, 4}},
		{"one before", rules(slices.Concat([]api.Rule{named("z", 9)}, start)...), []int{-1, 0, 1, 2, 3, 4}},
		{"the order", rules(start[4], start[3], start[2], start[1], start[0]), []int{0, 1, 2, 3, 4}},
		{"one less", rules(start[1:]...), []int{1, 2, 3, 0}},
		{"a named one says something else", rules(named("a", 7), start[1], start[2], start[3], start[4]), []int{0, 1, 2, 3, 4}},
		{"a nameless one says something else", rules(start[0], start[1], nameless(7), start[3], start[4]), []int{0, 1, -1, 3, 4}},
		{"another name", rules(named("b", 1), start[1], start[2], start[3], start[4]), []int{-1, 1, 2, 3, 0}},
		{"the group is another one", func(o *api.Objects) {
			rules(start...)(o)
			o.SecurityGroups["db"].UID = "other"
		}, []int{-1, -1, -1, -1, -1}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			obj := decode(t, region)
			rules(start...)(obj)
			first := mustCompile(t, Input{Objects: obj, Host: "host-a", Revision: 1})
			var before []uint32
			for i := range start {
				before = append(before, idOf(t, obj, first.State, "db", i))
			}
			tt.change(obj)
			second := after(t, first, obj)
			for now, was := range tt.want {
				id := idOf(t, obj, second.State, "db", now)
				if was >= 0 {
					if id != before[was] {
						t.Errorf("rule %d has id %d, want %d as rule %d had", now, id, before[was], was)
					}
					continue
				}
				if name, had := first.State.Names.Rules[id]; had {
					t.Errorf("rule %d has id %d, which was that of %v", now, id, name)
				}
			}
		})
	}
}

// TestRuleIDsRetire: who is gone keeps its name, and its id if it comes back.
func TestRuleIDsRetire(t *testing.T) {
	obj := decode(t, region)
	good := obj.SecurityGroups["db"].Ingress
	first := mustCompile(t, Input{Objects: obj, Host: "host-a", Revision: 1})
	id := idOf(t, obj, first.State, "db", 0)
	obj.SecurityGroups["db"].Ingress = []api.Rule{nameless(1)}
	second := after(t, first, obj)
	if got := second.State.Names.Rules[id]; got != (RuleName{Name: "db/sql"}) {
		t.Errorf("its id now means %+v, want the name alone", got)
	}
	if slices.ContainsFunc(second.State.RuleIDs, func(r RuleID) bool { return r.ID == id }) {
		t.Error("its id still counts")
	}
	if next := idOf(t, obj, second.State, "db", 0); next == id {
		t.Error("its id was given to another rule at once")
	}
	obj.SecurityGroups["db"].Ingress = good
	third := after(t, second, obj)
	if got := idOf(t, obj, third.State, "db", 0); got != id || third.IDs.Rules["sg/db@db ingress name sql"].Revision != 1 {
		t.Errorf("it came back with id %d of %+v, want %d of revision 1", got, third.IDs.Rules, id)
	}
}

// TestRuleIDsOfKeptRules: an ENI that keeps old rules keeps their ids and names, however many others go.
func TestRuleIDsOfKeptRules(t *testing.T) {
	obj := decode(t, region)
	last := mustCompile(t, Input{Objects: obj, Host: "host-a", Revision: 1})
	id := idOf(t, obj, last.State, "db", 0)
	broken := slices.Repeat(obj.SecurityGroups["db"].Ingress, maxRules+1)
	for i := range 3 {
		obj.SecurityGroups["db"].Ingress = broken
		obj.SecurityGroups["web"].Ingress = []api.Rule{nameless(uint16(i + 1))}
		last = after(t, last, obj)
		last.IDs.RetiredRules = nil // as if very many had gone since
		if name := last.State.Names.Rules[id]; name != (RuleName{Name: "db/sql"}) {
			t.Errorf("revision %d: the rule in force is called %+v", last.State.Revision, name)
		}
		if now := idOf(t, obj, last.State, "web", 0); now == id {
			t.Errorf("revision %d: the id of a rule in force was given to another", last.State.Revision)
		}
	}
}

// TestRuleIDsRunOut: numbers that nobody ever had first, then free ones, then those of rules that were
// retired, the oldest first, then none. None is no failure.
func TestRuleIDsRunOut(t *testing.T) {
	give := func(old *IDs, revision uint64, keys ...string) ([]uint32, *IDs) {
		r := newRuleIDs(revision, old, nil)
		r.limit = 6
		var got []uint32
		for _, key := range keys {
			got = append(got, r.give(RuleName{Key: key, Name: key}))
		}
		next := &IDs{Last: old.Last}
		r.settle(next)
		return got, next
	}
	ids := &IDs{}
	for i, tt := range []struct {
		keys []string
		want []uint32
	}{
		{[]string{"a", "b"}, []uint32{1, 2}},
		{[]string{"c"}, []uint32{3}},                                         // 1 and 2 retire
		{[]string{"c", "d", "e"}, []uint32{3, 4, 5}},                         // never used ones first
		{[]string{"f", "d", "e"}, []uint32{1, 4, 5}},                         // 1 retired before 2
		{[]string{"b", "d", "e", "f"}, []uint32{2, 4, 5, 1}},                 // back with its own
		{[]string{"b", "d", "e", "f", "g"}, []uint32{2, 4, 5, 1, 3}},         // of c
		{[]string{"b", "d", "e", "f", "g", "h"}, []uint32{2, 4, 5, 1, 3, 0}}, // none is left
	} {
		got, next := give(ids, uint64(i+1), tt.keys...)
		if d := cmp.Diff(tt.want, got); d != "" {
			t.Errorf("step %d (-want +got):\n%s", i+1, d)
		}
		if err := next.check(); err != nil {
			t.Errorf("step %d: %v", i+1, err)
		}
		for key, id := range next.Rules {
			if was, had := ids.Rules[key]; had && was != id || !had && id.Revision > uint64(i+1) {
				t.Errorf("step %d: %s was %+v, is %+v", i+1, key, was, id)
			}
		}
		ids = next
	}
	if f := ids.Rules["f"]; f.Revision != 4 {
		t.Errorf("f has %+v, want it given out in revision 4, from which on the counter is its own", f)
	}
}

// TestRuleIDsOfOldFiles: the numbers of an agent that knew no ids of rules are taken over as they are.
func TestRuleIDsOfOldFiles(t *testing.T) {
	obj := decode(t, region)
	first := mustCompile(t, Input{Objects: obj, Host: "host-a", Revision: 1})
	text, err := json.Marshal(first.IDs)
	if err != nil {
		t.Fatal(err)
	}
	var file map[string]any
	if err := json.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	delete(file, "rules")
	delete(file, "retiredRules")
	delete(file["last"].(map[string]any), "rule")
	if text, err = json.Marshal(file); err != nil {
		t.Fatal(err)
	}
	old := &IDs{}
	if err := json.Unmarshal(text, old); err != nil {
		t.Fatal(err)
	}
	second := mustCompile(t, Input{Objects: obj, Host: "host-a", Revision: 2, IDs: old})
	if len(second.IDs.Rules) == 0 || idOf(t, obj, second.State, "db", 0) == 0 {
		t.Errorf("rules got no ids: %+v", second.IDs.Rules)
	}
	if d := cmp.Diff(first.IDs.ENIs["db-0"].Incarnation, second.IDs.ENIs["db-0"].Incarnation); d != "" {
		t.Errorf("the other numbers changed: %s", d)
	}
}

func TestRuleIDsCheck(t *testing.T) {
	for _, tt := range []struct {
		ids  IDs
		want string
	}{
		{IDs{Rules: map[string]RuleID{"a": {ID: 0}}}, `id 0 of rule "a"`},
		{IDs{Rules: map[string]RuleID{"a": {ID: MaxRuleIDs}}}, `id 262144 of rule "a"`},
		{IDs{Rules: map[string]RuleID{"a": {ID: 1}, "b": {ID: 1}}}, `id 1 of rule "b"`},
		{IDs{Rules: map[string]RuleID{"a": {ID: 1}}, RetiredRules: []RetiredRule{{"b", RuleID{ID: 1}}}}, `id 1 of rule "b"`},
	} {
		_, err := Compile(Input{Objects: decode(t, region), Host: "host-a", Revision: 1, IDs: &tt.ids})
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%+v: %v, want %q", tt.ids, err, tt.want)
		}
	}
}

// TestRetiredIsBounded: rules that come and go for years do not fill the file.
func TestRetiredIsBounded(t *testing.T) {
	ids := &IDs{}
	for i := range maxRetired + 10 {
		r := newRuleIDs(uint64(i+1), ids, nil)
		r.give(RuleName{Key: fmt.Sprint(i), Name: fmt.Sprint(i)})
		ids = &IDs{Last: ids.Last}
		r.settle(ids)
	}
	if n := len(ids.RetiredRules); n != maxRetired || ids.RetiredRules[0].Name != "9" {
		t.Errorf("%d retired, the oldest is %+v", n, ids.RetiredRules[0])
	}
}

// TestRulesChangedInPlace: rules are taken over from the last compilation only if they say the same, whoever changed
// them where.
func TestRulesChangedInPlace(t *testing.T) {
	code := uint8(1)
	obj := decode(t, region)
	db := obj.SecurityGroups["db"]
	db.Ingress = append(db.Ingress, api.Rule{Name: "ping", Protocol: proto(api.ProtoICMP), ICMP: &api.ICMP{Type: 8, Code: &code}, Peers: []api.Peer{{Prefix: netip.MustParsePrefix("10.0.0.0/8")}}})
	last := mustCompile(t, Input{Objects: obj, Host: "host-a", Revision: 1})
	for _, change := range []struct {
		what string
		do   func()
	}{
		{"a port", func() { db.Ingress[0].Ports[0].To++ }},
		{"the code of ICMP", func() { code++ }},
		{"any code of ICMP", func() { db.Ingress[len(db.Ingress)-1].ICMP.Code = nil }},
		{"all of ICMP", func() { db.Ingress[len(db.Ingress)-1].ICMP = nil }},
		{"a peer", func() { db.Ingress[len(db.Ingress)-1].Peers[0].Prefix = netip.MustParsePrefix("10.0.0.0/9") }},
		{"a name", func() { db.Ingress[0].Name = "other" }},
		{"a protocol", func() { db.Ingress[len(db.Ingress)-1].Protocol = proto(50) }},
		{"the group", func() { db.UID = "another" }},
		{"a rule", func() { db.Ingress = db.Ingress[:1] }},
	} {
		was := eniOf(last.State, "db-0").SGIn
		if now := eniOf(after(t, last, obj).State, "db-0").SGIn; now != was {
			t.Errorf("before %s changed: rule set %d became %d", change.what, was, now)
		}
		change.do()
		next := after(t, last, obj)
		if now := eniOf(next.State, "db-0").SGIn; now == was {
			t.Errorf("%s changed, and the rule set stayed", change.what)
		}
		last = next
	}
}
