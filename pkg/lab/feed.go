// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

const revisionFile = "REVISION"

// feedFiles lists the object files of a feed: the file itself, or those of the directory that an
// agent would read.
func feedFiles(path string) ([]string, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("find feed: %w", err)
	}
	if !st.IsDir() {
		return []string{path}, nil
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil, fmt.Errorf("read feed: %w", err)
	}
	var files []string
	for _, e := range entries {
		name := e.Name()
		switch {
		case strings.HasPrefix(name, "."), strings.HasSuffix(name, "~"):
		case strings.HasSuffix(name, ".yaml"), strings.HasSuffix(name, ".yml"), strings.HasSuffix(name, ".json"):
			files = append(files, filepath.Join(path, name))
		}
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("feed %s holds no .yaml, .yml or .json file", path)
	}
	return files, nil
}

// copyFeed makes the lab's own feed directory, at revision 1.
func copyFeed(from, dir string) error {
	files, err := feedFiles(from)
	if err != nil {
		return err
	}
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			return fmt.Errorf("read feed: %w", err)
		}
		if err := replaceFile(filepath.Join(dir, filepath.Base(f)), data); err != nil {
			return err
		}
	}
	return replaceFile(filepath.Join(dir, revisionFile), []byte("1\n"))
}

// Revision is the number of the feed's last revision.
func (l *Lab) Revision() (uint64, error) {
	data, err := os.ReadFile(filepath.Join(l.FeedDir(), revisionFile))
	if err != nil {
		return 0, fmt.Errorf("read revision: %w", err)
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(data)), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("read revision: %w", err)
	}
	return n, nil
}

// publish puts changed files into the feed and marks them as one new revision.
func (l *Lab) publish(files map[string][]byte) (uint64, error) {
	revision, err := l.Revision()
	if err != nil {
		return 0, err
	}
	revision++
	for path, data := range files {
		if err := replaceFile(path, data); err != nil {
			return 0, err
		}
	}
	mark := []byte(strconv.FormatUint(revision, 10) + "\n")
	return revision, replaceFile(filepath.Join(l.FeedDir(), revisionFile), mark)
}

// PutFeed writes a file of the feed as it is, right or wrong, as a new revision.
func (l *Lab) PutFeed(name string, data []byte) (uint64, error) {
	return l.publish(map[string][]byte{filepath.Join(l.FeedDir(), name): data})
}

// Edit changes one object of the feed: it finds Kind/Name and hands its spec to change. Several
// edits of one EditFeed are one revision.
type Edit struct {
	Kind, Name string
	Change     func(spec *yaml.Node) error
}

// EditFeed applies edits to the feed as one revision and returns its number.
func (l *Lab) EditFeed(edits ...Edit) (uint64, error) {
	paths, err := feedFiles(l.FeedDir())
	if err != nil {
		return 0, err
	}
	found := make([]bool, len(edits))
	changed := map[string][]byte{}
	for _, path := range paths {
		docs, err := readDocuments(path)
		if err != nil {
			return 0, err
		}
		touched := false
		for i, e := range edits {
			spec := findSpec(docs, e.Kind, e.Name)
			if spec == nil {
				continue
			}
			if err := e.Change(spec); err != nil {
				return 0, fmt.Errorf("change %s %s: %w", e.Kind, e.Name, err)
			}
			found[i], touched = true, true
		}
		if touched {
			if changed[path], err = encodeDocuments(docs); err != nil {
				return 0, err
			}
		}
	}
	for i, e := range edits {
		if !found[i] {
			return 0, fmt.Errorf("the feed has no %s %s", e.Kind, e.Name)
		}
	}
	return l.publish(changed)
}

// AddObject appends a document to the feed as a new revision.
func (l *Lab) AddObject(document string) (uint64, error) {
	paths, err := feedFiles(l.FeedDir())
	if err != nil {
		return 0, err
	}
	data, err := os.ReadFile(paths[0])
	if err != nil {
		return 0, fmt.Errorf("read feed: %w", err)
	}
	data = append(bytes.TrimRight(data, "\n"), "\n---\n"+strings.TrimLeft(document, "\n")...)
	return l.publish(map[string][]byte{paths[0]: data})
}

func readDocuments(path string) ([]*yaml.Node, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read feed: %w", err)
	}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var docs []*yaml.Node
	for {
		doc := new(yaml.Node)
		err := dec.Decode(doc)
		if errors.Is(err, io.EOF) {
			return docs, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read feed %s: %w", path, err)
		}
		docs = append(docs, doc)
	}
}

func encodeDocuments(docs []*yaml.Node) ([]byte, error) {
	var out bytes.Buffer
	enc := yaml.NewEncoder(&out)
	enc.SetIndent(2)
	for _, d := range docs {
		if err := enc.Encode(d); err != nil {
			return nil, fmt.Errorf("encode feed: %w", err)
		}
	}
	if err := enc.Close(); err != nil {
		return nil, fmt.Errorf("encode feed: %w", err)
	}
	return out.Bytes(), nil
}

// findSpec finds the spec of an object, nil if it is not among the documents.
func findSpec(docs []*yaml.Node, kind, name string) *yaml.Node {
	for _, d := range docs {
		if len(d.Content) == 0 {
			continue
		}
		root := d.Content[0]
		k, meta := child(root, "kind"), child(root, "metadata")
		if k == nil || meta == nil || k.Value != kind {
			continue
		}
		if n := child(meta, "name"); n != nil && n.Value == name {
			return child(root, "spec")
		}
	}
	return nil
}

// child is the value of a key of a mapping, nil if there is none.
func child(mapping *yaml.Node, key string) *yaml.Node {
	for i := 0; i+1 < len(mapping.Content); i += 2 {
		if mapping.Content[i].Value == key {
			return mapping.Content[i+1]
		}
	}
	return nil
}

// Remove takes a key out, if it is there.
func Remove(mapping *yaml.Node, key string) {
	for i := 0; i+1 < len(mapping.Content); i += 2 {
		if mapping.Content[i].Value == key {
			mapping.Content = append(mapping.Content[:i], mapping.Content[i+2:]...)
			return
		}
	}
}

// Set makes the value of a key whatever value encodes to.
func Set(mapping *yaml.Node, key string, value any) error {
	n := new(yaml.Node)
	if err := n.Encode(value); err != nil {
		return fmt.Errorf("encode %s: %w", key, err)
	}
	if old := child(mapping, key); old != nil {
		*old = *n
		return nil
	}
	k := &yaml.Node{Kind: yaml.ScalarNode, Value: key}
	mapping.Content = append(mapping.Content, k, n)
	return nil
}
