// SPDX-License-Identifier: Apache-2.0

package etcd

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/eniplane/eniplane/pkg/api"
)

// Mark is the value of the key mark: the last change set.
type Mark struct {
	Revision uint64    `json:"revision"` // grows by at least one with each change set; no epoch is greater
	ID       string    `json:"id"`       // of this change set, random
	Previous string    `json:"previous,omitempty"`
	Logs     uint64    `json:"logs"`             // the oldest revision whose logs are all kept
	Views    []string  `json:"views,omitempty"`  // that it touched
	Many     bool      `json:"many,omitempty"`   // too many to list
	Staged   bool      `json:"staged,omitempty"` // the keys are not all in place yet
	Force    uint64    `json:"force,omitempty"`  // the last change set that released quarantined deletes
	Time     time.Time `json:"time"`
	By       string    `json:"by,omitempty"` // who wrote it, for people
}

// touches tells whether a change set may have changed a view.
func (m *Mark) touches(view string) bool { return m.Many || slices.Contains(m.Views, view) }

// The views that are not of a host or a VPC.
const regionView = "region"

func hostView(host string) string { return "hosts/" + host }
func vpcView(vpc string) string   { return "vpcs/" + vpc }

// presentKind stands, in the view of a host, for a VPC that has an ENI there.
const presentKind = "vpc"

// recordKind stands, in the view of a VPC, for endpoint records.
const recordKind = "eni"

// layout makes the keys below a prefix.
type layout struct{ prefix string } // without a slash at the end

func (l layout) mark() string                            { return l.prefix + "/mark" }
func (l layout) commits() string                         { return l.prefix + "/commits/" }
func (l layout) commit(revision uint64) string           { return l.commits() + digits(revision) }
func (l layout) objects() string                         { return l.prefix + "/objects/" }
func (l layout) object(r api.Reference) string           { return l.objects() + r.String() }
func (l layout) views() string                           { return l.prefix + "/views/" }
func (l layout) state(view string) string                { return l.views() + view + "/state/" }
func (l layout) logs(view string) string                 { return l.views() + view + "/log/" }
func (l layout) staged() string                          { return l.prefix + "/staged/" }
func (l layout) stagedParts(id string) string            { return l.staged() + id + "/" }
func (l layout) allStatus() string                       { return l.prefix + "/status/" }
func (l layout) status(host string) string               { return l.allStatus() + host }
func (l layout) log(view string, revision uint64) string { return l.logs(view) + digits(revision) }

// digits keeps the order of numbers in the order of keys.
func digits(n uint64) string { return fmt.Sprintf("%020d", n) }

// referenceOf reads KIND/NAME.
func referenceOf(key string) (api.Reference, error) {
	kind, name, ok := strings.Cut(key, "/")
	if !ok || kind == "" || api.NameProblem(name) != "" {
		return api.Reference{}, fmt.Errorf("the key %q is not KIND/NAME (remove it)", key)
	}
	return api.Reference{Kind: kind, Name: name}, nil
}

// entry is one key of a change set, relative to where it belongs.
type entry struct {
	Key     string `json:"k"`
	Value   []byte `json:"v,omitempty"` // as it is without gzip
	Deleted bool   `json:"d,omitempty"`
}

// partSize is how much of a change set one key holds, before gzip.
const partSize = 512 << 10

// parts packs entries into values of bounded size.
func parts(entries []entry) ([][]byte, error) {
	var out [][]byte
	for len(entries) > 0 {
		size, n := 0, 0
		for n < len(entries) && (n == 0 || size+len(entries[n].Value) < partSize) {
			size += len(entries[n].Value) + len(entries[n].Key) + 16
			n++
		}
		text, err := json.Marshal(entries[:n])
		if err != nil {
			return nil, fmt.Errorf("encode a change set: %w", err)
		}
		out = append(out, pack(text))
		entries = entries[n:]
	}
	return out, nil
}

// entriesOf reads one part.
func entriesOf(value []byte) ([]entry, error) {
	text, err := unpack(value)
	if err != nil {
		return nil, err
	}
	var entries []entry
	if err := json.Unmarshal(text, &entries); err != nil {
		return nil, fmt.Errorf("decode a change set: %w", err)
	}
	return entries, nil
}

const (
	packAbove = 4 << 10
	maxValue  = api.MaxTotalSize // that unpack makes of a value
)

// pack makes a long value shorter.
func pack(value []byte) []byte {
	if len(value) <= packAbove {
		return value
	}
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	// Writing into memory does not fail.
	_, _ = z.Write(value)
	_ = z.Close()
	return b.Bytes()
}

// unpack is the reverse of pack.
func unpack(value []byte) ([]byte, error) {
	if !bytes.HasPrefix(value, []byte{0x1f, 0x8b}) {
		return value, nil
	}
	z, err := gzip.NewReader(bytes.NewReader(value))
	if err != nil {
		return nil, fmt.Errorf("unpack a value: %w", err)
	}
	out, err := io.ReadAll(io.LimitReader(z, maxValue+1))
	if err != nil {
		return nil, fmt.Errorf("unpack a value: %w", err)
	}
	if len(out) > maxValue {
		return nil, errors.New("unpack a value: it is longer than any that is written (remove it)")
	}
	return out, nil
}

// cleanPrefix brings a prefix into the form of layout.
func cleanPrefix(prefix string) string {
	return strings.TrimSuffix(path.Clean("/"+prefix), "/")
}
