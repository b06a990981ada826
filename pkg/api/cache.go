// SPDX-License-Identifier: Apache-2.0

package api

import (
	"bytes"

	"go.yaml.in/yaml/v3"
)

// Decoder is Decode for a reader of many revisions: a file that holds one object and is the same as the last time is not
// read again, only judged with the others. Revisions share such objects, which nobody changes.
type Decoder struct {
	known map[string]parsed // by file
}

// parsed is an object that could be read without an error.
type parsed struct {
	data []byte
	doc  document
}

// Decode reads the objects of one revision as the function Decode does.
func (c *Decoder) Decode(files []File) (*Objects, []*Error) {
	r := &revision{objects: NewObjects(), byName: map[string]*document{}, known: c.known, read: map[string]parsed{}}
	objects, errs := r.decode(files)
	c.known = r.read
	return objects, errs
}

// remembered takes a file that is as it was. It tells whether it could.
func (r *revision) remembered(f File) bool {
	p, ok := r.known[f.Name]
	if !ok || !bytes.Equal(p.data, f.Data) {
		return false
	}
	r.read[f.Name] = p
	d := p.doc
	d.errs = &r.errs
	if e, ok := d.Object.(*EIP); ok { // the whole revision fills in its private IP
		own := *e
		d.Object = &own
	}
	r.keep(&d)
	return true
}

// remember keeps what the file of one object made, if nothing was wrong with it.
func (r *revision) remember(f File, docs, errs int) {
	if r.read == nil || len(r.docs) != docs+1 || len(r.errs.list)+r.errs.dropped != errs {
		return
	}
	d := *r.docs[docs]
	if e, ok := d.Object.(*EIP); ok {
		own := *e
		d.Object = &own
	}
	r.read[f.Name] = parsed{f.Data, d}
}

// decodeNew reads a file that is not remembered.
func (r *revision) decodeNew(f File) {
	docs, errs := len(r.docs), len(r.errs.list)+r.errs.dropped
	var n *yaml.Node
	if n = jsonNode(f.Data); n == nil {
		r.decodeYAML(f)
		if !r.opaque {
			r.remember(f, docs, errs)
		}
		return
	}
	r.decodeDocument(f.Name, n)
	if n.Kind == yaml.MappingNode && !r.opaque {
		r.remember(f, docs, errs)
	}
}
