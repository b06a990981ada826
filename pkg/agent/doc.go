// SPDX-License-Identifier: Apache-2.0

// Package agent is what enid does: it takes revisions from the feed, compiles them, brings them
// into force and says how it went. It owns no verdict: whatever happens to it, what is in force
// stays in force.
//
// Order on disk. Numbers that stood for something once must never come back for something else, so
// for each revision:
//
//  1. ids.json is replaced, durably, with the numbers that the revision uses, before the maps see
//     any of them. A crash after this wastes numbers, no more.
//  2. names.json is replaced with the names of the old and the new numbers together, so that the
//     CLI can name everything it meets in the maps during the change.
//  3. The loader brings the revision into force and reads it back.
//  4. The revision becomes the last good one on disk. A crash before this makes the next agent that
//     finds no feed restore the one before: older, but whole.
//  5. names.json shrinks to the names in force, status.json tells the rest.
package agent
