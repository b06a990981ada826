// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"runtime"
	"runtime/debug"
)

// Version says from what a binary was built.
type Version struct {
	Version string `json:"version"`
	Commit  string `json:"commit,omitempty"`
	Dirty   bool   `json:"dirty,omitempty"` // the tree had changes that were not committed
	Go      string `json:"go"`
}

// BuildVersion reads what the Go tool chain wrote into the binary.
func BuildVersion() Version {
	v := Version{Version: "unknown", Go: runtime.Version()}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v
	}
	v.Version = info.Main.Version
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			v.Commit = shortHash(s.Value)
		case "vcs.modified":
			v.Dirty = s.Value == "true"
		}
	}
	return v
}
