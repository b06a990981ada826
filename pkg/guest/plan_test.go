// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// bare is a guest whose devices are plugged in and nothing else.
func bare() *Kernel {
	return &Kernel{Links: []Link{
		{Index: 1, Name: "lo", Up: true},
		{Index: 2, Name: "eth0", MAC: "02:00:00:00:00:0a", Up: true},
		{Index: 3, Name: "eth1", MAC: "02:00:00:00:00:0b"},
	}}
}

func commands(changes []Change) []string {
	var list []string
	for _, c := range changes {
		list = append(list, c.Command)
	}
	return list
}

func TestPlan(t *testing.T) {
	k, m := bare(), decode(t, twoENIs)
	want := []string{
		"ip link set dev eth0 group 69",
		"ip link set dev eth1 group 69",
		"ip link set dev eth1 up",
		"ip address add 10.0.1.10/24 dev eth0",
		"ip address add 10.0.1.11/32 dev eth0 noprefixroute",
		"ip address add fd00:1::10/64 dev eth0 nodad",
		"ip address add fd00:1::11/128 dev eth0 nodad noprefixroute",
		"ip address add 10.0.2.10/24 dev eth1",
		"ip address add fd00:2::10/64 dev eth1 nodad",
		"ip route replace 10.0.1.0/24 dev eth0 src 10.0.1.10 table 69000 scope link proto 69",
		"ip route replace default via 10.0.1.1 dev eth0 src 10.0.1.10 table 69000 onlink proto 69",
		"ip route replace default via 10.0.1.1 dev eth0 src 10.0.1.10 table main metric 69 onlink proto 69",
		"ip -6 route replace fd00:1::/64 dev eth0 src fd00:1::10 table 69000 metric 1024 proto 69",
		"ip -6 route replace default via fd00:1::1 dev eth0 src fd00:1::10 table 69000 metric 1024 onlink proto 69",
		"ip -6 route replace default via fd00:1::1 dev eth0 src fd00:1::10 table main metric 69 onlink proto 69",
		"ip route replace 10.0.2.0/24 dev eth1 src 10.0.2.10 table 69001 scope link proto 69",
		"ip route replace default via 10.0.2.254 dev eth1 src 10.0.2.10 table 69001 onlink proto 69",
		"ip -6 route replace fd00:2::/64 dev eth1 src fd00:2::10 table 69001 metric 1024 proto 69",
		"ip -6 route replace default via fe80::1 dev eth1 src fd00:2::10 table 69001 metric 1024 onlink proto 69",
		"ip rule add priority 6901 from 10.0.1.10 lookup 69000 protocol 69",
		"ip rule add priority 6901 from 10.0.1.11 lookup 69000 protocol 69",
		"ip -6 rule add priority 6901 from fd00:1::10 lookup 69000 protocol 69",
		"ip -6 rule add priority 6901 from fd00:1::11 lookup 69000 protocol 69",
		"ip rule add priority 6902 from 10.0.2.10 lookup 69001 protocol 69",
		"ip -6 rule add priority 6902 from fd00:2::10 lookup 69001 protocol 69",
		"ip rule add priority 6900 lookup main suppress_prefixlength 0 suppress_ifgroup 69 protocol 69",
		"ip -6 rule add priority 6900 lookup main suppress_prefixlength 0 suppress_ifgroup 69 protocol 69",
	}
	s := Plan(m, k)
	if diff := cmp.Diff(want, commands(Changes(s, k))); diff != "" {
		t.Errorf("want -, got +: %s", diff)
	}
	if len(s.Notes) > 0 {
		t.Errorf("notes %q", s.Notes)
	}
	if left := Changes(s, carriedOut(s, k)); len(left) > 0 {
		t.Errorf("a second run would do %q", commands(left))
	}
}

// carriedOut is what the kernel shows when all of a state is there.
func carriedOut(s *State, k *Kernel) *Kernel {
	out := &Kernel{Links: slices.Clone(k.Links), Routes: s.Routes, Rules: s.Rules, Addresses: slices.Clone(s.Addresses), Defaults: k.Defaults}
	for i := range out.Links {
		if slices.Contains(s.Devices, out.Links[i].Name) {
			out.Links[i].Up, out.Links[i].Group = true, group
		}
	}
	for i := range out.Addresses {
		out.Addresses[i].Ours = true
	}
	return out
}

