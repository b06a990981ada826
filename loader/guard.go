// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// guard is what nftables holds against a port whose program is missing (design §6, invariant 1):
// packets that our programs redirect never come here, all others from a port are dropped. It is
// made of three tables of one name: inet and arp drop by the device's name, whether or not the
// device exists, and netdev has a chain with policy drop on each device that exists.
type guard struct{ table string }

func newGuard(host string) guard { return guard{table: tablePrefix + host} }

const (
	tablePrefix   = "eniplane_" // then the host's name
	portSet       = "ports"
	guardPriority = -400 // before connection tracking and everybody's rules
	elementsAtOne = 1000 // of a set in one message, whose size is limited
)

// ensure makes the tables by name drop what comes in from exactly these devices. It changes
// nothing if all is as it must be.
func (g guard) ensure(names []string) (changed bool, err error) {
	conn, err := nftables.New()
	if err != nil {
		return false, fmt.Errorf("open nftables: %w", err)
	}
	whole, err := g.whole(conn)
	if err != nil {
		return false, err
	}
	if whole {
		now, err := g.names()
		if err != nil {
			return false, err
		}
		want := slices.Clone(names)
		slices.Sort(want)
		if slices.Equal(now, want) {
			return false, nil
		}
	}
	for _, family := range []nftables.TableFamily{nftables.TableFamilyINet, nftables.TableFamilyARP} {
		if err := g.add(conn, family, names); err != nil {
			return false, err
		}
	}
	if err := conn.Flush(); err != nil {
		return false, fmt.Errorf("write nftables table %s: %w", g.table, err)
	}
	return true, nil
}

// whole tells whether all chains are there with as many rules as they must have.
func (g guard) whole(conn *nftables.Conn) (bool, error) {
	for _, family := range []nftables.TableFamily{nftables.TableFamilyINet, nftables.TableFamilyARP} {
		table := &nftables.Table{Name: g.table, Family: family}
		chains, err := conn.ListChainsOfTableFamily(family)
		if err != nil {
			return false, fmt.Errorf("list nftables chains: %w", err)
		}
		for _, want := range chainsOf(table) {
			there := slices.ContainsFunc(chains, func(c *nftables.Chain) bool {
				return c.Table.Name == g.table && c.Name == want.Name && c.Hooknum != nil &&
					*c.Hooknum == *want.Hooknum && *c.Priority == *want.Priority
			})
			if !there {
				return false, nil
			}
			rules, err := conn.GetRules(table, want)
			if err != nil {
				return false, fmt.Errorf("list nftables rules: %w", err)
			}
			if len(rules) != 1 {
				return false, nil
			}
		}
	}
	return true, nil
}

// names reads the set of guarded device names, sorted; none if the table does not exist.
func (g guard) names() ([]string, error) {
	conn, err := nftables.New()
	if err != nil {
		return nil, fmt.Errorf("open nftables: %w", err)
	}
	table := &nftables.Table{Name: g.table, Family: nftables.TableFamilyINet}
	set, err := conn.GetSetByName(table, portSet)
	if errors.Is(err, unix.ENOENT) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read nftables set: %w", err)
	}
	elements, err := conn.GetSetElements(set)
	if err != nil {
		return nil, fmt.Errorf("read nftables set: %w", err)
	}
	names := make([]string, len(elements))
	for i, e := range elements {
		names[i] = string(bytes.TrimRight(e.Key, "\x00"))
	}
	slices.Sort(names)
	return names, nil
}

// chainsOf lists the chains of one of the tables by name. Each holds one rule.
func chainsOf(table *nftables.Table) []*nftables.Chain {
	chain := func(name string, hook *nftables.ChainHook, priority nftables.ChainPriority) *nftables.Chain {
		accept := nftables.ChainPolicyAccept
		return &nftables.Chain{
			Table: table, Name: name, Type: nftables.ChainTypeFilter,
			Hooknum: hook, Priority: &priority, Policy: &accept,
		}
	}
	if table.Family == nftables.TableFamilyARP {
		input := nftables.ChainHookRef(0) // NF_ARP_IN: this family numbers its hooks on its own
		return []*nftables.Chain{chain("input", input, guardPriority)}
	}
	return []*nftables.Chain{
		chain("prerouting", nftables.ChainHookPrerouting, guardPriority),
		chain("overlay-in", nftables.ChainHookPrerouting, *nftables.ChainPriorityRaw),
		chain("overlay-out", nftables.ChainHookOutput, *nftables.ChainPriorityRaw),
	}
}

// add puts one table with its set and rules into the batch; what is there of it is replaced in the
// same transaction.
func (g guard) add(conn *nftables.Conn, family nftables.TableFamily, names []string) error {
	table := conn.AddTable(&nftables.Table{Name: g.table, Family: family})
	set := &nftables.Set{Table: table, Name: portSet, KeyType: nftables.TypeIFName}
	if err := conn.AddSet(set, nil); err != nil {
		return fmt.Errorf("make nftables set: %w", err)
	}
	conn.FlushSet(set)
	for part := range slices.Chunk(names, elementsAtOne) {
		elements := make([]nftables.SetElement, len(part))
		for i, name := range part {
			elements[i].Key = deviceKey(name)
		}
		if err := conn.SetAddElements(set, elements); err != nil {
			return fmt.Errorf("fill nftables set: %w", err)
		}
	}
	for i, chain := range chainsOf(table) {
		conn.AddChain(chain)
		conn.FlushChain(chain)
		exprs := untrackOverlay()
		if i == 0 {
			exprs = dropPorts(set)
		}
		conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: exprs})
	}
	return nil
}

