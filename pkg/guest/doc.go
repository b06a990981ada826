// SPDX-License-Identifier: Apache-2.0

// Package guest is what runs inside an instance that has several ENIs: which ENI a packet leaves by must follow from
// its source address, or the reply to what came in by one ENI leaves by another, whose host drops it as forged.
//
// An instance learns of its ENIs from a file of kind Guest, which `enictl guest describe INSTANCE` prints on the host,
// or from a metadata service with the paths that EC2 has made common. [Plan] says what its kernel needs: the private
// IPs on the device that has the ENI's MAC, a routing table per ENI, and a rule per private IP that leads to it.
// [Look] reads what is there, [Changes] is the difference, and each [Change] is one command of ip(8).
//
// Everything that this package makes carries its protocol number, and so does nothing else: what others made it
// neither changes nor removes.
package guest
