// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"github.com/eniplane/eniplane/pkg/compile"
)

// HostFacts is what a host knows of its own devices and the feed does not.
type HostFacts struct {
	VXLANIfindex uint32
	OverlayMTU   uint32 // largest inner IP packet that the underlay carries
}

// Content is what a map must hold: key to value, both as the kernel sees them. In a slotted table
// the value is one of the two halves.
type Content map[string][]byte

// Tables is what the maps of one host must hold for one revision, by the name of the map.
type Tables struct {
	Revision uint64
	Contents map[string]Content
}

// Encode lays out a compiled state as the contents of the maps.
func Encode(st *compile.State, facts HostFacts) (*Tables, error) {
	return nil, errNotBuilt
}
