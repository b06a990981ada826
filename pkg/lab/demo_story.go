// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/gopacket/gopacket/layers"

	"github.com/eniplane/eniplane/pkg/dataplane"
)

// The chapters of the demo. They speak of the objects of examples/two-hosts.yaml.

func (s *story) allowed(ctx context.Context) error {
	s.chapter("What a rule allows passes, in both families and across hosts")
	return errors.Join(
		s.passes(ctx, "a member of sg/web reaches the database on the other host", "web-vm", "db-vm", "tcp", 5432, IPv4),
		s.passes(ctx, "the same over IPv6", "web-vm", "db-vm", "tcp", 5432, IPv6))
}

func (s *story) denied(ctx context.Context) error {
	s.chapter("What no rule allows is dropped, and the reason is counted")
	return errors.Join(
		s.fails(ctx, "the database lets nobody in by ssh", "web-vm", "db-vm", "tcp", 22, dataplane.ReasonSGDenied, "db-0"),
		s.fails(ctx, "the database may open nothing itself", "db-vm", "web-vm", "tcp", 443, dataplane.ReasonSGDenied, "db-0"))
}

// tenants shows that 10.0.2.10 is two different machines.
func (s *story) tenants(ctx context.Context) error {
	s.chapter("Tenants do not see each other, although their addresses are the same")
	db, _, err := s.Spots("db-vm", "db-vm", IPv4)
	if err != nil {
		return err
	}
	blue, _, err := s.Spots("blue-vm", "blue-vm", IPv4)
	if err != nil {
		return err
	}
	web, _, err := s.Spots("web-vm", "db-vm", IPv4)
	if err != nil {
		return err
	}
	who, err := s.WhoAnswers(ctx, web, db.Addr, 5432, db, blue)
	s.line(err == nil && who == "db-vm", fmt.Sprintf("web-vm asks %s, which db-vm and blue-vm both have: db-vm answers", db.Addr), fmt.Sprintf("%q, %v", who, err))
	return s.fails(ctx, "blue-vm asks an address that only the other tenant has", "blue-vm", "web-vm", "tcp", 443, dataplane.ReasonNoEndpoint, "blue-0")
}

func (s *story) public(ctx context.Context) error {
	s.chapter("An elastic IP: reached from the internet, and the way out")
	return errors.Join(
		s.passes(ctx, "anybody reaches https", nodeInternet, "web-vm", "tcp", 443, IPv4),
		s.passes(ctx, "anybody may ping", nodeInternet, "web-vm", "icmp", 0, IPv4),
		s.passes(ctx, "ssh from the office, a prefix list", "192.0.2.1", "web-vm", "tcp", 22, IPv4),
		s.fails(ctx, "ssh from elsewhere", nodeInternet, "web-vm", "tcp", 22, dataplane.ReasonSGDenied, "web-0"),
		s.fails(ctx, "telnet, denied by the network ACL", nodeInternet, "web-vm", "tcp", 23, dataplane.ReasonNACLDenied, "web-0"),
		s.sourceIsEIP(ctx),
		s.forged(ctx))
}

// sourceIsEIP shows as whom the internet sees the instance.
func (s *story) sourceIsEIP(ctx context.Context) error {
	web, internet, err := s.Spots("web-vm", nodeInternet, IPv4)
	if err != nil {
		return err
	}
	ln, err := s.Listen(internet, 80)
	if err != nil {
		return fmt.Errorf("listen in the internet: %w", err)
	}
	defer ln.Close()
	seen := make(chan string, 1)
	go func() {
		c, err := ln.Accept()
		if err != nil {
			seen <- err.Error()
			return
		}
		host, _, _ := net.SplitHostPort(c.RemoteAddr().String())
		seen <- host
		_ = c.Close()
	}()
	ctx, cancel := context.WithTimeout(ctx, allowedWait)
	defer cancel()
	c, err := s.Dial(ctx, web, internet, 80)
	what := fmt.Sprintf("the internet sees %s as %s", web.Local, web.Addr)
	if err != nil {
		s.line(false, what, err.Error())
		return nil
	}
	defer c.Close()
	got := <-seen
	s.line(got == web.Addr.String(), what, "it sees "+got)
	return nil
}

