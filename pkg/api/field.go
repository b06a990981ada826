// SPDX-License-Identifier: Apache-2.0

package api

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// document is one object as it stands in its file: what errors need to say where something is.
type document struct {
	Object
	file string
	node *yaml.Node // nil = of a remembered file, from which it can be had again
	kind string
	name string
	errs *errorList
	bad  bool // some of it could not be read: what refers to it must not be judged by it

	from  *parsed // the remembered file, and which of its documents this is
	place int
}

func (d *document) report(line int, path, format string, args ...any) {
	d.errs.add(&Error{
		File: d.file, Line: line, Kind: d.kind, Name: d.name, Path: path,
		Msg: fmt.Sprintf(format, args...),
	})
}

// errorf reports at a path what is wrong with a document that could be read.
func (d *document) errorf(path, format string, args ...any) {
	d.report(d.line(path), path, format, args...)
}

// line returns in which line of its file a path of the document is.
func (d *document) line(path string) int {
	if d.node == nil {
		d.node = d.from.nodeOf(d.place, d.file)
	}
	return lineOf(d.node, path)
}

// lineOf follows a path such as `spec.ips[3]` as far as it goes and returns the line it gets to.
func lineOf(n *yaml.Node, path string) int {
	line := n.Line
	for path != "" {
		var step string
		if path[0] == '[' {
			step, path, _ = strings.Cut(path[1:], "]")
			i, err := strconv.Atoi(step)
			if err != nil || n.Kind != yaml.SequenceNode || i >= len(n.Content) {
				return line
			}
			n = n.Content[i]
			line = n.Line
			path = strings.TrimPrefix(path, ".")
			continue
		}
		end := strings.IndexAny(path, ".[")
		if end < 0 {
			end = len(path)
		}
		step, path = path[:end], strings.TrimPrefix(path[end:], ".")
		i := keyIndex(n, step)
		if i < 0 {
			return line
		}
		line, n = n.Content[i].Line, n.Content[i+1]
	}
	return line
}

// keyIndex returns where a mapping has a key, -1 if it has not.
func keyIndex(n *yaml.Node, key string) int {
	if n.Kind != yaml.MappingNode {
		return -1
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return i
		}
	}
	return -1
}

// field is a value in a document, and the way to it. The methods of a nil field return zero values:
// whoever made it nil has reported why. So the decoders of kinds need no ifs.
type field struct {
	doc    *document
	parent *field
	key    string // of a mapping's value; "" for a list's item
	index  int
	line   int
	node   *yaml.Node
}

func (f *field) path() string {
	switch {
	case f.parent == nil:
		return f.key
	case f.key == "":
		return fmt.Sprintf("%s[%d]", f.parent.path(), f.index)
	case f.parent.path() == "":
		return f.key
	}
	return f.parent.path() + "." + f.key
}

// errorf reports why the field cannot be read.
func (f *field) errorf(format string, args ...any) {
	f.doc.bad = true
	f.doc.report(f.line, f.path(), format, args...)
}

// unsupported refuses a field of the contract that this build does not enforce.
func (f *field) unsupported() {
	if f != nil {
		f.errorf("is not supported by this version (remove it)")
	}
}

// mapping is a field that holds fields, each of which must be asked for.
type mapping struct {
	field   *field
	entries map[string]*field
	known   []string
}

// mapping returns the fields of a mapping. A nil mapping has no fields and lacks none.
func (f *field) mapping() *mapping {
	if f == nil {
		return nil
	}
	if f.node.Kind != yaml.MappingNode {
		f.errorf("is %s, not a mapping (write its fields as `name: value`)", describe(f.node))
		return nil
	}
	m := &mapping{field: f, entries: make(map[string]*field, len(f.node.Content)/2)}
	for i := 0; i+1 < len(f.node.Content); i += 2 {
		key, value := f.node.Content[i], f.node.Content[i+1]
		child := &field{doc: f.doc, parent: f, key: key.Value, line: key.Line, node: value}
		switch {
		case !isFieldName(key):
			odd := &field{doc: f.doc, parent: f.parent, key: f.key, index: f.index, line: key.Line}
			odd.errorf("has %s as the name of a field (write a plain name)", describe(key))
		case m.entries[key.Value] != nil:
			child.errorf("is given twice (keep one; the first is at line %d)", m.entries[key.Value].line)
		default:
			m.entries[key.Value] = child
		}
	}
	return m
}

