// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
)

// Schema is the version of the JSON that Report is; README.md describes it.
const Schema = 1

// Report is all that a run found. Its JSON is the file that enibench keeps.
type Report struct {
	Schema      int         `json:"schema"`
	Environment Environment `json:"environment"`
	Settings    Settings    `json:"settings"`
	Results     []Result    `json:"results"`
	Ratios      []Ratio     `json:"ratios,omitempty"`
	Checks      []Check     `json:"checks,omitempty"`
	Gaps        []Gap       `json:"gaps,omitempty"`
	Took        []Took      `json:"took"`
}

// Result finds a result by its key; nil if there is none.
func (r *Report) Result(key string) *Result {
	for i := range r.Results {
		if r.Results[i].Key() == key {
			return &r.Results[i]
		}
	}
	return nil
}

// Save writes the report, whole or not at all.
func (r *Report) Save(path string) error {
	data, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return fmt.Errorf("encode the report: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("make a directory for the report: %w", err)
	}
	if err := os.WriteFile(path+".new", append(data, '\n'), 0o644); err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("put the report in place: %w", err)
	}
	return nil
}

// Load reads what Save wrote.
func Load(path string) (*Report, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read a report: %w", err)
	}
	r := &Report{}
	if err := json.Unmarshal(data, r); err != nil {
		return nil, fmt.Errorf("read report %s: %w", path, err)
	}
	if r.Schema != Schema {
		return nil, fmt.Errorf("report %s has schema %d, this version reads %d: use the enibench that wrote it", path, r.Schema, Schema)
	}
	return r, nil
}
