// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/eniplane/eniplane/pkg/api"
	"github.com/eniplane/eniplane/pkg/compile"
)

// namer prints ids by name; what has no name appears as its number.
type namer struct{ compile.Names }

func pick(names map[uint32]string, id uint32) string {
	if name := names[id]; name != "" {
		return name
	}
	return fmt.Sprint(id)
}

// optional is pick for ids of which 0 means none.
func optional(names map[uint32]string, id uint32) string {
	if id == 0 {
		return ""
	}
	return pick(names, id)
}

func (n namer) eni(id uint32) string     { return optional(n.ENIs, id) }
func (n namer) vpc(vni uint32) string    { return pick(n.VPCs, vni) }
func (n namer) subnet(id uint32) string  { return optional(n.Subnets, id) }
func (n namer) ruleset(id uint32) string { return optional(n.Rulesets, id&^cRulesetWide) }

func (n namer) nexthop(id uint32) string {
	switch id {
	case cNexthopNone:
		return ""
	case cNexthopInternet:
		return "internet"
	}
	return pick(n.NextHops, id)
}

func (n namer) groups(id uint32) string {
	if id == 0 {
		return ""
	}
	if names := n.GroupSets[id]; len(names) > 0 {
		return strings.Join(names, ",")
	}
	return fmt.Sprint(id)
}

func (n namer) table(id uint32) string {
	return optional(n.Tables, id)
}

func (n namer) rule(id uint32) string { return n.Rule(id) }

func (n namer) host(vtep netip.Addr) string { return n.Hosts[vtep.String()] }

func macText(b [6]uint8) string { return net.HardwareAddr(b[:]).String() }

func addr4(b [4]uint8) string { return netip.AddrFrom4(b).String() }

func addr6(b [16]uint8) string { return netip.AddrFrom16(b).String() }

func protocolName(number uint8) string { return api.Protocol{Number: number}.String() }
