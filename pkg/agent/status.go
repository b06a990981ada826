// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/eniplane/eniplane/loader"
	"github.com/eniplane/eniplane/pkg/durable"
	"github.com/eniplane/eniplane/pkg/feed/etcd"
	"github.com/eniplane/eniplane/pkg/migrate"
)

// statusFile holds the Status in the host's state directory.
const statusFile = "status.json"

// keptErrors is how many error lines the status remembers.
const keptErrors = 10

// Status is what an agent says of its host: served on /status and kept in a file, so that
// `enictl status` works with the agent dead.
type Status struct {
	Host      string           `json:"host"`
	Version   string           `json:"version"` // of the agent
	PID       int              `json:"pid"`
	Started   time.Time        `json:"started"`
	Updated   time.Time        `json:"updated"`
	Revision  *RevisionStatus  `json:"revision,omitempty"` // in force; absent = none yet
	Feed      FeedStatus       `json:"feed"`
	ENIs      []ENIStatus      `json:"enis"`
	EIPs      []EIPStatus      `json:"eips"`
	Uplinks   []string         `json:"uplinks"`
	Problems  []string         `json:"problems,omitempty"` // of the host: an uplink that is missing, say
	Foreign   []loader.Foreign `json:"foreign,omitempty"`
	Obstacles []string         `json:"obstacles,omitempty"` // to the overlay: other devices, firewalls
	Copies    []migrate.Status `json:"copies,omitempty"`    // of flows, to hosts to which ENIs move
	Errors    []ErrorLine      `json:"errors,omitempty"`    // the last ones, newest first
}

// RevisionStatus names the revision in force.
type RevisionStatus struct {
	Number   uint64    `json:"number"`
	Hash     string    `json:"hash"`
	Applied  time.Time `json:"applied"`
	Restored bool      `json:"restored,omitempty"` // from disk: the feed has not been heard since the start

	Feed *etcd.Place `json:"feed,omitempty"` // where it is in a feed in etcd
	Kept []string    `json:"kept,omitempty"` // objects that are as they were before, and why
}

// String is how logs and /readyz name a revision.
func (r *RevisionStatus) String() string {
	return fmt.Sprintf("%d (%s)", r.Number, shortHash(r.Hash))
}

// FeedStatus says how fresh the feed is.
type FeedStatus struct {
	Source string    `json:"source"`
	Heard  time.Time `json:"heard,omitzero"`  // last time the feed gave a usable revision
	Error  string    `json:"error,omitempty"` // why what it says now is not in force
}

// Age is how long the feed has given nothing usable; since the agent's start if it never did.
func (s Status) Age(now time.Time) time.Duration {
	if s.Feed.Error == "" && !s.Feed.Heard.IsZero() {
		return 0
	}
	if s.Feed.Heard.After(s.Started) {
		return now.Sub(s.Feed.Heard)
	}
	return now.Sub(s.Started)
}

// ENIStatus is the state of one ENI of the host.
type ENIStatus struct {
	Name    string       `json:"name"`
	UID     string       `json:"uid"`
	Phase   loader.Phase `json:"phase"`
	Device  string       `json:"device"`
	Ifindex int          `json:"ifindex,omitempty"`
	Index   uint32       `json:"index"`
	Reason  string       `json:"reason,omitempty"` // why it is not Ready
}

// EIPStatus is an EIP of a local ENI, or one for which this host is a gateway. Announced means that this host takes
// packets to it and tells the segment so.
type EIPStatus struct {
	Address   netip.Addr `json:"address"`
	ENI       string     `json:"eni"`
	Private   netip.Addr `json:"privateIP"`
	Announced bool       `json:"announced"`
	Gateway   bool       `json:"gateway,omitempty"` // the ENI is on another host, and this one is a gateway for it
	Class     uint32     `json:"class"`             // among the EIPs of the ENI, for their caps
}

// ErrorLine is one error and when it was last seen.
type ErrorLine struct {
	Time time.Time `json:"time"`
	Text string    `json:"text"`
}

// noteError puts an error first in the list; one that is there already only moves up.
func (s *Status) noteError(now time.Time, err error) {
	text := strings.TrimSpace(err.Error())
	s.Errors = slices.DeleteFunc(s.Errors, func(e ErrorLine) bool { return e.Text == text })
	s.Errors = slices.Insert(s.Errors, 0, ErrorLine{Time: now, Text: text})
	s.Errors = s.Errors[:min(len(s.Errors), keptErrors)]
}

// clone copies the status so that readers and the agent do not share slices.
func (s Status) clone() Status {
	if s.Revision != nil {
		r := *s.Revision // what it points to is never changed
		s.Revision = &r
	}
	s.ENIs, s.EIPs = slices.Clone(s.ENIs), slices.Clone(s.EIPs)
	s.Uplinks, s.Foreign, s.Errors = slices.Clone(s.Uplinks), slices.Clone(s.Foreign), slices.Clone(s.Errors)
	s.Obstacles, s.Problems = slices.Clone(s.Obstacles), slices.Clone(s.Problems)
	return s
}

// ReadStatus reads the status that an agent kept in a host's state directory. The error satisfies
// errors.Is(err, fs.ErrNotExist) if no agent ever did.
func ReadStatus(hostStateDir string) (*Status, error) {
	s := &Status{}
	if err := readJSON(filepath.Join(hostStateDir, statusFile), s); err != nil {
		return nil, fmt.Errorf("read status: %w", err)
	}
	return s, nil
}

// shortHash is enough of a content hash to recognise it.
func shortHash(hash string) string { return hash[:min(len(hash), 12)] }

// writeJSON replaces a file whole and durably: after a crash it holds the old or the new text.
func writeJSON(path string, value any) error {
	text, err := json.MarshalIndent(value, "", "  ")
	if err != nil {
		return fmt.Errorf("encode %s: %w", filepath.Base(path), err)
	}
	return durable.WriteFile(path, append(text, '\n'), 0o644)
}

// replaceJSON is writeJSON for what is written while rules wait: not for the disk, and not for people to read.
func replaceJSON(path string, value any) error {
	text, err := json.Marshal(value)
	if err != nil {
		return fmt.Errorf("encode %s: %w", filepath.Base(path), err)
	}
	return durable.Replace(path, append(text, '\n'), 0o644)
}

func readJSON(path string, value any) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(text, value); err != nil {
		return fmt.Errorf("decode %s: %w", path, err)
	}
	return nil
}
