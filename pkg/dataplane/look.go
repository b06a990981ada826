// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/cilium/ebpf"
)

// Look reads single entries of the tables, of the revision that was in force when it was made.
type Look struct {
	Revision uint64
	maps     *Maps
	slot     int
}

// Look returns a Look at the revision in force.
func (m *Maps) Look() (*Look, error) {
	revision, slot, err := m.Active()
	if err != nil {
		return nil, err
	}
	return &Look{Revision: revision, maps: m, slot: slot}, nil
}

// get reads an entry; false if there is none.
func get[K, V any](l *Look, name string, key *K, value *V) (bool, error) {
	b, err := l.maps.Map(name).LookupBytes(bytesOf(key))
	if err != nil {
		return false, fmt.Errorf("read an entry of %s: %w", name, err)
	}
	if b == nil {
		return false, nil
	}
	return true, fromBytes(value, b)
}

// ENIFacts is what the tables say of an ENI of this host.
type ENIFacts struct {
	Index    uint32
	VNI      uint32
	NextHop  uint32
	MAC      [6]byte
	Gateway4 netip.Addr // of its subnet; invalid = it has none of the family
	Gateway6 netip.Addr
	NACL     bool   // its subnet has a network ACL
	SGIn     uint32 // rule sets, as compile.Names has them; 0 = no rules
	SGOut    uint32
	NACLIn   uint32
	NACLOut  uint32
	Ready    bool
	Ifindex  uint32 // of its device, if it is ready
	MTU      uint32
}

// ENI reads the configuration of an ENI of this host by its index; nil = there is none.
func (l *Look) ENI(index uint32) (*ENIFacts, error) {
	var both bpfEnis
	var live bpfLive
	if _, err := get(l, bpfMapEnis, &index, &both); err != nil {
		return nil, err
	}
	c := &both.V[l.slot]
	if c.Flags&cENIPresent == 0 {
		return nil, nil
	}
	if _, err := get(l, bpfMapLive, &index, &live); err != nil {
		return nil, err
	}
	e := &ENIFacts{
		Index: index, VNI: c.Vni, NextHop: c.Nexthop, MAC: c.Mac, NACL: c.Flags&cENINACL != 0,
		SGIn: c.SgIn.Verdicts &^ cRulesetWide, SGOut: c.SgOut.Verdicts &^ cRulesetWide,
		NACLIn: c.NaclIn.Verdicts &^ cRulesetWide, NACLOut: c.NaclOut.Verdicts &^ cRulesetWide,
		Ready: live.Incarnation != 0 && live.Incarnation == c.Incarnation, Ifindex: live.Ifindex, MTU: live.Mtu,
	}
	if c.Gateway4 != [4]byte{} {
		e.Gateway4 = netip.AddrFrom4(c.Gateway4)
	}
	if c.Gateway6 != [16]byte{} {
		e.Gateway6 = netip.AddrFrom16(c.Gateway6)
	}
	return e, nil
}

// EndpointFacts is who has a private address.
type EndpointFacts struct {
	NextHop uint32
	Gateway bool // of the subnet
}

// Endpoint finds a private address of a VPC; nil = nobody has it.
func (l *Look) Endpoint(vni uint32, addr netip.Addr) (*EndpointFacts, error) {
	var both bpfEndpoints
	found, err := false, error(nil)
	if addr.Is4() {
		found, err = get(l, bpfMapEndpoints4, &bpfAddrKey4{Vni: vni, Addr: addr.As4()}, &both)
	} else {
		found, err = get(l, bpfMapEndpoints6, &bpfAddrKey6{Vni: vni, Addr: addr.As16()}, &both)
	}
	v := &both.V[l.slot]
	if err != nil || !found || v.Flags&cEpPresent == 0 {
		return nil, err
	}
	return &EndpointFacts{NextHop: v.Nexthop, Gateway: v.Flags&cEpGateway != 0}, nil
}

// NextHopFacts is where an ENI is, or the internet.
type NextHopFacts struct {
	Index    uint32
	ENI      uint32     // index, if it is on this host
	VTEP     netip.Addr // of its host, if it is on another one
	Internet bool
	Gateway  bool // the internet, by a gateway, of which VTEP is the address
	VNI      uint32
	MAC      [6]byte
}

