// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/eniplane/eniplane/pkg/testroot"
)

// guestNamespace is a guest with two devices that have the MACs of twoENIs, the second one down, a container
// behind a third, and rules and routes of others.
func guestNamespace(t *testing.T) *testroot.Namespace {
	t.Helper()
	testroot.Require(t)
	ns := testroot.Netns(t)
	if err := ns.Do(func() error {
		for i, mac := range []string{"02:00:00:00:00:0a", "02:00:00:00:00:0b", "02:00:00:00:00:cc"} {
			if err := addVeth(i, mac); err != nil {
				return err
			}
		}
		others := netlink.NewRule()
		others.Priority, others.Table, others.Family = 5000, 5000, netlink.FAMILY_V4
		others.Src = ipNet(netip.MustParsePrefix("10.9.9.9/32"))
		static := netlink.NewRule() // of another in our range of tables
		static.Priority, static.Table, static.Family, static.Protocol = 5001, TableFirst, netlink.FAMILY_V4, 4
		static.Src = ipNet(netip.MustParsePrefix("10.9.9.8/32"))
		container, err := netlink.LinkByName("eth2")
		if err != nil {
			return err
		}
		for _, err := range []error{
			netlink.RuleAdd(others), netlink.RuleAdd(static), netlink.LinkSetUp(container),
			netlink.AddrAdd(container, &netlink.Addr{IPNet: ipNet(netip.MustParsePrefix("172.17.0.1/16"))}),
			netlink.RouteAdd(&netlink.Route{LinkIndex: container.Attrs().Index, Dst: ipNet(netip.MustParsePrefix("10.99.0.0/16")), Table: TableFirst, Scope: netlink.SCOPE_LINK}),
		} {
			if err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return ns
}

// addVeth makes a device whose peer is up.
func addVeth(i int, mac string) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = fmt.Sprintf("eth%d", i)
	hw, err := net.ParseMAC(mac)
	if err != nil {
		return err
	}
	attrs.HardwareAddr = hw
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: fmt.Sprintf("peer%d", i)}); err != nil {
		return err
	}
	peer, err := netlink.LinkByName(fmt.Sprintf("peer%d", i))
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(peer)
}

