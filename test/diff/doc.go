// SPDX-License-Identifier: Apache-2.0

// Package diff compares the programs with the reference model (pkg/oracle): random objects, random packets and
// their replies, time that passes, revisions that change in the middle. Whatever a packet becomes must be the same
// on both sides. What differs is shrunk and printed as a case; a case in testdata is played for ever.
package diff
