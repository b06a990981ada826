// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// running is a subject whose work is all in the kernel.
type running struct{ closers }

// CPUTime implements Running.
func (r *running) CPUTime() (time.Duration, error) { return 0, nil }

// Close implements Running.
func (r *running) Close() error { return r.close() }

// forwarding makes the host a router between its uplink and its ENIs.
func forwarding(j *Job) error {
	if err := Sysctls(j.Host, "ipv4/ip_forward", "1", "ipv4/conf/all/send_redirects", "0", "ipv4/conf/default/send_redirects", "0",
		"ipv6/conf/all/forwarding", "1"); err != nil {
		return err
	}
	if err := underlay(j); err != nil {
		return err
	}
	for _, f := range []Family{V4, V6} {
		if err := Route(j.Host, j.Uplink.Name, f.Any(), f.Of(j.Gateway)); err != nil {
			return err
		}
	}
	for _, e := range j.ENIs {
		for _, ip := range e.IPs {
			if err := Neighbour(j.Host, e.Port.Name, ip, e.MAC); err != nil {
				return err
			}
			if err := Route(j.Host, e.Port.Name, single(ip), netip.Addr{}); err != nil {
				return err
			}
		}
	}
	return nil
}

// underlay gives the uplink its addresses and makes the gateway known.
func underlay(j *Job) error {
	for i, addr := range j.Addrs {
		if err := Address(j.Host, j.Uplink.Name, addr); err != nil {
			return err
		}
		if err := Neighbour(j.Host, j.Uplink.Name, j.Gateway[i], j.GatewayMAC); err != nil {
			return err
		}
	}
	if j.RemoteVTEP.IsValid() {
		return Neighbour(j.Host, j.Uplink.Name, j.RemoteVTEP, j.GatewayMAC)
	}
	return nil
}

// Forward is the kernel's forwarding without any rules: packets to EIPs are simply routed to the ENIs.
type Forward struct{}

// Name implements Subject.
func (Forward) Name() string { return "linux-forward" }

// Start implements Subject.
func (Forward) Start(_ context.Context, j *Job) (Running, error) {
	if err := forwarding(j); err != nil {
		return nil, err
	}
	for _, e := range j.ENIs {
		for _, eip := range e.EIPs {
			if !eip.IsValid() {
				continue
			}
			if err := Neighbour(j.Host, e.Port.Name, eip, e.MAC); err != nil {
				return nil, err
			}
			if err := Route(j.Host, e.Port.Name, single(eip), netip.Addr{}); err != nil {
				return nil, err
			}
		}
	}
	return &running{}, nil
}

const conntrackDir = "/proc/sys/net/netfilter"

// conntrackRoom lets the kernel track as many connections as the job wants, in a hash as large as the kernel's own
// rule makes it. Both are one value for the whole machine: what they were comes back in the end.
func conntrackRoom(j *Job, undo *closers) error {
	want := max(2*j.Flows, 1<<16)
	if j.Room > 0 {
		want = j.Room
	}
	for _, name := range []string{"nf_conntrack_buckets", "nf_conntrack_max"} {
		path := filepath.Join(conntrackDir, name)
		data, err := os.ReadFile(path)
		if err != nil {
			return &Unable{fmt.Sprintf("this kernel tracks no connections: %v", err)}
		}
		old := strings.TrimSpace(string(data))
		if n, err := strconv.Atoi(old); err != nil || n == want || n > want && (j.Room == 0 || name == "nf_conntrack_buckets") {
			continue // nothing is lost by a larger hash
		}
		if err := os.WriteFile(path, []byte(strconv.Itoa(want)), 0); err != nil {
			return fmt.Errorf("make room for %d connections: %w", want, err)
		}
		undo.add(func() error {
			if err := os.WriteFile(path, []byte(old), 0); err != nil {
				return fmt.Errorf("set %s back to %s: %w", name, old, err)
			}
			return nil
		})
	}
	return nil
}

// begin is what all subjects with connection tracking do first; on a failure nothing of it stays.
func begin(j *Job, work func(undo *closers) error) (Running, error) {
	r := &running{}
	err := conntrackRoom(j, &r.closers)
	if err == nil {
		err = work(&r.closers)
	}
	if err != nil {
		return nil, errors.Join(err, r.close())
	}
	return r, nil
}
