// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"syscall"
	"time"
)

const (
	agentListen = "127.0.0.1:9966" // in each host's own namespace
	readyLimit  = 2 * time.Minute  // an emulated kernel verifies slowly
	stopGrace   = 3 * time.Second
)

// startAgents starts an agent on every host and waits until all are ready.
func (l *Lab) startAgents(ctx context.Context) error {
	if l.Enid == "" {
		return nil
	}
	for _, h := range l.hostNames() {
		if err := l.StartAgent(h); err != nil {
			return err
		}
	}
	for _, h := range l.hostNames() {
		if err := l.WaitReady(ctx, h); err != nil {
			return err
		}
	}
	return nil
}

// StartAgent starts the agent of a host and notes it in the state file. It survives us, and a
// terminal's Ctrl-C does not reach it.
func (l *Lab) StartAgent(host string) error {
	if l.Enid == "" {
		return errors.New("this lab is without agents")
	}
	if p := l.Agents[host]; p.Alive() {
		return fmt.Errorf("the agent of %s is running already, process %d", host, p.PID)
	}
	log, err := os.OpenFile(l.logFile(host), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("open log of the agent: %w", err)
	}
	defer log.Close()
	source := l.Source
	if source == "" {
		source = "dir:" + l.FeedDir()
	}
	args := append([]string{
		"--host", host, "--feed", source, "--bpffs", l.AgentBPFFS(),
		"--state-dir", l.AgentStateDir(), "--listen", agentListen,
	}, append(l.peerFlags(host), l.Flags...)...)
	cmd := exec.Command(l.Enid, args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := l.In(host, func(*Namespace) error { return cmd.Start() }); err != nil {
		return fmt.Errorf("start agent of %s: %w", host, err)
	}
	go func() { _ = cmd.Wait() }() // reaps it if it ends before us; how it ended is in its log
	p, err := processOf(cmd.Process.Pid)
	if err != nil {
		return fmt.Errorf("agent of %s ended at once:\n%s", host, l.LogTail(host))
	}
	l.Agents[host] = p
	return l.save()
}

// KillAgent ends a host's agent with SIGKILL.
func (l *Lab) KillAgent(host string) error {
	p, started := l.Agents[host]
	if !started {
		return fmt.Errorf("no agent was started on host %s", host)
	}
	return p.kill()
}

// StopAgent ends a host's agent with SIGTERM.
func (l *Lab) StopAgent(host string) error {
	p, started := l.Agents[host]
	if !started {
		return fmt.Errorf("no agent was started on host %s", host)
	}
	return p.stop(stopGrace)
}

// WaitReady waits until /readyz of a host's agent answers 200.
func (l *Lab) WaitReady(ctx context.Context, host string) error {
	return l.waitAgent(ctx, host, "is not ready", func(status int, _ string) bool { return status == http.StatusOK })
}

// WaitRevision waits until a host's agent names a revision, or a later one, as in force.
func (l *Lab) WaitRevision(ctx context.Context, host string, revision uint64) error {
	return l.waitAgent(ctx, host, fmt.Sprintf("has not applied revision %d", revision), func(status int, body string) bool {
		return status == http.StatusOK && revisionIn(body) >= revision
	})
}

// WaitRevisionAll is WaitRevision for all hosts.
func (l *Lab) WaitRevisionAll(ctx context.Context, revision uint64) error {
	for _, h := range l.hostNames() {
		if err := l.WaitRevision(ctx, h, revision); err != nil {
			return err
		}
	}
	return nil
}

func (l *Lab) waitAgent(ctx context.Context, host, what string, done func(status int, body string) bool) error {
	ctx, cancel := context.WithTimeout(ctx, readyLimit)
	defer cancel()
	var last string
	for {
		status, body, err := l.AgentGet(ctx, host, "/readyz")
		if err == nil && done(status, body) {
			return nil
		}
		if err == nil {
			last = fmt.Sprintf("/readyz says %d %s", status, body)
		} else if ctx.Err() == nil {
			last = err.Error()
		}
		if !l.Agents[host].Alive() {
			return fmt.Errorf("the agent of %s has ended:\n%s", host, l.LogTail(host))
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the agent of %s %s: %w\n%s\n%s", host, what, ctx.Err(), last, l.LogTail(host))
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// AgentGet asks the HTTP endpoint of a host's agent.
func (l *Lab) AgentGet(ctx context.Context, host, path string) (status int, body string, err error) {
	dial := func(ctx context.Context, network, addr string) (c net.Conn, err error) {
		err = l.In(host, func(*Namespace) error {
			c, err = new(net.Dialer).DialContext(ctx, network, addr)
			return err
		})
		return c, err
	}
	client := http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+agentListen+path, nil)
	if err != nil {
		return 0, "", fmt.Errorf("make request: %w", err)
	}
	resp, err := client.Do(req)
	if err != nil {
		return 0, "", fmt.Errorf("ask agent of %s: %w", host, err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, "", fmt.Errorf("read answer of the agent of %s: %w", host, err)
	}
	return resp.StatusCode, string(data), nil
}

var revisionNumber = regexp.MustCompile(`revision\W+(\d+)`)

// revisionIn finds the revision that /readyz names, 0 if it names none.
func revisionIn(body string) uint64 {
	m := revisionNumber.FindStringSubmatch(body)
	if m == nil {
		return 0
	}
	n, err := strconv.ParseUint(m[1], 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// LogTail is the end of an agent's log, for error messages.
func (l *Lab) LogTail(host string) string {
	data, err := os.ReadFile(l.logFile(host))
	if err != nil {
		return err.Error()
	}
	lines := bytes.Split(bytes.TrimSpace(data), []byte("\n"))
	if len(lines) > 15 {
		lines = lines[len(lines)-15:]
	}
	return "log of the agent of " + host + ":\n" + string(bytes.Join(lines, []byte("\n")))
}
