// SPDX-License-Identifier: Apache-2.0

package api

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"

	"go.yaml.in/yaml/v3"
)

// MarshalYAML writes objects as YAML documents that Decode reads back as the same objects.
func MarshalYAML(objects ...Object) ([]byte, error) {
	var b bytes.Buffer
	enc := yaml.NewEncoder(&b)
	enc.SetIndent(2)
	for _, o := range objects {
		if err := enc.Encode(treeOf(o).node()); err != nil {
			return nil, fmt.Errorf("write %s/%s as YAML: %w", o.Kind(), o.Meta().Name, err)
		}
	}
	if err := enc.Close(); err != nil {
		return nil, fmt.Errorf("write objects as YAML: %w", err)
	}
	return b.Bytes(), nil
}

// MarshalJSON writes one object as JSON that Decode reads back as the same object.
func MarshalJSON(o Object) ([]byte, error) {
	b, err := json.Marshal(treeOf(o))
	if err != nil {
		return nil, fmt.Errorf("write %s/%s as JSON: %w", o.Kind(), o.Meta().Name, err)
	}
	return b, nil
}

// The List that kubectl writes.
const (
	listKind    = "List"
	listVersion = "v1"
)

// List is many objects as one JSON value that Decode reads: the form in which kubectl writes them.
type List struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Items      []any  `json:"items"`
}

// NewList makes a List of objects as JSON values.
func NewList(items []any) List {
	return List{APIVersion: listVersion, Kind: listKind, Items: items}
}

// tree is a mapping whose fields keep their order. Values are strings, integers, booleans, trees
// and lists of them ([]any).
type tree []entry

type entry struct {
	key   string
	value any
}

// put adds a field.
func (t *tree) put(key string, value any) { *t = append(*t, entry{key, value}) }

// putText adds a field unless it is empty.
func (t *tree) putText(key, value string) {
	if value != "" {
		t.put(key, value)
	}
}

// putList adds a field unless it is empty.
func (t *tree) putList(key string, value []any) {
	if len(value) > 0 {
		t.put(key, value)
	}
}

// texts writes each item of a list by its String method.
func texts[T fmt.Stringer](items []T) []any {
	list := make([]any, len(items))
	for i, item := range items {
		list[i] = item.String()
	}
	return list
}

// plain makes a list of items as they are.
func plain[T any](items []T) []any {
	list := make([]any, len(items))
	for i, item := range items {
		list[i] = item
	}
	return list
}

// MarshalJSON writes the fields in their order.
func (t tree) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	b.WriteByte('{')
	for i, e := range t {
		if i > 0 {
			b.WriteByte(',')
		}
		key, err := json.Marshal(e.key)
		if err != nil {
			return nil, err
		}
		value, err := json.Marshal(e.value)
		if err != nil {
			return nil, err
		}
		b.Write(key)
		b.WriteByte(':')
		b.Write(value)
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}

// node returns the tree as a YAML node: block style, short lists of scalars on one line.
func (t tree) node() *yaml.Node {
	n := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
	if len(t) == 0 {
		n.Style = yaml.FlowStyle
	}
	for _, e := range t {
		n.Content = append(n.Content, textNode(e.key), nodeOf(e.value))
	}
	return n
}

func nodeOf(value any) *yaml.Node {
	switch v := value.(type) {
	case tree:
		return v.node()
	case []any:
		return listNode(v)
	case string:
		return textNode(v)
	case bool:
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!bool", Value: fmt.Sprint(v)}
	}
	return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!int", Value: fmt.Sprint(value)}
}

// oneLine is the longest list that is written on one line.
const oneLine = 8

func listNode(items []any) *yaml.Node {
	n := &yaml.Node{Kind: yaml.SequenceNode, Tag: "!!seq"}
	isTree := func(item any) bool { _, ok := item.(tree); return ok }
	if len(items) <= oneLine && !slices.ContainsFunc(items, isTree) {
		n.Style = yaml.FlowStyle
	}
	for _, item := range items {
		n.Content = append(n.Content, nodeOf(item))
	}
	return n
}

// textNode quotes what older YAML readers take for a number in base 60: MACs and some IPv6.
func textNode(s string) *yaml.Node {
	n := &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: s}
	if bytes.ContainsRune([]byte(s), ':') {
		n.Style = yaml.DoubleQuotedStyle
	}
	return n
}
