// SPDX-License-Identifier: Apache-2.0

package etcd

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/eniplane/eniplane/pkg/api"
)

func TestRecordText(t *testing.T) {
	for _, r := range []Record{
		{Name: "a", UID: "1-abc-2", Host: "h", MAC: api.MAC{2, 0, 0, 0, 1, 2}, Subnet: "s", Groups: []string{"g"}, IPs: []netip.Addr{netip.MustParseAddr("10.0.0.1")}},
		{Name: "b", UID: "7", MAC: api.MAC{2, 0, 0, 0, 1, 3}, Foreign: true, Subnet: "s", Groups: []string{"g", "h"},
			IPs: []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fd00::1")}},
		{Name: "c", UID: "8", Host: "h", To: "i", MAC: api.MAC{2, 0, 0, 0, 1, 4}, Subnet: "s", Groups: []string{"g"}, IPs: []netip.Addr{netip.MustParseAddr("10.0.0.2")}},
		{Name: "d", UID: "9", Host: "i", From: "h", MAC: api.MAC{2, 0, 0, 0, 1, 5}, Subnet: "s", Groups: []string{"g"}, IPs: []netip.Addr{netip.MustParseAddr("10.0.0.3")}},
	} {
		got, err := ParseRecord(r.Name, string(r.text()))
		if err != nil {
			t.Error(err)
		}
		if diff := cmp.Diff(r, got, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
			t.Errorf("%s comes back as another: %s", r.text(), diff)
		}
	}
	for _, line := range []string{
		"", "1 h 02:00:00:00:00:01 - s g", "1 h 02:00:00:00:00:01 - s g 10.0.0.1 more", "1 h 02:00:00:00:01 - s g 10.0.0.1",
		"1 h 02:00:00:00:00:01 x s g 10.0.0.1", "1 h 02:00:00:00:00:01 - s g 10.0.0.256", "1 h 02:00:00:00:00:01 - s g 10.0.0.1,", " h 02:00:00:00:00:01 - s g 10.0.0.1",
		"1 h 02:00:00:00:00:01 - S g 10.0.0.1", "1 h 01:00:00:00:00:01 - s g 10.0.0.1", "1 h 02:00:00:00:00:01 - s  10.0.0.1", "1 h 02:00:00:00:00:01 - s g fe80::1%x",
		"1 h 02:00:00:00:00:01 - s g ::ffff:10.0.0.1",
	} {
		if r, err := ParseRecord("e", line); err == nil {
			t.Errorf("%q is read as %+v", line, r)
		}
	}
}

// TestRecords: whatever changes, the packed records are what a map would be, in order, and older values stay as they were.
func TestRecords(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	model := map[string]string{}
	r := ParseRecords("")
	for range 60 {
		before, was := r, r.String()
		changes := map[string]*string{}
		for range random.IntN(300) {
			name := fmt.Sprintf("e%d", random.IntN(4000))
			if random.IntN(3) == 0 {
				changes[name] = nil
				delete(model, name)
				continue
			}
			line := fmt.Sprint("line ", random.IntN(1000))
			changes[name], model[name] = &line, line
		}
		r = r.Change(changes)
		if diff := cmp.Diff(model, maps.Collect(r.All())); diff != "" {
			t.Fatal(diff)
		}
		if before.String() != was {
			t.Fatal("a value changed")
		}
		again := ParseRecords(r.String())
		if diff := cmp.Diff(model, maps.Collect(again.All())); diff != "" {
			t.Fatal(diff)
		}
		var names []string
		for name := range r.All() {
			names = append(names, name)
			if line, ok := r.Get(name); !ok || line != model[name] {
				t.Fatalf("Get(%s) = %q, %t", name, line, ok)
			}
		}
		if !slices.IsSorted(names) {
			t.Fatal("the names are not in order")
		}
		if _, ok := r.Get("nobody"); ok {
			t.Fatal("there is a record of nobody")
		}
	}
}

// TestMillionRecords: those of a million ENIs, as they are kept between revisions, fit into an agent.
func TestMillionRecords(t *testing.T) {
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	r := RecordsOf(func(yield func(string, string) bool) {
		ip := netip.MustParseAddr("10.0.0.5")
		for i := range 1_000_000 {
			record := Record{
				UID: fmt.Sprintf("12345-abcdef-%d", i), Host: fmt.Sprintf("host-%04d", i%5000), MAC: api.MAC{2, 0, byte(i >> 16), byte(i >> 8), byte(i), 1},
				Subnet: fmt.Sprintf("subnet-%03d", i%200), Groups: []string{"default", "web"}, IPs: []netip.Addr{ip},
			}
			ip = ip.Next()
			if !yield(fmt.Sprintf("eni-%07d", i), string(record.text())) {
				return
			}
		}
	})
	used := heap() - before
	t.Logf("%d MiB for a million records, %d bytes each", used>>20, used/1_000_000)
	if used > 150<<20 {
		t.Errorf("%d MiB for a million records", used>>20)
	}
	if _, ok := r.Get("eni-0999999"); !ok {
		t.Error("the last one is not there")
	}
}
