// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/eniplane/eniplane/bench"
	"github.com/eniplane/eniplane/bench/peer"
	"github.com/eniplane/eniplane/loader"
	"github.com/eniplane/eniplane/pkg/api"
	"github.com/eniplane/eniplane/pkg/compile"
	"github.com/eniplane/eniplane/pkg/dataplane"
)

// hostName is the host of a site in its feed.
const hostName = "host-a"

// Ours is eniplane: objects, compiled and brought into force by the loader as the agent does it.
type Ours struct{}

// Name implements peer.Subject.
func (Ours) Name() string { return bench.Ours }

// ours is eniplane at work.
type ours struct {
	job     *peer.Job
	options loader.Options
	loader  *loader.Loader
	last    *compile.Result
}

// Start implements peer.Subject.
func (Ours) Start(ctx context.Context, j *peer.Job) (peer.Running, error) {
	o := newOurs(j)
	err := o.open(ctx)
	if err == nil {
		var objects *api.Objects
		if objects, err = objectsOf(j, 0); err == nil {
			err = o.apply(ctx, objects)
		}
	}
	if err != nil {
		return nil, errors.Join(err, o.Close())
	}
	return o, nil
}

// newOurs is eniplane before it does anything.
func newOurs(j *peer.Job) *ours {
	return &ours{job: j, options: loader.Options{
		Host: hostName, BPFFS: bpffs + "/" + j.Name, StateDir: j.Dir, MaxFlows: uint32(roomOf(j)),
	}}
}

// roomOf is for how many flows the table is made.
func roomOf(j *peer.Job) int {
	if j.Room > 0 {
		return j.Room
	}
	return max(2*j.Flows, 1<<16)
}

// open gives the host its addresses and loads the programs.
func (o *ours) open(ctx context.Context) error {
	for i, addr := range o.job.Addrs {
		if err := peer.Address(o.job.Host, o.job.Uplink.Name, addr); err != nil {
			return err
		}
		if err := peer.Neighbour(o.job.Host, o.job.Uplink.Name, o.job.Gateway[i], o.job.GatewayMAC); err != nil {
			return err
		}
		if err := peer.Route(o.job.Host, o.job.Uplink.Name, []peer.Family{peer.V4, peer.V6}[i].Any(), o.job.Gateway[i]); err != nil {
			return err
		}
	}
	if o.job.RemoteVTEP.IsValid() {
		if err := peer.Neighbour(o.job.Host, o.job.Uplink.Name, o.job.RemoteVTEP, o.job.GatewayMAC); err != nil {
			return err
		}
	}
	return o.job.Host.Do(func() (err error) {
		o.loader, err = loader.Open(ctx, o.options)
		return err
	})
}

// apply compiles objects and brings them into force, as the agent does.
func (o *ours) apply(ctx context.Context, objects *api.Objects) error {
	in := compile.Input{Objects: objects, Host: hostName, Revision: 1}
	if o.last != nil {
		in.Revision, in.Previous, in.IDs = o.last.State.Revision+1, o.last.State, o.last.IDs
	}
	result, err := compile.Compile(in)
	if err != nil {
		return err
	}
	for name, err := range result.Degraded {
		return fmt.Errorf("compile ENI %s: %w", name, err)
	}
	var report *loader.Report
	if err := o.job.Host.Do(func() (err error) {
		report, err = o.loader.Apply(ctx, result.State)
		return err
	}); err != nil {
		return err
	}
	o.last = result
	for name, e := range report.ENIs {
		if e.Phase != loader.Ready {
			return fmt.Errorf("ENI %s is %s: %s", name, e.Phase, e.Message)
		}
	}
	return nil
}

// CPUTime implements peer.Running: between revisions nothing runs but the programs.
func (o *ours) CPUTime() (time.Duration, error) { return 0, nil }

// Close implements peer.Running.
func (o *ours) Close() error {
	return o.job.Host.Do(func() error {
		var errs []error
		if o.loader != nil {
			errs = append(errs, o.loader.Close())
		}
		err := loader.Teardown(context.Background(), o.options)
		if !errors.Is(err, loader.ErrNothing) {
			errs = append(errs, err)
		}
		return errors.Join(append(errs, os.RemoveAll(o.options.BPFFS))...)
	})
}

// reasons are what became of packets, by direction and reason, over all ENIs.
func (o *ours) reasons() (map[string]uint64, error) {
	sums := map[string]uint64{}
	err := o.loader.Maps().Counters(func(c dataplane.Counter) bool {
		sums[c.Direction.String()+" "+c.Reason.String()] += c.Packets
		return true
	})
	return sums, err
}

// objectsOf writes a job as objects and reads them as the feed does; port as in policyDocument.
func objectsOf(j *peer.Job, port uint16) (*api.Objects, error) {
	text := strings.Join(append(documents(j), policyDocument(j, port)), "\n---\n")
	objects, errs := api.Decode([]api.File{{Name: "bench.yaml", Data: []byte(text)}})
	if len(errs) > 0 {
		return nil, fmt.Errorf("objects of the measurement: %w", api.Errors(errs))
	}
	return objects, nil
}

