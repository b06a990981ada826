// SPDX-License-Identifier: Apache-2.0

package pkttest

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"time"

	"github.com/cilium/ebpf"
)

// unit is the side door into the substitutes of helpers: what they give and what they noted.
type unit struct {
	m            *ebpf.Map
	given, asked int // offsets
	size         int
}

func openUnit(coll *ebpf.Collection) (unit, error) {
	helpers, err := loadHelpers()
	if err != nil {
		return unit{}, fmt.Errorf("load the substitutes of helpers: %w", err)
	}
	u := unit{
		m:     coll.Maps[unitMap],
		given: int(helpers.Variables[helpersVarGiven].Offset),
		asked: int(helpers.Variables[helpersVarAsked].Offset),
	}
	u.size = int(u.m.ValueSize())
	return u, nil
}

// give sets what the next run finds, and forgets what the last one asked for.
func (u unit) give(tunnel *Tunnel, local netip.Addr, later time.Duration) error {
	given := helpersGiven{Later: uint64(later)}
	if tunnel != nil {
		given.Vni = tunnel.VNI
		given.Remote = hostOrder(netip.MustParseAddr(tunnel.Remote))
		given.Local = hostOrder(local)
		given.Policy = tunnel.Policy
	}
	value := make([]byte, u.size)
	if _, err := binary.Encode(value[u.given:], binary.LittleEndian, &given); err != nil {
		return fmt.Errorf("encode what a program is given: %w", err)
	}
	if err := u.m.Put(uint32(0), value); err != nil {
		return fmt.Errorf("write what a program is given: %w", err)
	}
	return nil
}

// ask reads what the last run asked for.
func (u unit) ask() (helpersAsked, error) {
	var asked helpersAsked
	value, err := u.m.LookupBytes(uint32(0))
	if err != nil {
		return asked, fmt.Errorf("read what the program asked for: %w", err)
	}
	if _, err := binary.Decode(value[u.asked:], binary.LittleEndian, &asked); err != nil {
		return asked, fmt.Errorf("decode what the program asked for: %w", err)
	}
	return asked, nil
}

// hostOrder is an IPv4 address as struct bpf_tunnel_key holds it.
func hostOrder(a netip.Addr) uint32 {
	b := a.As4()
	return binary.BigEndian.Uint32(b[:])
}

func fromHostOrder(v uint32) netip.Addr {
	return netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, v)))
}

// tunnel is what the program set, nil if it set none.
func tunnelOf(a helpersAsked) *Tunnel {
	if a.Vni == 0 && a.Remote == 0 {
		return nil
	}
	return &Tunnel{VNI: a.Vni, Remote: fromHostOrder(a.Remote).String(), Policy: a.Policy}
}
