// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"

	"github.com/eniplane/eniplane/loader"
	"github.com/eniplane/eniplane/pkg/agent"
	"github.com/eniplane/eniplane/pkg/migrate"
)

// peers are the other agents, as far as this one speaks with them.
type peers struct {
	listener net.Listener     // nil = where the feed says
	manager  *migrate.Manager // nil = it does not
}

func newPeers(cfg *config, kernel *loader.Loader, log *slog.Logger) (*peers, error) {
	if cfg.PeerListen+cfg.PeerCA+cfg.PeerCert+cfg.PeerKey == "" && !cfg.PeerPlaintext {
		return &peers{}, nil
	}
	security := &migrate.Security{CA: cfg.PeerCA, Cert: cfg.PeerCert, Key: cfg.PeerKey, Plaintext: cfg.PeerPlaintext}
	if err := security.Check(); err != nil {
		return nil, usageError{err}
	}
	if security.Plaintext {
		log.Warn("other agents are known by their addresses only: --peer-plaintext is for labs")
	}
	p := &peers{manager: migrate.New(migrate.Options{
		Host: cfg.Host, Security: security, Flows: kernel.Maps(), Importer: kernel, Log: log,
	})}
	if cfg.PeerListen == "" {
		return p, nil
	}
	var err error
	if p.listener, err = net.Listen("tcp", cfg.PeerListen); err != nil {
		return nil, fmt.Errorf("listen for other agents: %w", err)
	}
	return p, nil
}

// migrator is nil if there is none: not a nil pointer in an interface.
func (p *peers) migrator() agent.Migrator {
	if p.manager == nil {
		return nil
	}
	return p.manager
}

func (p *peers) serve(ctx context.Context) error {
	switch {
	case p.manager == nil:
		return nil
	case p.listener == nil:
		p.manager.ServeAsTold(ctx)
		return nil
	}
	return p.manager.Serve(ctx, p.listener)
}

// close waits for what reads the maps.
func (p *peers) close() {
	if p.manager == nil {
		return
	}
	if p.listener != nil {
		_ = p.listener.Close() // serve has closed it
	}
	p.manager.Wait()
}
