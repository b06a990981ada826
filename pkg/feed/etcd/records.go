// SPDX-License-Identifier: Apache-2.0

package etcd

import (
	"iter"
	"maps"
	"slices"
	"sort"
	"strings"
)

// Records are the endpoint records of one VPC, by name. A million of them are one text of some 80 MB and not a
// million objects: what has no pointers costs the collector nothing. The value is immutable: Change
// returns another one that shares most of it.
type Records struct {
	text    string   // NAME LINE\n, sorted by name
	offsets []uint32 // of the lines in text
	changed map[string]string
	gone    map[string]bool
}

// maxRecordsText keeps offsets within 32 bits.
const maxRecordsText = 1<<32 - 1<<16

// packer makes Records of what is added in the order of names.
type packer struct {
	text    strings.Builder
	offsets []uint32
}

func (p *packer) add(name, line string) {
	if p.text.Len() > maxRecordsText {
		return // 4 GiB are far beyond what a host can hold
	}
	p.offsets = append(p.offsets, uint32(p.text.Len()))
	p.text.WriteString(name)
	p.text.WriteByte(' ')
	p.text.WriteString(line)
	p.text.WriteByte('\n')
}

func (p *packer) done() *Records { return &Records{text: p.text.String(), offsets: p.offsets} }

// RecordsOf packs records that are given sorted by name.
func RecordsOf(records iter.Seq2[string, string]) *Records {
	var p packer
	for name, line := range records {
		p.add(name, line)
	}
	return p.done()
}

// ParseRecords reads what String has written.
func ParseRecords(text string) *Records {
	r := &Records{text: text}
	for at := 0; at < len(text); {
		r.offsets = append(r.offsets, uint32(at))
		end := strings.IndexByte(text[at:], '\n')
		if end < 0 {
			break
		}
		at += end + 1
	}
	return r
}

// String returns all records, a line each.
func (r *Records) String() string {
	if len(r.changed)+len(r.gone) == 0 {
		return r.text
	}
	return RecordsOf(r.All()).text
}

// Size is about how many bytes String returns.
func (r *Records) Size() int { return len(r.text) }

// at returns a packed record.
func (r *Records) at(i int) (name, line string) {
	end := len(r.text)
	if i+1 < len(r.offsets) {
		end = int(r.offsets[i+1])
	}
	name, line, _ = strings.Cut(strings.TrimSuffix(r.text[r.offsets[i]:end], "\n"), " ")
	return name, line
}

// Get returns the record of an ENI.
func (r *Records) Get(name string) (string, bool) {
	if r == nil {
		return "", false
	}
	if line, ok := r.changed[name]; ok {
		return line, true
	}
	i := r.search(name)
	if i == len(r.offsets) || r.gone[name] {
		return "", false
	}
	found, line := r.at(i)
	return line, found == name
}

func (r *Records) search(name string) int {
	return sort.Search(len(r.offsets), func(i int) bool {
		found, _ := r.at(i)
		return found >= name
	})
}

// All yields names and lines in the order of names.
func (r *Records) All() iter.Seq2[string, string] {
	return func(yield func(string, string) bool) {
		fresh := slices.Sorted(maps.Keys(r.changed))
		for i := range r.offsets {
			name, line := r.at(i)
			for len(fresh) > 0 && fresh[0] < name {
				if !yield(fresh[0], r.changed[fresh[0]]) {
					return
				}
				fresh = fresh[1:]
			}
			if r.gone[name] {
				continue
			}
			if len(fresh) > 0 && fresh[0] == name {
				line, fresh = r.changed[name], fresh[1:]
			}
			if !yield(name, line) {
				return
			}
		}
		for _, name := range fresh {
			if !yield(name, r.changed[name]) {
				return
			}
		}
	}
}

// Change returns the records after some have changed (lines) or gone (nil).
func (r *Records) Change(changes map[string]*string) *Records {
	out := &Records{text: r.text, offsets: r.offsets, changed: maps.Clone(r.changed), gone: maps.Clone(r.gone)}
	if out.changed == nil {
		out.changed, out.gone = map[string]string{}, map[string]bool{}
	}
	for name, line := range changes {
		delete(out.changed, name)
		delete(out.gone, name)
		if line != nil {
			out.changed[name] = *line
		} else {
			out.gone[name] = true
		}
	}
	const slack = 1000 // changes that are cheaper to carry along than to pack
	if len(out.changed)+len(out.gone) > max(slack, len(out.offsets)/64) {
		return RecordsOf(out.All())
	}
	return out
}
