// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/eniplane/eniplane/pkg/api"
	"github.com/eniplane/eniplane/pkg/compile"
	"github.com/eniplane/eniplane/pkg/dataplane"
)

// benchRegion is a host with one ENI of two groups, and room for more.
const benchRegion = `
{apiVersion: eniplane.io/v1alpha1, kind: Host, metadata: {name: host-a}, spec: {zone: az-1, vtep: 192.0.2.1, uplinks: [uplink0]}}
---
{apiVersion: eniplane.io/v1alpha1, kind: InstanceType, metadata: {name: large}, spec: {maxENIs: 8, maxIPsPerENI: 21}}
---
{apiVersion: eniplane.io/v1alpha1, kind: Instance, metadata: {name: vm}, spec: {host: host-a, type: large}}
---
{apiVersion: eniplane.io/v1alpha1, kind: VPC, metadata: {name: red}, spec: {vni: 7, cidrs: [10.0.0.0/8]}}
---
{apiVersion: eniplane.io/v1alpha1, kind: Subnet, metadata: {name: red-a}, spec: {vpc: red, cidrs: [10.0.0.0/16]}}
---
{apiVersion: eniplane.io/v1alpha1, kind: SecurityGroup, metadata: {name: many}, spec: {vpc: red}}
---
apiVersion: eniplane.io/v1alpha1
kind: SecurityGroup
metadata: {name: listed}
spec: {vpc: red, ingress: [{name: list, protocol: tcp, ports: [443], from: [pl/long]}]}
---
{apiVersion: eniplane.io/v1alpha1, kind: PrefixList, metadata: {name: long}, spec: {entries: [192.0.2.0/24]}}
---
apiVersion: eniplane.io/v1alpha1
kind: ENI
metadata: {name: one}
spec:
  subnet: red-a
  mac: "02:00:00:00:00:01"
  ips: [10.0.0.10]
  securityGroups: [many, listed]
  attachment: {instance: vm, index: 0, device: port1}
`

// timedWord notes when a revision comes into force.
type timedWord struct {
	word
	stored time.Time
	cpu    time.Duration // that the process had used then
}

func (w *timedWord) store(v uint64) error {
	err := w.word.store(v)
	w.stored, w.cpu = time.Now(), cpuTime()
	return err
}

// agentOf compiles and applies one revision after the other, as the agent does.
type agentOf struct {
	w        *world
	l        *Loader
	objects  *api.Objects
	last     *compile.Result
	word     *timedWord
	compiled time.Duration
	inForce  time.Duration // from the objects to the flip
	work     time.Duration // CPU time of that
	applied  time.Duration
	report   *Report
}

func newAgentOf(b *testing.B) *agentOf {
	b.Helper()
	w := newWorld(b)
	w.opts.Log = slog.New(slog.NewTextHandler(io.Discard, nil))
	objects, errs := api.Decode([]api.File{{Name: "bench.yaml", Data: []byte(benchRegion)}})
	for _, err := range errs {
		b.Fatal(err)
	}
	w.veth("port1")
	a := &agentOf{w: w, l: w.open(), objects: objects, last: &compile.Result{State: &compile.State{}}}
	a.word = &timedWord{word: a.l.engine.word}
	a.l.engine.word = a.word
	return a
}

// revise brings the objects into force as they are now.
func (a *agentOf) revise() {
	a.w.t.Helper()
	begin, cpu := time.Now(), cpuTime()
	in := compile.Input{Objects: a.objects, Host: "host-a", Revision: a.last.State.Revision + 1, IDs: a.last.IDs}
	if in.Revision > 1 {
		in.Previous = a.last.State
	}
	res, err := compile.Compile(in)
	if err != nil {
		a.w.t.Fatal(err)
	}
	for name, err := range res.Degraded {
		a.w.t.Fatalf("ENI %s: %v", name, err)
	}
	a.last = res
	middle := time.Now()
	a.w.in(func() error {
		a.report, err = a.l.Apply(context.Background(), res.State)
		return err
	})
	a.compiled += middle.Sub(begin)
	a.inForce += a.word.stored.Sub(begin)
	a.work += a.word.cpu - cpu
	a.applied += time.Since(middle)
}

// measure revises once for each change.
func (a *agentOf) measure(b *testing.B, change func(i int)) {
	b.Helper()
	a.revise()
	a.compiled, a.inForce, a.applied, a.work = 0, 0, 0, 0
	cpu := cpuTime()
	i := 0
	for b.Loop() {
		i++
		change(i)
		a.revise()
	}
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 / float64(b.N) }
	b.ReportMetric(ms(a.compiled), "compile-ms/op")
	b.ReportMetric(ms(a.inForce), "inforce-ms/op")
	b.ReportMetric(ms(a.applied), "apply-ms/op")
	b.ReportMetric(ms(cpuTime()-cpu), "cpu-ms/op") // of all threads: less at the mercy of who else runs
	b.ReportMetric(ms(a.work), "inforce-cpu-ms/op")
	b.ReportMetric(float64(a.report.Written), "written/op")
	b.ReportMetric(float64(a.report.Deleted), "deleted/op")
}

