// SPDX-License-Identifier: Apache-2.0

// Package migrate copies the flows of ENIs that move from host to host, between their agents.
//
// # How an instance moves
//
// The feed says `Instance.migration: {to: B}` while the instance is on A (epoch e), and later `host: B` (an epoch
// E > e). What a host does follows from what it has in force:
//
//	             A, source                          B, target                         others
//	at rest      attached                           -                                 next hop: VTEP of A
//	migration    attached; sends its flows to B,    prepared: all is in the maps,     next hop: A; both may send
//	             first all, then in rounds what     the port gets what others send    as the ENI (map moves)
//	             has changed                        to it here, its guest is not
//	                                                heard, its EIPs are not answered
//	host: B      left: next hop becomes "moved",    attached: next hop is local, the  next hop: VTEP of B:
//	             one store. What still comes is     guest is heard, EIPs announced.   one store
//	             judged by its flows, marked and    Marked packets of A are taken
//	             sent on to B; rounds go on
//	settled      forgets the ENI                    forgets A                         forget A
//
// Who is first does not matter. If A is, its marked packets reach B, which is prepared. If others are, B takes what
// they send. If B is, A delivers until it has heard, too. The guest is heard at A until all is settled, so that a
// machine that is switched over later than the feed loses nothing; whether it is heard twice is up to whoever moves it.
//
// Settled is a time after the revision that moved something (agent: redirectFor), unless the feed itself says when all hosts
// know: then `migration: {to: B, from: A}` stays beside `host: B` until that is so, and A sends on until it is gone. That is
// what enictl instance migrate does where agents tell which revision they have; from is filled in like epochs.
//
// B may be there before the feed says so, when its guest has been seen (agent: Arrived). Then B opens at once and says so
// in its answers to rounds, with its epoch. A believes nobody else, and stops to deliver; what others still send to it, it
// sends on. The feed has to follow.
//
// # What fails
//
//	no channel, wrong certificate,     the move goes on without flows: packets of connections that B does not know
//	target's agent away                are dropped there, as those of a new host always are
//	source's agent dies                its programs go on. Restarted before `host: B` it copies all again; after it, it
//	                                   knows by its numbers that the ENI was here if the feed says from where it came,
//	                                   else it has forgotten it, and nothing is sent on
//	target's agent dies                what is in force stays; the source dials again and copies all again
//	the migration is taken back        B forgets the ENI and its flows, A has never stopped
//	moved back at once                 A prepares a new incarnation, which the flows of B belong to
//	two hosts claim the ENI            each follows the revision that it has; but the one from which it moves gives way
//	                                   to the word of the one to which it moves, before its own feed says so
//
// # The channel
//
// TCP with TLS 1.3, a certificate on both sides, whose DNS name is the name of the host. The source dials `Host.peer`
// of the target. Frames are length (4 bytes, at most maxFrame), type (1 byte), payload:
//
//	hello    ->  JSON: version, from, to, ENI, UID, epoch
//	welcome  <-  JSON: empty, or why not
//	flows    ->  binary, flows by name: wire.go
//	round    ->  4 bytes: its number
//	done     <-  JSON: round, how many flows are there, and how many not, by reason; the epoch of the attachment if
//	             the ENI has arrived
//
// Nothing on the wire is a number of one host: flows name their next hop by ENI and UID, their rule by the name of its
// object. A target takes only flows of an ENI that moves to it, with this UID and epoch, from the host that has it,
// whose local address is the ENI's own; and each of them is judged by the target's own rules before a packet passes.
package migrate
