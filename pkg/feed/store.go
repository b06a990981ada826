// SPDX-License-Identifier: Apache-2.0

package feed

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/eniplane/eniplane/pkg/api"
	"github.com/eniplane/eniplane/pkg/durable"
	"github.com/eniplane/eniplane/pkg/feed/etcd"
)

// lastGoodName is the file of the last good revision: a line with a format and a checksum, then
// JSON.
const (
	lastGoodName   = "last-good-revision"
	lastGoodFormat = "eniplane-revision-1"
)

// saved is a revision on disk. The objects are decoded again when it is read.
type saved struct {
	Number uint64     `json:"number"`
	Hash   string     `json:"hash"`
	Marked bool       `json:"marked"`
	Forced bool       `json:"forced"`
	Files  []api.File `json:"files"`

	// Of a feed in etcd, whose files are its documents:
	Place     *etcd.Place       `json:"place,omitempty"`
	Kept      []string          `json:"kept,omitempty"`
	Endpoints map[string]string `json:"endpoints,omitempty"` // by VPC: the file that holds its endpoint records
}

// LastGood reads the last good revision from the state of an agent. It is nil if there is none. With
// an error it may come without objects: then another version wrote it, and its number still counts.
func LastGood(stateDir string) (*Revision, error) {
	path := filepath.Join(stateDir, lastGoodName)
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read last good revision: %w", err)
	}
	head, body, _ := bytes.Cut(data, []byte("\n"))
	if !bytes.Equal(head, lastGoodHead(body)) {
		return nil, fmt.Errorf("read last good revision from %s: it is torn or of another version (the feed must offer a revision)", path)
	}
	var s saved
	if err := json.Unmarshal(body, &s); err != nil {
		return nil, fmt.Errorf("read last good revision from %s: %w", path, err)
	}
	if s.Place != nil {
		r, err := s.revision(stateDir)
		if err != nil {
			err = fmt.Errorf("read last good revision %d from %s: %w", s.Number, path, err)
		}
		return r, err
	}
	r := &Revision{Number: s.Number, Hash: s.Hash, Marked: s.Marked, Forced: s.Forced, Files: s.Files}
	if r.Objects, err = decode(api.Decode, s.Files); err != nil {
		return r, fmt.Errorf("read last good revision %d from %s: this version refuses it: %w", s.Number, path, err)
	}
	return r, nil
}

func lastGoodHead(body []byte) []byte {
	sum := sha256.Sum256(body)
	return []byte(lastGoodFormat + " sha256:" + hex.EncodeToString(sum[:]))
}

// save replaces the last good revision: whoever reads it sees the old one or the new one, also
// after a loss of power.
func save(stateDir string, r *Revision) error {
	return saved{Number: r.Number, Hash: r.Hash, Marked: r.Marked, Forced: r.Forced, Files: r.Files}.write(stateDir)
}

func (r saved) write(stateDir string) error {
	body, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("keep revision %d: %w", r.Number, err)
	}
	data := append(append(lastGoodHead(body), '\n'), body...)
	if err := os.MkdirAll(stateDir, 0o700); err != nil {
		return fmt.Errorf("keep revision %d: %w", r.Number, err)
	}
	if err := durable.WriteFile(filepath.Join(stateDir, lastGoodName), data, 0o600); err != nil {
		return fmt.Errorf("keep revision %d: %w", r.Number, err)
	}
	return nil
}
