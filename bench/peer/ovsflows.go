// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"fmt"
	"strings"
)

// ovsWords are how OpenFlow names what differs between the families.
type ovsWords struct{ ip, tcp, udp, src, dst, setSrc, setDst string }

func ovsNames(f Family) ovsWords {
	if f == V6 {
		return ovsWords{"ipv6", "tcp6", "udp6", "ipv6_src", "ipv6_dst", "ipv6_src", "ipv6_dst"}
	}
	return ovsWords{"ip", "tcp", "udp", "nw_src", "nw_dst", "ip_src", "ip_dst"}
}

// ovsFlows is the job as OpenFlow. Table 0: whose packet, and its EIP taken off; 1: policy of what goes to an ENI;
// 2: of what an ENI sends; 3: its EIP put on, and out.
func ovsFlows(j *Job) string {
	var b strings.Builder
	p := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	for _, f := range []Family{V4, V6} {
		w := ovsNames(f)
		for i, e := range j.ENIs {
			ip, port := f.Of(e.IPs), ovsENI+i
			p("table=0,priority=10,in_port=%d,%s,dl_src=%s,%s=%s,actions=ct(table=2,zone=1)", port, w.ip, macText(e.MAC), w.src, ip)
			if j.RemoteVTEP.IsValid() {
				p("table=0,priority=10,in_port=%d,%s,dl_dst=%s,actions=load:%d->NXM_NX_REG0[],ct(table=1,zone=1)", ovsTunnel, w.ip, macText(e.MAC), port)
				continue
			}
			eip := f.Of(e.EIPs)
			p("table=0,priority=10,in_port=%d,%s,%s=%s,actions=set_field:%s->%s,set_field:%s->eth_dst,load:%d->NXM_NX_REG0[],ct(table=1,zone=1)",
				ovsUplink, w.ip, w.dst, eip, ip, w.setDst, macText(e.MAC), port)
			p("table=3,priority=10,%s,%s=%s,actions=set_field:%s->%s,set_field:%s->eth_src,set_field:%s->eth_dst,output:%d",
				w.ip, w.src, ip, eip, w.setSrc, macText(j.Uplink.MAC), macText(j.GatewayMAC), ovsUplink)
		}
		ovsPolicy(p, j, f)
	}
	for _, r := range j.Remotes {
		p("table=3,priority=10,dl_dst=%s,actions=output:%d", macText(r.MAC), ovsTunnel)
	}
	for table := range 4 {
		p("table=%d,priority=0,actions=drop", table)
	}
	return b.String()
}

// ovsPolicy writes tables 1 and 2.
func ovsPolicy(p func(string, ...any), j *Job, f Family) {
	w := ovsNames(f)
	p("table=1,priority=20,ct_state=+trk+est,%s,actions=output:NXM_NX_REG0[]", w.ip)
	p("table=2,priority=20,ct_state=+trk+est,%s,actions=resubmit(,3)", w.ip)
	p("table=2,priority=10,ct_state=+trk+new,%s,actions=ct(commit,zone=1),resubmit(,3)", w.ip)
	sources := []string{f.pick(j.Clients).String()}
	if len(j.Remotes) > 0 {
		sources = append(sources, f.pick(j.RemoteNet).String())
	}
	const allow = "actions=ct(commit,zone=1),output:NXM_NX_REG0[]"
	for _, source := range sources {
		for _, proto := range []string{w.tcp, w.udp} {
			p("table=1,priority=10,ct_state=+trk+new,%s,%s=%s,tp_dst=%d,%s", proto, w.src, source, j.Service, allow)
		}
	}
	for i := 1; i < j.Rules; i++ {
		source, port := Filler(f, i)
		p("table=1,priority=10,ct_state=+trk+new,%s,%s=%s,tp_dst=%d,%s", w.tcp, w.src, source, port, allow)
	}
}
