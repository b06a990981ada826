// SPDX-License-Identifier: Apache-2.0

// Package agent is what enid does: it takes revisions from the feed, compiles them, brings them
// into force and says how it went. It owns no verdict: whatever happens to it, what is in force
// stays in force.
//
// Order on disk. Numbers that stood for something once must never come back for something else, so
// for each revision:
//
//  1. ids.json is replaced with the numbers that the revision uses, before the maps see any of them.
//     A crash after this wastes numbers, no more. It is synced to the disk afterwards: a loss of
//     power takes the maps, too.
//  2. The loader reads the revision back and brings it into force. Nothing else is done before that:
//     an edit of rules waits for no disk and, unless devices changed, for no look at devices.
//  3. names.json is replaced with the names in force, so that the CLI can name what it meets in the
//     maps; after an error with those of the old and the new numbers together.
//  4. The revision becomes the last good one on disk. A crash before this makes the next agent that
//     finds no feed restore the one before: older, but whole.
//  5. status.json tells the rest.
package agent
