// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/eniplane/eniplane/pkg/lab/netnsdir"
)

// Options say how to bring a lab up.
type Options struct {
	Name     string    // instead of the topology's
	Enid     string    // path of the agent; "" = beside the running binary, else from $PATH
	NoAgents bool      // cables only
	Progress io.Writer // one line per step; nil = silent
}

func (o *Options) say(format string, args ...any) {
	if o.Progress != nil {
		fmt.Fprintf(o.Progress, format+"\n", args...)
	}
}

// Up builds the lab of a topology file. If it fails, or ctx ends, it takes down what it made.
func Up(ctx context.Context, topologyPath string, o Options) (*Lab, error) {
	t, err := ReadTopology(topologyPath)
	if err != nil {
		return nil, err
	}
	if o.Name != "" {
		t.Name = o.Name
	}
	l, unlock, err := create(t, &o)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := l.build(ctx, t, &o); err != nil {
		return nil, errors.Join(fmt.Errorf("bring lab %s up: %w", t.Name, err), l.destroy())
	}
	return l, nil
}

// create plans the lab and claims its name: nothing is made yet but its directory and state file.
func create(t *Topology, o *Options) (*Lab, func(), error) {
	if !labName.MatchString(t.Name) {
		return nil, nil, fmt.Errorf("lab name %q: lower-case letters, digits and -, at most 32", t.Name)
	}
	objects, err := readObjects(t.Feed)
	if err != nil {
		return nil, nil, err
	}
	plan, err := MakePlan(t, objects)
	if err != nil {
		return nil, nil, err
	}
	enid := ""
	if !o.NoAgents {
		if enid, err = findEnid(o.Enid); err != nil {
			return nil, nil, err
		}
	}
	l := &Lab{
		State: State{Plan: *plan, Enid: enid, Flags: t.EnidFlags, Agents: map[string]Process{}},
		dir:   filepath.Join(runDir, t.Name),
	}
	if err := os.MkdirAll(runDir, 0o755); err != nil {
		return nil, nil, fmt.Errorf("make %s: %w", runDir, err)
	}
	if err := os.Mkdir(l.dir, 0o755); errors.Is(err, os.ErrExist) {
		return nil, nil, fmt.Errorf("lab %s is up already, or was left half made: `enictl lab down --lab %s` removes it", t.Name, t.Name)
	} else if err != nil {
		return nil, nil, fmt.Errorf("make lab directory: %w", err)
	}
	unlock, err := lock(l.dir)
	if err != nil {
		return nil, nil, err
	}
	if err := l.save(); err != nil {
		unlock()
		return nil, nil, errors.Join(err, os.RemoveAll(l.dir))
	}
	return l, unlock, nil
}

// findEnid finds the agent's binary: the given one, the one beside us, the one in $PATH.
func findEnid(given string) (string, error) {
	if given != "" {
		return filepath.Abs(given)
	}
	if self, err := os.Executable(); err == nil {
		beside := filepath.Join(filepath.Dir(self), "enid")
		if st, err := os.Stat(beside); err == nil && st.Mode().IsRegular() {
			return beside, nil
		}
	}
	path, err := exec.LookPath("enid")
	if err != nil {
		return "", fmt.Errorf("find the agent beside enictl or in $PATH (build it with `make build`, or name it with --enid): %w", err)
	}
	return filepath.Abs(path)
}

// build makes everything, step by step.
func (l *Lab) build(ctx context.Context, t *Topology, o *Options) error {
	start := time.Now()
	steps := []struct {
		name string
		do   func() error
	}{
		{"directories and pins", l.makeDirs},
		{"certificates of the agents", l.makeCertificates},
		{"feed", func() error { return copyFeed(t.Feed, l.FeedDir()) }},
		{"network namespaces", func() error { return l.makeNamespaces(ctx) }},
		{"underlay and internet", l.makeUnderlay},
		{"hosts", l.makeHosts},
		{"instances", l.makeInstances},
		{"agents", func() error { return l.startAgents(ctx) }},
	}
	for _, s := range steps {
		if err := ctx.Err(); err != nil {
			return err
		}
		o.say("  %4d ms  %s", time.Since(start).Milliseconds(), s.name)
		if err := s.do(); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	o.say("  %4d ms  up", time.Since(start).Milliseconds())
	return nil
}

func (l *Lab) makeDirs() error {
	for _, dir := range []string{l.bpffs(), l.AgentStateDir(), l.FeedDir(), filepath.Dir(l.logFile("host"))} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("make directory: %w", err)
		}
	}
	if err := unix.Mount("bpffs", l.bpffs(), "bpf", 0, ""); err != nil {
		return fmt.Errorf("mount bpffs at %s: %w", l.bpffs(), err)
	}
	if err := os.Mkdir(l.AgentBPFFS(), 0o755); err != nil {
		return fmt.Errorf("make pin directory: %w", err)
	}
	return nil
}

func (l *Lab) makeNamespaces(ctx context.Context) error {
	if err := netnsdir.Share(); err != nil {
		return err
	}
	for _, node := range l.Plan.Nodes() {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := makeNamespace(l.Namespace(node)); err != nil {
			return err
		}
	}
	return nil
}

// open opens the namespaces of several nodes at once and hands them to fn.
func (l *Lab) open(fn func(ns ...*Namespace) error, nodes ...string) (err error) {
	open := make([]*Namespace, 0, len(nodes))
	defer func() {
		for _, n := range open {
			err = errors.Join(err, n.Close())
		}
	}()
	for _, node := range nodes {
		n, err := openNamespace(l.Namespace(node))
		if err != nil {
			return err
		}
		open = append(open, n)
	}
	return fn(open...)
}

// In runs fn inside the namespace of a node; fn also gets the namespace itself.
func (l *Lab) In(node string, fn func(n *Namespace) error) error {
	return l.open(func(ns ...*Namespace) error {
		return ns[0].Do(func() error { return fn(ns[0]) })
	}, node)
}
