// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Process is a process that the lab started. A pid alone may belong to another one by now; together
// with its start time it never does.
type Process struct {
	PID       int
	StartTime uint64 // clock ticks since boot, as in /proc/PID/stat
}

// processOf reads the identity of a running process.
func processOf(pid int) (Process, error) {
	start, _, err := procStat(pid)
	if err != nil {
		return Process{}, err
	}
	return Process{PID: pid, StartTime: start}, nil
}

// procStat returns the start time of a process and whether anything of it still runs: a process that
// was killed is a zombie already while its last thread still closes its sockets.
func procStat(pid int) (start uint64, runs bool, err error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, false, fmt.Errorf("read state of process %d: %w", pid, err)
	}
	// The name in parentheses may hold anything; fields are counted behind its end.
	fields := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
	if len(fields) < 20 {
		return 0, false, fmt.Errorf("state of process %d is malformed", pid)
	}
	start, err = strconv.ParseUint(fields[19], 10, 64)
	if err != nil {
		return 0, false, fmt.Errorf("start time of process %d: %w", pid, err)
	}
	threads := fields[17]
	return start, fields[0] != "Z" || threads != "1", nil
}

// Alive tells whether the process still runs.
func (p Process) Alive() bool {
	start, runs, err := procStat(p.PID)
	return err == nil && p.PID != 0 && start == p.StartTime && runs
}

// signal reaches this very process or nobody: the handle pins the process before its start time is
// compared.
func (p Process) signal(sig syscall.Signal) error {
	proc, err := os.FindProcess(p.PID)
	if err != nil {
		return nil // gone
	}
	defer func() { _ = proc.Release() }()
	if !p.Alive() {
		return nil
	}
	if err := proc.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("send %s to process %d: %w", sig, p.PID, err)
	}
	return nil
}

// stop ends the process, politely first, and waits until it is gone.
func (p Process) stop(grace time.Duration) error {
	if err := p.signal(syscall.SIGTERM); err != nil {
		return err
	}
	if p.waitGone(grace) {
		return nil
	}
	return p.kill()
}

// kill ends the process without a word and waits until it is gone.
func (p Process) kill() error {
	if err := p.signal(syscall.SIGKILL); err != nil {
		return err
	}
	if !p.waitGone(10 * time.Second) {
		return fmt.Errorf("process %d did not end on SIGKILL", p.PID)
	}
	return nil
}

func (p Process) waitGone(limit time.Duration) bool {
	for end := time.Now().Add(limit); p.Alive(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			return false
		}
	}
	return true
}