// dropPorts is: iifname @ports drop.
func dropPorts(set *nftables.Set) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1},
		&expr.Lookup{SourceRegister: 1, SetName: set.Name, SetID: set.ID},
		&expr.Counter{},
		&expr.Verdict{Kind: expr.VerdictDrop},
	}
}

// untrackOverlay is: udp dport 4789 notrack.
func untrackOverlay() []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_UDP}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.BigEndian.PutUint16(vxlanPort)},
		&expr.Notrack{},
	}
}

func deviceKey(name string) []byte {
	key := make([]byte, unix.IFNAMSIZ)
	copy(key, name)
	return key
}

func ingressChain(device string) string { return "in-" + device }

// ensureIngress puts a chain with policy drop on each of these devices that has none. They must
// exist. It returns the devices that had none.
func (g guard) ensureIngress(names []string) (added []string, err error) {
	conn, err := nftables.New()
	if err != nil {
		return nil, fmt.Errorf("open nftables: %w", err)
	}
	there, err := g.ingress(conn)
	if err != nil {
		return nil, err
	}
	table := conn.AddTable(&nftables.Table{Name: g.table, Family: nftables.TableFamilyNetdev})
	for _, name := range names {
		if slices.Contains(there, ingressChain(name)) {
			continue
		}
		drop := nftables.ChainPolicyDrop
		priority := nftables.ChainPriority(guardPriority)
		conn.AddChain(&nftables.Chain{
			Table: table, Name: ingressChain(name), Type: nftables.ChainTypeFilter,
			Hooknum: nftables.ChainHookIngress, Priority: &priority, Policy: &drop, Device: name,
		})
		added = append(added, name)
	}
	if len(added) == 0 {
		return nil, nil
	}
	if err := conn.Flush(); err != nil {
		return nil, fmt.Errorf("write nftables table netdev %s: %w", g.table, err)
	}
	return added, nil
}

// sweepIngress removes the chains of devices that do not exist. Older kernels remove them with the
// device, newer ones keep them for the next device of that name.
func (g guard) sweepIngress(all devices) error {
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	there, err := g.ingress(conn)
	if err != nil {
		return err
	}
	table := &nftables.Table{Name: g.table, Family: nftables.TableFamilyNetdev}
	for _, chain := range there {
		if _, exists := all[chain[len(ingressChain("")):]]; !exists {
			conn.DelChain(&nftables.Chain{Table: table, Name: chain})
		}
	}
	if err := conn.Flush(); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("sweep nftables table netdev %s: %w", g.table, err)
	}
	return nil
}

func (g guard) ingress(conn *nftables.Conn) ([]string, error) {
	chains, err := conn.ListChainsOfTableFamily(nftables.TableFamilyNetdev)
	if err != nil {
		return nil, fmt.Errorf("list nftables chains: %w", err)
	}
	var names []string
	for _, c := range chains {
		if c.Table.Name == g.table {
			names = append(names, c.Name)
		}
	}
	return names, nil
}

// remove deletes all tables of the host.
func (g guard) remove() error {
	conn, tables, err := g.tables()
	if err != nil {
		return err
	}
	for _, t := range tables {
		conn.DelTable(t)
	}
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("remove nftables tables %s: %w", g.table, err)
	}
	return nil
}

// exists tells whether there is a table of the host.
func (g guard) exists() (bool, error) {
	_, tables, err := g.tables()
	return len(tables) > 0, err
}

// tables lists the tables of the host, of all families.
func (g guard) tables() (*nftables.Conn, []*nftables.Table, error) {
	conn, all, err := allTables()
	return conn, slices.DeleteFunc(all, func(t *nftables.Table) bool { return t.Name != g.table }), err
}

// alone refuses a network namespace that is another host's: the two would take the VXLAN device and
// the uplinks from each other.
func (g guard) alone() error {
	_, all, err := allTables()
	if err != nil {
		return err
	}
	for _, t := range all {
		if other, ours := strings.CutPrefix(t.Name, tablePrefix); ours && t.Name != g.table {
			return fmt.Errorf("this network namespace is that of host %s (nftables table %s): "+
				"each host needs its own; if %s is no more, run enictl teardown --host %s", other, t.Name, other, other)
		}
	}
	return nil
}

func allTables() (*nftables.Conn, []*nftables.Table, error) {
	conn, err := nftables.New()
	if err != nil {
		return nil, nil, fmt.Errorf("open nftables: %w", err)
	}
	tables, err := conn.ListTables()
	if err != nil {
		return nil, nil, fmt.Errorf("list nftables tables: %w", err)
	}
	return conn, tables, nil
}
