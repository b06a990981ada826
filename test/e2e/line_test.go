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
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/eniplane/eniplane/pkg/lab"
)

// line is a TCP connection of which the test holds both ends.
type line struct {
	name      string
	near, far net.Conn
}

// call connects two spots. What each end is to the other shows in the addresses of the line.
func call(t *testing.T, l *lab.Lab, from, to lab.Spot, port uint16) line {
	t.Helper()
	ln, err := l.Listen(to, port)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if err := ln.(*net.TCPListener).SetDeadline(time.Now().Add(answerWait)); err != nil {
		t.Fatal(err)
	}
	x := line{name: fmt.Sprintf("%s > %s:%d", from, to, port)}
	ctx, cancel := context.WithTimeout(context.Background(), answerWait)
	defer cancel()
	if x.near, err = l.Dial(ctx, from, to, port); err != nil {
		t.Fatalf("connect %s: %v", x.name, err)
	}
	t.Cleanup(x.hangUp)
	if x.far, err = ln.Accept(); err != nil {
		t.Fatalf("connect %s: %v", x.name, err)
	}
	t.Cleanup(x.hangUp)
	return x
}

// hangUp ends a line with a RST: nothing of it is sent again and again where nothing arrives.
func (x line) hangUp() {
	for _, c := range []net.Conn{x.near, x.far} {
		if c, ok := c.(*net.TCPConn); ok {
			_ = c.SetLinger(0)
			_ = c.Close()
		}
	}
}

// caller is who the far end sees.
func (x line) caller() netip.Addr { return addrOf(x.far.RemoteAddr()) }

func addrOf(a net.Addr) netip.Addr {
	switch a := a.(type) {
	case *net.TCPAddr:
		return a.AddrPort().Addr().Unmap()
	case *net.UDPAddr:
		return a.AddrPort().Addr().Unmap()
	}
	return netip.Addr{}
}

// bytesOf are random bytes that no other name has.
func bytesOf(name string, n int) []byte {
	b := make([]byte, n)
	source := rand.NewChaCha8(sha256.Sum256([]byte(name)))
	_, _ = source.Read(b) // never fails
	return b
}

// carries wants bytes that no other line has to arrive whole, there and back at once.
func (x line) carries(size int) error {
	until := time.Now().Add(transferLimit)
	if err := errors.Join(x.near.SetDeadline(until), x.far.SetDeadline(until)); err != nil {
		return err
	}
	var all sync.WaitGroup
	failed := make([]error, 4)
	for i, way := range []struct {
		name     string
		from, to net.Conn
	}{{"there", x.near, x.far}, {"back", x.far, x.near}} {
		data := bytesOf(x.name+way.name, size)
		all.Go(func() { _, failed[2*i] = way.from.Write(data) })
		all.Go(func() {
			got := make([]byte, size)
			if n, err := io.ReadFull(way.to, got); err != nil {
				failed[2*i+1] = fmt.Errorf("%s: %d of %d bytes on the way %s: %w", x.name, n, size, way.name, err)
			} else if !bytes.Equal(got, data) {
				failed[2*i+1] = fmt.Errorf("%s: what arrived on the way %s is not what was sent", x.name, way.name)
			}
		})
	}
	all.Wait()
	return errors.Join(failed...)
}

// silent wants nothing to arrive any more, in either direction.
func (x line) silent() error {
	var all sync.WaitGroup
	failed := make([]error, 2)
	for i, way := range [][2]net.Conn{{x.near, x.far}, {x.far, x.near}} {
		all.Go(func() { failed[i] = x.lost(way[0], way[1]) })
	}
	all.Wait()
	return errors.Join(failed...)
}

// mute wants nothing to arrive any more that the near end sends.
func (x line) mute() error { return x.lost(x.near, x.far) }

// lost sends something, and wants nothing to arrive for longer than TCP waits before it tries again.
func (x line) lost(from, to net.Conn) error {
	until := time.Now().Add(time.Second)
	if err := errors.Join(from.SetWriteDeadline(until), to.SetReadDeadline(until)); err != nil {
		return err
	}
	if _, err := from.Write([]byte("is anybody there?")); err != nil {
		return fmt.Errorf("%s: write: %w", x.name, err)
	}
	if n, err := to.Read(make([]byte, 32)); !errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("%s: %d bytes arrive (%v), want none", x.name, n, err)
	}
	return nil
}

// each asks all lines at once.
func each(t *testing.T, lines []line, ask func(line) error) {
	t.Helper()
	var all sync.WaitGroup
	failed := make([]error, len(lines))
	for i, x := range lines {
		all.Go(func() { failed[i] = ask(x) })
	}
	all.Wait()
	if err := errors.Join(failed...); err != nil {
		t.Errorf("of %d connections: %s", len(lines), strings.ReplaceAll(err.Error(), "\n", "; "))
	}
}
