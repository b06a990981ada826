// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Change is one step from what is there to what should be: a command of ip(8), which Apply carries out without it. Only
// Apply marks addresses as ours: many an ip(8) cannot.
type Change struct {
	Command string
	do      func() error
}

// Changes lists what must be done, in order: nothing is taken away before what replaces it is there. A second run
// finds nothing.
func Changes(want *State, k *Kernel) []Change {
	c := changes{k: k}
	for _, l := range k.Links {
		if slices.Contains(want.Devices, l.Name) {
			c.device(l)
		}
	}
	for _, a := range want.Addresses {
		if !k.has(a.Device, a.Prefix.Addr()) {
			c.address(a, true)
		}
	}
	var replaced []Route
	for _, r := range want.Routes {
		if !slices.Contains(k.Routes, r) {
			c.route(r, true)
			replaced = append(replaced, r)
		}
	}
	for _, r := range want.Rules {
		if !slices.Contains(k.Rules, r) {
			c.rule(r, true)
		}
	}
	for _, r := range k.Rules {
		if !slices.Contains(want.Rules, r) {
			c.rule(r, false)
		}
	}
	for _, r := range k.Routes {
		inPlace := func(n Route) bool { return n.Table == r.Table && n.Dst == r.Dst && n.Metric == r.Metric }
		if !slices.Contains(want.Routes, r) && !slices.ContainsFunc(replaced, inPlace) {
			c.route(r, false)
		}
	}
	for _, a := range k.Addresses {
		same := func(w Address) bool { return w.Device == a.Device && w.Prefix.Addr() == a.Prefix.Addr() }
		if a.Ours && !slices.ContainsFunc(want.Addresses, same) {
			c.address(a, false)
		}
	}
	if len(want.Devices) == 0 {
		for _, l := range k.Links {
			if l.Group == group {
				c.add(fmt.Sprintf("ip link set dev %s group default", l.Name), func() error { return setGroup(l.Index, 0) })
			}
		}
	}
	return c.list
}

// Removal lists what takes away all that was made. Devices stay up.
func Removal(k *Kernel) []Change { return Changes(&State{}, k) }

// changes collects changes.
type changes struct {
	k    *Kernel
	list []Change
}

func (c *changes) add(command string, do func() error) {
	c.list = append(c.list, Change{Command: command, do: do})
}

func (c *changes) device(l Link) {
	if l.Group == 0 {
		c.add(fmt.Sprintf("ip link set dev %s group %d", l.Name, group), func() error { return setGroup(l.Index, group) })
	}
	if !l.Up {
		c.add(fmt.Sprintf("ip link set dev %s up", l.Name), func() error { return setUp(l.Index) })
	}
}

func (c *changes) address(a Address, add bool) {
	verb, flags := "del", ""
	if add {
		verb = "add"
		if a.Prefix.Addr().Is6() {
			flags += " nodad"
		}
		if a.Prefix.IsSingleIP() {
			flags += " noprefixroute"
		}
	}
	index := c.k.index(a.Device)
	c.add(fmt.Sprintf("ip address %s %s dev %s%s", verb, a.Prefix, a.Device, flags), func() error { return changeAddress(index, a.Prefix, add) })
}

func (c *changes) route(r Route, add bool) {
	verb := "del"
	if add {
		verb = "replace"
	}
	dst, way := r.Dst.String(), " scope link"
	if r.Dst.Bits() == 0 {
		dst = "default"
	}
	if r.Via.IsValid() {
		way = " onlink"
		dst += " via " + r.Via.String()
	} else if r.Dst.Addr().Is6() {
		way = ""
	}
	command := fmt.Sprintf("ip%s route %s %s dev %s src %s table %s", family(r.Dst.Addr()), verb, dst, r.Device, r.Source, tableName(r.Table))
	if r.Metric > 0 {
		command += fmt.Sprintf(" metric %d", r.Metric)
	}
	if add {
		command += way
	}
	index := c.k.index(r.Device)
	c.add(fmt.Sprintf("%s proto %d", command, Protocol), func() error { return changeRoute(r, index, add) })
}

func (c *changes) rule(r Rule, add bool) {
	verb := "del"
	if add {
		verb = "add"
	}
	version := ""
	if r.V6 {
		version = " -6"
	}
	words := []string{fmt.Sprintf("ip%s rule %s priority %d", version, verb, r.Priority)}
	if r.From.IsValid() {
		words = append(words, "from "+r.From.Addr().String(), fmt.Sprintf("lookup %d", r.Table))
	} else {
		words = append(words, "lookup main suppress_prefixlength 0", fmt.Sprintf("suppress_ifgroup %d", group))
	}
	words = append(words, fmt.Sprintf("protocol %d", Protocol))
	c.add(strings.Join(words, " "), func() error { return changeRule(r, add) })
}

// family is the option of ip(8) that it needs where nothing else tells the family.
func family(a netip.Addr) string {
	if a.Is6() {
		return " -6"
	}
	return ""
}

func tableName(table int) string {
	if table == tableMain {
		return "main"
	}
	return fmt.Sprint(table)
}

// Apply carries changes out. What an IPv6 address must be waited for is waited for: the kernel refuses it as the source
// of a route as long as it is tentative.
func Apply(list []Change) error {
	for i, c := range list {
		if strings.Contains(c.Command, " -6 route replace") {
			if err := settle(); err != nil {
				return err
			}
		}
		if err := c.do(); err != nil {
			return fmt.Errorf("%s: %w (%d of %d changes are made; run it again once this is mended)", c.Command, err, i, len(list))
		}
	}
	return nil
}
