// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Environment is where a run took place. What cannot be found out is empty.
type Environment struct {
	Time        time.Time         `json:"time"`
	Commit      string            `json:"commit"` // with "+changes" if the tree was not clean
	Go          string            `json:"go"`
	Kernel      string            `json:"kernel"`
	System      string            `json:"system"`  // distribution
	Machine     string            `json:"machine"` // architecture
	CPU         string            `json:"cpu"`
	CPUs        int               `json:"cpus"`
	MemoryBytes uint64            `json:"memoryBytes"`
	Load        string            `json:"load"` // load averages when the run began
	JIT         string            `json:"jit"`  // bpf_jit_enable and bpf_jit_harden
	Mitigations map[string]string `json:"mitigations"`
}

// Environ looks around.
func Environ() Environment {
	e := Environment{
		Time: time.Now().UTC().Truncate(time.Second), Commit: commit(), Go: runtime.Version(),
		CPUs: runtime.NumCPU(), Machine: runtime.GOARCH, CPU: field("/proc/cpuinfo", "model name", ":"),
		System: strings.Trim(field("/etc/os-release", "PRETTY_NAME", "="), `"`), Load: word("/proc/loadavg"),
		JIT:         "enable=" + word("/proc/sys/net/core/bpf_jit_enable") + " harden=" + word("/proc/sys/net/core/bpf_jit_harden"),
		Mitigations: map[string]string{},
	}
	var name unix.Utsname
	if unix.Uname(&name) == nil {
		e.Kernel = unix.ByteSliceToString(name.Release[:])
	}
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) == nil {
		e.MemoryBytes = uint64(info.Totalram) * uint64(info.Unit)
	}
	files, _ := filepath.Glob("/sys/devices/system/cpu/vulnerabilities/*") // the pattern is right
	for _, file := range files {
		if state := word(file); state != "" && state != "Not affected" {
			e.Mitigations[filepath.Base(file)] = state
		}
	}
	return e
}

// commit is what the binary was built from, or else, in a tree of this project, what the tree holds.
func commit() string {
	var revision, changed string
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			switch {
			case s.Key == "vcs.revision":
				revision = s.Value
			case s.Key == "vcs.modified" && s.Value == "true":
				changed = "+changes"
			}
		}
	}
	if revision != "" {
		return revision + changed
	}
	if _, err := os.Stat("cmd/enibench"); err != nil {
		return ""
	}
	head, err := exec.Command("git", "rev-parse", "HEAD").Output()
	if err != nil {
		return ""
	}
	if out, err := exec.Command("git", "status", "--porcelain", "--untracked-files=no").Output(); err != nil || len(out) > 0 {
		changed = "+changes"
	}
	return strings.TrimSpace(string(head)) + changed
}

// word is what a small file says.
func word(path string) string {
	data, _ := os.ReadFile(path) // what is not there says nothing
	return strings.TrimSpace(string(data))
}

// field is the first value of a name in a file of names and values.
func field(path, name, separator string) string {
	for line := range strings.Lines(word(path)) {
		if key, value, ok := strings.Cut(line, separator); ok && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return ""
}
