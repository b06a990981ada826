// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sync/errgroup"

	"github.com/eniplane/eniplane/loader"
	"github.com/eniplane/eniplane/pkg/agent"
	"github.com/eniplane/eniplane/pkg/announce"
	"github.com/eniplane/eniplane/pkg/dataplane"
	"github.com/eniplane/eniplane/pkg/feed"
	"github.com/eniplane/eniplane/pkg/feed/etcd"
	"github.com/eniplane/eniplane/pkg/metrics"
)

// serve puts feed, loader, agent and HTTP together and works until ctx ends.
func serve(ctx context.Context, cfg *config, log *slog.Logger) (err error) {
	stateDir := dataplane.HostStateDir(cfg.StateDir, cfg.Host)
	source, err := feed.Open(cfg.Feed, feed.Options{
		StateDir: stateDir, Host: cfg.Host, MaxDeleteRatio: cfg.MaxDeleteRatio,
		Files: etcd.Files{CA: cfg.EtcdCA, Cert: cfg.EtcdCert, Key: cfg.EtcdKey, User: cfg.EtcdUser},
	})
	if err != nil {
		return usageError{err}
	}
	// Listen first: a wrong address must be found before anything of the kernel is touched.
	listener, err := net.Listen("tcp", cfg.Listen)
	if err != nil {
		return fmt.Errorf("listen for /readyz and /metrics: %w", err)
	}
	defer func() { _ = listener.Close() }() // the server closes it too
	links, err := agent.WatchLinks(ctx, log)
	if err != nil {
		return err
	}
	kernel, err := loader.Open(ctx, loader.Options{
		Host: cfg.Host, BPFFS: cfg.BPFFS, StateDir: cfg.StateDir, MaxFlows: cfg.MaxFlows, Log: log,
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, kernel.Close()) }()
	peers, err := newPeers(cfg, kernel, log)
	if err != nil {
		return err
	}
	defer peers.close()
	a, err := agent.New(agent.Options{
		Host: cfg.Host, Feed: cfg.Feed, StateDir: stateDir, MaxDeleteRatio: cfg.MaxDeleteRatio, Log: log,
		Source: source, LastGood: func() (*feed.Revision, error) { return feed.LastGood(stateDir) },
		Dataplane: inForce{kernel}, Announcer: announce.NewNeighbours(log), Links: links, Damages: kernel.Damaged(),
		Obstacles: agent.Obstacles, Migrator: peers.migrator(),
	})
	if err != nil {
		return err
	}
	build, err := metrics.NewBuild(agent.BuildVersion().Version)
	if err != nil {
		return err
	}
	log.Info("enid is up", "host", cfg.Host, "feed", cfg.Feed, "listen", listener.Addr().String(),
		"version", build.Version, "programs", build.Hash, "kernel", build.Kernel)
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return agent.Serve(ctx, listener, a.Handler(metricsHandler(kernel, a, build))) })
	group.Go(func() error { a.Run(ctx); return nil })
	group.Go(func() error { return peers.serve(ctx) })
	go func() { // beside the work: packets do not need them, and nobody waits for them at the end
		if err := kernel.EnsureTwins(); err != nil {
			log.Warn("enictl trace will not work on this host", "err", err)
		}
	}()
	err = group.Wait()
	log.Info("enid ends, what is in force stays in force")
	return err
}

// inForce adds to the loader what the agent asks of the maps.
type inForce struct{ *loader.Loader }

// InForce implements agent.Dataplane.
func (f inForce) InForce() (uint64, error) {
	revision, _, err := f.Maps().Active()
	return revision, err
}

func metricsHandler(l *loader.Loader, a *agent.Agent, build metrics.Build) http.Handler {
	reg := prometheus.NewRegistry()
	reg.MustRegister(
		metrics.NewCollector(&metrics.Live{Maps: l.Maps()}, func() metrics.Snapshot { return withCaps(l, a.Metrics()) }, build),
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	return promhttp.HandlerFor(reg, promhttp.HandlerOpts{})
}

// withCaps adds what was lost behind caps; none if the queues cannot be read.
func withCaps(l *loader.Loader, s metrics.Snapshot) metrics.Snapshot {
	uses, err := l.Caps()
	if err != nil {
		return s
	}
	for _, u := range uses {
		s.CapDrops[u.Dir&1] += u.Dropped
	}
	return s
}
