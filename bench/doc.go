// SPDX-License-Identifier: Apache-2.0

// Package bench is the frame of enibench: scenarios, what they record, and how it is compared and reported. The
// scenarios themselves are in the packages below; package catalog lists them.
//
// Times drift with the load of a machine and from one run to the next, so a figure means something only beside
// another one of the same run: subjects are measured in turn, several rounds, and reports show medians, the spread
// of the rounds and ratios.
package bench