// dump is everything of a namespace that routes packets: rules, routes, addresses and groups of all owners.
func dump(t *testing.T) string {
	t.Helper()
	var lines []string
	links, err := netlink.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		lines = append(lines, fmt.Sprintf("link %s group %d", l.Attrs().Name, l.Attrs().Group))
	}
	for _, v6 := range []bool{false, true} {
		rules, err := netlink.RuleList(familyOf(v6))
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range rules {
			lines = append(lines, fmt.Sprintf("rule %d %v table %d protocol %d suppress %d %d", r.Priority, r.Src, r.Table, r.Protocol, r.SuppressPrefixlen, r.SuppressIfgroup))
		}
		addrs, err := netlink.AddrList(nil, familyOf(v6))
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range addrs {
			if !a.IP.IsLinkLocalUnicast() {
				lines = append(lines, fmt.Sprintf("address %s on %d, flags %x", a.IPNet, a.LinkIndex, a.Flags))
			}
		}
		routes, err := netlink.RouteListFiltered(familyOf(v6), &netlink.Route{}, netlink.RT_FILTER_TABLE)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range routes {
			if r.Table == unix.RT_TABLE_LOCAL {
				continue // the kernel's own, of IPv6 some time after the address
			}
			if r.Dst == nil || !r.Dst.IP.IsLinkLocalUnicast() && !r.Dst.IP.IsMulticast() {
				lines = append(lines, fmt.Sprintf("route %v via %v src %v dev %d table %d metric %d protocol %d scope %d", r.Dst, r.Gw, r.Src, r.LinkIndex, r.Table, r.Priority, r.Protocol, r.Scope))
			}
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// applied carries out what a machine needs.
func applied(t *testing.T, m *Machine) []Change {
	t.Helper()
	k, err := Look()
	if err != nil {
		t.Fatal(err)
	}
	changes := Changes(Plan(m, k), k)
	if err := Apply(changes); err != nil {
		t.Fatal(err)
	}
	return changes
}

// problems are those that the kernel of the caller's namespace has.
func problems(t *testing.T, m *Machine) []Problem {
	t.Helper()
	k, err := Look()
	if err != nil {
		t.Fatal(err)
	}
	return Check(m, k, Leave)
}

// TestApply: what is missing is made, once; it follows changes; it goes without a trace, and what others made stays.
func TestApply(t *testing.T) {
	ns := guestNamespace(t)
	m := decode(t, twoENIs)
	if err := ns.Do(func() error {
		if len(problems(t, m)) == 0 {
			t.Error("nothing is configured, and no problem is found")
		}
		for _, name := range []string{"eth0", "eth1"} { // --remove leaves devices up
			if err := netlink.LinkSetUp(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Name: name}}); err != nil {
				return err
			}
		}
		before := dump(t)
		if n := len(applied(t, m)); n < 20 {
			t.Errorf("%d changes", n)
		}
		full := dump(t)
		if again := applied(t, m); len(again) > 0 {
			t.Errorf("a second run would change %q", commands(again))
		}
		if got := problems(t, m); len(got) > 0 {
			t.Errorf("problems are left: %+v", got)
		}
		leaves(t, "10.0.1.11", "172.17.0.9", "eth2") // a container on this machine
		leaves(t, "10.0.1.11", "10.0.2.99", "eth0")
		leaves(t, "fd00:2::10", "fd00:1::99", "eth1")

		fewer := decode(t, twoENIs)
		fewer.ENIs[0].Addrs = fewer.ENIs[0].Addrs[:3]
		fewer.ENIs = fewer.ENIs[:1]
		applied(t, fewer)
		if now := dump(t); strings.Contains(now, "fd00:1::11") || strings.Contains(now, "10.0.2.10") || !strings.Contains(now, "10.0.1.11") {
			t.Errorf("does not follow: %s", now)
		}
		applied(t, m)
		if diff := cmp.Diff(full, dump(t)); diff != "" {
			t.Errorf("back to two ENIs: %s", diff)
		}

		k, err := Look()
		if err != nil {
			return err
		}
		if err := Apply(Removal(k)); err != nil {
			return err
		}
		if diff := cmp.Diff(before, dump(t)); diff != "" {
			t.Errorf("removal leaves or takes something: %s", diff)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

func leaves(t *testing.T, src, dst, want string) {
	t.Helper()
	device, _, err := Leave(netip.MustParseAddr(src), netip.MustParseAddr(dst))
	if err != nil || device != want {
		t.Errorf("from %s to %s leaves by %s (%v), want %s", src, dst, device, err, want)
	}
}

// TestForeignAddresses: DHCP has given the primaries and a default route: they are used, and stay when ours go.
func TestForeignAddresses(t *testing.T) {
	ns := guestNamespace(t)
	m := decode(t, twoENIs)
	if err := ns.Do(func() error {
		link, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		for _, err := range []error{
			netlink.LinkSetUp(link), netlink.AddrAdd(link, &netlink.Addr{IPNet: ipNet(netip.MustParsePrefix("10.0.1.10/24"))}),
			netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: ipNet(everywhere(false)), Gw: net.IPv4(10, 0, 1, 1), Priority: 100}),
		} {
			if err != nil {
				return err
			}
		}
		for _, c := range applied(t, m) {
			if strings.Contains(c.Command, "address add 10.0.1.10/") || strings.Contains(c.Command, "ip route replace default") && strings.Contains(c.Command, "table main") {
				t.Errorf("makes again what is there: %s", c.Command)
			}
		}
		if got := problems(t, m); len(got) > 0 {
			t.Errorf("problems: %+v", got)
		}
		k, err := Look()
		if err != nil {
			return err
		}
		if err := Apply(Removal(k)); err != nil {
			return err
		}
		if now := dump(t); !strings.Contains(now, "address 10.0.1.10/24") || !strings.Contains(now, "via 10.0.1.1") || strings.Contains(now, "10.0.1.11") {
			t.Errorf("after removal: %s", now)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

// TestAsymmetric: without rules the main table decides, and the check says so; a rule of others is named as the cause.
func TestAsymmetric(t *testing.T) {
	ns := guestNamespace(t)
	m := decode(t, twoENIs)
	if err := ns.Do(func() error {
		applied(t, m)
		k, err := Look()
		if err != nil {
			return err
		}
		for _, r := range k.Rules {
			if err := changeRule(r, false); err != nil {
				return err
			}
		}
		got := problems(t, m)
		if !slices.ContainsFunc(got, func(p Problem) bool {
			return p.Address == "10.0.2.10" && p.Peer == "192.0.2.1" && p.Got == "eth0" && p.Want == "eth1" && p.Mend == mend
		}) {
			t.Errorf("without rules: %+v", got)
		}
		applied(t, m)
		foreign := netlink.NewRule()
		foreign.Priority, foreign.Table, foreign.Family = 100, TableFirst, netlink.FAMILY_V4
		foreign.Src = ipNet(netip.MustParsePrefix("10.0.2.10/32"))
		if err := netlink.RuleAdd(foreign); err != nil {
			return err
		}
		got = problems(t, m)
		if len(got) == 0 || !strings.Contains(got[0].Mend, "look for a rule of others") || got[0].Got != "eth0" {
			t.Errorf("with a rule of others: %+v", got)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

// TestCommands: what is printed does what is applied, by ip(8).
func TestCommands(t *testing.T) {
	m := decode(t, twoENIs)
	var byUs, byIP string
	ours, theirs := guestNamespace(t), guestNamespace(t)
	if _, err := exec.LookPath("ip"); err != nil {
		t.Fatalf("%v (deploy/install-deps.sh e2e installs it)", err)
	}
	if err := ours.Do(func() error {
		applied(t, m)
		byUs = dump(t)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if err := theirs.Do(func() error {
		k, err := Look()
		if err != nil {
			return err
		}
		script := "set -e\n" + strings.Join(commands(Changes(Plan(m, k), k)), "\n")
		cmd := exec.Command("sh", "-c", script)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v: %s\n%s", err, out, script)
		}
		byIP = dump(t)
		if left := applied(t, m); len(left) > 0 {
			t.Errorf("ip(8) has left %q", commands(left))
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(byUs, byIP); diff != "" {
		t.Errorf("applied -, by ip(8) +: %s", diff)
	}
}
