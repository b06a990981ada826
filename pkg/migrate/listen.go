// SPDX-License-Identifier: Apache-2.0

package migrate

import (
	"context"
	"net"
	"net/netip"
	"time"
)

// ServeAsTold takes flows from other hosts at the address that the feed gives this one, until ctx ends: it listens where
// Host.peer says, elsewhere when that changes, and nowhere while there is none.
func (m *Manager) ServeAsTold(ctx context.Context) {
	var at netip.AddrPort
	var retry <-chan time.Time
	stop, ended := func() {}, closed()
	defer func() { stop(); <-ended }()
	for {
		select {
		case <-ctx.Done():
			return
		case at = <-m.address:
		case <-retry:
		}
		stop()
		<-ended
		stop, ended, retry = func() {}, closed(), nil
		if !at.IsValid() {
			continue
		}
		ln, err := net.Listen("tcp", at.String())
		if err != nil {
			m.log.Warn("cannot listen for other agents", "address", at, "err", err)
			retry = time.After(listenAgain)
			continue
		}
		m.log.Info("listening for other agents", "address", at)
		stop, ended = m.start(ctx, ln)
	}
}

// start serves on a listener until it is told to stop.
func (m *Manager) start(ctx context.Context, ln net.Listener) (stop func(), ended chan struct{}) {
	ctx, stop = context.WithCancel(ctx)
	ended = make(chan struct{})
	go func() {
		defer close(ended)
		if err := m.Serve(ctx, ln); err != nil {
			m.log.Warn("other agents are not heard any more", "err", err)
		}
	}()
	return stop, ended
}

// listenAgain is the pause after an address that could not be had.
const listenAgain = 5 * time.Second

func closed() chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}
