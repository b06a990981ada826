// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	"github.com/cilium/ebpf"
)

// MapVersion is part of the name of every pin. It grows with a change of any layout
// (testdata/abi.golden), so that a newer agent never reads an older map as its own.
const MapVersion = 1

// PinnedName is the name under which a map is pinned.
func PinnedName(mapName string) string { return fmt.Sprintf("%s_v%d", mapName, MapVersion) }

// Maps that the loader writes besides the tables of a revision.
const (
	MapActive     = bpfMapActive
	MapLive       = bpfMapLive
	MapPorts      = bpfMapPorts
	MapPortHints  = bpfMapPortHints
	MapUplinks    = bpfMapUplinks
	MapCounters   = bpfMapCounters
	MapRuleHits   = bpfMapRuleHits
	MapXDPLease   = bpfMapXdpLease
	MapExits      = bpfMapExits
	MapVTEPWays   = bpfMapVtepWays
	MapENIs       = bpfMapEnis
	MapNextHops   = bpfMapNexthops
	MapHost       = bpfMapHostConf
	MapFlowTables = bpfMapFlowTables
	MapFlows4     = bpfMapFlows4
	MapFlows6     = bpfMapFlows6
	MapFlowTags4  = bpfMapFlowTags4
	MapFlowTags6  = bpfMapFlowTags6
	MapFlowDue4   = bpfMapFlowDue4
	MapFlowDue6   = bpfMapFlowDue6
	MapFlowUsage  = bpfMapFlowUsage
	MapFlowSweep  = bpfMapFlowSweep
	MapHalfOpen   = bpfMapHalfOpen
	MapSweepTimer = bpfMapSweepTimers
	MapImports    = bpfMapFlowImports
	MapProgsTC    = bpfMapProgsTc
	MapProgsXDP   = bpfMapProgsXdp
)

// Programs: links hold the stubs, the slots of the program arrays hold the rest.
const (
	StubPort      = bpfProgStubPort
	StubVXLAN     = bpfProgStubVxlan
	StubUplink    = bpfProgStubUplink
	StubUplinkXDP = bpfProgStubUplinkXdp
	StubShaper    = bpfProgStubShaper
)

// Numbers of the classes in which packets wait (enum shape of bpf/types.h).
const (
	ShapeHandle  = cShapeHandle
	ShapeRoot    = cShapeRoot
	ShapeGroup   = cShapeGroup
	ShapeBuckets = cShapeBuckets
)

// Programs that packets never run.
const (
	SweepStart = bpfProgSweepStart // starts the timer of the sweep, or gives it the text of this version
	FlowImport = bpfProgFlowImport // takes flows of another host into the table
	SweepAll   = bpfProgSweepAll   // a whole pass of the sweep at once, for tests
)

// KnobHalfOpen is the constant that says how many places the rings in MapHalfOpen have.
const KnobHalfOpen = bpfVarHalfOpenSlots

// Slot is a place in one of the two program arrays and the program that belongs there.
type Slot struct {
	Array   string // MapProgsTC or MapProgsXDP
	Index   uint32
	Program string
}

// Slots lists what the program arrays must hold.
func Slots() []Slot {
	return []Slot{
		{Array: MapProgsTC, Index: cProgramPort, Program: bpfProgPort},
		{Array: MapProgsTC, Index: cProgramVXLAN, Program: bpfProgVxlan},
		{Array: MapProgsTC, Index: cProgramUplink, Program: bpfProgUplink},
		{Array: MapProgsTC, Index: cProgramShaper, Program: bpfProgShaper},
		{Array: MapProgsXDP, Index: cProgramUplink, Program: bpfProgUplinkXdp},
	}
}

// LoadSpec returns the object that is part of this binary.
func LoadSpec() (*ebpf.CollectionSpec, error) {
	spec, err := loadBpf()
	if err != nil {
		return nil, fmt.Errorf("read the embedded BPF object: %w", err)
	}
	return spec, nil
}

