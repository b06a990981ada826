// SPDX-License-Identifier: Apache-2.0

package diff

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/eniplane/eniplane/pkg/api"
	"github.com/eniplane/eniplane/pkg/oracle"
	"github.com/eniplane/eniplane/pkg/pkttest"
)

// pair is a region of two ENIs of one host that may send each other everything; the first has these limits.
func pair(limits api.Limits) *api.Objects {
	o := api.NewObjects()
	o.InstanceTypes["any"] = &api.InstanceType{Metadata: meta("any"), MaxENIs: 8, MaxIPsPerENI: 20}
	o.Hosts[hosts[0]] = &api.Host{Metadata: meta(hosts[0]), Zone: "z", VTEP: vteps[0], Uplinks: []string{uplinkDevice}}
	o.VPCs["red"] = &api.VPC{Metadata: meta("red"), VNI: 1001, CIDRs: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/16")}}
	o.Subnets["s"] = &api.Subnet{Metadata: meta("s"), VPC: "red", CIDRs: []netip.Prefix{netip.MustParsePrefix("10.0.1.0/24")}}
	all := []api.Rule{{Protocol: api.Protocol{Any: true}, Peers: []api.Peer{{Prefix: netip.MustParsePrefix("0.0.0.0/0")}}}}
	o.SecurityGroups["open"] = &api.SecurityGroup{Metadata: meta("open"), VPC: "red", Ingress: all, Egress: all}
	for i, l := range []api.Limits{limits, api.DefaultLimits()} {
		name, instance := fmt.Sprintf("eni%d", i), fmt.Sprintf("vm%d", i)
		o.Instances[instance] = &api.Instance{Metadata: meta(instance), Host: hosts[0], Type: "any"}
		o.ENIs[name] = &api.ENI{
			Metadata: meta(name), Subnet: "s", MAC: api.MAC{2, 0, 0, 0, 1, byte(i)}, SourceDestCheck: true,
			IPs: []netip.Addr{netip.AddrFrom4([4]byte{10, 0, 1, byte(10 + i)})}, SecurityGroups: []string{"open"},
			OnPolicyChange: api.Reevaluate, Timeouts: api.DefaultTimeouts(), Limits: l,
			Attachment: &api.Attachment{Instance: instance, Device: devicePort(i), Epoch: 1},
		}
	}
	return o
}

// question is a datagram from the first of the pair to the second, from a port.
func question(o *api.Objects, port uint16) []byte {
	body := make([]byte, 12)
	binary.BigEndian.PutUint16(body, port)
	binary.BigEndian.PutUint16(body[2:], 53)
	binary.BigEndian.PutUint16(body[4:], uint16(len(body)))
	from, to := o.ENIs["eni0"], o.ENIs["eni1"]
	return ipPacket(from.MAC, to.MAC, from.IPs[0], to.IPs[0], api.ProtoUDP, body)
}

// In any second no more passes than the rate and the depth of the bucket, and in the long run just the rate, however
// coarse the clock is.
func TestRates(t *testing.T) {
	q := newHost(t, ownsAll)
	for _, rate := range []int{1, 7, 100, 3000, 20000} {
		limits := map[string]api.Limits{"packets": api.DefaultLimits(), "flows": api.DefaultLimits()}
		packets, flows := limits["packets"], limits["flows"]
		packets.PacketsPerSecond, flows.NewFlowsPerSecond = rate, rate
		limits["packets"], limits["flows"] = packets, flows
		for _, what := range []string{"packets", "flows"} {
			if what == "flows" && rate > 3000 {
				continue // more flows than the table of the test has room for
			}
			t.Run(fmt.Sprintf("%s %d", what, rate), func(t *testing.T) {
				if err := q.Do(func() error { return paced(t, newPlayer(q), limits[what], rate, what == "flows") }); err != nil {
					t.Fatal(err)
				}
			})
		}
	}
}

// paced sends three times the rate for three seconds and compares what passes in each 100 ms and each second.
func paced(t *testing.T, p *player, l api.Limits, rate int, fresh bool) error {
	o := pair(l)
	if err := p.start(&Case{Limits: generous, Worlds: []*api.Objects{o}}); err != nil {
		return err
	}
	const seconds, slots = 3, 10
	const coarse = 10 * time.Millisecond
	begin := p.now.Truncate(coarse) + time.Hour
	var passed [seconds * slots]int
	n := 3 * rate * seconds
	for i := range n {
		since := time.Duration(i) * seconds * time.Second / time.Duration(n)
		port := uint16(1000)
		if fresh {
			port += uint16(i)
		}
		got, ok, err := p.q.Send(quickPacket(&Step{From: oracle.Port{Kind: oracle.AtPort, Device: devicePort(0)}, Frame: question(o, port)},
			(begin + since).Truncate(coarse)))
		if err != nil || !ok {
			return fmt.Errorf("send packet %d: %w", i, err)
		}
		if got.Verdict == pkttest.Redirect {
			passed[since*slots/time.Second]++
		}
	}
	total := 0
	for i := range passed {
		total += passed[i]
		if i < slots {
			continue
		}
		second := 0
		for _, n := range passed[i-slots : i] {
			second += n
		}
		if most := rate + rate*5/100 + 1; second > most {
			t.Errorf("%d in the second from %d ms on, want at most %d", second, (i-slots)*100, most)
		}
	}
	if most, least := seconds*rate+rate/25+1, seconds*rate-rate/25-1; total > most || total < least {
		t.Errorf("%d in %d s, want %d to %d", total, seconds, least, most)
	}
	return nil
}
