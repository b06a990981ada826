// SPDX-License-Identifier: Apache-2.0

// Package rows holds the datapath rows: packets fed to the loaded programs by BPF_PROG_TEST_RUN, and
// all that must become of each. Its files follow the stages of the packet's way; testdata/world.yaml
// is the world that all of them run in.
package rows