// ObjectHash tells the object of this binary from those of other builds.
func ObjectHash() string {
	sum := sha256.Sum256(_BpfBytes)
	return hex.EncodeToString(sum[:8])
}

// Index encodes the key of an array.
func Index(i uint32) string { return keyOf(&i) }

// ParseIndex decodes the key of an array.
func ParseIndex(key string) (uint32, error) {
	var i uint32
	err := fromBytes(&i, []byte(key))
	return i, err
}

// Live is the device and the READY mark of an ENI; the zero value closes it.
type Live struct {
	Incarnation uint32
	Ifindex     uint32
	MTU         uint32
	XDP         bool // the device takes frames from XDP
	Closed      bool // prepared for an ENI that moves here
	Left        bool // of an ENI that has moved away
	CapIn       bool // the device has classes for what the ENI receives
	CapOut      bool // all that it sends goes by the shaper
	CapEIPs     bool // what it sends to the internet does
	Shaper      uint32
}

// liveFlag is a bit of enum live_flag and the field that it stands for.
type liveFlag struct {
	bit uint32
	on  *bool
}

func (l *Live) flags() []liveFlag {
	return []liveFlag{
		{cLiveXdp, &l.XDP}, {cLiveCapIn, &l.CapIn}, {cLiveCapOut, &l.CapOut}, {cLiveCapEips, &l.CapEIPs},
		{cLiveClosed, &l.Closed}, {cLiveLeft, &l.Left},
	}
}

// Encode returns the value for MapLive.
func (l Live) Encode() []byte {
	v := bpfLive{Incarnation: l.Incarnation, Ifindex: l.Ifindex, Mtu: l.MTU, Shaper: l.Shaper}
	for _, f := range l.flags() {
		if *f.on {
			v.Flags |= f.bit
		}
	}
	return bytesOf(&v)
}

// DecodeLive is the reverse of Live.Encode.
func DecodeLive(value []byte) (Live, error) {
	var v bpfLive
	err := fromBytes(&v, value)
	l := Live{Incarnation: v.Incarnation, Ifindex: v.Ifindex, MTU: v.Mtu, Shaper: v.Shaper}
	for _, f := range l.flags() {
		*f.on = v.Flags&f.bit != 0
	}
	return l, err
}

// EncodePort returns the value for MapPorts.
func EncodePort(eni, incarnation uint32) []byte {
	return bytesOf(&bpfPort{Eni: eni, Incarnation: incarnation})
}

// PortENI reads the index of the ENI from an entry of MapPorts.
func PortENI(value []byte) (uint32, error) {
	var v bpfPort
	err := fromBytes(&v, value)
	return v.Eni, err
}

// EncodeUplink returns the value for MapUplinks.
func EncodeUplink(mac [6]byte) []byte { return bytesOf(&bpfUplink{Mac: mac}) }

// Incarnation reads the incarnation from one half of an entry of MapENIs.
func Incarnation(half []byte) (uint32, error) {
	var slots bpfEnis
	conf := &slots.V[0]
	err := fromBytes(conf, half)
	return conf.Incarnation, err
}

// NextHopChange says what an edit of a next hop does to packets that are under way.
type NextHopChange int

// The changes of a next hop.
const (
	NextHopMoved  NextHopChange = iota // the same ENI with the same addresses, elsewhere: one store
	NextHopJudge                       // the same ENI, but flows must be judged again
	NextHopReused                      // another ENI
)

// CompareNextHops classifies the edit of an entry of MapNextHops.
func CompareNextHops(from, to []byte) (NextHopChange, error) {
	var a, b bpfNexthop
	if err := fromBytes(&a, from); err != nil {
		return 0, err
	}
	if err := fromBytes(&b, to); err != nil {
		return 0, err
	}
	switch {
	case a.Vni != b.Vni || a.Mac != b.Mac:
		return NextHopReused, nil
	case a.Generation != b.Generation || a.Subnet != b.Subnet:
		return NextHopJudge, nil
	}
	return NextHopMoved, nil
}
