// SPDX-License-Identifier: Apache-2.0

package api

import (
	"bytes"

	"go.yaml.in/yaml/v3"
)

// Decoder is Decode for a reader of many revisions: a file in which nothing is wrong and that is the same as the last time
// is not read again, only judged with the others. Revisions share its objects, which nobody changes.
type Decoder struct {
	known map[string]*parsed // by file
}

// parsed is a file that could be read without an error.
type parsed struct {
	data  []byte
	docs  []document   // in the order of the text, without their nodes, which take many times the memory of the text
	nodes []*yaml.Node // of docs, after an error of one of them
}

// Decode reads the objects of one revision as the function Decode does.
func (c *Decoder) Decode(files []File) (*Objects, []*Error) {
	r := &revision{objects: NewObjects(), byName: map[string]*document{}, known: c.known, read: map[string]*parsed{}}
	objects, errs := r.decode(files)
	c.known = r.read
	return objects, errs
}

// remembered takes a file that is as it was. It tells whether it could.
func (r *revision) remembered(f File) bool {
	p := r.known[f.Name]
	if p == nil || !bytes.Equal(p.data, f.Data) {
		return false
	}
	r.read[f.Name] = p
	for i := range p.docs {
		d := p.docs[i]
		d.errs, d.from, d.place = &r.errs, p, i
		d.Object = ownEIP(d.Object)
		r.keep(&d)
	}
	return true
}

// remember keeps what a file made, if nothing was wrong with it. docs and errs are how many there were before.
func (r *revision) remember(f File, docs, errs int) {
	if r.read == nil || r.errs.len() != errs {
		return
	}
	p := &parsed{data: f.Data, docs: make([]document, 0, len(r.docs)-docs)}
	for _, d := range r.docs[docs:] {
		p.docs = append(p.docs, document{Object: ownEIP(d.Object), file: d.file, kind: d.kind, name: d.name})
	}
	r.read[f.Name] = p
}

// ownEIP copies an EIP, whose private IP the whole revision fills in; other objects stay as they are.
func ownEIP(o Object) Object {
	e, ok := o.(*EIP)
	if !ok {
		return o
	}
	own := *e
	return &own
}

// nodeOf finds the text of a document again: an error says in which line it is.
func (p *parsed) nodeOf(place int, file string) *yaml.Node {
	if p.nodes == nil {
		r := &revision{objects: NewObjects(), byName: map[string]*document{}}
		r.decodeNew(File{file, p.data})
		for _, d := range r.docs {
			p.nodes = append(p.nodes, d.node)
		}
	}
	return p.nodes[place]
}

// decodeNew reads a file that is not remembered.
func (r *revision) decodeNew(f File) {
	docs, errs := len(r.docs), r.errs.len()
	if n := jsonNode(f.Data); n != nil {
		r.decodeDocument(f.Name, n)
	} else {
		r.decodeYAML(f)
	}
	r.remember(f, docs, errs)
}