// cpuTime is what this process has used.
func cpuTime() time.Duration {
	var usage unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &usage); err != nil {
		return 0 // it fails for wrong arguments only
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// benchRules returns n rules: each for a network and a port of its own, or overlapping each other a lot.
func benchRules(n int, overlap bool) []api.Rule {
	rules := make([]api.Rule, n)
	for i := range rules {
		from := uint16(1000 + i)
		ports := api.PortRange{From: from, To: from}
		prefix := netip.PrefixFrom(netip.AddrFrom4([4]byte{172, byte(i >> 8), byte(i), 0}), 24)
		if overlap {
			// Each port range reaches over all later ones' beginnings, the networks nest by length.
			ports.To = 60000 - uint16(i)*7
			prefix = netip.PrefixFrom(netip.AddrFrom4([4]byte{172, byte(i * 37), byte(i * 11), byte(i)}), 6+i%27).Masked()
		}
		rules[i] = api.Rule{
			Name: fmt.Sprintf("r%d", i), Protocol: api.Protocol{Number: api.ProtoTCP},
			Ports: []api.PortRange{ports}, Peers: []api.Peer{{Prefix: prefix}},
		}
	}
	return rules
}

// edited is a peer that no rule had before.
func edited(i int) api.Peer {
	return api.Peer{Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 8, byte(i >> 8), byte(i)}), 32)}
}

// crowd adds ENIs without a port here, each with a group of its own.
func (a *agentOf) crowd(enis, rules int) {
	for n := range enis {
		name := fmt.Sprintf("crowd-%d", n)
		group := *a.objects.SecurityGroups["listed"]
		group.Name, group.UID, group.Ingress = name, name, benchRules(rules, false)
		a.objects.SecurityGroups[name] = &group
		e := *a.objects.ENIs["one"]
		e.Name, e.UID, e.MAC = name, name, api.MAC{2, 0, 0, 1, byte(n >> 8), byte(n)}
		e.IPs, e.SecurityGroups = []netip.Addr{netip.AddrFrom4([4]byte{10, 0, 1, byte(n + 10)})}, []string{name}
		e.Attachment = &api.Attachment{Instance: "vm", Device: name}
		a.objects.ENIs[name] = &e
	}
}

// benchPrefixes returns n networks of both families.
func benchPrefixes(n int) []netip.Prefix {
	list := make([]netip.Prefix, n)
	for i := range list {
		list[i] = netip.PrefixFrom(netip.AddrFrom4([4]byte{byte(20 + i>>16), byte(i >> 8), byte(i), 0}), 24)
		if i%4 == 0 {
			list[i] = netip.PrefixFrom(netip.AddrFrom16([16]byte{0x20, 1, byte(i >> 16), byte(i >> 8), byte(i)}), 56)
		}
	}
	return list
}

