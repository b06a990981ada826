// SPDX-License-Identifier: Apache-2.0

package flowtable

// The structs of bpf/flow_layout.h. layout_test.go holds them against the object's type information.

const (
	ways      = 8
	tickShift = 28
	grace     = 2 // ticks from the deadline of a slot to its reuse

	busy         = 1
	stateShift   = 1
	stateMask    = 7
	flagsShift   = 4
	flagsMask    = 255
	colorShift   = 12
	versionShift = 13

	dueSets = 16 // sets per line of flow_due4, flow_due6
)

type header struct {
	Seed     uint64
	Words    [10]uint32
	Sets     uint32
	MaxFlows uint32
	Tagged   uint32
	Pad      uint32
}

type line struct {
	Tags    uint64
	Expires [ways]uint32
	Lock    uint32
	Pad     [5]uint32
}

type body struct {
	Eni               uint32
	Incarnation       uint32
	Generation        uint32
	Nexthop           uint32
	NexthopGeneration uint32
	Rule              uint32
	Opened            uint32
	Reason            uint8
	Pad               uint8
	Place             uint16
	Packets           [2]uint64
	Bytes             [2]uint64
}

type key4 struct {
	ScopeClass uint32
	Local      [4]uint8
	Remote     [4]uint8
	LocalPort  uint16
	RemotePort uint16
}

type key6 struct {
	ScopeClass uint32
	Local      [16]uint8
	Remote     [16]uint8
	LocalPort  uint16
	RemotePort uint16
}

type dueLine struct {
	Due [dueSets]uint32
}

type usage struct {
	Held       [2]uint64
	Color      uint32
	Guaranteed uint32
	Ring       uint32
	Opened     [2]uint32
	Pad        [7]uint32
}

type sweepState struct {
	Borrowed int64
	Pad      [7]uint64
	Asked    uint32
	Done     uint32
	Full     uint32
	Answers  uint32
	Unsure   uint32
	Passes   uint32
	Turns    uint32
	Running  uint32
	Family   uint32
	Line     uint32
	Begun    uint32
	Pad2     [5]uint32
}

type slot4 struct {
	Control uint32
	Key     key4
	Nat     [4]uint8
	Pad     [4]uint8
	Seq     [2]uint16
	Body    body
}

type slot6 struct {
	Control uint32
	Key     key6
	Nat     [16]uint8
	Seq     [2]uint16
	Body    body
}

type set4 struct {
	Line  line
	Slots [ways]slot4
}

type set6 struct {
	Line  line
	Slots [ways]slot6
}
