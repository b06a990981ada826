// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/eniplane/eniplane/pkg/dataplane"
	"github.com/eniplane/eniplane/pkg/lab"
)

const (
	routeEdits     = 4
	routeLoadPause = 4 * time.Millisecond // the agents need the CPU, too
	routeEditWait  = time.Minute
	mostRoutes     = 100_000
)

// What the two tables say about destinations in networks of 16 addresses. To those of `always` and `never` they say the
// same, in the old table by a route of their own against that of their network, in the new one by that of the network.
// Who changes a table entry by entry says something else in between, in one direction or the other.
var routeProbes = []struct {
	what            int
	net4, addr4     string
	net6, addr6     string
	oldNet, oldAddr string // targets; "" = no route
	newNet, newAddr string
}{
	{always, "192.0.2.16/28", "192.0.2.17", "2001:db8:52::10/124", "2001:db8:52::11", "blackhole", "internet", "internet", ""},
	{never, "192.0.2.32/28", "192.0.2.33", "2001:db8:52::20/124", "2001:db8:52::21", "internet", "blackhole", "blackhole", ""},
	{oldOnly, "192.0.2.48/28", "192.0.2.49", "2001:db8:52::30/124", "2001:db8:52::31", "internet", "", "blackhole", ""},
	{newOnly, "192.0.2.64/28", "192.0.2.65", "2001:db8:52::40/124", "2001:db8:52::41", "blackhole", "", "internet", ""},
}

// routeLines are the routes of one of the tables, as many as there may be beside those that stand there already.
func routeLines(next bool, beside int) string {
	var b strings.Builder
	n := 0
	add := func(destination, target string) {
		if target != "" {
			fmt.Fprintf(&b, "  - {destination: %q, target: %s}\n", destination, target)
			n++
		}
	}
	for _, p := range routeProbes {
		network, addr := p.oldNet, p.oldAddr
		if next {
			network, addr = p.newNet, p.newAddr
		}
		add(p.net4, network)
		add(p.net6, network)
		add(p.addr4+"/32", addr)
		add(p.addr6+"/128", addr)
	}
	target := map[bool]string{false: "internet", true: "blackhole"}[next]
	for i := 0; n < mostRoutes-beside; i++ {
		if i%2 == 0 {
			add(fmt.Sprintf("%d.%d.%d.0/24", 20+i>>16, i>>8&255, i&255), target)
		} else {
			add(fmt.Sprintf("2a%02x:%x::/32", i>>16, i&0xffff), target)
		}
	}
	return b.String()
}

// wholeTables: a table of 100,000 routes is replaced again and again by another one of as many, while packets of many
// flows, old and new ones, go by it. Each packet is routed by the one or by the other, never by a mixture.
func wholeTables(t *testing.T, l *lab.Lab, feed string) {
	const head = "metadata: {name: edge}\nspec:\n  vpc: red\n  routes:\n"
	const beside = 2 // the default routes
	texts := map[bool]string{}
	for _, next := range []bool{false, true} {
		texts[next] = strings.Replace(feed, head, head+routeLines(next, beside), 1)
	}
	publish(t, l, feed, head, head+routeLines(false, beside))
	before := counters(t, l)
	load := newEditLoad(routeLoadPause)
	load.listen(t, l, lab.Spot{Node: internetNode, Local: netip.IPv6Unspecified()})
	for _, p := range routeProbes {
		for _, addr := range []string{p.addr4, p.addr6} {
			to := netip.MustParseAddr(addr)
			from, _ := spots(t, l, "edge-a", "edge-a", lab.Family(to.Is6()))
			load.add(t, l, "to "+addr, p.what, from, lab.Spot{Node: internetNode, Addr: to, Local: to})
		}
	}
	load.start()
	live := startTransfer(t, l, "edge-a", internetNode, lab.IPv4, 8006)
	var took []time.Duration
	for i := range routeEdits {
		next := i%2 == 0
		visible := publishNow(t, l, routingObjects, []byte(texts[next]), load)
		first, ok := load.firstArrival(map[bool]int{false: oldOnly, true: newOnly}[next], visible, routeEditWait)
		if !ok {
			t.Fatalf("edit %d: %s after it was visible no packet was routed by it\n%s", i, routeEditWait, l.LogTail("host-a"))
		}
		took = append(took, first)
	}
	live.goesOn(t, "behind all tables")
	live.end(t)
	load.stop()
	load.check(t)
	checkEditCounters(t, l, before, load, "edge-a", dataplane.Out, dataplane.ReasonBlackhole)
	slices.Sort(took)
	t.Logf("%d tables of %d routes under %d packets: from the visible revision to the first packet sent that goes by it: median %v, longest %v",
		routeEdits, mostRoutes, load.total(), took[len(took)/2].Round(time.Millisecond), took[len(took)-1].Round(time.Millisecond))
}
