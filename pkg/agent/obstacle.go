// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"

	"github.com/eniplane/eniplane/loader"
)

const vxlanPort = 4789

// Obstacles says what stands in the way of the overlay in this network namespace, and what could not
// be found out about it.
func Obstacles() []string {
	var found []string
	for _, look := range []func() (string, error){ForeignVXLAN, Firewalls} {
		text, err := look()
		if err != nil {
			text = err.Error()
		}
		if text != "" {
			found = append(found, "UDP 4789: "+text)
		}
	}
	return found
}

// ForeignVXLAN names a device or socket on the overlay's port that is not ours, "" if there is none.
func ForeignVXLAN() (string, error) {
	links, err := netlink.LinkList()
	if err != nil {
		return "", fmt.Errorf("list devices: %w", err)
	}
	ours := false
	for _, l := range links {
		v, ok := l.(*netlink.Vxlan)
		if !ok || v.Port != vxlanPort {
			continue
		}
		if v.Name != loader.VXLANDevice {
			return fmt.Sprintf("device %s has the port", v.Name), nil
		}
		ours = true
	}
	if ours {
		return "", nil // it holds the socket
	}
	for _, path := range []string{"/proc/thread-self/net/udp", "/proc/thread-self/net/udp6"} {
		text, err := os.ReadFile(path)
		if err == nil && slices.Contains(localPorts(string(text)), vxlanPort) {
			return "a socket has the port (`ss -ulnp sport = 4789` names its process)", nil
		}
	}
	return "", nil
}

// localPorts reads the local ports of /proc/net/udp.
func localPorts(text string) []int {
	var ports []int
	for _, line := range strings.Split(text, "\n")[1:] {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		_, port, _ := strings.Cut(fields[1], ":")
		var n int
		if _, err := fmt.Sscanf(port, "%X", &n); err == nil {
			ports = append(ports, n)
		}
	}
	return ports
}

// Firewalls names chains that may drop VXLAN on its way to the host, "" if there are none.
func Firewalls() (string, error) {
	c, err := nftables.New()
	if err != nil {
		return "", fmt.Errorf("open nftables: %w", err)
	}
	chains, err := c.ListChains()
	if err != nil {
		return "", fmt.Errorf("list nftables chains: %w", err)
	}
	var found []string
	for _, chain := range chains {
		if !seesInput(chain) {
			continue
		}
		rules, err := c.GetRules(chain.Table, chain)
		if err != nil {
			return "", fmt.Errorf("list the rules of chain %s: %w", chain.Name, err)
		}
		if why := mayDrop(chain, rules); why != "" {
			found = append(found, fmt.Sprintf("chain %s of table %s %s", chain.Name, chain.Table.Name, why))
		}
	}
	if names, err := os.ReadFile("/proc/thread-self/net/ip_tables_names"); err == nil && bytes.Contains(names, []byte("filter")) {
		found = append(found, "legacy iptables has rules that this check cannot read (`iptables-legacy -S INPUT`)")
	}
	return strings.Join(found, "; "), nil
}

// seesInput tells whether IPv4 packets to the host pass a chain.
func seesInput(chain *nftables.Chain) bool {
	family := chain.Table.Family
	return chain.Hooknum != nil && *chain.Hooknum == *nftables.ChainHookInput &&
		(family == nftables.TableFamilyINet || family == nftables.TableFamilyIPv4)
}

// mayDrop says how a chain may drop UDP 4789, "" if it does not look like it. It reads only what
// names the port: a rule that drops it, or none that could accept it under policy drop.
func mayDrop(chain *nftables.Chain, rules []*nftables.Rule) string {
	port := binary.BigEndian.AppendUint16(nil, vxlanPort)
	named := false
	for _, r := range rules {
		names, drops := false, false
		for _, e := range r.Exprs {
			switch x := e.(type) {
			case *expr.Cmp:
				names = names || bytes.Equal(x.Data, port)
			case *expr.Verdict:
				drops = drops || x.Kind == expr.VerdictDrop
			case *expr.Reject:
				drops = true
			}
		}
		if names && drops {
			return "drops UDP 4789"
		}
		named = named || names
	}
	if chain.Policy != nil && *chain.Policy == nftables.ChainPolicyDrop && !named {
		return "has policy drop and no rule for UDP 4789"
	}
	return ""
}
