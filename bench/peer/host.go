// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/eniplane/eniplane/pkg/lab"
)

// Sysctl sets a value below /proc/sys/net of a namespace.
func Sysctl(n *lab.Namespace, name, value string) error {
	return n.Do(func() error {
		if err := os.WriteFile(filepath.Join("/proc/sys/net", name), []byte(value), 0); err != nil {
			return fmt.Errorf("set sysctl %s: %w", name, err)
		}
		return nil
	})
}

// Sysctls sets several values, given by name and value in turn.
func Sysctls(n *lab.Namespace, pairs ...string) error {
	for i := 0; i+1 < len(pairs); i += 2 {
		if err := Sysctl(n, pairs[i], pairs[i+1]); err != nil {
			return err
		}
	}
	return nil
}

// Index is the index of a device.
func Index(n *lab.Namespace, device string) (int, error) {
	l, err := n.Netlink().LinkByName(device)
	if err != nil {
		return 0, fmt.Errorf("find device %s in %s: %w", device, n.Name, err)
	}
	return l.Attrs().Index, nil
}

// Address gives a device an address that is usable at once.
func Address(n *lab.Namespace, device string, addr netip.Prefix) error {
	l, err := n.Netlink().LinkByName(device)
	if err != nil {
		return fmt.Errorf("find device %s in %s: %w", device, n.Name, err)
	}
	a := &netlink.Addr{IPNet: ipNet(addr)}
	if addr.Addr().Is6() {
		a.Flags = unix.IFA_F_NODAD
	}
	if err := n.Netlink().AddrAdd(l, a); err != nil {
		return fmt.Errorf("add address %s to %s in %s: %w", addr, device, n.Name, err)
	}
	return nil
}

// Route sends a prefix out of a device, by a gateway if one is given.
func Route(n *lab.Namespace, device string, dst netip.Prefix, via netip.Addr) error {
	index, err := Index(n, device)
	if err != nil {
		return err
	}
	r := &netlink.Route{LinkIndex: index, Dst: ipNet(dst), Scope: netlink.SCOPE_LINK}
	if via.IsValid() {
		r.Gw, r.Flags, r.Scope = via.AsSlice(), int(netlink.FLAG_ONLINK), netlink.SCOPE_UNIVERSE
	}
	if err := n.Netlink().RouteReplace(r); err != nil {
		return fmt.Errorf("route %s to %s in %s: %w", dst, device, n.Name, err)
	}
	return nil
}

// Neighbour makes the MAC of an address known for ever: a sink answers no ARP.
func Neighbour(n *lab.Namespace, device string, addr netip.Addr, mac [6]byte) error {
	index, err := Index(n, device)
	if err != nil {
		return err
	}
	family := unix.AF_INET
	if addr.Is6() {
		family = unix.AF_INET6
	}
	neigh := &netlink.Neigh{
		LinkIndex: index, Family: family, State: netlink.NUD_PERMANENT, IP: addr.AsSlice(), HardwareAddr: net.HardwareAddr(mac[:]),
	}
	if err := n.Netlink().NeighSet(neigh); err != nil {
		return fmt.Errorf("make %s known on %s in %s: %w", addr, device, n.Name, err)
	}
	return nil
}

// Up brings devices up.
func Up(n *lab.Namespace, devices ...string) error {
	for _, name := range devices {
		l, err := n.Netlink().LinkByName(name)
		if err != nil {
			return fmt.Errorf("find device %s in %s: %w", name, n.Name, err)
		}
		if err := n.Netlink().LinkSetUp(l); err != nil {
			return fmt.Errorf("bring %s in %s up: %w", name, n.Name, err)
		}
	}
	return nil
}

// Run runs a program inside a namespace, with some input, and returns what it printed.
func Run(ctx context.Context, n *lab.Namespace, input string, command ...string) (string, error) {
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(input), &out, &out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // a terminal's Ctrl-C is ours to handle
	err := n.Do(cmd.Start)
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		return out.String(), fmt.Errorf("run %s: %w\n%s", strings.Join(command, " "), err, firstLines(out.String(), 10))
	}
	return out.String(), nil
}

func firstLines(s string, n int) string {
	lines := strings.SplitN(s, "\n", n+1)
	return strings.Join(lines[:min(n, len(lines))], "\n")
}

// need says which of the programs that a subject runs are not installed.
func need(programs ...string) error {
	for _, p := range programs {
		if _, err := exec.LookPath(p); errors.Is(err, exec.ErrNotFound) {
			return &Unable{fmt.Sprintf("%s is not installed: deploy/install-deps.sh bench installs it", p)}
		} else if err != nil {
			return fmt.Errorf("look for %s: %w", p, err)
		}
	}
	return nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// single is the prefix of one address.
func single(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

// closers undoes in reverse what was done.
type closers []func() error

func (c *closers) add(f func() error) { *c = append(*c, f) }

func (c *closers) close() error {
	var errs []error
	for i := len(*c) - 1; i >= 0; i-- {
		errs = append(errs, (*c)[i]())
	}
	*c = nil
	return errors.Join(errs...)
}
