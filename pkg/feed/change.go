// SPDX-License-Identifier: Apache-2.0

package feed

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
	"golang.org/x/sys/unix"

	"github.com/eniplane/eniplane/pkg/api"
	"github.com/eniplane/eniplane/pkg/durable"
	"github.com/eniplane/eniplane/pkg/feed/etcd"
)

// The files that changes of a directory need beside the objects.
const (
	changeLock = ".enictl.lock" // held while a directory is changed
	addedFile  = "enictl.yaml"  // for objects that are in no file yet
)

// ChangeDir changes the objects of a directory as a store changes those in etcd: all or none, and only if the directory is
// valid with them. Files keep their other documents and comments. REVISION, if there is one, is written last, so agents see
// all of the change or nothing; without one, the files are replaced one right after the other.
func ChangeDir(path string, dryRun bool, change func(*etcd.Draft) error) (*etcd.Result, error) {
	unlock, err := lockDir(path)
	if err != nil {
		return nil, err
	}
	defer unlock()
	files, err := api.ReadPaths(path)
	if err != nil {
		return nil, err
	}
	objects, wrong := api.Parse(files)
	if len(wrong) > 0 {
		return nil, api.Errors(wrong)
	}
	revision, marked, err := markOf(path)
	if err != nil {
		return nil, err
	}
	documents, epoch := etcd.Documents{}, revision+1
	for _, o := range objects {
		text, err := api.MarshalJSON(o)
		if err != nil {
			return nil, err
		}
		documents[api.ReferenceTo(o)] = etcd.Document{Text: text, UID: o.Meta().UID}
		if e, ok := o.(*api.ENI); ok && e.Attachment != nil {
			epoch = max(epoch, e.Attachment.Epoch+1)
		}
	}
	changes, err := documents.Edit(epoch, change)
	if err != nil || len(changes) == 0 || dryRun {
		return &etcd.Result{Revision: revision, Changes: changes}, err
	}
	edited, err := editFiles(path, files, changes)
	if err != nil {
		return nil, err
	}
	for _, f := range edited {
		if err := durable.WriteFile(f.Name, f.Data, 0o644); err != nil {
			return nil, err
		}
	}
	if !marked {
		return &etcd.Result{Changes: changes}, nil
	}
	mark := filepath.Join(path, revisionFile)
	return &etcd.Result{Revision: revision + 1, Changes: changes}, durable.WriteFile(mark, fmt.Appendln(nil, revision+1), 0o644)
}

// lockDir keeps others out who change a directory by ChangeDir.
func lockDir(path string) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(path, changeLock), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("change feed dir:%s: %w", path, err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		return nil, errors.Join(fmt.Errorf("lock feed dir:%s: %w", path, err), f.Close())
	}
	return func() { _ = f.Close() }, nil
}

// markOf reads REVISION, if there is one.
func markOf(path string) (revision uint64, marked bool, err error) {
	text, err := os.ReadFile(filepath.Join(path, revisionFile))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, fmt.Errorf("change feed dir:%s: %w", path, err)
	}
	revision, err = strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64)
	if err != nil || revision >= maxRevision {
		return 0, false, fmt.Errorf("change feed dir:%s: %s holds %.40q, not a number (write one)", path, revisionFile, text)
	}
	return revision, true, nil
}

// editFiles returns the files that differ after changes.
func editFiles(path string, files []api.File, changes []etcd.Change) ([]api.File, error) {
	var out []api.File
	todo := map[api.Reference]etcd.Change{}
	for _, c := range changes {
		todo[c.Reference] = c
	}
	added := -1
	for _, f := range files {
		data, touched, err := editFile(f, todo)
		if err != nil {
			return nil, err
		}
		if f.Name == filepath.Join(path, addedFile) {
			added = len(out)
		} else if !touched {
			continue
		}
		out = append(out, api.File{Name: f.Name, Data: data})
	}
	var fresh []byte
	for _, c := range changes {
		if _, left := todo[c.Reference]; !left {
			continue
		}
		text, err := documentText(c.New)
		if err != nil {
			return nil, err
		}
		fresh = append(append(fresh, "---\n"...), text...)
	}
	if len(fresh) == 0 {
		return out, nil
	}
	if added < 0 {
		added = len(out)
		out = append(out, api.File{Name: filepath.Join(path, addedFile)})
	}
	out[added].Data = slices.Concat(out[added].Data, fresh)
	return out, nil
}

