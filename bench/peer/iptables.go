// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"context"
	"fmt"
	"os/exec"
	"strings"
)

// IPTables forwards with connection tracking, the sources in an ipset, and as many linear rules as the job wants.
// Eager asks the rules first and the state of the connection last, which is what a filter of every packet costs;
// otherwise established connections pass by the first rule, as most people write it.
type IPTables struct{ Eager bool }

// Name implements Subject.
func (t IPTables) Name() string {
	if t.Eager {
		return "iptables-ipset-linear"
	}
	return "iptables-ipset"
}

// Restorer is the program that loads a rule set of a family: the classic one if there is, else that which comes with
// iptables.
func Restorer(f Family) string {
	name := "iptables"
	if f == V6 {
		name = "ip6tables"
	}
	if _, err := exec.LookPath(name + "-legacy-restore"); err == nil {
		return name + "-legacy-restore"
	}
	return name + "-restore"
}

// Start implements Subject.
func (t IPTables) Start(ctx context.Context, j *Job) (Running, error) {
	if err := need("ipset", Restorer(V4), Restorer(V6)); err != nil {
		return nil, err
	}
	return begin(j, func(*closers) error {
		if err := forwarding(j); err != nil {
			return err
		}
		for _, f := range []Family{V4, V6} {
			if _, err := Run(ctx, j.Host, ipsetText(j, f), "ipset", "restore"); err != nil {
				return err
			}
			if _, err := Run(ctx, j.Host, t.Text(j, f), Restorer(f), "-w"); err != nil {
				return err
			}
		}
		return nil
	})
}

func ipsetText(j *Job, f Family) string {
	family := "inet"
	if f == V6 {
		family = "inet6"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "create sources%d hash:net family %s\nadd sources%d %s\n", f, family, f, f.pick(j.Clients))
	fmt.Fprintf(&b, "create enis%d hash:ip family %s\n", f, family)
	for _, e := range j.ENIs {
		fmt.Fprintf(&b, "add enis%d %s\n", f, f.Of(e.IPs))
	}
	return b.String()
}

// Text is the rule set of one family for iptables-restore.
func (t IPTables) Text(j *Job, f Family) string {
	var b strings.Builder
	p := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	p("*nat\n:PREROUTING ACCEPT [0:0]\n:POSTROUTING ACCEPT [0:0]")
	for _, e := range j.ENIs {
		if eip := f.Of(e.EIPs); eip.IsValid() {
			p("-A PREROUTING -i %s -d %s -j DNAT --to-destination %s", j.Uplink.Name, eip, f.Of(e.IPs))
			p("-A POSTROUTING -o %s -s %s -j SNAT --to-source %s", j.Uplink.Name, f.Of(e.IPs), eip)
		}
	}
	p("COMMIT\n*filter\n:FORWARD DROP [0:0]")
	const established = "-A FORWARD -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT"
	if !t.Eager {
		p(established)
	}
	for i := 1; i < j.Rules; i++ {
		source, port := Filler(f, i)
		p("-A FORWARD -s %s -p tcp --dport %d -j ACCEPT", source, port)
	}
	if t.Eager {
		p(established)
	}
	p("-A FORWARD -m set --match-set enis%d src -j ACCEPT", f)
	for _, proto := range []string{"tcp", "udp"} {
		p("-A FORWARD -m set --match-set sources%d src -m set --match-set enis%d dst -p %s --dport %d -j ACCEPT", f, f, proto, j.Service)
	}
	p("COMMIT")
	return b.String()
}
