// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/eniplane/eniplane/bench"
)

// cpuClock is the CPU time that a path costs: that of the generator's thread, which does soft interrupts in its own
// context, and of the kernel thread that takes them over when they last too long.
type cpuClock struct{ softirqd string }

// newCPUClock finds the thread for soft interrupts of a CPU.
func newCPUClock(cpu int) (*cpuClock, error) {
	name := fmt.Sprintf("ksoftirqd/%d", cpu)
	files, err := filepath.Glob("/proc/[0-9]*/comm")
	if err != nil {
		return nil, fmt.Errorf("look for %s: %w", name, err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err == nil && strings.TrimSpace(string(data)) == name { // others end meanwhile
			return &cpuClock{softirqd: filepath.Join(filepath.Dir(file), "schedstat")}, nil
		}
	}
	return nil, fmt.Errorf("no thread %s: is CPU %d online?", name, cpu)
}

// now reads the clock for the calling thread.
func (c *cpuClock) now() (time.Duration, error) {
	data, err := os.ReadFile(c.softirqd)
	if err != nil {
		return 0, fmt.Errorf("read the time of soft interrupts: %w", err)
	}
	word, _, _ := strings.Cut(string(data), " ")
	ns, err := strconv.ParseInt(word, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("read the time of soft interrupts: %w", err)
	}
	return bench.ThreadTime() + time.Duration(ns), nil
}
