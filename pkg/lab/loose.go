// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"errors"

	"github.com/eniplane/eniplane/pkg/lab/netnsdir"
)

// NewNamespace makes a namespace that belongs to no lab. Remove removes it.
func NewNamespace(name string) (*Namespace, error) {
	if err := netnsdir.Share(); err != nil {
		return nil, err
	}
	if err := makeNamespace(name); err != nil {
		return nil, errors.Join(err, deleteNamespace(name))
	}
	n, err := openNamespace(name)
	if err != nil {
		return nil, errors.Join(err, deleteNamespace(name))
	}
	return n, nil
}

// Remove closes and removes a namespace with all its devices.
func (n *Namespace) Remove() error { return errors.Join(n.Close(), deleteNamespace(n.Name)) }

// RemoveNamespace removes a namespace by its name, also one that was left half made.
func RemoveNamespace(name string) error { return deleteNamespace(name) }

// Join joins device a here with device b there by a veth cable. Both ends are down.
func (n *Namespace) Join(a string, there *Namespace, b string, mtu int) error {
	return cable(plug{ns: n, name: a}, plug{ns: there, name: b}, mtu)
}