// TestPlanFollows: what is no longer of the machine goes, and nothing of others.
func TestPlanFollows(t *testing.T) {
	k, m := bare(), decode(t, twoENIs)
	k = carriedOut(Plan(m, k), k)
	k.Addresses = append(k.Addresses, Address{Device: "eth0", Prefix: netip.MustParsePrefix("192.168.7.7/24")}) // somebody's
	m.ENIs[0].Addrs = slices.Delete(m.ENIs[0].Addrs, 1, 2)                                                      // 10.0.1.11
	m.ENIs[1].Addrs[0].Gateway = netip.MustParseAddr("10.0.2.1")
	want := []string{
		"ip route replace default via 10.0.2.1 dev eth1 src 10.0.2.10 table 69001 onlink proto 69",
		"ip rule del priority 6901 from 10.0.1.11 lookup 69000 protocol 69",
		"ip address del 10.0.1.11/32 dev eth0",
	}
	if diff := cmp.Diff(want, commands(Changes(Plan(m, k), k))); diff != "" {
		t.Errorf("want -, got +: %s", diff)
	}
	removal := strings.Join(commands(Removal(k)), "\n")
	for _, part := range []string{"group default", "rule del", "route del", "address del 10.0.1.10/24"} {
		if !strings.Contains(removal, part) {
			t.Errorf("removal lacks %q: %s", part, removal)
		}
	}
	if strings.Contains(removal, "192.168.7.7") || strings.Contains(removal, " add ") || strings.Contains(removal, "replace") {
		t.Errorf("removal does more than remove ours: %s", removal)
	}
}

// TestMainDefault: others may have made the default route of the main table, right or wrong.
func TestMainDefault(t *testing.T) {
	def := func(device string, metric int) Route {
		return Route{Table: tableMain, Dst: everywhere(false), Device: device, Metric: metric}
	}
	for _, tt := range []struct {
		name     string
		defaults []Route
		ours     bool
		note     string
	}{
		{"none", nil, true, ""},
		{"DHCP's", []Route{def("eth0", 100)}, false, ""},
		{"the second ENI's first", []Route{def("eth1", 100), def("eth0", 200)}, true, ""},
		{"the first ENI's first", []Route{def("eth1", 200), def("eth0", 100)}, false, ""},
		{"one that cannot be beaten", []Route{def("eth1", 0)}, true, "leads to eth1 with metric 0"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			k := bare()
			k.Defaults = tt.defaults
			s := Plan(decode(t, twoENIs), k)
			ours := slices.ContainsFunc(s.Routes, func(r Route) bool { return r.Table == tableMain && !r.Dst.Addr().Is6() })
			if ours != tt.ours {
				t.Errorf("a default route of ours: %t, want %t", ours, tt.ours)
			}
			if notes := strings.Join(s.Notes, "\n"); (notes == "") != (tt.note == "") || !strings.Contains(notes, tt.note) {
				t.Errorf("notes %q, want %q", notes, tt.note)
			}
		})
	}
}

// TestPlanDevices: which device is the ENI's, and what if it is in somebody's group or not there.
func TestPlanDevices(t *testing.T) {
	k, m := bare(), decode(t, twoENIs)
	k.Links = append(k.Links,
		Link{Index: 4, Name: "eth0.5", MAC: "02:00:00:00:00:0a", Kind: "vlan"},
		Link{Index: 5, Name: "br0", MAC: "02:00:00:00:00:0b", Kind: "bridge"})
	k.Links[2].Master = 5
	if s := Plan(m, k); !slices.Equal(s.Devices, []string{"eth0", "br0"}) {
		t.Errorf("devices %q", s.Devices)
	}
	k = bare()
	k.Links[1].Group = 7
	s := Plan(m, k)
	if len(s.Notes) != 1 || slices.ContainsFunc(s.Rules, func(r Rule) bool { return !r.From.IsValid() }) {
		t.Errorf("a device in a foreign group: notes %q, rules %v", s.Notes, s.Rules)
	}
	k = bare()
	k.Links = k.Links[:2]
	s = Plan(m, k)
	if len(s.Notes) != 1 || !strings.Contains(s.Notes[0], "data (index 1) is not here") || len(s.Routes) == 0 {
		t.Errorf("an ENI that is not plugged in: notes %q, %d routes", s.Notes, len(s.Routes))
	}
}