// documentText writes an object as a YAML document.
func documentText(text []byte) ([]byte, error) {
	objects, wrong := api.Parse([]api.File{{Name: "change", Data: text}})
	if len(wrong) > 0 {
		return nil, api.Errors(wrong)
	}
	return api.MarshalYAML(objects...)
}

// editFile puts the changes that concern a file into it, and takes them off the list.
func editFile(f api.File, todo map[api.Reference]etcd.Change) (data []byte, touched bool, err error) {
	var out bytes.Buffer
	enc := yaml.NewEncoder(&out)
	enc.SetIndent(2)
	for dec := yaml.NewDecoder(bytes.NewReader(f.Data)); ; {
		var doc yaml.Node
		if err := dec.Decode(&doc); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, false, fmt.Errorf("read %s: %w", f.Name, err)
		}
		ref, isList := identify(&doc)
		c, ok := todo[ref]
		switch {
		case isList:
			if err := listed(f.Name, &doc, todo); err != nil {
				return nil, false, err
			}
		case ok:
			delete(todo, ref)
			touched = true
			if filepath.Ext(f.Name) == ".json" {
				return nil, false, fmt.Errorf("%s is in %s, which is JSON: change it there by hand", ref, f.Name)
			}
			if c.New == nil {
				continue
			}
			if err := replace(&doc, c.New); err != nil {
				return nil, false, err
			}
		}
		if err := enc.Encode(&doc); err != nil {
			return nil, false, fmt.Errorf("write %s: %w", f.Name, err)
		}
	}
	switch {
	case !touched:
		return f.Data, false, nil
	case out.Len() == 0: // all documents are gone, and the encoder does not end what it has not begun
		return nil, true, nil
	}
	if err := enc.Close(); err != nil {
		return nil, false, fmt.Errorf("write %s: %w", f.Name, err)
	}
	return out.Bytes(), true, nil
}

// identify returns which object a document is.
func identify(doc *yaml.Node) (ref api.Reference, isList bool) {
	var head struct {
		Kind     string `yaml:"kind"`
		Metadata struct {
			Name string `yaml:"name"`
		} `yaml:"metadata"`
	}
	// What cannot be read is no object that changes.
	_ = doc.Decode(&head)
	return api.Reference{Kind: head.Kind, Name: head.Metadata.Name}, head.Kind == "List"
}

// listed refuses changes of objects that are items of a List.
func listed(file string, doc *yaml.Node, todo map[api.Reference]etcd.Change) error {
	text, err := yaml.Marshal(doc)
	if err != nil {
		return fmt.Errorf("read %s: %w", file, err)
	}
	objects, _ := api.Parse([]api.File{{Name: file, Data: text}})
	for _, o := range objects {
		if _, ok := todo[api.ReferenceTo(o)]; ok {
			return fmt.Errorf("%s is in a List in %s: change it there by hand", api.ReferenceTo(o), file)
		}
	}
	return nil
}

// replace gives a document another content; the comment before it stays.
func replace(doc *yaml.Node, text []byte) error {
	written, err := documentText(text)
	if err != nil {
		return err
	}
	var fresh yaml.Node
	if err := yaml.Unmarshal(written, &fresh); err != nil {
		return fmt.Errorf("write an object: %w", err)
	}
	old, now := doc.Content[0], fresh.Content[0]
	now.HeadComment = old.HeadComment
	if len(old.Content) > 0 { // the parser may have given it to the first field
		now.Content[0].HeadComment = old.Content[0].HeadComment
	}
	doc.Content = fresh.Content
	return nil
}
