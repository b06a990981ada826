// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"

	"golang.org/x/sys/unix"
)

// runDir holds one directory per lab.
const runDir = "/run/eniplane-lab"

const stateFile = "lab.json"

// State is what is kept on disk of a lab. It is written before what it names is made, so that Down
// finds everything also after a crash in the middle.
type State struct {
	Plan   Plan
	Enid   string             // path of the agent's binary, "" = the lab has no agents
	Flags  []string           // of the agents
	Source string             `json:",omitempty"` // what the agents get as --feed; "" = the lab's own directory
	Agents map[string]Process // by host
}

// Lab is a lab that exists.
type Lab struct {
	State
	dir string
}

// Paths of a lab. The bpffs is its own mount: unmounting it takes every pin along.
func (l *Lab) bpffs() string                { return filepath.Join(l.dir, "bpf") }
func (l *Lab) wirePins(inst string) string  { return filepath.Join(l.bpffs(), "wires", inst) }
func (l *Lab) logFile(host string) string   { return filepath.Join(l.dir, "log", host+".log") }
func (l *Lab) Namespace(node string) string { return l.Plan.Namespace(node) }

// AgentBPFFS is what the agents of the lab get as --bpffs.
func (l *Lab) AgentBPFFS() string { return filepath.Join(l.bpffs(), "hosts") }

// AgentStateDir is what the agents of the lab get as --state-dir.
func (l *Lab) AgentStateDir() string { return filepath.Join(l.dir, "state") }

// FeedDir is the directory that the agents of the lab watch.
func (l *Lab) FeedDir() string { return filepath.Join(l.dir, "feed") }

// List names the labs that exist, also half made ones, sorted.
func List() ([]string, error) {
	entries, err := os.ReadDir(runDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list labs: %w", err)
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	sort.Strings(names)
	return names, nil
}

// Open finds a lab by name; with an empty name the only one.
func Open(name string) (*Lab, error) {
	if name == "" {
		names, err := List()
		if err != nil {
			return nil, err
		}
		switch len(names) {
		case 0:
			return nil, errors.New("no lab is up; make one with `enictl lab up -f examples/two-hosts-lab.yaml`")
		case 1:
			name = names[0]
		default:
			return nil, fmt.Errorf("several labs are up, choose one with --lab: %s", strings.Join(names, ", "))
		}
	}
	l := &Lab{dir: filepath.Join(runDir, name)}
	data, err := os.ReadFile(filepath.Join(l.dir, stateFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("lab %s is not up: %w", name, err)
	}
	if err != nil {
		return nil, fmt.Errorf("read state of lab %s: %w", name, err)
	}
	if err := json.Unmarshal(data, &l.State); err != nil {
		return nil, fmt.Errorf("decode state of lab %s: %w", name, err)
	}
	return l, nil
}

// save writes the state file whole or not at all.
func (l *Lab) save() error {
	data, err := json.MarshalIndent(l.State, "", "  ")
	if err != nil {
		return fmt.Errorf("encode state of lab %s: %w", l.Plan.Lab, err)
	}
	return replaceFile(filepath.Join(l.dir, stateFile), data)
}

// replaceFile writes a file under a hidden name and renames it.
func replaceFile(path string, data []byte) error {
	hidden := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".new")
	if err := os.WriteFile(hidden, data, 0o644); err != nil {
		return fmt.Errorf("write %s: %w", hidden, err)
	}
	if err := os.Rename(hidden, path); err != nil {
		return fmt.Errorf("replace %s: %w", path, err)
	}
	return nil
}

// errGone says that a lab's directory does not exist, or no more.
var errGone = errors.New("there is no such lab")

// lock keeps two verbs that change a lab apart: it is a lock on the lab's directory, which goes
// away with the lab.
func lock(dir string) (unlock func(), err error) {
	f, err := os.Open(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errGone
	}
	if err != nil {
		return nil, fmt.Errorf("open lab directory: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("lab %s is being changed by another command: %w", filepath.Base(dir), err)
	}
	mine, errMine := f.Stat()
	there, errThere := os.Stat(dir)
	if errMine != nil || errThere != nil || !os.SameFile(mine, there) {
		_ = f.Close()
		return nil, errGone
	}
	return func() { _ = f.Close() }, nil
}
