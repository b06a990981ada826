// SPDX-License-Identifier: Apache-2.0

// Package dataplane is the typed face of the BPF object: its maps as Go values, in both directions.
//
// Encode turns a compiled state into the exact bytes that the maps must hold. OpenPinned gives the
// CLI and the metrics a view of the live maps, also with the agent dead. The types generated from
// the object do not leave this package.
package dataplane
