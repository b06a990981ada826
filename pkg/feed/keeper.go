// SPDX-License-Identifier: Apache-2.0

package feed

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/eniplane/eniplane/pkg/durable"
	"github.com/eniplane/eniplane/pkg/feed/etcd"
)

// endpointsPrefix begins the names of the files that hold the endpoint records of a VPC. The rest is the hash of
// their content, so a file never changes.
const endpointsPrefix = "endpoints-"

// Above cheapEndpoints a VPC's records are not written again with each revision: what is on disk may be older than what is
// in force, but it is whole.
const (
	cheapEndpoints = 4 << 20
	expensiveEvery = time.Minute
)

// keeper keeps the last good revision of an etcd feed on disk.
type keeper struct {
	dir   string
	files map[*etcd.Records]string // that are on disk
	wrote time.Time
}

// keep writes a revision, unless that would cost too much too soon.
func (k *keeper) keep(r *Revision) error {
	size := 0
	for _, records := range r.records {
		if k.files[records] == "" {
			size += records.Size()
		}
	}
	if size > cheapEndpoints && time.Since(k.wrote) < expensiveEvery {
		return nil
	}
	s := saved{
		Number: r.Number, Hash: r.Hash, Forced: r.Forced, Files: r.documents.Files(), Place: r.Place, Kept: r.Kept,
		Endpoints: map[string]string{},
	}
	if err := os.MkdirAll(k.dir, 0o700); err != nil {
		return fmt.Errorf("keep revision %d: %w", r.Number, err)
	}
	files := map[*etcd.Records]string{}
	for _, vpc := range slices.Sorted(maps.Keys(r.records)) {
		name, err := k.keepEndpoints(r.records[vpc])
		if err != nil {
			return fmt.Errorf("keep revision %d: the endpoints of VPC %s: %w", r.Number, vpc, err)
		}
		s.Endpoints[vpc], files[r.records[vpc]] = name, name
	}
	if err := s.write(k.dir); err != nil {
		return err
	}
	k.files, k.wrote = files, time.Now()
	return k.tidy()
}

// keepEndpoints writes the records of a VPC unless they are on disk, and returns the name of the file.
func (k *keeper) keepEndpoints(records *etcd.Records) (string, error) {
	if name := k.files[records]; name != "" {
		return name, nil
	}
	text := []byte(records.String())
	name := endpointsName(text)
	return name, durable.WriteFile(filepath.Join(k.dir, name), text, 0o600)
}

func endpointsName(text []byte) string {
	sum := sha256.Sum256(text)
	return endpointsPrefix + hex.EncodeToString(sum[:16])
}

// tidy removes the files of endpoints that no revision on disk names any more.
func (k *keeper) tidy() error {
	entries, err := os.ReadDir(k.dir)
	if err != nil {
		return fmt.Errorf("tidy the endpoints: %w", err)
	}
	inUse := slices.Collect(maps.Values(k.files))
	var errs []error
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), endpointsPrefix) && !slices.Contains(inUse, e.Name()) {
			errs = append(errs, os.Remove(filepath.Join(k.dir, e.Name())))
		}
	}
	return errors.Join(errs...)
}

// revision reads a revision of an etcd feed back from its parts.
func (s *saved) revision(dir string) (*Revision, error) {
	r := &Revision{
		Number: s.Number, Hash: s.Hash, Forced: s.Forced, Place: s.Place, Kept: s.Kept,
		documents: etcd.Documents{}, records: map[string]*etcd.Records{},
	}
	for _, f := range s.Files {
		r.documents[referenceOf(f.Name)] = etcd.NewDocument(f.Data)
	}
	for vpc, name := range s.Endpoints {
		text, err := os.ReadFile(filepath.Join(dir, filepath.Base(name)))
		if err != nil {
			return r, err
		}
		if endpointsName(text) != name {
			return r, fmt.Errorf("%s is torn", name)
		}
		r.records[vpc] = etcd.ParseRecords(string(text))
	}
	objects, err := r.documents.Objects()
	if err != nil {
		return r, fmt.Errorf("this version refuses it: %w", err)
	}
	r.Objects = objects
	_ = etcd.AddRecords(r.Objects, r.records, nil) // what does not fit was said when the revision came
	return r, nil
}