// documents are the objects of a job as YAML, all but the group.
func documents(j *peer.Job) []string {
	docs := []string{
		object("Host", hostName, fmt.Sprintf("{zone: z, vtep: %s, uplinks: [%s]}", j.VTEP(), j.Uplink.Name)),
		object("InstanceType", "bench", "{maxENIs: 8, maxIPsPerENI: 21}"),
		object("VPC", "bench", fmt.Sprintf("{vni: %d, cidrs: [10.0.0.0/16, \"fd00:1::/48\"]}", vni)),
		object("RouteTable", "bench", "{vpc: bench, routes: [{destination: 0.0.0.0/0, target: internet}, {destination: \"::/0\", target: internet}]}"),
		object("Subnet", "local", fmt.Sprintf("{vpc: bench, cidrs: [%s, %q], routeTable: bench}", j.Subnet[0], j.Subnet[1])),
	}
	for i, e := range j.ENIs {
		if i%8 == 0 {
			docs = append(docs, object("Instance", fmt.Sprintf("vm-%d", i/8), fmt.Sprintf("{host: %s, type: bench}", hostName)))
		}
		docs = append(docs, object("ENI", fmt.Sprintf("eni-%d", i), fmt.Sprintf(
			"{subnet: local, mac: %q, ips: [%s, %q], securityGroups: [bench], attachment: {instance: vm-%d, index: %d, device: %s}}",
			mac(e.MAC), e.IPs[0], e.IPs[1], i/8, i%8, e.Port.Name)))
		for f, eip := range e.EIPs {
			if eip.IsValid() {
				docs = append(docs, object("EIP", fmt.Sprintf("eip-%d-%d", i, f), fmt.Sprintf("{address: %q, eni: eni-%d, privateIP: %q}", eip, i, e.IPs[f])))
			}
		}
	}
	return append(docs, remoteDocuments(j)...)
}

// remoteDocuments are those of the other host.
func remoteDocuments(j *peer.Job) []string {
	if len(j.Remotes) == 0 {
		return nil
	}
	docs := []string{
		object("Host", "host-b", fmt.Sprintf("{zone: z, vtep: %s, uplinks: [%s]}", j.RemoteVTEP, j.Uplink.Name)),
		object("Subnet", "remote", fmt.Sprintf("{vpc: bench, cidrs: [%s, %q]}", j.RemoteNet[0], j.RemoteNet[1])),
	}
	for i, r := range j.Remotes {
		if i%8 == 0 {
			docs = append(docs, object("Instance", fmt.Sprintf("far-%d", i/8), "{host: host-b, type: bench}"))
		}
		docs = append(docs, object("ENI", fmt.Sprintf("far-%d", i), fmt.Sprintf(
			"{subnet: remote, mac: %q, ips: [%s, %q], securityGroups: [bench], attachment: {instance: far-%d, index: %d, device: q%d}}",
			mac(r.MAC), r.IPs[0], r.IPs[1], i/8, i%8, i)))
	}
	return docs
}

// policyDocument is the security group: what the peers of this package have as sets or rules. It has a rule for a further
// port unless that is 0.
func policyDocument(j *peer.Job, port uint16) string {
	var b bytes.Buffer
	from := prefixes(j.Clients)
	if len(j.Remotes) > 0 {
		from = append(from, prefixes(j.RemoteNet)...)
	}
	b.WriteString("\n  vpc: bench\n  egress: [{protocol: all, to: [0.0.0.0/0, \"::/0\"]}]\n  ingress:\n")
	for _, proto := range []string{"udp", "tcp"} {
		fmt.Fprintf(&b, "  - {protocol: %s, ports: [%d], from: [%s]}\n", proto, j.Service, strings.Join(from, ", "))
	}
	for i := 1; i < j.Rules; i++ {
		v4, port := peer.Filler(peer.V4, i)
		v6, _ := peer.Filler(peer.V6, i)
		fmt.Fprintf(&b, "  - {protocol: tcp, ports: [%d], from: [%s, %q]}\n", port, v4, v6)
	}
	if port != 0 {
		fmt.Fprintf(&b, "  - {protocol: udp, ports: [%d], from: [%s]}\n", port, strings.Join(from, ", "))
	}
	return object("SecurityGroup", "bench", b.String())
}

func prefixes(p [2]netip.Prefix) []string {
	return slices.Clone([]string{fmt.Sprintf("%q", p[0]), fmt.Sprintf("%q", p[1])})
}

func object(kind, name, spec string) string {
	return fmt.Sprintf("apiVersion: %s\nkind: %s\nmetadata: {name: %s}\nspec: %s", api.Version, kind, name, spec)
}

func mac(m [6]byte) string {
	return fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", m[0], m[1], m[2], m[3], m[4], m[5])
}
