// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/eniplane/eniplane/pkg/lab/netnsdir"
)

// Namespace is an open network namespace with a netlink socket in it.
type Namespace struct {
	Name   string // as `ip netns` shows it
	handle netns.NsHandle
	nl     *netlink.Handle
}

// makeNamespace makes a named network namespace, its loopback up and its settings those of this
// package whatever the machine's own are.
func makeNamespace(name string) error {
	return onThread(func() error {
		h, err := netns.NewNamed(name)
		if err != nil {
			return fmt.Errorf("make network namespace %s: %w", name, err)
		}
		defer h.Close()
		if err := quietSysctls(); err != nil {
			return fmt.Errorf("prepare network namespace %s: %w", name, err)
		}
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return fmt.Errorf("find loopback of %s: %w", name, err)
		}
		if err := netlink.LinkSetUp(lo); err != nil {
			return fmt.Errorf("bring loopback of %s up: %w", name, err)
		}
		return nil
	})
}

// quietSysctls undoes what a new namespace inherits from the machine's, and turns off duplicate
// address detection, which would keep IPv6 addresses from being used for a second.
func quietSysctls() error {
	for _, s := range [][2]string{
		{"ipv4/ip_forward", "0"},
		{"ipv4/conf/all/rp_filter", "0"},
		{"ipv4/conf/default/rp_filter", "0"},
		{"ipv6/conf/all/forwarding", "0"},
		{"ipv6/conf/all/accept_dad", "0"},
		{"ipv6/conf/default/accept_dad", "0"},
	} {
		if err := os.WriteFile(filepath.Join("/proc/sys/net", s[0]), []byte(s[1]), 0); err != nil {
			return fmt.Errorf("set sysctl %s: %w", s[0], err)
		}
	}
	return nil
}

// openNamespace opens a named network namespace.
func openNamespace(name string) (*Namespace, error) {
	h, err := netns.GetFromName(name)
	if err != nil {
		return nil, fmt.Errorf("open network namespace %s: %w", name, err)
	}
	nl, err := netlink.NewHandleAt(h, unix.NETLINK_ROUTE) // by default it wants IPsec of the kernel, too
	if err != nil {
		_ = h.Close()
		return nil, fmt.Errorf("open netlink in %s: %w", name, err)
	}
	return &Namespace{Name: name, handle: h, nl: nl}, nil
}

// Close closes the handles; the namespace stays.
func (n *Namespace) Close() error {
	n.nl.Close()
	return n.handle.Close()
}

// Netlink is the netlink socket inside the namespace.
func (n *Namespace) Netlink() *netlink.Handle { return n.nl }

// Do runs fn inside the namespace. Sockets that fn opens and processes that it starts stay there;
// goroutines that it starts do not.
func (n *Namespace) Do(fn func() error) error {
	return onThread(func() error {
		if err := netns.Set(n.handle); err != nil {
			return fmt.Errorf("enter network namespace %s: %w", n.Name, err)
		}
		return fn()
	})
}

// onThread runs fn on a thread that dies with it, so that no namespace leaks into other goroutines.
func onThread(fn func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with this goroutine
		done <- fn()
	}()
	return <-done
}

// deleteNamespace removes a named network namespace, also one that was left half made.
func deleteNamespace(name string) error {
	path := filepath.Join(netnsdir.Dir, name)
	if _, err := os.Lstat(path); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err := netns.DeleteNamed(name); err != nil {
		// A crash between the making of the file and the mount leaves a plain file.
		if err := os.Remove(path); err != nil {
			return fmt.Errorf("remove network namespace %s: %w", name, err)
		}
	}
	return nil
}
