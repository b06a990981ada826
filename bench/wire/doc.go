// SPDX-License-Identifier: Apache-2.0

// Package wire measures eniplane and its peers on real devices: frames go in at one end of a path of network
// namespaces and are counted at the other.
//
// A site is one host with what stands around it:
//
//	outside (generator, sink) w0 ──veth── uplink0 [host: the subject] p0.. ──veth── e0.. (sink, generator) guests
//
// Each subject has a site of its own, all are up at once, and they are measured in turn. The generator's thread does
// all the work of the path itself, in the soft interrupts that its sending raises, so its CPU time per packet is the
// cost of the whole path, whatever else the machine does.
package wire
