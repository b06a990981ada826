// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/eniplane/eniplane/pkg/compile"
	"github.com/eniplane/eniplane/pkg/dataplane"
	"github.com/eniplane/eniplane/pkg/lab"
)

// onMaps reads the pinned maps of a host; its agent need not be alive.
func onMaps(t *testing.T, l *lab.Lab, host string, read func(m *dataplane.Maps, names compile.Names) error) {
	t.Helper()
	names, err := dataplane.LoadNames(dataplane.HostStateDir(l.AgentStateDir(), host))
	if err != nil {
		t.Fatal(err)
	}
	m, err := dataplane.OpenPinned(dataplane.PinDir(l.AgentBPFFS(), host), true)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(read(m, names), m.Close()); err != nil {
		t.Fatalf("read the maps of %s: %v", host, err)
	}
}

// flowsOf are the flows of an ENI.
func flowsOf(t *testing.T, l *lab.Lab, host, eni string) (flows []dataplane.Flow) {
	t.Helper()
	onMaps(t, l, host, func(m *dataplane.Maps, names compile.Names) error {
		return m.Flows(func(f dataplane.Flow) bool {
			if names.ENIs[f.ENI] == eni {
				flows = append(flows, f)
			}
			return true
		})
	})
	return flows
}

// flowUse is how many flows an ENI has and may have, as `enictl status` tells it.
func flowUse(t *testing.T, l *lab.Lab, host, eni string) (use dataplane.ENIFlows) {
	t.Helper()
	onMaps(t, l, host, func(m *dataplane.Maps, names compile.Names) error {
		q, err := m.FlowQuota()
		if err != nil {
			return err
		}
		for _, e := range q.ENIs {
			if names.ENIs[e.ENI] == eni {
				use = e
				return nil
			}
		}
		return fmt.Errorf("no ENI %s", eni)
	})
	return use
}

// counted is by how much a counter grew.
func counted(t *testing.T, l *lab.Lab, before lab.Counters, eni string, d dataplane.Direction, reason dataplane.Reason) (n uint64) {
	t.Helper()
	for _, m := range counters(t, l).Since(before) {
		if m.ENI == eni && m.Direction == d && m.Reason == reason {
			n += m.Packets
		}
	}
	return n
}

// transfer is a connection on which random bytes go there and back, over and over, and are compared.
type transfer struct {
	name   string
	client net.Conn
	ln     net.Listener
	ended  chan error
	stop   atomic.Bool
	rounds atomic.Int64
}

const transferRound = 32 << 10

// startTransfer connects two nodes.
func startTransfer(t *testing.T, l *lab.Lab, from, to string, f lab.Family, port uint16) *transfer {
	t.Helper()
	src, dst, err := l.Spots(from, to, f)
	if err != nil {
		t.Fatal(err)
	}
	x := &transfer{name: fmt.Sprintf("%s > %s", src, dst), ended: make(chan error, 1)}
	if x.ln, err = l.Listen(dst, port); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = x.ln.Close() })
	go func() {
		if c, err := x.ln.Accept(); err == nil {
			_, _ = io.Copy(c, c)
			_ = c.Close()
		}
	}()
	ctx, cancel := context.WithTimeout(context.Background(), answerWait)
	defer cancel()
	if x.client, err = l.Dial(ctx, src, dst, port); err != nil {
		t.Fatalf("connect %s: %v", x.name, err)
	}
	t.Cleanup(func() { _ = x.client.Close() })
	go func() { x.ended <- x.run() }()
	return x
}

func (x *transfer) run() error {
	data, back := random(transferRound), make([]byte, transferRound)
	want := sha256.Sum256(data)
	for !x.stop.Load() {
		if err := x.client.SetDeadline(time.Now().Add(transferLimit)); err != nil {
			return err
		}
		if _, err := x.client.Write(data); err != nil {
			return fmt.Errorf("after %d rounds: send: %w", x.rounds.Load(), err)
		}
		if _, err := io.ReadFull(x.client, back); err != nil {
			return fmt.Errorf("after %d rounds: %w", x.rounds.Load(), err)
		}
		if sha256.Sum256(back) != want {
			return fmt.Errorf("after %d rounds: what came back has another sha256", x.rounds.Load())
		}
		x.rounds.Add(1)
	}
	return nil
}

// goesOn wants further rounds.
func (x *transfer) goesOn(t *testing.T, when string) {
	t.Helper()
	before := x.rounds.Load()
	for end := time.Now().Add(transferLimit); x.rounds.Load() < before+2; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Errorf("%s: nothing is transferred %s", x.name, when)
			return
		}
	}
}

// end stops the transfer and wants it whole.
func (x *transfer) end(t *testing.T) {
	t.Helper()
	x.stop.Store(true)
	if err := <-x.ended; err != nil {
		t.Errorf("%s: %v", x.name, err)
	}
	t.Logf("%s: %d rounds of %d bytes there and back", x.name, x.rounds.Load(), transferRound)
	_ = x.client.Close()
	_ = x.ln.Close()
}
