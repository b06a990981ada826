// SPDX-License-Identifier: Apache-2.0

package dataplane

import "fmt"

// Reason says what became of a packet: enum reason of bpf/reason.h, which is the one list.
type Reason uint32

// Reasons returns all reasons in the order of their numbers.
func Reasons() []Reason {
	all := make([]Reason, len(reasonTable))
	for i := range all {
		all[i] = Reason(i)
	}
	return all
}

// ParseReason finds a reason by its name, for example SG_DENIED.
func ParseReason(name string) (Reason, error) {
	for i, r := range reasonTable {
		if r.name == name {
			return Reason(i), nil
		}
	}
	return 0, fmt.Errorf("unknown reason %q", name)
}

// String returns the name as users see it, for example SG_DENIED.
func (r Reason) String() string {
	if int(r) >= len(reasonTable) {
		return fmt.Sprintf("REASON_%d", uint32(r))
	}
	return reasonTable[r].name
}

// Help explains the reason in a few words.
func (r Reason) Help() string {
	if int(r) >= len(reasonTable) {
		return "unknown to this version"
	}
	return reasonTable[r].help
}

// IsDrop tells whether the packet ended here against its sender's wish. The reasons that are no
// drops come first in the list.
func (r Reason) IsDrop() bool {
	return r >= ReasonMalformed
}

// MarshalText makes reasons appear by name in JSON.
func (r Reason) MarshalText() ([]byte, error) {
	return []byte(r.String()), nil
}
