// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"time"
)

// Probe is one question to the dataplane: may this packet pass, and its answer come back?
type Probe struct {
	From, To Spot
	Protocol string // "icmp", "tcp" or "udp"
	Port     uint16
	Wait     time.Duration // how long to wait before it counts as denied
}

// Answer is what became of a probe. Why is set if there was none.
type Answer struct {
	Allowed bool
	RTT     time.Duration
	Why     error
}

// Probe sends a probe with real sockets in the namespaces of both ends. Only a lab that cannot be
// used is an error; no answer is an Answer.
func (l *Lab) Probe(ctx context.Context, p Probe) (Answer, error) {
	if p.Wait == 0 {
		p.Wait = time.Second
	}
	ctx, cancel := context.WithTimeout(ctx, p.Wait)
	defer cancel()
	switch p.Protocol {
	case "icmp":
		return l.probeEcho(ctx, p)
	case "tcp":
		return l.probeTCP(ctx, p)
	case "udp":
		return l.probeUDP(ctx, p)
	default:
		return Answer{}, fmt.Errorf("unknown probe %q", p.Protocol)
	}
}

// since makes an answer of the outcome of an exchange.
func since(start time.Time, err error) Answer {
	if err != nil {
		return Answer{Why: err}
	}
	return Answer{Allowed: true, RTT: time.Since(start)}
}

// Listen opens a TCP listener in the namespace of a spot.
func (l *Lab) Listen(s Spot, port uint16) (ln net.Listener, err error) {
	err = l.In(s.Node, func(*Namespace) error {
		ln, err = net.Listen("tcp", netip.AddrPortFrom(s.Local, port).String())
		return err
	})
	return ln, err
}

// Dial opens a TCP connection from one spot to a port of another.
func (l *Lab) Dial(ctx context.Context, from, to Spot, port uint16) (c net.Conn, err error) {
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: from.Local.AsSlice()}}
	err = l.In(from.Node, func(*Namespace) error {
		c, err = d.DialContext(ctx, "tcp", netip.AddrPortFrom(to.Addr, port).String())
		return err
	})
	return c, err
}

// ListenUDP opens a UDP socket in the namespace of a spot; port 0 is any.
func (l *Lab) ListenUDP(s Spot, port uint16) (c *net.UDPConn, err error) {
	err = l.In(s.Node, func(*Namespace) error {
		c, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(s.Local, port)))
		return err
	})
	return c, err
}

// probeTCP connects and has one byte sent back. The other end listens only for the probe, unless
// somebody does already.
func (l *Lab) probeTCP(ctx context.Context, p Probe) (Answer, error) {
	ln, err := l.Listen(p.To, p.Port)
	if err != nil {
		return Answer{}, fmt.Errorf("listen on %s: %w", p.To, err)
	}
	defer ln.Close()
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			_, _ = io.Copy(c, c)
			_ = c.Close()
		}
	}()
	start := time.Now()
	c, err := l.Dial(ctx, p.From, p.To, p.Port)
	if err != nil {
		return since(start, err), nil
	}
	defer c.Close()
	return since(start, echoOnce(ctx, c, []byte("?"))), nil
}

func (l *Lab) probeUDP(ctx context.Context, p Probe) (Answer, error) {
	server, err := l.ListenUDP(p.To, p.Port)
	if err != nil {
		return Answer{}, fmt.Errorf("listen on %s: %w", p.To, err)
	}
	defer server.Close()
	go echoUDP(server, func([]byte) {})
	client, err := l.dialUDP(p.From, p.To, p.Port)
	if err != nil {
		return Answer{Why: err}, nil
	}
	defer client.Close()
	start := time.Now()
	return since(start, echoOnce(ctx, client, []byte("eniplane probe"))), nil
}

// dialUDP opens a connected UDP socket.
func (l *Lab) dialUDP(from, to Spot, port uint16) (c *net.UDPConn, err error) {
	err = l.In(from.Node, func(*Namespace) error {
		c, err = net.DialUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(from.Local, 0)),
			net.UDPAddrFromAddrPort(netip.AddrPortFrom(to.Addr, port)))
		return err
	})
	return c, err
}

// echoUDP sends back what arrives until the socket is closed.
func echoUDP(c *net.UDPConn, seen func([]byte)) {
	buf := make([]byte, 65536)
	for {
		n, from, err := c.ReadFromUDPAddrPort(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // an ICMP error of an earlier packet
		}
		seen(buf[:n])
		_, _ = c.WriteToUDPAddrPort(buf[:n], from)
	}
}

// echoOnce writes a message and wants the same back.
func echoOnce(ctx context.Context, c net.Conn, msg []byte) error {
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Now()) })
	defer stop()
	if _, err := c.Write(msg); err != nil {
		return fmt.Errorf("send: %w", err)
	}
	got := make([]byte, len(msg))
	if _, err := io.ReadFull(c, got); err != nil {
		return fmt.Errorf("wait for the answer: %w", err)
	}
	if !bytes.Equal(got, msg) {
		return fmt.Errorf("the answer is %q, want %q", got, msg)
	}
	return nil
}

// ICMP echo, by family.
var (
	echoNetwork = map[Family]string{IPv4: "ip4:icmp", IPv6: "ip6:ipv6-icmp"}
	echoRequest = map[Family]byte{IPv4: 8, IPv6: 128}
	echoReply   = map[Family]byte{IPv4: 0, IPv6: 129}
)

func (l *Lab) probeEcho(ctx context.Context, p Probe) (Answer, error) {
	f := Family(p.To.Addr.Is6())
	var c net.PacketConn
	err := l.In(p.From.Node, func(*Namespace) (err error) {
		c, err = net.ListenPacket(echoNetwork[f], p.From.Local.String())
		return err
	})
	if err != nil {
		return Answer{}, fmt.Errorf("open a ping socket in %s: %w", p.From, err)
	}
	defer c.Close()
	msg := echoMessage(f)
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Now()) })
	defer stop()
	start := time.Now()
	if _, err := c.WriteTo(msg, &net.IPAddr{IP: p.To.Addr.AsSlice()}); err != nil {
		return Answer{Why: fmt.Errorf("send: %w", err)}, nil
	}
	buf := make([]byte, 2048)
	for {
		n, _, err := c.ReadFrom(buf)
		if err != nil {
			return Answer{Why: fmt.Errorf("wait for the answer: %w", err)}, nil
		}
		if n == len(msg) && buf[0] == echoReply[f] && bytes.Equal(buf[4:n], msg[4:]) {
			return since(start, nil), nil
		}
	}
}

// echoMessage is an echo request with a random identifier. The kernel fills in the checksum of
// ICMPv6, that of ICMP is ours.
func echoMessage(f Family) []byte {
	msg := append(make([]byte, 8), "eniplane lab ping, 32 bytes long"...)
	msg[0] = echoRequest[f]
	binary.BigEndian.PutUint16(msg[4:], uint16(rand.Uint32()))
	msg[7] = 1
	if f == IPv4 {
		binary.BigEndian.PutUint16(msg[2:], internetChecksum(msg))
	}
	return msg
}

// internetChecksum is that of RFC 1071 over an even number of bytes.
func internetChecksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