// forged sends a packet from the internet that claims to come from inside the VPC: the database's
// rule would allow it.
func (s *story) forged(ctx context.Context) error {
	_, web, err := s.Spots(nodeInternet, "web-vm", IPv4)
	if err != nil {
		return err
	}
	db, _, err := s.Spots("db-vm", "db-vm", IPv4)
	if err != nil {
		return err
	}
	frame, err := s.FrameFromInternet(ctx, web.Addr, &layers.IPv4{
		Version: 4, TTL: 64, Protocol: layers.IPProtocolTCP, SrcIP: db.Addr.AsSlice(), DstIP: web.Addr.AsSlice(),
	}, &layers.TCP{SrcPort: 40000, DstPort: 443, SYN: true, Window: 64000})
	if err != nil {
		return err
	}
	before, err := s.Counters()
	if err != nil {
		return err
	}
	if err := s.SendFrame(nodeInternet, deviceInternet, frame); err != nil {
		return err
	}
	sleep(ctx, 100*time.Millisecond)
	after, err := s.Counters()
	if err != nil {
		return err
	}
	s.dropped(fmt.Sprintf("a forged source from inside the VPC  [%s > %s tcp 443]", db.Addr, web.Addr),
		Answer{}, after.Since(before), dataplane.ReasonEIPSource, "web-0")
	return nil
}

// agentDies kills the agent of the database's host under traffic.
func (s *story) agentDies(ctx context.Context) error {
	s.chapter("The agent dies under traffic, and nobody notices")
	web, db, err := s.Spots("web-vm", "db-vm", IPv4)
	if err != nil {
		return err
	}
	tcp, err := s.StartTCP(ctx, web, db, 5432)
	if err != nil {
		return err
	}
	from, to, err := s.Spots("web-vm", nodeInternet, IPv4)
	if err != nil {
		return err
	}
	udp, err := s.StartUDP(from, to, MeasureUDPPort)
	if err != nil {
		_ = tcp.Stop()
		return err
	}
	sleep(ctx, 200*time.Millisecond)
	for _, h := range s.hostNames() {
		err = errors.Join(err, s.KillAgent(h))
	}
	sleep(ctx, 500*time.Millisecond)
	for _, h := range s.hostNames() {
		err = errors.Join(err, s.StartAgent(h))
	}
	for _, h := range s.hostNames() {
		if err == nil {
			err = s.WaitReady(ctx, h)
		}
	}
	sleep(ctx, 200*time.Millisecond)
	lost, stream := udp.Stop(), tcp.Stop()
	s.line(lost.Lost() == 0, "SIGKILL to both agents, both started again: UDP through the EIP loses nothing", lost.String())
	s.note("UDP: %s", lost)
	s.line(stream.Broken == nil, "TCP across hosts goes on", stream.String())
	s.note("TCP: %s", stream)
	return err
}

func (s *story) moves(ctx context.Context) error {
	s.chapter("An instance moves to the other host under load")
	r, err := s.Migrate(ctx, "web-vm", "host-b", nodeInternet)
	if err != nil {
		return err
	}
	s.note("web-vm moves from %s to %s: prepared there with its flows after %d ms, at work there %d ms later", r.From, r.To, r.Prepare.Milliseconds(), r.Switch.Milliseconds())
	s.line(r.UDP.Lost() == 0 && r.UDP.Repeated == 0, "UDP through its EIP loses nothing", r.UDP.String())
	s.note("UDP: %s", r.UDP)
	s.line(r.TCP.Broken == nil, "TCP through its EIP goes on", r.TCP.String())
	s.note("TCP: %s", r.TCP)
	return errors.Join(
		s.passes(ctx, "from its new host it reaches the database", "web-vm", "db-vm", "tcp", 5432, IPv4),
		s.passes(ctx, "its EIP has moved along", nodeInternet, "web-vm", "tcp", 443, IPv4),
		s.fails(ctx, "and what was denied still is", nodeInternet, "web-vm", "tcp", 22, dataplane.ReasonSGDenied, "web-0"))
}
