// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/eniplane/eniplane/pkg/lab"
)

const transferLimit = 30 * time.Second

// random are bytes that no offload can guess.
func random(n int) []byte {
	b := make([]byte, n)
	source := rand.NewChaCha8(sha256.Sum256([]byte("eniplane")))
	_, _ = source.Read(b) // never fails
	return b
}

// exchangeTCP sends bytes there and the same number back on one connection, each checked by sha256.
// In the middle of the way there it calls turn.
func exchangeTCP(t *testing.T, l *lab.Lab, from, to lab.Spot, size int, turn func()) {
	t.Helper()
	data := random(size)
	want := sha256.Sum256(data)
	ln, err := l.Listen(to, 8005)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	served := make(chan error, 1)
	go func() { served <- serveTransfer(ln, data) }()
	ctx, cancel := context.WithTimeout(context.Background(), answerWait)
	defer cancel()
	c, err := l.Dial(ctx, from, to, 8005)
	if err != nil {
		t.Fatalf("connect %s to %s: %v", from, to, err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(transferLimit)); err != nil {
		t.Fatal(err)
	}
	half := size / 2
	if _, err := c.Write(data[:half]); err != nil {
		t.Fatalf("send the first half: %v", err)
	}
	turn()
	if _, err := c.Write(data[half:]); err != nil {
		t.Fatalf("send the second half: %v", err)
	}
	got := sha256.New()
	if n, err := io.CopyN(got, c, int64(size)); err != nil {
		t.Fatalf("%d of %d bytes came back: %v", n, size, err)
	}
	if !bytes.Equal(got.Sum(nil), want[:]) {
		t.Errorf("what came back has another sha256")
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
}

// serveTransfer accepts one connection, checks what comes and sends the same.
func serveTransfer(ln net.Listener, data []byte) error {
	c, err := ln.Accept()
	if err != nil {
		return fmt.Errorf("accept: %w", err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(transferLimit)); err != nil {
		return err
	}
	got := sha256.New()
	if n, err := io.CopyN(got, c, int64(len(data))); err != nil {
		return fmt.Errorf("%d of %d bytes arrived: %w", n, len(data), err)
	}
	if want := sha256.Sum256(data); !bytes.Equal(got.Sum(nil), want[:]) {
		return errors.New("what arrived has another sha256")
	}
	if _, err := c.Write(data); err != nil {
		return fmt.Errorf("send back: %w", err)
	}
	return nil
}

// exchangeUDP sends datagrams of several sizes, up to the largest that fits, each checked by sha256
// there and back. The kernel drops those with a wrong checksum, so none may be missing. In the
// middle it calls turn.
func exchangeUDP(t *testing.T, l *lab.Lab, from, to lab.Spot, turn func()) {
	t.Helper()
	server, err := l.ListenUDP(to, 8005)
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	client, err := l.ListenUDP(from, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	largest := l.Plan.MTU - 50 - 28 // VXLAN; IPv4 and UDP
	if to.Addr.Is6() {
		largest -= 20
	}
	dst := netip.AddrPortFrom(to.Addr, 8005)
	for round := range 2 {
		for _, size := range []int{1, 2, 63, 512, 1231, largest} {
			data := random(size)
			if _, err := client.WriteToUDPAddrPort(data, dst); err != nil {
				t.Fatalf("send %d bytes: %v", size, err)
			}
			back := receiveUDP(t, server, data, "there")
			if !back.IsValid() {
				continue
			}
			if _, err := server.WriteToUDPAddrPort(data, back); err != nil {
				t.Fatalf("send %d bytes back: %v", size, err)
			}
			receiveUDP(t, client, data, "back")
		}
		if round == 0 {
			turn()
		}
	}
}

// receiveUDP wants one datagram and returns who sent it.
func receiveUDP(t *testing.T, c *net.UDPConn, want []byte, way string) netip.AddrPort {
	t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(answerWait)); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 65536)
	n, from, err := c.ReadFromUDPAddrPort(buf)
	if err != nil {
		t.Errorf("a datagram of %d bytes on its way %s: %v", len(want), way, err)
		return netip.AddrPort{}
	}
	if sha256.Sum256(buf[:n]) != sha256.Sum256(want) {
		t.Errorf("a datagram of %d bytes arrived %s as another, of %d bytes", len(want), way, n)
	}
	return from
}
