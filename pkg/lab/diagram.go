// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"fmt"
	"strings"
)

const boxWidth = 44

// Diagram draws the lab in plain characters: the internet above the segment, the hosts below it
// with their instances, a column each, two in a row.
func (l *Lab) Diagram() string {
	var b strings.Builder
	for _, line := range box(l.internetLines()) {
		fmt.Fprintln(&b, line)
	}
	fmt.Fprintf(&b, "%s|\n", strings.Repeat(" ", boxWidth/2))
	boxes := make([][]string, len(l.Plan.Hosts))
	for i, h := range l.Plan.Hosts {
		boxes[i] = box(l.hostLines(&h))
	}
	fmt.Fprintf(&b, "%s (underlay, MTU %d)\n", strings.Repeat("=", boxWidth+boxWidth/2), l.Plan.MTU)
	for i := 0; i < len(boxes); i += 2 {
		row := boxes[i:min(i+2, len(boxes))]
		stem := ""
		for range row {
			stem += fmt.Sprintf("%-*s", boxWidth+2, strings.Repeat(" ", boxWidth/2)+"|")
		}
		fmt.Fprintln(&b, strings.TrimRight(stem, " "))
		writeBeside(&b, row)
	}
	return b.String()
}

func (l *Lab) internetLines() []string {
	lines := []string{"internet"}
	for _, a := range l.Plan.Internet.Addrs {
		lines = append(lines, "  "+a.String())
	}
	return lines
}

func (l *Lab) hostLines(h *HostPlan) []string {
	lines := []string{h.Name + "  " + h.Addrs[0].Addr().String()}
	for _, inst := range l.Plan.Instances {
		if inst.Host != h.Name {
			continue
		}
		name := "  " + inst.Name
		if inst.Migrates {
			name += "  (may migrate)"
		}
		lines = append(lines, name)
		for _, p := range inst.Ports {
			lines = append(lines, fmt.Sprintf("    %s %s, VPC %s", p.Guest, p.ENI, p.VPC))
			for _, a := range p.Addrs {
				text := "      " + a.Addr().String()
				if eip, bound := p.EIPs[a.Addr()]; bound {
					text += " <> EIP " + eip.String()
				}
				lines = append(lines, text)
			}
		}
	}
	return lines
}

// box draws a frame around lines.
func box(lines []string) []string {
	edge := "+" + strings.Repeat("-", boxWidth-2) + "+"
	out := []string{edge}
	for _, s := range lines {
		if len(s) > boxWidth-4 {
			s = s[:boxWidth-4]
		}
		out = append(out, fmt.Sprintf("| %-*s |", boxWidth-4, s))
	}
	return append(out, edge)
}

// writeBeside writes boxes next to each other.
func writeBeside(b *strings.Builder, boxes [][]string) {
	height := 0
	for _, x := range boxes {
		height = max(height, len(x))
	}
	for y := range height {
		line := ""
		for _, x := range boxes {
			cell := ""
			if y < len(x) {
				cell = x[y]
			}
			line += fmt.Sprintf("%-*s", boxWidth+2, cell)
		}
		fmt.Fprintln(b, strings.TrimRight(line, " "))
	}
}
