// SPDX-License-Identifier: Apache-2.0

package api

// validate judges the objects together. Each check skips what could not be read or does not exist:
// that has been reported, and its consequences would only hide it.
func (r *revision) validate() {
	r.checkIdentities()
	r.checkHosts()
	r.checkVPCs()
	r.checkSubnets()
	r.checkRules()
	r.checkInstances()
	r.checkENIs()
	r.checkRoutes()
	r.checkPolicyRoutes()
	r.checkPeerings()
	r.checkAttachments()
	r.checkRanges()
	r.checkEIPs()
	r.checkRuleLimits()
	r.checkHostLimits()
	r.checkEIPLimits()
}

// each calls check for all objects of one kind, in the order of the text.
func each[T Object](r *revision, check func(d *document, obj T)) {
	for _, d := range r.docs {
		if obj, ok := d.Object.(T); ok {
			check(d, obj)
		}
	}
}

// refer returns the object of kind T that a field names, and its document; nil if it has been
// reported that there is none.
func refer[T Object](r *revision, d *document, path, name string) (obj T, to *document) {
	if name == "" {
		return obj, nil
	}
	kind := obj.Kind()
	to = r.byName[kind+"/"+name]
	if to == nil {
		if !r.opaque {
			d.errorf(path, "%s %q does not exist (add it or correct the name)", kind, name)
		}
		return obj, nil
	}
	return to.Object.(T), to
}

// label names an object in an error about another one.
func (d *document) label() string { return d.kind + "/" + d.name }

// claims is a set of values that only one object may have.
type claims[K comparable] map[K]*document

// claim takes a value for d. It returns the document that has it already, or nil.
func (c claims[K]) claim(key K, d *document) *document {
	if owner := c[key]; owner != nil {
		return owner
	}
	c[key] = d
	return nil
}

// checkIdentities: state belongs to a UID, so two objects of a kind may not share one.
func (r *revision) checkIdentities() {
	type identity struct{ kind, uid string }
	uids := claims[identity]{}
	for _, d := range r.docs {
		uid := d.Meta().UID
		if owner := uids.claim(identity{d.kind, uid}, d); owner != nil {
			d.errorf("metadata.uid", "%q is the identity of %s too (give each its own)", uid, owner.label())
		}
	}
}

// sameVPC reports a reference out of the VPC. Both names are empty if unreadable.
func sameVPC(d *document, path string, to *document, toVPC, vpc string) {
	if toVPC != "" && vpc != "" && toVPC != vpc {
		d.errorf(path, "%s is of VPC/%s, not of VPC/%s (name one of the same VPC)", to.label(), toVPC, vpc)
	}
}
