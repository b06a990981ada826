// SPDX-License-Identifier: Apache-2.0

package feed

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/eniplane/eniplane/pkg/api"
	"github.com/eniplane/eniplane/pkg/feed/etcd"
)

// settled is what of a feed comes into force on a host: what is valid in the new, and for the rest what was.
type settled struct {
	objects   *api.Objects
	documents etcd.Documents
	kept      map[api.Reference]string // objects that are as they were, and why
}

// settler finds it. An invalid object keeps its last good version together with all that refer to it,
// because they may have been changed to go with the new one; what has no last good version is left out.
type settler struct {
	fresh, good etcd.Documents
	kept        map[api.Reference]string
	decoder     *api.Decoder

	users map[api.Reference][]api.Reference // who refers to an object in fresh; nil = not looked at
	needs map[api.Reference][]api.Reference // to what an object in good refers
}

// settle makes fresh documents valid with the help of good ones, which are valid. held names objects that stay
// as they are in good whatever fresh says.
func settle(decoder *api.Decoder, fresh, good etcd.Documents, held map[api.Reference]string) (*settled, error) {
	s := &settler{fresh: fresh, good: good, kept: maps.Clone(held), decoder: decoder}
	if s.kept == nil {
		s.kept = map[api.Reference]string{}
	}
	for whole := false; ; {
		documents := s.compose()
		objects, errs := s.decode(documents)
		if errs == nil {
			return &settled{objects, documents, s.differing()}, nil
		}
		if whole {
			return nil, fmt.Errorf("neither the objects of the feed nor those in force can be read by this version: %w", api.Errors(errs))
		}
		if !s.grow(errs) {
			// What is kept does not go with what is new, and it cannot be told which: nothing new.
			whole = true
			s.keepAll(errs)
		}
	}
}

// compose puts the documents together, with all that the kept ones refer to.
func (s *settler) compose() etcd.Documents {
	out := maps.Clone(s.fresh)
	for ref := range s.kept {
		delete(out, ref)
		if doc, ok := s.good[ref]; ok {
			out[ref] = doc
		}
	}
	todo := slices.Collect(maps.Keys(s.kept))
	for len(todo) > 0 {
		ref := todo[0]
		todo = todo[1:]
		for _, need := range s.needsOf(ref) {
			doc, had := s.good[need]
			if _, ok := out[need]; ok || !had {
				continue
			}
			out[need] = doc
			s.kept[need] = ref.String() + " still needs it"
			todo = append(todo, need)
		}
	}
	return out
}

// decode judges documents, the kept ones first: of two that do not go together, the error is of the new one.
func (s *settler) decode(documents etcd.Documents) (objects *api.Objects, errs []*api.Error) {
	defer func() {
		if p := recover(); p != nil {
			errs = []*api.Error{{Msg: fmt.Sprintf("reading the objects fails with %v (report this as a bug)", p)}}
		}
	}()
	var first, rest []api.File
	for _, f := range documents.Files() {
		if _, ok := s.kept[referenceOf(f.Name)]; ok {
			first = append(first, f)
		} else {
			rest = append(rest, f)
		}
	}
	objects, errs = s.decoder.Decode(append(first, rest...))
	if errs == nil {
		documents.Identify(objects)
	}
	return objects, errs
}

func referenceOf(file string) api.Reference {
	kind, name, _ := strings.Cut(file, "/")
	return api.Reference{Kind: kind, Name: name}
}

// grow keeps what errors are about, and tells whether that is more than before.
func (s *settler) grow(errs []*api.Error) bool {
	before := len(s.kept)
	for _, e := range errs {
		ref := referenceOf(e.File)
		if _, ok := s.kept[ref]; !ok && ref.Name != "" {
			s.keep(ref, strings.TrimPrefix(e.Path+": "+e.Msg, ": "))
			continue
		}
		// As it was it does not go with something new: with what it refers to, if that can be told.
		for _, need := range s.needsOf(ref) {
			if !s.same(need) {
				s.keep(need, ref.String()+" still needs it as it was")
			}
		}
	}
	return len(s.kept) > before
}

// keep keeps an object and all that refer to it.
func (s *settler) keep(ref api.Reference, why string) {
	if _, ok := s.kept[ref]; ok {
		return
	}
	s.kept[ref] = why
	for _, user := range s.usersOf(ref) {
		s.keep(user, "it refers to "+ref.String())
	}
}

func (s *settler) keepAll(errs []*api.Error) {
	for _, documents := range []etcd.Documents{s.fresh, s.good} {
		for ref := range documents {
			if _, ok := s.kept[ref]; !ok {
				s.kept[ref] = "the revision as a whole is not valid: " + errs[0].Error()
			}
		}
	}
}

// same tells whether an object is the same in both.
func (s *settler) same(ref api.Reference) bool {
	fresh, ok := s.fresh[ref]
	good, had := s.good[ref]
	return ok == had && fresh.UID == good.UID && bytes.Equal(fresh.Text, good.Text)
}

// differing returns what is kept and not the same anyway.
func (s *settler) differing() map[api.Reference]string {
	out := map[api.Reference]string{}
	for ref, why := range s.kept {
		if !s.same(ref) {
			out[ref] = why
		}
	}
	return out
}

func (s *settler) usersOf(ref api.Reference) []api.Reference {
	if s.users == nil {
		s.users = map[api.Reference][]api.Reference{}
		for from, refs := range references(s.fresh) {
			for _, to := range refs {
				s.users[to] = append(s.users[to], from)
			}
		}
	}
	return s.users[ref]
}

func (s *settler) needsOf(ref api.Reference) []api.Reference {
	if s.needs == nil {
		s.needs = references(s.good)
	}
	return s.needs[ref]
}

// references returns to what each of some documents refers, as far as it can be read.
func references(documents etcd.Documents) map[api.Reference][]api.Reference {
	objects, _ := api.Parse(documents.Files())
	out := map[api.Reference][]api.Reference{}
	for _, o := range objects {
		out[api.ReferenceTo(o)] = api.References(o)
	}
	return out
}