// isFieldName tells whether a key can be the name of a field or label, and stand in an error.
func isFieldName(key *yaml.Node) bool {
	return key.Kind == yaml.ScalarNode && key.ShortTag() == "!!str" && key.Value != "" &&
		len(key.Value) <= maxText && strings.IndexFunc(key.Value, unprintable) < 0
}

// get returns a field that may be absent (then nil). One without a value is an error: it may not
// pass for an absent one.
func (m *mapping) get(name string) *field {
	if m == nil {
		return nil
	}
	m.known = append(m.known, name)
	f := m.entries[name]
	if f == nil {
		return nil
	}
	if f.node.Kind == yaml.ScalarNode && f.node.ShortTag() == "!!null" {
		f.errorf("has no value (give one or remove the field)")
		return nil
	}
	return f
}

// need returns a field that must be there.
func (m *mapping) need(name string) *field {
	f := m.get(name)
	if f == nil && m != nil && m.entries[name] == nil {
		m.missing(name)
	}
	return f
}

func (m *mapping) missing(name string) {
	absent := &field{doc: m.field.doc, parent: m.field, key: name, line: m.field.line}
	absent.errorf("is missing (add it)")
}

// keys returns the names of all fields, sorted: those of a mapping by names of objects.
func (m *mapping) keys() []string { return slices.Sorted(maps.Keys(m.entries)) }

// skip knows fields that are of no interest to us, whatever they hold.
func (m *mapping) skip(names ...string) {
	if m != nil {
		m.known = append(m.known, names...)
	}
}

// unsupported refuses fields of the contract that this build does not enforce.
func (m *mapping) unsupported(names ...string) {
	if m == nil {
		return
	}
	m.known = append(m.known, names...)
	for _, name := range names {
		m.entries[name].unsupported()
	}
}

// done reports all fields that nobody has asked for.
func (m *mapping) done() {
	if m == nil {
		return
	}
	for _, name := range slices.Sorted(maps.Keys(m.entries)) {
		if slices.Contains(m.known, name) {
			continue
		}
		f := m.entries[name]
		if near := nearest(name, m.known); near != "" {
			f.errorf("is not a field of %s (did you mean %s?)", m.field.what(), near)
		} else {
			f.errorf("is not a field of %s (remove it)", m.field.what())
		}
	}
}

// what names the thing whose fields a mapping holds.
func (f *field) what() string {
	if f.parent == nil || f.parent.parent == nil && f.key == "spec" {
		return "this kind"
	}
	return f.path()
}

// list returns the items of a list, of which an absent one has none. An item that cannot be read is
// reported and stands as a zero value, so that the indexes stay those of the text.
func list[T any](f *field, read func(*field) T) []T {
	if f == nil {
		return nil
	}
	if f.node.Kind != yaml.SequenceNode {
		f.errorf("is %s, not a list (write [a, b] or lines with -)", describe(f.node))
		return nil
	}
	if len(f.node.Content) == 0 {
		return nil
	}
	items := make([]T, len(f.node.Content))
	for i, n := range f.node.Content {
		items[i] = read(&field{doc: f.doc, parent: f, index: i, line: n.Line, node: n})
	}
	return items
}

// filled is list for one that must have an item.
func filled[T any](f *field, what string, read func(*field) T) []T {
	if f != nil && f.node.Kind == yaml.SequenceNode && len(f.node.Content) == 0 {
		f.errorf("is empty (give at least one %s)", what)
	}
	return list(f, read)
}

// describe says what a node is, for errors.
func describe(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	case yaml.AliasNode:
		return "a YAML alias"
	}
	switch n.ShortTag() {
	case "!!null":
		return "nothing"
	case "!!str":
		return "text"
	case "!!int":
		return "a number"
	case "!!float":
		return "a fraction"
	case "!!bool":
		return "true or false"
	}
	return "a " + n.ShortTag()
}

// nearest returns the known name that a wrong one differs from only in case, by one end or by one
// letter; "" if there is none.
func nearest(name string, known []string) string {
	for _, k := range known {
		if strings.EqualFold(k, name) || oneEdit(k, name) {
			return k
		}
	}
	return ""
}

// oneEdit tells whether one letter added, removed or replaced makes a of b.
func oneEdit(a, b string) bool {
	if len(a) < len(b) {
		a, b = b, a
	}
	if len(a)-len(b) > 1 || len(b) < 2 {
		return false
	}
	i := 0
	for i < len(b) && a[i] == b[i] {
		i++
	}
	if len(a) == len(b) {
		return i == len(b) || a[i+1:] == b[i+1:]
	}
	return a[i+1:] == b[i:]
}
