// SPDX-License-Identifier: Apache-2.0

package api

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// MaxFileSize and MaxTotalSize bound what is parsed: a parsed document takes a hundred times the
// memory of its text in the worst case.
const (
	MaxFileSize  = 16 << 20
	MaxTotalSize = 128 << 20
)

// File is a text with objects: YAML documents or JSON.
type File struct {
	Name string
	Data []byte
}

// revision is what Decode knows while it reads.
type revision struct {
	objects *Objects
	docs    []*document
	byName  map[string]*document // by kind/name
	opaque  bool                 // some text could not be read: a name that is missing may be in it
	errs    errorList

	known, read map[string]*parsed // of the last revision and of this one; nil = not remembered
}

// Decode reads the objects of one revision, and judges each and all together. It returns either the
// objects or everything that is wrong with them, sorted by file and line.
func Decode(files []File) (*Objects, []*Error) {
	return (&revision{objects: NewObjects(), byName: map[string]*document{}}).decode(files)
}

func (r *revision) decode(files []File) (*Objects, []*Error) {
	total := 0
	for _, f := range files {
		total += len(f.Data)
		if len(f.Data) > MaxFileSize || total > MaxTotalSize {
			r.refuse(f.Name, 0, fmt.Sprintf("is too big (at most %d MiB a file and %d MiB together: split or shorten it)",
				MaxFileSize>>20, MaxTotalSize>>20))
			continue
		}
		r.decodeFile(f)
	}
	r.validate()
	if len(r.errs.list) > 0 {
		return nil, r.errs.sorted()
	}
	return r.objects, nil
}

// Parse reads objects one by one and does not judge them together: they are a part of a revision, and
// what they refer to may be in the rest. It returns what can be read, in the order of the text, and
// everything that is wrong with the rest.
func Parse(files []File) ([]Object, []*Error) {
	r := &revision{objects: NewObjects(), byName: map[string]*document{}}
	for _, f := range files {
		if len(f.Data) > MaxFileSize {
			r.refuse(f.Name, 0, fmt.Sprintf("is too big (at most %d MiB a file: split or shorten it)", MaxFileSize>>20))
			continue
		}
		r.decodeFile(f)
	}
	objects := make([]Object, 0, len(r.docs))
	for _, d := range r.docs {
		objects = append(objects, d.Object)
	}
	return objects, r.errs.sorted()
}

// refuse reports a text from which no object can be read.
func (r *revision) refuse(file string, line int, msg string) {
	r.opaque = true
	r.errs.add(&Error{File: file, Line: line, Msg: msg})
}

// decodeFile reads the documents of a file.
func (r *revision) decodeFile(f File) {
	if !r.remembered(f) {
		r.decodeNew(f)
	}
}

// decodeYAML reads the documents of a file until one is no YAML.
func (r *revision) decodeYAML(f File) {
	dec := yaml.NewDecoder(bytes.NewReader(f.Data))
	for {
		var n yaml.Node
		err := parse(dec, &n)
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			line, msg := syntaxError(err)
			r.refuse(f.Name, line, msg)
			return
		}
		r.decodeDocument(f.Name, n.Content[0])
	}
}

// parse reads the next document. A parser that panics on some text may not take the agent along.
func parse(dec *yaml.Decoder, n *yaml.Node) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("the parser fails with: %v", p)
		}
	}()
	return dec.Decode(n)
}

var yamlLine = regexp.MustCompile(`^line (\d+): `)

// syntaxError takes the line out of the text of the YAML library's error. The library gives none for
// the first line, and counts the lines of its parser (unlike those of its scanner) from 0. A
// reference to an unknown anchor has no line at all.
func syntaxError(err error) (line int, msg string) {
	msg = strings.TrimPrefix(err.Error(), "yaml: ")
	if m := yamlLine.FindStringSubmatch(msg); m != nil {
		line, _ = strconv.Atoi(m[1])
		msg = msg[len(m[0]):]
	}
	if strings.HasPrefix(msg, "did not find expected") || line == 0 && !strings.HasPrefix(msg, "unknown anchor") {
		line++
	}
	return line, "is not valid YAML or JSON: " + msg + " (correct the text)"
}

// decodeDocument reads an object or a List of them.
func (r *revision) decodeDocument(file string, n *yaml.Node) {
	if n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" {
		return // only comments
	}
	if i := keyIndex(n, "kind"); i >= 0 && n.Content[i+1].Value == listKind {
		r.decodeList(file, n)
		return
	}
	r.decodeObject(file, n)
}

