// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/eniplane/eniplane/pkg/api"
	"github.com/eniplane/eniplane/pkg/feed"
)

// localENIs returns the UIDs of the ENIs that are attached on a host, by name.
func localENIs(objects *api.Objects, host string) map[string]string {
	local := map[string]string{}
	for name, eni := range objects.ENIs {
		if objects.HostOf(eni) == host {
			local[name] = eni.UID
		}
	}
	return local
}

// vanished lists the ENIs of which a revision no longer has the object. One that is attached
// elsewhere or nowhere is still there; one with another UID is another object.
func vanished(local map[string]string, objects *api.Objects) []string {
	var gone []string
	for _, name := range slices.Sorted(maps.Keys(local)) {
		if eni, ok := objects.ENIs[name]; !ok || eni.UID != local[name] {
			gone = append(gone, name)
		}
	}
	return gone
}

// brakeError refuses a revision that deletes too much (invariant 7).
type brakeError struct {
	gone  []string
	of    int
	ratio float64
	force string // how to say that it is meant
}

func (e *brakeError) Error() string {
	const shown = 10
	names := strings.Join(e.gone[:min(len(e.gone), shown)], ", ")
	if more := len(e.gone) - shown; more > 0 {
		names += fmt.Sprintf(" and %d more", more)
	}
	return fmt.Sprintf("revision refused: it deletes %d of the %d ENIs of this host (%s), more than --max-delete-ratio %v allows; "+
		"if that is meant, %s", len(e.gone), e.of, names, e.ratio, e.force)
}

// brake returns an error if going from the ENIs of this host to the objects deletes too many.
func brake(local map[string]string, objects *api.Objects, ratio float64, force string) error {
	gone := vanished(local, objects)
	if !feed.Braked(len(gone), len(local), ratio) {
		return nil
	}
	return &brakeError{gone: gone, of: len(local), ratio: ratio, force: force}
}
