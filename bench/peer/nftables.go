// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
)

// NFTables forwards with connection tracking; policy is in sets, NAT in maps, as its authors recommend. Nothing is
// linear but the rules of a chain itself.
type NFTables struct{}

// Name implements Subject.
func (NFTables) Name() string { return "nftables" }

// Start implements Subject.
func (NFTables) Start(ctx context.Context, j *Job) (Running, error) {
	if err := need("nft"); err != nil {
		return nil, err
	}
	return begin(j, func(*closers) error {
		if err := forwarding(j); err != nil {
			return err
		}
		text := ""
		for _, f := range []Family{V4, V6} {
			text += nftTable(j, f, false)
		}
		_, err := Run(ctx, j.Host, text, "nft", "-f", "-")
		return err
	})
}

// Table and Set name what policy changes are made to.
const (
	Table = "bench"
	Set   = "allowed"
)

// nftTable is the policy of one family. On a bridge there is no name of a port to ask for.
func nftTable(j *Job, f Family, bridged bool) string {
	family, addr := nftNames(f)
	var ips, bindings, dnat, snat []string
	for _, e := range j.ENIs {
		ip := f.Of(e.IPs)
		ips = append(ips, ip.String())
		bindings = append(bindings, fmt.Sprintf("%q . %s . %s", e.Port.Name, macText(e.MAC), ip))
		if eip := f.Of(e.EIPs); eip.IsValid() {
			dnat = append(dnat, fmt.Sprintf("%s : %s", eip, ip))
			snat = append(snat, fmt.Sprintf("%s : %s", ip, eip))
		}
	}
	var b strings.Builder
	p := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	p("table %s %s {", family, Table)
	p("set enis { type %s; elements = { %s } }", addr, strings.Join(ips, ", "))
	p("set bindings { type ifname . ether_addr . %s; elements = { %s } }", addr, strings.Join(bindings, ", "))
	p("set %s { type %s . inet_proto . inet_service; flags interval; elements = { %s } }", Set, addr, strings.Join(Allowed(j, f), ", "))
	if bridged || len(dnat) == 0 {
		p("%s", nftForward(j, family, bridged))
		return b.String()
	}
	p("map to_private { type %s : %s; elements = { %s } }", addr, addr, strings.Join(dnat, ", "))
	p("map to_eip { type %s : %s; elements = { %s } }", addr, addr, strings.Join(snat, ", "))
	p("chain pre { type nat hook prerouting priority dstnat; iifname %q dnat to %s daddr map @to_private; }", j.Uplink.Name, family)
	p("chain post { type nat hook postrouting priority srcnat; oifname %q snat to %s saddr map @to_eip; }", j.Uplink.Name, family)
	p("%s", nftForward(j, family, bridged))
	return b.String()
}

// nftForward ends a table with what is asked for every packet.
func nftForward(j *Job, family string, bridged bool) string {
	spoofed := fmt.Sprintf("iifname != %q iifname . ether saddr . %s saddr != @bindings drop\n", j.Uplink.Name, family)
	if bridged {
		spoofed = ""
	}
	return "chain forward { type filter hook forward priority filter; policy drop;\n" + spoofed +
		"ct state vmap { established : accept, related : accept, invalid : drop }\n" +
		family + " saddr @enis accept\n" +
		fmt.Sprintf("%s saddr . meta l4proto . th dport @%s %s daddr @enis accept\n}\n}\n", family, Set, family)
}

// nftNames are the family and the type of its addresses.
func nftNames(f Family) (family, addr string) {
	if f == V6 {
		return "ip6", "ipv6_addr"
	}
	return "ip", "ipv4_addr"
}

// Allowed is the policy as elements of the set: the service for those who may, and as many more as the job wants rules.
func Allowed(j *Job, f Family) []string {
	sources := f.pick(j.Clients)
	var elements []string
	for _, proto := range []string{"tcp", "udp"} {
		elements = append(elements, fmt.Sprintf("%s . %s . %d", sources, proto, j.Service))
		if len(j.Remotes) > 0 {
			elements = append(elements, fmt.Sprintf("%s . %s . %d", f.pick(j.RemoteNet), proto, j.Service))
		}
	}
	for i := 1; i < j.Rules; i++ {
		source, port := Filler(f, i)
		elements = append(elements, fmt.Sprintf("%s . tcp . %d", source, port))
	}
	return elements
}

// Filler is rule number i of those that match no packet of a measurement: everybody gets the same ones.
func Filler(f Family, i int) (source netip.Prefix, port int) {
	if f == V6 {
		return netip.PrefixFrom(netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 0xff, 14: byte(i >> 8), 15: byte(i)}), 128), 10000 + i
	}
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 88, byte(i >> 8), byte(i)}), 32), 10000 + i
}

func (f Family) pick(p [2]netip.Prefix) netip.Prefix {
	if f == V6 {
		return p[1]
	}
	return p[0]
}

func macText(m [6]byte) string {
	return fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", m[0], m[1], m[2], m[3], m[4], m[5])
}