// decodeList reads the objects of a List: how kubectl writes many objects as one value, and so do we
// (see List).
func (r *revision) decodeList(file string, n *yaml.Node) {
	d := &document{file: file, node: n, kind: listKind, errs: &r.errs}
	root := (&field{doc: d, line: n.Line, node: n}).mapping()
	version := root.need("apiVersion")
	if v := version.text(); v != "" && v != listVersion && v != Version {
		version.errorf("%q is not known (use %s)", v, listVersion)
	}
	root.skip("kind", "metadata")
	list(root.need("items"), func(item *field) struct{} {
		r.decodeObject(file, item.node)
		return struct{}{}
	})
	root.done()
	r.opaque = r.opaque || d.bad
}

// decodeObject reads one object and keeps it, also if it has errors: what refers to it shall not be
// reported as dangling.
func (r *revision) decodeObject(file string, n *yaml.Node) {
	d := &document{file: file, node: n, errs: &r.errs}
	root := (&field{doc: d, line: n.Line, node: n}).mapping()
	if root == nil {
		r.opaque = true
		return
	}
	if !d.identify(root) {
		r.opaque = true
		return
	}
	read := decoderOf(d.kind)
	if read == nil {
		r.refuseKind(d)
		return
	}
	meta := decodeMetadata(root.need("metadata").mapping())
	spec := root.need("spec").mapping()
	root.skip("status")
	root.done()
	d.Object = read(spec)
	spec.done()
	*d.Meta() = meta
	r.keep(d)
}

// identify reads apiVersion and kind, and finds the name for errors.
func (d *document) identify(root *mapping) bool {
	version := root.need("apiVersion")
	kind := root.need("kind")
	if k := kind.text(); k != "" {
		d.kind = k
	}
	if meta := root.entries["metadata"]; meta != nil {
		if i := keyIndex(meta.node, "name"); i >= 0 && NameProblem(meta.node.Content[i+1].Value) == "" {
			d.name = meta.node.Content[i+1].Value
		}
	}
	if v := version.text(); v != "" && v != Version {
		version.errorf("%q is not known (use %s)", v, Version)
		return false
	}
	return d.kind != ""
}

// refuseKind reports a kind that this build does not read.
func (r *revision) refuseKind(d *document) {
	if d.kind == "VIP" {
		d.errorf("kind", "is not supported by this version (remove the object)")
		return
	}
	r.opaque = true
	kind := d.kind
	d.kind, d.name = "", ""
	if near := nearest(kind, Kinds()); near != "" {
		d.errorf("kind", "%q is not known (did you mean %s?)", kind, near)
		return
	}
	d.errorf("kind", "%q is not known (use one of %s)", kind, strings.Join(Kinds(), ", "))
}

// decodeMetadata reads metadata. What Kubernetes adds of its own is nothing to us.
func decodeMetadata(m *mapping) Metadata {
	meta := Metadata{
		Name:        m.need("name").name(),
		UID:         m.get("uid").text(),
		Labels:      m.get("labels").notes(),
		Annotations: m.get("annotations").notes(),
	}
	if meta.UID == "" {
		meta.UID = meta.Name
	}
	m.skip("creationTimestamp", "deletionGracePeriodSeconds", "deletionTimestamp", "finalizers",
		"generateName", "generation", "managedFields", "namespace", "ownerReferences",
		"resourceVersion", "selfLink")
	m.done()
	return meta
}

// keep puts the object under its name, if that is free.
func (r *revision) keep(d *document) {
	name := d.Meta().Name
	if name == "" {
		r.opaque = true
		return
	}
	key := d.kind + "/" + name
	if d.kind == "Region" {
		key = d.kind // at most one, whatever it is called
	}
	if first := r.byName[key]; first != nil {
		where := fmt.Sprintf("%s:%d", first.file, first.line("metadata.name"))
		if d.kind == "Region" {
			d.errorf("kind", "there is a Region already (at most one; the first is at %s)", where)
			return
		}
		d.errorf("metadata.name", "is used twice (give one another name; the first is at %s)", where)
		return
	}
	r.byName[key] = d
	r.docs = append(r.docs, d)
	r.objects.add(d.Object)
}

// decoderOf returns what reads the spec of a kind, nil for a kind that this build does not read.
func decoderOf(kind string) func(*mapping) Object {
	switch kind {
	case "Region":
		return decodeRegion
	case "Host":
		return decodeHost
	case "InstanceType":
		return decodeInstanceType
	case "Instance":
		return decodeInstance
	case "VPC":
		return decodeVPC
	case "Subnet":
		return decodeSubnet
	case "RouteTable":
		return decodeRouteTable
	case "PrefixList":
		return decodePrefixList
	case "SecurityGroup":
		return decodeSecurityGroup
	case "NetworkACL":
		return decodeNetworkACL
	case "ENI":
		return decodeENI
	case "EIP":
		return decodeEIP
	}
	return nil
}
