// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/eniplane/eniplane/bench/peer"
	"github.com/eniplane/eniplane/loader"
	"github.com/eniplane/eniplane/pkg/agent"
	"github.com/eniplane/eniplane/pkg/announce"
	"github.com/eniplane/eniplane/pkg/dataplane"
	"github.com/eniplane/eniplane/pkg/feed"
)

// fed is eniplane with its agent, which follows a directory: the whole way from the feed to the maps. The agent runs in
// this process, on a thread inside the host.
type fed struct {
	ours
	feed     string
	revision uint64
	stop     context.CancelFunc
	done     sync.WaitGroup
}

// fedOurs is the subject.
type fedOurs struct{ Ours }

// Files of the feed: what stays, what is edited, and the mark that makes a revision of them.
const (
	baseFile   = "base.yaml"
	policyFile = "policy.yaml"
	markFile   = "REVISION"
)

// Start implements peer.Subject.
func (fedOurs) Start(ctx context.Context, j *peer.Job) (peer.Running, error) {
	f := &fed{ours: *newOurs(j), feed: filepath.Join(j.Dir, "feed")}
	if err := f.start(ctx); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func (f *fed) start(ctx context.Context) error {
	if err := f.open(ctx); err != nil {
		return err
	}
	if err := os.MkdirAll(f.feed, 0o755); err != nil {
		return fmt.Errorf("make the feed: %w", err)
	}
	if err := f.write(baseFile, strings.Join(documents(f.job), "\n---\n")); err != nil {
		return err
	}
	if err := f.stage(0); err != nil {
		return err
	}
	if err := f.mark(); err != nil {
		return err
	}
	state := dataplane.HostStateDir(f.options.StateDir, hostName)
	source, err := feed.Open("dir:"+f.feed, feed.Options{StateDir: state, Host: hostName, MaxDeleteRatio: 1})
	if err != nil {
		return err
	}
	a, err := agent.New(agent.Options{
		Host: hostName, Feed: "dir:" + f.feed, StateDir: state, MaxDeleteRatio: 1, Log: slog.New(slog.DiscardHandler),
		Source: source, LastGood: func() (*feed.Revision, error) { return feed.LastGood(state) },
		Dataplane: counted{f.loader}, Announcer: silent{}, Obstacles: func() []string { return nil },
	})
	if err != nil {
		return err
	}
	run, stop := context.WithCancel(context.Background())
	f.stop = stop
	f.done.Go(func() {
		_ = f.job.Host.Do(func() error { a.Run(run); return nil }) // entering failed before, if it can
	})
	return f.ready(ctx, a)
}

// ready waits until all ENIs are.
func (f *fed) ready(ctx context.Context, a *agent.Agent) error {
	const limit = 30 * time.Second
	for end := time.Now().Add(limit); ; time.Sleep(5 * time.Millisecond) {
		status := a.Status()
		ready := len(status.ENIs) == len(f.job.ENIs)
		for _, e := range status.ENIs {
			ready = ready && e.Phase == "Ready"
		}
		if ready {
			return nil
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if time.Now().After(end) {
			return fmt.Errorf("the agent is not ready within %s: %v %v", limit, status.ENIs, status.Errors)
		}
	}
}

// write replaces a file of the feed as a whole.
func (f *fed) write(name, text string) error {
	path := filepath.Join(f.feed, name)
	hidden := filepath.Join(f.feed, "."+name)
	if err := os.WriteFile(hidden, []byte(text), 0o600); err != nil {
		return fmt.Errorf("write the feed: %w", err)
	}
	if err := os.Rename(hidden, path); err != nil {
		return fmt.Errorf("write the feed: %w", err)
	}
	return nil
}

// stage writes the group, with a rule for a further port unless that is 0, without making it a revision.
func (f *fed) stage(port uint16) error {
	return f.write(policyFile, policyDocument(f.job, port))
}

// mark makes what was staged a revision.
func (f *fed) mark() error {
	f.revision++
	return f.write(markFile, strconv.FormatUint(f.revision, 10))
}

// inForce waits until the last revision is.
func (f *fed) inForce(ctx context.Context) error {
	const limit = 30 * time.Second
	for end := time.Now().Add(limit); ; time.Sleep(time.Millisecond) {
		revision, _, err := f.loader.Maps().Active()
		if err != nil || revision >= f.revision {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if time.Now().After(end) {
			return fmt.Errorf("revision %d is not in force within %s", f.revision, limit)
		}
	}
}

// Close implements peer.Running.
func (f *fed) Close() error {
	if f.stop != nil {
		f.stop()
		f.done.Wait()
	}
	return f.ours.Close()
}

// silent announces nothing: nobody listens.
type silent struct{}

// Announce implements announce.Announcer.
func (silent) Announce(context.Context, announce.Held) {}

// Withdraw implements announce.Announcer.
func (silent) Withdraw() {}

// Problems implements announce.Announcer.
func (silent) Problems() []string { return nil }

// Wait implements announce.Announcer.
func (silent) Wait() {}

// counted adds to the loader what the agent asks of the maps.
type counted struct{ *loader.Loader }

// InForce implements agent.Dataplane.
func (c counted) InForce() (uint64, error) {
	revision, _, err := c.Maps().Active()
	return revision, err
}