// BenchmarkPublish is the way of a change from the objects to the maps, all read back and in force: of one rule in a
// group of 1000, of one prefix in a list of 100,000, and of nothing.
func BenchmarkPublish(b *testing.B) {
	other := api.Peer{Prefix: netip.MustParsePrefix("10.9.0.0/16")}
	for _, overlap := range []bool{false, true} {
		name := map[bool]string{false: "1000-disjoint-rules", true: "1000-overlapping-rules"}[overlap]
		b.Run(name, func(b *testing.B) {
			a := newAgentOf(b)
			a.objects.SecurityGroups["many"].Ingress = benchRules(999, overlap)
			a.measure(b, func(i int) {
				a.objects.SecurityGroups["many"].Ingress[i*7%999].Peers = []api.Peer{other, edited(i)}
			})
		})
		b.Run(name+"-both-ways", func(b *testing.B) {
			a := newAgentOf(b)
			many := a.objects.SecurityGroups["many"]
			many.Ingress, many.Egress = benchRules(999, overlap), benchRules(999, overlap)
			a.measure(b, func(i int) { // peer and port: nothing of either direction stays
				for _, rules := range [][]api.Rule{many.Ingress, many.Egress} {
					rules[i*7%999].Peers = []api.Peer{other, edited(i)}
					rules[i*7%999].Ports = []api.PortRange{{From: uint16(i), To: uint16(i)}}
				}
			})
		})
	}
	b.Run("1000-rules-new", func(b *testing.B) {
		a := newAgentOf(b)
		sets := [2][]api.Rule{benchRules(999, false), benchRules(999, false)}
		for j := range sets[1] {
			sets[1][j].Ports = []api.PortRange{{From: uint16(50000 - j), To: uint16(50000 - j)}}
			sets[1][j].Peers = []api.Peer{edited(j)}
		}
		a.measure(b, func(i int) {
			many := a.objects.SecurityGroups["many"]
			many.Ingress, many.Egress = sets[i%2], sets[(i+1)%2]
		})
	})
	b.Run("100000-prefixes", func(b *testing.B) {
		a := newAgentOf(b)
		a.objects.PrefixLists["long"].Entries = benchPrefixes(100000)
		a.measure(b, func(i int) {
			a.objects.PrefixLists["long"].Entries[i*7%100000] = netip.PrefixFrom(netip.AddrFrom4([4]byte{150, 0, byte(i >> 8), byte(i)}), 32)
		})
	})
	b.Run("a-rule-with-100000-prefixes", func(b *testing.B) {
		a := newAgentOf(b)
		a.objects.PrefixLists["long"].Entries = benchPrefixes(100000)
		many := a.objects.SecurityGroups["many"]
		many.Ingress = benchRules(999, false)
		a.measure(b, func(i int) {
			many.Ingress[i*7%999].Peers = []api.Peer{other, edited(i)}
			many.Ingress[i*7%999].Ports = []api.PortRange{{From: uint16(i), To: uint16(i)}}
		})
	})
	b.Run("a-rule-beside-200-groups", func(b *testing.B) {
		a := newAgentOf(b)
		a.crowd(200, 100)
		a.objects.SecurityGroups["many"].Egress = benchRules(1, false)
		a.measure(b, func(i int) { a.objects.SecurityGroups["many"].Egress[0].Peers = []api.Peer{edited(i)} })
	})
	b.Run("nothing", func(b *testing.B) {
		a := newAgentOf(b)
		a.objects.SecurityGroups["many"].Ingress = benchRules(999, false)
		a.objects.PrefixLists["long"].Entries = benchPrefixes(100000)
		a.measure(b, func(int) {})
	})
	b.Run("a-rule-beside-100000-prefixes", func(b *testing.B) {
		a := newAgentOf(b)
		a.objects.PrefixLists["long"].Entries = benchPrefixes(100000)
		a.objects.SecurityGroups["many"].Egress = benchRules(1, false)
		a.measure(b, func(i int) {
			a.objects.SecurityGroups["many"].Egress[0].Peers[0].Prefix = netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 8, byte(i >> 8), byte(i)}), 32)
		})
	})
}

// BenchmarkReconcile looks at a host with many ports on which nothing has changed.
func BenchmarkReconcile(b *testing.B) {
	for _, ports := range []int{1, 100} {
		b.Run(fmt.Sprintf("%d-ports", ports), func(b *testing.B) {
			w := newWorld(b)
			w.opts.Log = slog.New(slog.NewTextHandler(io.Discard, nil))
			for i := range ports {
				w.veth(fmt.Sprintf("port%d", i+1))
			}
			l := w.open()
			w.apply(l, testState(1, ports))
			for b.Loop() {
				w.reconcile(l)
			}
		})
	}
}

// BenchmarkMemory is what the kernel's tables of rules hold for one ENI: entries, and bytes beyond those of empty tables.
func BenchmarkMemory(b *testing.B) {
	one := benchRules(1, false)
	for _, tt := range []struct {
		name     string
		rules    []api.Rule
		prefixes int
	}{
		{"1-rule", one, 1},
		{"1000-disjoint-rules", benchRules(999, false), 1},
		{"1000-overlapping-rules", benchRules(999, true), 1},
		{"100000-prefixes", one, 100000},
	} {
		b.Run(tt.name, func(b *testing.B) {
			a := newAgentOf(b)
			empty := a.memory()
			a.objects.SecurityGroups["many"].Ingress = tt.rules
			a.objects.PrefixLists["long"].Entries = benchPrefixes(tt.prefixes)
			for b.Loop() {
				a.revise()
			}
			b.ReportMetric(float64(a.memory()-empty)/1024, "KiB")
			for _, name := range dataplane.SetTables() {
				if entries, err := dataplane.ReadMap(a.l.Maps().Map(name)); err == nil && len(entries) > 0 {
					b.ReportMetric(float64(len(entries)), name)
				}
			}
		})
	}
}

// memory of the tables of rules and routes, as the kernel accounts it.
func (a *agentOf) memory() (sum uint64) {
	a.w.t.Helper()
	for _, name := range dataplane.SetTables() {
		info, err := a.l.Maps().Map(name).Info()
		if err != nil {
			a.w.t.Fatal(err)
		}
		bytes, _ := info.Memlock() // an empty trie has none
		sum += bytes
	}
	return sum
}
