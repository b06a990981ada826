// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/eniplane/eniplane/pkg/compile"
	"github.com/eniplane/eniplane/pkg/dataplane"
)

// account is what became of the packets of one ENI in one direction. Invariant 5: at rest, what
// came in equals what left by all reasons together, so Balance is 0. While packets pass it is a
// little off, because the counters are not read at one moment.
type account struct {
	ENI       string              `json:"eni"`
	Index     uint32              `json:"index"`
	Direction dataplane.Direction `json:"direction"`
	Received  amount              `json:"received"`
	Reasons   []reasonAmount      `json:"reasons"`
	Balance   int64               `json:"balance"` // packets received and not accounted for
}

type amount struct {
	Packets uint64 `json:"packets"`
	Bytes   uint64 `json:"bytes"`
}

type reasonAmount struct {
	Reason dataplane.Reason `json:"reason"`
	Drop   bool             `json:"drop"`
	Help   string           `json:"help"`
	amount
}

func newCountersCommand(a *app) *cobra.Command {
	var enis []string
	c := &cobra.Command{
		Use: "counters", Short: "What became of the packets of each ENI, by direction and reason",
		Long: "What became of the packets of each ENI, by direction (seen from the ENI) and reason.\n" +
			"`received` is what came in, `balance` is what of it is not accounted for: 0 at rest.",
		Args: args(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error { return a.counters(enis) },
	}
	c.Flags().StringSliceVar(&enis, "eni", nil, "only these ENIs")
	a.completeENIs(c)
	return c
}

func (a *app) counters(enis []string) error {
	return a.withMaps(true, func(m pinnedMaps, names compile.Names) error {
		indexes, err := eniIndexes(names, enis)
		if err != nil {
			return err
		}
		accounts, err := readAccounts(m, names, indexes)
		if err != nil {
			return err
		}
		return a.print(accountList(accounts))
	})
}

// completeENIs offers the ENIs of this host for --eni.
func (a *app) completeENIs(c *cobra.Command) {
	_ = c.RegisterFlagCompletionFunc("eni", func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		dir, err := a.hostDir()
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		names, _ := dataplane.LoadNames(dir) // what cannot be read offers nothing
		return slices.Sorted(maps.Values(names.ENIs)), cobra.ShellCompDirectiveNoFileComp
	})
}

// eniIndexes finds the indexes of ENIs of this host by name.
func eniIndexes(names compile.Names, enis []string) ([]uint32, error) {
	var indexes []uint32
	for _, want := range enis {
		found := false
		for index, name := range names.ENIs {
			if name == want {
				indexes = append(indexes, index)
				found = true
			}
		}
		if !found {
			return nil, fmt.Errorf("no ENI %q on this host; `enictl status` lists them", want)
		}
	}
	return indexes, nil
}

// eniName is the name of an ENI by index; 0 counts packets of no ENI.
func eniName(names compile.Names, index uint32) string {
	if index == 0 {
		return "(host)"
	}
	if name, ok := names.ENIs[index]; ok {
		return name
	}
	return fmt.Sprintf("#%d", index) // gone, its counters remain
}

func readAccounts(m pinnedMaps, names compile.Names, indexes []uint32) ([]account, error) {
	var accounts []account
	err := m.Counters(func(c dataplane.Counter) bool {
		last := len(accounts) - 1
		if last < 0 || accounts[last].Index != c.ENI || accounts[last].Direction != c.Direction {
			accounts = append(accounts, account{
				ENI: eniName(names, c.ENI), Index: c.ENI, Direction: c.Direction, Reasons: []reasonAmount{},
			})
			last++
		}
		acc, n := &accounts[last], amount{Packets: c.Packets, Bytes: c.Bytes}
		if c.Reason == dataplane.ReasonContinue {
			acc.Received = n
			acc.Balance += int64(c.Packets)
			return true
		}
		acc.Reasons = append(acc.Reasons, reasonAmount{
			Reason: c.Reason, Drop: c.Reason.IsDrop(), Help: c.Reason.Help(), amount: n,
		})
		acc.Balance -= int64(c.Packets)
		return true
	}, indexes...)
	slices.SortStableFunc(accounts, func(x, y account) int { return strings.Compare(x.ENI, y.ENI) })
	return accounts, err
}

// accountList shows each account as a block of lines: received, the reasons, the balance.
func accountList(accounts []account) list {
	l := list{
		columns: columns("ENI", "DIRECTION", "REASON", "PACKETS", "BYTES", "|", "MEANING"),
		empty:   "no packets have been counted",
	}
	for _, acc := range accounts {
		line := func(reason string, packets, bytes, help string) []string {
			return []string{acc.ENI, acc.Direction.String(), reason, packets, bytes, help}
		}
		block := [][]string{line("received", fmt.Sprint(acc.Received.Packets), fmt.Sprint(acc.Received.Bytes),
			"all packets that came in")}
		for _, r := range acc.Reasons {
			block = append(block, line(r.Reason.String(), fmt.Sprint(r.Packets), fmt.Sprint(r.Bytes), r.Help))
		}
		block = append(block, line("balance", fmt.Sprint(acc.Balance), "-", "received and not accounted for; 0 at rest"))
		l.rows = append(l.rows, row{
			name: acc.ENI + "/" + acc.Direction.String(), cells: block[0], more: block[1:], value: acc,
		})
	}
	return l
}