func TestCheck(t *testing.T) {
	m := decode(t, twoENIs)
	k := bare()
	good := carriedOut(Plan(m, k), k)
	right := func(src, dst netip.Addr) (string, netip.Addr, error) {
		for i := range m.ENIs {
			for _, a := range m.ENIs[i].Addrs {
				if a.IP != src {
					continue
				}
				if a.Subnet.Contains(dst) {
					return good.device(m.ENIs[i].MAC).Name, netip.Addr{}, nil
				}
				return good.device(m.ENIs[i].MAC).Name, a.Gateway, nil
			}
		}
		return "eth0", netip.Addr{}, nil
	}
	if got := Check(m, good, right); len(got) > 0 {
		t.Errorf("all is well, but %+v", got)
	}
	for _, tt := range []struct {
		name   string
		change func(k *Kernel)
		leave  LeaveFunc
		want   []string
		mend   string
	}{
		{"all by the first", func(*Kernel) {}, func(src, dst netip.Addr) (string, netip.Addr, error) {
			if src.Is4() {
				return "eth0", netip.MustParseAddr("10.0.1.1"), nil
			}
			return right(src, dst)
		}, []string{
			"replies from 10.0.2.10 to 10.0.2.254 leave by eth0, not by eth1", "replies from 10.0.2.10 to 192.0.2.1 leave by eth0",
			"replies from 10.0.2.10 to 10.0.1.1 leave by eth0",
		}, "look for a rule of others"},
		{"no rules", func(k *Kernel) { k.Rules = nil }, func(src, dst netip.Addr) (string, netip.Addr, error) {
			if src.IsValid() && src.Is6() {
				return "", netip.Addr{}, syscall.ENETUNREACH
			}
			return right(src, dst)
		}, []string{
			"from fd00:1::10 to fd00:1::1 have no route", "from fd00:1::10 to 2001:db8::1 have no route",
			"from fd00:1::11 to fd00:1::1 have no route", "from fd00:1::11 to 2001:db8::1 have no route",
			"from fd00:2::10 to 2001:db8::1 have no route", "from fd00:2::10 to fd00:1::1 have no route",
		}, mend},
		{
			"an address is missing", func(k *Kernel) { k.Addresses = k.Addresses[1:] }, right,
			[]string{"10.0.1.10 is not on eth0"}, mend,
		},
		{"a device is down", func(k *Kernel) { k.Links[2].Up = false }, right, []string{"eth1 is down"}, mend},
		{
			"a device is missing", func(k *Kernel) { k.Links = k.Links[:2] }, right,
			[]string{"no device has the MAC 02:00:00:00:00:0b"}, "plug it in",
		},
		{"unbound", func(*Kernel) {}, func(src, dst netip.Addr) (string, netip.Addr, error) {
			if !src.IsValid() {
				return "eth1", netip.Addr{}, nil
			}
			return right(src, dst)
		}, []string{"connections to 192.0.2.1 that name no source leave by eth1", "connections to 2001:db8::1 that name no source leave by eth1"}, "must go"},
		{"another gateway", func(*Kernel) {}, func(src, dst netip.Addr) (string, netip.Addr, error) {
			device, via, err := right(src, dst)
			if dst == somewhere4 && src == netip.MustParseAddr("10.0.1.11") {
				via = netip.MustParseAddr("10.0.1.99")
			}
			return device, via, err
		}, []string{"leave by eth0, but not through the gateway 10.0.1.1"}, "look for a rule of others"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			k := carriedOut(Plan(m, bare()), bare())
			tt.change(k)
			got := Check(m, k, tt.leave)
			if len(got) != len(tt.want) {
				t.Fatalf("%d problems, want %d: %+v", len(got), len(tt.want), got)
			}
			for i, p := range got {
				if !strings.Contains(p.Text, tt.want[i]) || !strings.Contains(p.Mend, tt.mend) {
					t.Errorf("problem %d: %q, mend %q; want %q and %q", i, p.Text, p.Mend, tt.want[i], tt.mend)
				}
			}
		})
	}
}
