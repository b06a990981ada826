// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/eniplane/eniplane/pkg/api"
	"github.com/eniplane/eniplane/pkg/compile"
	"github.com/eniplane/eniplane/pkg/dataplane"
)

// flow is a dataplane flow with the name of its ENI in place of the index, and times as people write them.
type flow struct {
	Name    string `json:"eni"`
	Rule    string `json:"rule,omitempty"` // of the security groups, that let the first packet pass
	Age     string `json:"age"`
	Expires string `json:"expires"`
	dataplane.Flow
}

// flowFilter selects flows; what is empty selects all.
type flowFilter struct {
	enis     []string
	peers    []string // addresses or prefixes of the other end
	local    []string
	protocol string
	state    string
	origin   string

	indexes      []uint32
	peerPrefixes []netip.Prefix
	localPrefix  []netip.Prefix
}

func newFlowCommand(a *app) *cobra.Command {
	var listed, flushed flowFilter
	var yes, all bool
	ls := &cobra.Command{
		Use: "list", Short: "List the flows that pass the filters", Args: args(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error { return a.flowList(&listed) },
	}
	listed.flags(ls)
	a.completeENIs(ls)
	get := &cobra.Command{
		Use: "get PROTOCOL ADDRESS:PORT [>] ADDRESS:PORT", Short: "Print the flows between two ends",
		Long: "Print the flows between two ends, whichever of them opened it. An end without a port stands\n" +
			"for all its ports.",
		Example: `  enictl flow get "tcp 10.0.1.10:40000 > 10.0.2.9:443"` + "\n  enictl flow get icmp 10.0.1.10 10.0.2.9",
		Args:    args(cobra.MinimumNArgs(1)),
		RunE:    func(_ *cobra.Command, got []string) error { return a.flowGet(got) },
	}
	flush := &cobra.Command{
		Use: "flush", Short: "Delete the flows that pass the filters",
		Long: "Delete the flows that pass the filters, after naming them. Established TCP connections end:\n" +
			"a packet from the middle of a connection opens no new flow.",
		Args: args(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error { return a.flowFlush(&flushed, all, yes) },
	}
	flushed.flags(flush)
	a.completeENIs(flush)
	flush.Flags().BoolVar(&all, "all", false, "without a filter: all flows of the host")
	flush.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return group("flow", "The connections that the programs know", ls, get, flush)
}

func (f *flowFilter) flags(c *cobra.Command) {
	c.Flags().StringSliceVar(&f.enis, "eni", nil, "flows of these ENIs")
	c.Flags().StringSliceVar(&f.peers, "peer", nil, "flows with these remote addresses or CIDRs")
	c.Flags().StringSliceVar(&f.local, "local", nil, "flows with these local addresses or CIDRs")
	c.Flags().StringVar(&f.protocol, "protocol", "", "tcp, udp, icmp, icmpv6 or a number")
	c.Flags().StringVar(&f.state, "state", "", strings.Join(flowStates(), ", ")+"; answered is part of opening, refused of closing")
	c.Flags().StringVar(&f.origin, "origin", "", "vpc or internet")
}

func (f *flowFilter) empty() bool {
	return len(f.enis)+len(f.peers)+len(f.local) == 0 && f.protocol+f.state+f.origin == ""
}

// flowStates are what --state takes.
func flowStates() []string {
	return []string{"opening", "answered", "established", "closing", "refused", "blocked"}
}

// resolve checks the filter's values.
func (f *flowFilter) resolve(names compile.Names) (err error) {
	if f.state != "" && !slices.Contains(flowStates(), f.state) {
		return usagef("--state %q: want one of %s", f.state, strings.Join(flowStates(), ", "))
	}
	if f.origin != "" && f.origin != "vpc" && f.origin != "internet" {
		return usagef("--origin %q: want vpc or internet", f.origin)
	}
	if f.protocol != "" {
		if f.protocol, err = protocolName(f.protocol); err != nil {
			return err
		}
	}
	if f.indexes, err = eniIndexes(names, f.enis); err != nil {
		return err
	}
	if f.peerPrefixes, err = prefixes("--peer", f.peers); err != nil {
		return err
	}
	f.localPrefix, err = prefixes("--local", f.local)
	return err
}

// protocolName returns how flows name a protocol: numbers that have a name equal it.
func protocolName(text string) (string, error) {
	if slices.Contains([]string{"tcp", "udp", "icmp", "icmpv6"}, text) {
		return text, nil
	}
	n, err := strconv.ParseUint(text, 10, 8)
	if err != nil {
		return "", usagef("%q is not a protocol: want tcp, udp, icmp, icmpv6 or a number of 0 to 255", text)
	}
	return api.Protocol{Number: uint8(n)}.String(), nil
}

// prefixes reads addresses and CIDRs.
func prefixes(flag string, texts []string) ([]netip.Prefix, error) {
	var list []netip.Prefix
	for _, text := range texts {
		addr, err := netip.ParseAddr(text)
		if err == nil {
			list = append(list, netip.PrefixFrom(addr, addr.BitLen()))
			continue
		}
		p, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, usagef("%s %q is neither an address nor a CIDR", flag, text)
		}
		list = append(list, p.Masked())
	}
	return list, nil
}

func (f *flowFilter) match(x *dataplane.Flow) bool {
	in := func(list []netip.Prefix, a netip.Addr) bool {
		return len(list) == 0 || slices.ContainsFunc(list, func(p netip.Prefix) bool { return p.Contains(a) })
	}
	return (len(f.enis) == 0 || slices.Contains(f.indexes, x.ENI)) &&
		in(f.peerPrefixes, x.Remote.Addr()) && in(f.localPrefix, x.Local.Addr()) &&
		(f.protocol == "" || f.protocol == x.Protocol) &&
		(f.state == "" || f.state == x.State || f.state == x.Stage()) &&
		(f.origin == "" || f.origin == x.Origin)
}

// readFlows returns the flows that keep selects, sorted.
func readFlows(m pinnedMaps, names compile.Names, keep func(*dataplane.Flow) bool) ([]flow, error) {
	var flows []flow
	err := m.Flows(func(x dataplane.Flow) bool {
		if keep(&x) {
			flows = append(flows, flow{
				Name: eniName(names, x.ENI), Flow: x, Rule: names.Rule(x.Rule),
				Age: x.Age.Truncate(time.Second).String(), Expires: x.Expires.Truncate(time.Second).String(),
			})
		}
		return true
	})
	slices.SortFunc(flows, func(x, y flow) int {
		return cmp.Or(strings.Compare(x.Name, y.Name), strings.Compare(x.Protocol, y.Protocol),
			x.Local.Compare(y.Local), x.Remote.Compare(y.Remote), strings.Compare(x.Origin, y.Origin))
	})
	return flows, err
}

func (a *app) flowList(f *flowFilter) error {
	return a.withMaps(true, func(m pinnedMaps, names compile.Names) error {
		if err := f.resolve(names); err != nil {
			return err
		}
		flows, err := readFlows(m, names, f.match)
		if err != nil {
			return err
		}
		return a.print(flowRows(flows))
	})
}

func (a *app) flowGet(words []string) error {
	match, err := parseTuple(strings.Join(words, " "))
	if err != nil {
		return err
	}
	return a.withMaps(true, func(m pinnedMaps, names compile.Names) error {
		flows, err := readFlows(m, names, match)
		if err != nil {
			return err
		}
		if len(flows) == 0 {
			return fmt.Errorf("no flow %s on this host", strings.Join(words, " "))
		}
		return a.print(flowRows(flows))
	})
}

// parseTuple reads "tcp 10.0.1.10:40000 > 10.0.2.9:443" and returns what finds that flow at either end.
func parseTuple(text string) (func(*dataplane.Flow) bool, error) {
	words := strings.Fields(strings.ReplaceAll(text, ">", " "))
	if len(words) != 3 {
		return nil, usagef("%q: want PROTOCOL ADDRESS:PORT > ADDRESS:PORT", text)
	}
	protocol, err := protocolName(words[0])
	if err != nil {
		return nil, err
	}
	first, err := parseEnd(words[1])
	if err != nil {
		return nil, err
	}
	second, err := parseEnd(words[2])
	if err != nil {
		return nil, err
	}
	is := func(want, got netip.AddrPort) bool {
		return want.Addr() == got.Addr() && (want.Port() == 0 || want.Port() == got.Port())
	}
	return func(x *dataplane.Flow) bool {
		return x.Protocol == protocol &&
			(is(first, x.Local) && is(second, x.Remote) || is(second, x.Local) && is(first, x.Remote))
	}, nil
}

func parseEnd(text string) (netip.AddrPort, error) {
	if addr, err := netip.ParseAddr(text); err == nil {
		return netip.AddrPortFrom(addr, 0), nil
	}
	end, err := netip.ParseAddrPort(text)
	if err != nil {
		return end, usagef("%q is neither ADDRESS nor ADDRESS:PORT", text)
	}
	return end, nil
}

func flowRows(flows []flow) list {
	l := list{
		columns: columns("ENI", "PROTOCOL", "LOCAL", "REMOTE", "OPENER", "STATE", "AGE", "|",
			"ORIGIN", "RULE", "EIP", "EXPIRES", "PACKETS-OUT", "BYTES-OUT", "PACKETS-IN", "BYTES-IN"),
		empty: "no flows",
	}
	for _, x := range flows {
		opener := x.Name
		if x.Opener == dataplane.In {
			opener = "peer"
		}
		eip := ""
		if x.EIP.IsValid() {
			eip = x.EIP.String()
		}
		l.rows = append(l.rows, row{
			name: x.tuple(),
			cells: []string{
				x.Name, x.Protocol, x.Local.String(), x.Remote.String(), opener, x.Stage(),
				x.Age, x.Origin, dash(x.Rule), dash(eip), x.Expires,
				fmt.Sprint(x.PacketsOut), fmt.Sprint(x.BytesOut), fmt.Sprint(x.PacketsIn), fmt.Sprint(x.BytesIn),
			},
			value: x,
		})
	}
	return l
}

// tuple is how a flow is named: as `flow get` reads it, in the direction in which it was opened.
func (x *flow) tuple() string {
	from, to := x.Local, x.Remote
	if x.Opener == dataplane.In {
		from, to = to, from
	}
	return fmt.Sprintf("%s %s > %s", x.Protocol, from, to)
}
