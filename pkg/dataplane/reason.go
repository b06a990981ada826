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
func (r Reason) String() string { return r.text().name }

// reasonText is what bpf/reason.h says of a reason.
type reasonText struct{ name, help, kind, stage, why, do string }

// text is what is said of a reason; of one of a newer version nothing is known.
func (r Reason) text() reasonText {
	if int(r) >= len(reasonTable) {
		return reasonText{
			name: fmt.Sprintf("REASON_%d", uint32(r)), help: "unknown to this version", kind: "fault", stage: "-",
			why: "The programs are of a newer version than this one.", do: "Use the version of the agent.",
		}
	}
	return reasonTable[r]
}

// Explanation is all that is known of a reason, for people.
type Explanation struct {
	Reason Reason `json:"reason"`
	Number uint32 `json:"number"`
	Help   string `json:"help"`
	// Kind is none (no drop), policy (somebody wrote a rule or a route, or did not), sender (who sent the packet is at
	// fault), limit (more than may be) or fault (something is wrong with hosts or feed).
	Kind  string `json:"kind"`
	Stage string `json:"stage"` // at which it arises
	Why   string `json:"why"`
	Do    string `json:"do"`
}

// Explain says why a packet has come to this and what to do about it.
func (r Reason) Explain() Explanation {
	t := r.text()
	return Explanation{Reason: r, Number: uint32(r), Help: t.help, Kind: t.kind, Stage: t.stage, Why: t.why, Do: t.do}
}

// Stage is the stage of the packet path at which the reason arises.
func (r Reason) Stage() string { return r.text().stage }

// Help explains the reason in a few words.
func (r Reason) Help() string { return r.text().help }

// IsDrop tells whether the packet ended here against its sender's wish. The reasons that are no
// drops come first in the list.
func (r Reason) IsDrop() bool {
	return r >= ReasonMalformed
}

// MarshalText makes reasons appear by name in JSON.
func (r Reason) MarshalText() ([]byte, error) {
	return []byte(r.String()), nil
}
