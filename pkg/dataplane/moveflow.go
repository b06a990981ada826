// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"errors"
	"fmt"
	"net/netip"
	"unsafe"

	"github.com/eniplane/eniplane/pkg/dataplane/flowtable"
)

// ImportBatch is how many flows one run of the program FlowImport takes.
const ImportBatch = cFlowImports

// MovedFlow is a flow as any host knows it: without the numbers of one.
type MovedFlow struct {
	Class                 uint8 // enum flow_class
	Local, Remote         netip.Addr
	LocalPort, RemotePort uint16
	NAT                   netip.Addr // EIP of the local address; the zero address if there is none
	State, Flags, Reason  uint8
	Remaining, Age        uint32 // ticks: to its deadline, since it was opened
	Seq                   [2]uint16
	Packets, Bytes        [2]uint64
}

// ImportedFlow is one with the numbers of this host.
type ImportedFlow struct {
	MovedFlow
	ENI, Incarnation uint32
	VNI              uint32
	NextHop          uint32 // 0 = not known here
	Rule             uint32
}

// What comes of another host must not be more than a host has.
const (
	maxTicks   = 432000 << 2 // five days, the longest that a flow may be idle
	knownClass = cClassInternet | cClassTransit | 7
)

// Check says what is wrong with a flow of another host.
func (f *MovedFlow) Check() error {
	switch protocol := f.Class & 7; {
	case f.Class&^knownClass != 0 || protocol > cClassOther || f.Class&(cClassInternet|cClassTransit) == cClassInternet|cClassTransit:
		return fmt.Errorf("flow of class %#x", f.Class)
	case !f.Local.IsValid() || !f.Remote.IsValid() || f.Local.Is4() != f.Remote.Is4() || f.Local.Is4In6() || f.Remote.Is4In6() ||
		f.Local.Zone() != "" || f.Remote.Zone() != "":
		return fmt.Errorf("flow between %v and %v", f.Local, f.Remote)
	case f.NAT.IsValid() && (f.NAT.Is4() != f.Local.Is4() || f.NAT.Zone() != ""):
		return fmt.Errorf("flow of %v with the EIP %v", f.Local, f.NAT)
	case f.State < cFlowOpening || f.State > cFlowBlocked:
		return fmt.Errorf("flow in state %d", f.State)
	case f.Remaining > maxTicks:
		return fmt.Errorf("flow that lives for %v", flowtable.Ticks(f.Remaining))
	}
	return nil
}

// Transit tells whether the local address is not the ENI's own.
func (f *MovedFlow) Transit() bool { return f.Class&cClassTransit != 0 }

// NewMovedFlow takes a flow out of a table.
func NewMovedFlow(f *flowtable.Flow, now uint32) MovedFlow {
	return MovedFlow{
		Class: f.Class, Local: f.Local, Remote: f.Remote, LocalPort: f.LocalPort, RemotePort: f.RemotePort, NAT: f.NAT,
		State: f.State, Flags: f.Flags, Reason: f.Reason,
		Remaining: f.Expires - min(now, f.Expires), Age: now - min(f.Opened, now),
		Seq: f.Seq, Packets: f.Packets, Bytes: f.Bytes,
	}
}

// KnowsPeer tells whether the next hop of a flow is still the one that it was judged for.
func KnowsPeer(f *flowtable.Flow, generation, since uint32) bool {
	return f.NexthopGeneration == generation || f.Flags&cFlowForeign != 0 && since != 0 && f.NexthopGeneration >= since
}

// NextHopInternet is the next hop of flows with the internet.
const NextHopInternet = cNexthopInternet

// ErrImportLayout is wrapped when the memory is not that of the map.
var ErrImportLayout = errors.New("the memory of imports has another size")

// PutImports writes flows into the memory of MapImports.
func PutImports(memory []byte, flows []ImportedFlow) error {
	all, err := importsIn(memory)
	if err != nil || len(flows) > ImportBatch {
		return errors.Join(err, ErrImportLayout)
	}
	all.Count = uint32(len(flows))
	for i := range flows {
		f, to := &flows[i], &all.Flows[i]
		scope := f.VNI
		if f.Transit() {
			scope = f.ENI
		}
		to.Eni, to.Incarnation, to.Nexthop, to.Rule = f.ENI, f.Incarnation, f.NextHop, f.Rule
		to.State, to.Flags, to.Reason = uint32(f.State), uint32(f.Flags), uint32(f.Reason)
		to.Remaining, to.Age, to.Result = f.Remaining, f.Age, uint32(ReasonHelper)
		to.Seq, to.Packets, to.Bytes, to.Nat, to.V6 = f.Seq, f.Packets, f.Bytes, [16]uint8{}, 0
		if f.NAT.IsValid() {
			copy(to.Nat[:], f.NAT.AsSlice())
		}
		if f.Local.Is6() {
			to.V6 = 1
			to.Key6.ScopeClass, to.Key6.Local, to.Key6.Remote = scope<<8|uint32(f.Class), f.Local.As16(), f.Remote.As16()
			to.Key6.LocalPort, to.Key6.RemotePort = f.LocalPort, f.RemotePort
			continue
		}
		to.Key4.ScopeClass, to.Key4.Local, to.Key4.Remote = scope<<8|uint32(f.Class), f.Local.As4(), f.Remote.As4()
		to.Key4.LocalPort, to.Key4.RemotePort = f.LocalPort, f.RemotePort
	}
	return nil
}

// ImportResults reads what became of flows.
func ImportResults(memory []byte, n int) ([]Reason, error) {
	all, err := importsIn(memory)
	if err != nil {
		return nil, err
	}
	results := make([]Reason, n)
	for i := range results {
		results[i] = Reason(all.Flows[i].Result)
	}
	return results, nil
}

func importsIn(memory []byte) (*bpfFlowImports, error) {
	if uintptr(len(memory)) < unsafe.Sizeof(bpfFlowImports{}) {
		return nil, ErrImportLayout
	}
	return (*bpfFlowImports)(unsafe.Pointer(&memory[0])), nil
}
