// SPDX-License-Identifier: Apache-2.0

package migrate

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/eniplane/eniplane/pkg/dataplane"
)

const (
	maxSessions  = 256
	helloLimit   = 5 * time.Second
	silenceLimit = time.Minute // of a source in the middle of its rounds
)

// Serve takes flows from other hosts until ctx ends.
func (m *Manager) Serve(ctx context.Context, ln net.Listener) error {
	stop := context.AfterFunc(ctx, func() { _ = ln.Close() })
	defer stop()
	room := make(chan struct{}, maxSessions)
	for {
		conn, err := ln.Accept()
		if ctx.Err() != nil {
			return nil
		}
		if errors.Is(err, net.ErrClosed) {
			return fmt.Errorf("listen for other agents: %w", err)
		}
		if err != nil {
			select { // too many open files, say
			case <-ctx.Done():
				return nil
			case <-time.After(dialAgain):
			}
			continue
		}
		select {
		case room <- struct{}{}:
		default:
			_ = conn.Close()
			continue
		}
		go func() {
			defer func() { <-room }()
			m.receive(ctx, conn)
		}()
	}
}

// receive is one session with a source.
func (m *Manager) receive(ctx context.Context, conn net.Conn) {
	defer conn.Close()
	end := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer end()
	t := target{m: m}
	err := t.session(ctx, conn)
	if err != nil && ctx.Err() == nil && !errors.Is(err, io.EOF) {
		m.log.Warn("flows of another host are not taken", "from", conn.RemoteAddr().String(), "eni", t.hello.ENI, "err", err)
	}
}

// target takes the flows of one ENI.
type target struct {
	m     *Manager
	hello hello
	inc   uint32 // of the ENI here; another one is another ENI
	done  done
}

func (t *target) session(ctx context.Context, raw net.Conn) error {
	if err := raw.SetDeadline(time.Now().Add(helloLimit)); err != nil {
		return err
	}
	conn, who, err := t.m.security.accept(ctx, raw)
	if err != nil {
		return err
	}
	r := bufio.NewReader(conn)
	if err := readJSON(r, frameHello, &t.hello); err != nil {
		return err
	}
	in, err := t.admit(who)
	if err != nil {
		return errors.Join(err, writeJSON(conn, frameWelcome, welcome{Refused: err.Error()}))
	}
	t.inc = in.Incarnation
	if err := writeJSON(conn, frameWelcome, welcome{}); err != nil {
		return err
	}
	t.done.Refused = map[string]int{}
	for {
		if err := raw.SetDeadline(time.Now().Add(silenceLimit)); err != nil {
			return err
		}
		kind, payload, err := readFrame(r)
		if err != nil {
			return err
		}
		switch kind {
		case frameFlows:
			err = t.take(payload)
		case frameRound:
			err = t.end(conn, payload)
		default:
			err = fmt.Errorf("receive: a frame of type %d in the middle of flows", kind)
		}
		if err != nil {
			return err
		}
	}
}

// admit tells whether the ENI moves here, from the host at the other end.
func (t *target) admit(who identity) (*Incoming, error) {
	h, view := &t.hello, t.m.view.Load()
	in, ok := view.Incoming[h.ENI]
	switch {
	case h.Version != version:
		return nil, fmt.Errorf("version %d of the protocol, this is version %d", h.Version, version)
	case h.To != view.Host:
		return nil, fmt.Errorf("this is %s, not %s", view.Host, h.To)
	case !ok || in.UID != h.UID:
		return nil, fmt.Errorf("ENI %s (uid %s) does not move to %s by the revision in force here", h.ENI, h.UID, view.Host)
	case in.From != h.From:
		return nil, fmt.Errorf("ENI %s moves from %s, not from %s", h.ENI, in.From, h.From)
	case h.Epoch >= in.Epoch:
		return nil, fmt.Errorf("ENI %s of epoch %d is not older than its attachment here, %d", h.ENI, h.Epoch, in.Epoch)
	}
	return &in, who.is(h.From, view.address[h.From])
}

// take stores the flows of a frame, by the revision in force now.
func (t *target) take(payload []byte) error {
	flows, err := decodeFlows(payload)
	if err != nil {
		return err
	}
	view := t.m.view.Load()
	in, ok := view.Incoming[t.hello.ENI]
	if !ok || in.Incarnation != t.inc {
		return fmt.Errorf("ENI %s does not move here any more", t.hello.ENI)
	}
	local := make([]dataplane.ImportedFlow, 0, len(flows))
	for i := range flows {
		if !flows[i].Transit() && !in.IPs[flows[i].Local] {
			t.done.Refused["not an address of the ENI"]++
			continue
		}
		local = append(local, view.localFlow(&in, &flows[i]))
	}
	results, err := t.m.importer.Import(local)
	if err != nil {
		return err
	}
	for _, reason := range results {
		if reason == dataplane.ReasonContinue {
			t.done.Stored++
		} else {
			t.done.Refused[reason.String()]++
		}
	}
	return nil
}

func (t *target) end(conn net.Conn, payload []byte) error {
	if len(payload) != 4 {
		return fmt.Errorf("receive: the number of a round has %d bytes", len(payload))
	}
	t.done.Round = binary.BigEndian.Uint32(payload)
	if in, ok := t.m.view.Load().Incoming[t.hello.ENI]; ok && in.Here && in.Incarnation == t.inc {
		t.done.Here = in.Epoch
	}
	if err := writeJSON(conn, frameDone, t.done); err != nil {
		return err
	}
	t.done = done{Refused: map[string]int{}}
	return nil
}
