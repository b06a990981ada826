// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"time"
)

// NodeStatus is one node of a lab, for people and for scripts.
type NodeStatus struct {
	Kind      string   `json:"kind"` // internet, host or instance
	Name      string   `json:"name"`
	Namespace string   `json:"namespace"`
	Host      string   `json:"host,omitempty"` // of an instance
	State     string   `json:"state"`
	Agent     int      `json:"agent,omitempty"` // process of a host
	Addresses []string `json:"addresses,omitempty"`
}

// Status is a lab as it is now.
type Status struct {
	Name     string       `json:"name"`
	Revision uint64       `json:"revision"` // of the feed
	BPFFS    string       `json:"bpffs"`
	StateDir string       `json:"stateDir"`
	Feed     string       `json:"feed"`
	Nodes    []NodeStatus `json:"nodes"`
}

// Status looks at every node.
func (l *Lab) Status(ctx context.Context) (*Status, error) {
	revision, err := l.Revision()
	if err != nil {
		return nil, err
	}
	s := &Status{
		Name: l.Plan.Lab, Revision: revision, BPFFS: l.AgentBPFFS(), StateDir: l.AgentStateDir(), Feed: l.FeedDir(),
	}
	s.Nodes = append(s.Nodes, NodeStatus{
		Kind: "internet", Name: nodeInternet, Namespace: l.Namespace(nodeInternet), State: "up",
		Addresses: prefixes(l.Plan.Internet.Addrs),
	})
	for _, h := range l.Plan.Hosts {
		s.Nodes = append(s.Nodes, NodeStatus{
			Kind: "host", Name: h.Name, Namespace: l.Namespace(h.Name), State: l.agentState(ctx, h.Name),
			Agent: l.Agents[h.Name].PID, Addresses: prefixes(h.Addrs),
		})
	}
	for _, i := range l.Plan.Instances {
		n := NodeStatus{Kind: "instance", Name: i.Name, Namespace: l.Namespace(i.Name), Host: i.Host, State: "up"}
		for _, p := range i.Ports {
			n.Addresses = append(n.Addresses, portAddresses(&p)...)
		}
		s.Nodes = append(s.Nodes, n)
	}
	return s, nil
}

// agentState says in a few words how an agent is.
func (l *Lab) agentState(ctx context.Context, host string) string {
	if l.Enid == "" {
		return "without agent"
	}
	if !l.Agents[host].Alive() {
		return "agent dead"
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	status, body, err := l.AgentGet(ctx, host, "/readyz")
	if err != nil {
		return "agent silent"
	}
	first, _, _ := strings.Cut(strings.TrimSpace(body), "\n")
	return fmt.Sprintf("%d %s", status, first)
}

func prefixes(ps []netip.Prefix) []string {
	out := make([]string, len(ps))
	for i, p := range ps {
		out[i] = p.String()
	}
	return out
}

// portAddresses lists the addresses of an ENI, with the EIP of each.
func portAddresses(p *PortPlan) []string {
	var out []string
	for _, a := range p.Addrs {
		text := p.ENI + "=" + a.Addr().String()
		if eip, bound := p.EIPs[a.Addr()]; bound {
			text += "<>" + eip.String()
		}
		out = append(out, text)
	}
	return out
}
