// SPDX-License-Identifier: Apache-2.0

// Package etcd keeps the objects of the feed in etcd: how they lie there, how writers change them and how
// an agent reads what its host needs. It knows nothing of agents; package feed makes a source of it.
//
// # Keys
//
// All below one prefix. Values above 4 KiB are gzip.
//
//	mark                                 the last change set: its revision, its id, and which views it touched (JSON, see Mark)
//	commits/REVISION                     the id of a change set, as long as its logs are kept
//	objects/KIND/NAME                    an object as a JSON document: what users wrote
//	views/VIEW/state/KIND/NAME           the same, rendered for those who need it
//	views/VIEW/log/REVISION/ID/PART      what a change set changed in a view (JSON, see entry)
//	staged/ID/PART                       a change set that is larger than a transaction
//	status/HOST                          what an agent says of its host (JSON, see Status); it has a lease
//
// # Who renders, and why so
//
// A host is sent what it needs and no more, so what it needs must be found under few prefixes. There are
// three kinds of views: "region" (Region, Host and InstanceType documents, for all), "hosts/HOST" (the documents of its
// instances, of their ENIs, of the EIPs of those, and a key vpc/NAME for each VPC present and each that these have
// routes to), and "vpcs/VPC" (the documents of the VPC, its subnets, route tables, ACLs, groups and the prefix lists
// that they name, of the ENIs that routes name and their instances, and of each ENI a Record: a line of some 70 bytes
// instead of a document).
//
// The writer renders: whoever commits a change set holds the whole valid revision before and after it,
// and puts the difference of the views into the same transaction. There is no rendering daemon that could lag,
// die or be partitioned, and the views are always those of the objects. Writers keep each other out by comparing the
// mark: a transaction commits only if no other change set has since it read, so every limit of the contract that the
// writer checked on the whole revision still holds. This makes writers take turns; a change set costs one
// reading of the objects, which a region with very many objects will feel before its hosts do.
//
// # How agents follow
//
// An agent watches one key, the mark. If a change set touched none of its views it has nothing to do; else it
// reads the logs of those, at the revision of the mark, so it needs no order between watches, and what comes after the
// mark cannot mix in. A view that is new to it, logs that have been pruned, compaction, another cluster and another history
// (after a restore, or when the mark does not follow from the one that was seen) make it list its views afresh.
//
// # Change sets larger than a transaction
//
// Their logs and a list of all their keys are written first, under the id of the change set, where nobody looks. Then one
// transaction sets the mark, with Staged: that is the commit. Then the keys are put in place in as many
// transactions as it takes, and the mark loses Staged. Who lists meanwhile lays the staged entries over the keys; who wants to
// write next finishes this first, if the writer died.
//
// # Access
//
// A writer needs read and write on the prefix; an agent read on the prefix and write on status/HOST.
package etcd