// NextHop reads a next hop; nil = it leads nowhere.
func (l *Look) NextHop(index uint32) (*NextHopFacts, error) {
	var v bpfNexthop
	if found, err := get(l, bpfMapNexthops, &index, &v); err != nil || !found {
		return nil, err
	}
	n := &NextHopFacts{Index: index, VNI: v.Vni, MAC: v.Mac}
	switch v.Kind {
	case cNhLocal, cNhMoved: // that has moved is judged here, too
		n.ENI = uint32(v.Eni)
	case cNhVTEP:
		n.VTEP = netip.AddrFrom4(v.Vtep)
	case cNhGateway:
		n.VTEP, n.Gateway = netip.AddrFrom4(v.Vtep), true
	case cNhInternet:
		n.Internet = true
	default:
		return nil, nil
	}
	return n, nil
}

// EIP finds out which ENI of this host has an EIP, and for which private IP; 0 = none.
func (l *Look) EIP(addr netip.Addr) (eni uint32, private netip.Addr, err error) {
	if addr.Is4() {
		var both bpfEipsIn4
		found, err := get(l, bpfMapEipIn4, &bpfEipKey4{Addr: addr.As4()}, &both)
		if v := &both.V[l.slot]; err == nil && found && v.Flags != 0 {
			return v.Eni, netip.AddrFrom4(v.Addr), nil
		}
		return 0, netip.Addr{}, err
	}
	var both bpfEipsIn6
	found, err := get(l, bpfMapEipIn6, &bpfEipKey6{Addr: addr.As16()}, &both)
	if v := &both.V[l.slot]; err == nil && found && v.Flags != 0 {
		return v.Eni, netip.AddrFrom16(v.Addr), nil
	}
	return 0, netip.Addr{}, err
}

// EIPOf finds the EIP of a private IP of an ENI of this host; invalid = it has none.
func (l *Look) EIPOf(vni uint32, private netip.Addr) (netip.Addr, error) {
	if private.Is4() {
		var both bpfEipsOut4
		found, err := get(l, bpfMapEipOut4, &bpfAddrKey4{Vni: vni, Addr: private.As4()}, &both)
		if v := &both.V[l.slot]; err == nil && found && v.Flags != 0 {
			return netip.AddrFrom4(v.Addr), nil
		}
		return netip.Addr{}, err
	}
	var both bpfEipsOut6
	found, err := get(l, bpfMapEipOut6, &bpfAddrKey6{Vni: vni, Addr: private.As16()}, &both)
	if v := &both.V[l.slot]; err == nil && found && v.Flags != 0 {
		return netip.AddrFrom16(v.Addr), nil
	}
	return netip.Addr{}, err
}

// ThisHost is what the tables say of the host itself.
type ThisHost struct {
	VTEP         netip.Addr
	VXLANIfindex uint32
	GatewayMAC   [6]byte
}

// Host reads it.
func (l *Look) Host() (ThisHost, error) {
	var both bpfHostConfs
	var zero uint32
	if _, err := get(l, bpfMapHostConf, &zero, &both); err != nil {
		return ThisHost{}, err
	}
	v := &both.V[l.slot]
	return ThisHost{VTEP: netip.AddrFrom4(v.Vtep), VXLANIfindex: v.VxlanIfindex, GatewayMAC: v.GatewayMac}, nil
}

// Uplink is a device that the host shares with its ENIs.
type Uplink struct {
	Ifindex uint32
	MAC     [6]byte
}

// Uplinks lists them, sorted.
func (l *Look) Uplinks() ([]Uplink, error) {
	entries, err := ReadMap(l.maps.Map(MapUplinks))
	if err != nil {
		return nil, fmt.Errorf("read uplinks: %w", err)
	}
	var list []Uplink
	for _, e := range entries {
		list = append(list, Uplink{binary.LittleEndian.Uint32(e.Key), [6]byte(e.Value[:6])})
	}
	slices.SortFunc(list, func(a, b Uplink) int { return int(a.Ifindex) - int(b.Ifindex) })
	return list, nil
}

// ProgramsInForce returns the ids of the programs that the stubs call, by name; those that are missing are left out.
func (m *Maps) ProgramsInForce() (map[string]ebpf.ProgramID, error) {
	ids := map[string]ebpf.ProgramID{}
	for _, slot := range Slots() {
		var id uint32
		err := m.Map(slot.Array).Lookup(slot.Index, &id)
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read slot %d of %s: %w", slot.Index, slot.Array, err)
		}
		ids[slot.Program] = ebpf.ProgramID(id)
	}
	return ids, nil
}
