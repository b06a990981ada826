// SPDX-License-Identifier: Apache-2.0

package dataplane

// Direction says which way a packet crosses an ENI's port, seen from the ENI.
type Direction uint8

// The directions, as in enum direction of bpf/types.h.
const (
	Out Direction = 0
	In  Direction = 1
)

// String returns "out" or "in".
func (d Direction) String() string {
	if d == Out {
		return "out"
	}
	return "in"
}

// MarshalText makes directions appear by name in JSON.
func (d Direction) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// Counter is what became of the packets of one ENI in one direction, summed over the CPUs.
// Reason CONTINUE counts all packets that came in.
type Counter struct {
	ENI       uint32    `json:"eni"` // index; 0 is the host itself
	Direction Direction `json:"direction"`
	Reason    Reason    `json:"reason"`
	Packets   uint64    `json:"packets"` // wire segments
	Bytes     uint64    `json:"bytes"`
}

// Counters calls fn with each counter of the given ENIs (indexes; none = all) that is not zero,
// sorted by ENI, direction and reason, until fn returns false.
func (m *Maps) Counters(fn func(Counter) bool, enis ...uint32) error { return errNotBuilt }
