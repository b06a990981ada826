// SPDX-License-Identifier: Apache-2.0

package etcd

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/eniplane/eniplane/pkg/api"
)

// statusTTL is how long the status of an agent is there after its last word.
const statusTTL = 30 // seconds

// Status is what an agent says of its host in the feed.
type Status struct {
	Host     string      `json:"host"`
	Version  string      `json:"version"`            // of the agent
	Revision uint64      `json:"revision,omitempty"` // of the feed, that is in force; 0 = none
	ID       string      `json:"id,omitempty"`       // of its change set
	Applied  time.Time   `json:"applied,omitzero"`
	Error    string      `json:"error,omitempty"` // why what the feed says now is not in force
	Kept     []string    `json:"kept,omitempty"`  // objects that are as they were before, and why
	ENIs     []ENIStatus `json:"enis"`

	Copies []CopyStatus `json:"copies,omitempty"` // of flows, to the hosts to which ENIs move
}

// CopyStatus says how far the copy of the flows of an ENI is.
type CopyStatus struct {
	ENI   string `json:"eni"`
	To    string `json:"to"`
	Whole bool   `json:"whole"`           // that host has all of them, but for the last moments
	Error string `json:"error,omitempty"` // why it has not
}

// ENIStatus is the state of one ENI.
type ENIStatus struct {
	Name   string `json:"name"`
	State  string `json:"state"` // Programmed, Waiting or Degraded
	Reason string `json:"reason,omitempty"`
}

// Reporter keeps the status of one host in the feed, with a lease.
type Reporter struct {
	store *Store
	host  string
	lease clientv3.LeaseID
	alive <-chan *clientv3.LeaseKeepAliveResponse
}

// Reporter makes the reporter of a host.
func (s *Store) Reporter(host string) *Reporter { return &Reporter{store: s, host: host} }

// Put writes the status. The lease is renewed until ctx ends.
func (r *Reporter) Put(ctx context.Context, status *Status) error {
	text, err := json.Marshal(status)
	if err != nil {
		return fmt.Errorf("encode the status: %w", err)
	}
	fail := func(err error) error {
		return fmt.Errorf("write the status to feed %s: %w", r.store.source, plainError(err))
	}
	short, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	if r.lost() {
		grant, err := r.store.client.Grant(short, statusTTL)
		if err != nil {
			return fail(err)
		}
		if r.alive, err = r.store.client.KeepAlive(ctx, grant.ID); err != nil {
			return fail(err)
		}
		r.lease = grant.ID
	}
	if _, err := r.store.client.Put(short, r.store.status(r.host), string(pack(text)), clientv3.WithLease(r.lease)); err != nil {
		r.lease = 0
		return fail(err)
	}
	return nil
}

// lost tells whether there is no lease, and takes the answers of the one that there is.
func (r *Reporter) lost() bool {
	for r.lease != 0 {
		select {
		case _, ok := <-r.alive:
			if !ok {
				r.lease = 0
			}
		default:
			return false
		}
	}
	return true
}

// Lost tells whether the status must be put again because its lease has ended.
func (r *Reporter) Lost() bool { return r.lost() }

// Hosts returns the names of the hosts of the feed, sorted.
func (s *Store) Hosts(ctx context.Context) ([]string, error) {
	var hosts []string
	err := s.list(ctx, s.object(api.Reference{Kind: "Host"}), 0, func(p pair) error {
		hosts = append(hosts, p.key)
		return nil
	})
	return hosts, err
}

// Statuses returns what the agents say, by host.
func (s *Store) Statuses(ctx context.Context) (map[string]*Status, error) {
	out := map[string]*Status{}
	err := s.list(ctx, s.allStatus(), 0, func(p pair) error {
		status := &Status{}
		if err := json.Unmarshal(p.value, status); err != nil {
			return fmt.Errorf("read feed %s: the status of %s: %w", s.source, p.key, err)
		}
		out[p.key] = status
		return nil
	})
	return out, err
}
