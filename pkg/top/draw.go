// SPDX-License-Identifier: Apache-2.0

package top

import (
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/gdamore/tcell/v2"
)

// headLines are the lines above the first one of a table: the host, what is shown, the columns.
const headLines = 3

// column is one of a table; numbers stand at its right end.
type column struct {
	name  string
	right bool
}

// table is a page as text.
type table struct {
	title   string
	columns []column
	rows    [][]string
	alarm   int // the column whose cells are about drops, -1 = none
	empty   string
}

var (
	plain    = tcell.StyleDefault
	bold     = plain.Bold(true)
	selected = plain.Reverse(true)
	alarmed  = plain.Foreground(tcell.ColorRed)
	dim      = plain.Dim(true)
)

func (s *Screen) draw() {
	s.term.Clear()
	s.term.PutStrStyled(0, 0, s.head(), bold)
	t := s.table()
	s.term.PutStr(0, 1, t.title)
	widths := t.widths()
	x := 0
	for i, c := range t.columns {
		s.term.PutStrStyled(x, 2, pad(c.name, widths[i], c.right), bold)
		x += widths[i] + 2
	}
	_, height := s.term.Size()
	room := max(height-headLines-1, 1)
	s.at = max(0, min(s.at, len(t.rows)-1))
	s.top = max(min(s.top, s.at, len(t.rows)-room), s.at-room+1, 0)
	for n := 0; n < room && s.top+n < len(t.rows); n++ {
		s.row(headLines+n, &t, t.rows[s.top+n], widths, s.top+n == s.at)
	}
	if len(t.rows) == 0 {
		s.term.PutStr(0, headLines, t.empty)
	}
	s.term.PutStrStyled(0, height-1, s.help(), dim)
	s.term.Show()
}

func (s *Screen) row(y int, t *table, cells []string, widths []int, chosen bool) {
	x := 0
	for i, cell := range cells {
		style := plain
		if i == t.alarm && cell != "0" && cell != "-" {
			style = alarmed
		}
		text := pad(cell, widths[i], t.columns[i].right)
		if chosen {
			style, text = selected, text+"  "
		}
		s.term.PutStrStyled(x, y, text, style)
		x += widths[i] + 2
	}
}

func (t *table) widths() []int {
	widths := make([]int, len(t.columns))
	for i, c := range t.columns {
		widths[i] = utf8.RuneCountInString(c.name)
		for _, cells := range t.rows {
			widths[i] = max(widths[i], utf8.RuneCountInString(cells[i]))
		}
	}
	return widths
}

func pad(text string, width int, right bool) string {
	gap := strings.Repeat(" ", max(width-utf8.RuneCountInString(text), 0))
	if right {
		return gap + text
	}
	return text + gap
}

func (s *Screen) head() string {
	switch {
	case s.failed != nil:
		return fmt.Sprintf("%s  cannot look: %v", s.host, s.failed)
	case s.view == nil:
		return s.host + "  looking ..."
	}
	return fmt.Sprintf("%s  %s  %d ENIs  %d of %d flows  every %v",
		s.host, s.view.At.Format(time.TimeOnly), len(s.view.Loads)-1, s.view.Flows, s.view.Max, s.every)
}

func (s *Screen) help() string {
	if s.page == pageENIs {
		return "Enter its flows  sort by b bits p packets d drops n new f flows e ENI  q quit"
	}
	return "up/down move  Tab flows, reasons, rules  Esc back  q quit"
}

func (s *Screen) table() table {
	if s.page == pageENIs {
		return s.eniTable()
	}
	t := table{alarm: -1, empty: "looking ..."}
	d := s.detail()
	if d == nil {
		if s.view != nil && s.view.Watched == s.watch {
			t.empty = "this ENI is not on this host any more"
		}
		return t
	}
	switch s.page {
	case pageFlows:
		return flowTable(d)
	case pageReasons:
		return reasonTable(d)
	}
	return ruleTable(d)
}

func (s *Screen) eniTable() table {
	t := table{columns: []column{
		{"ENI", false}, {"OUT b/s", true}, {"OUT p/s", true}, {"IN b/s", true}, {"IN p/s", true},
		{"DROPS/s", true}, {"NEW/s", true}, {"FLOWS", true}, {"MOST DROPS", false},
	}, alarm: 5, empty: "looking ..."}
	if s.view == nil {
		return t
	}
	loads := s.loads()
	s.follow(loads)
	for i := range loads {
		l := &loads[i]
		why := l.Why
		if why == "" {
			why = "-"
		}
		t.rows = append(t.rows, []string{
			l.ENI, Short(l.Out.Bits), Short(l.Out.Packets), Short(l.In.Bits), Short(l.In.Packets), Short(l.Drops), Short(l.Opened),
			fmt.Sprint(l.Flows), why,
		})
	}
	return t
}

func flowTable(d *Detail) table {
	t := table{
		title: fmt.Sprintf("%s: %d of its %d flows, by traffic", d.ENI, len(d.Flows), d.Known),
		columns: []column{
			{"PROTOCOL", false}, {"LOCAL", false}, {"REMOTE", false}, {"STATE", false}, {"OUT b/s", true}, {"IN b/s", true},
			{"OUT bytes", true}, {"IN bytes", true}, {"AGE", true}, {"RULE", false},
		}, alarm: -1, empty: "no flows",
	}
	if d.Partly {
		t.title += fmt.Sprintf(" so far (more than %d: no rates)", maxRemembered)
	}
	for i := range d.Flows {
		f := &d.Flows[i]
		rule := f.Rule
		if rule == "" {
			rule = "-"
		}
		t.rows = append(t.rows, []string{
			f.Protocol, f.Local.String(), f.Remote.String(), f.Stage(), Short(f.Out.Bits), Short(f.In.Bits),
			Short(float64(f.BytesOut)), Short(float64(f.BytesIn)), f.Age.Truncate(time.Second).String(), rule,
		})
	}
	return t
}

func reasonTable(d *Detail) table {
	t := table{
		title:   d.ENI + ": what became of its packets",
		columns: []column{{"DIRECTION", false}, {"REASON", false}, {"PKT/s", true}, {"PACKETS", true}, {"MEANING", false}},
		alarm:   -1, empty: "no packets yet",
	}
	for _, r := range d.Reasons {
		t.rows = append(t.rows, []string{r.Direction.String(), r.Reason.String(), Short(r.Rate), fmt.Sprint(r.Packets), r.Reason.Help()})
	}
	return t
}

func ruleTable(d *Detail) table {
	t := table{
		title:   d.ENI + ": rules that let its flows pass",
		columns: []column{{"RULE", false}, {"ITS FLOWS", true}, {"HITS/s of the host", true}, {"HITS of the host", true}},
		alarm:   -1, empty: "no flows",
	}
	for _, r := range d.Rules {
		t.rows = append(t.rows, []string{r.Rule, fmt.Sprint(r.Flows), Short(r.Rate), fmt.Sprint(r.Hits)})
	}
	return t
}

// Short writes a number with three digits and the prefix of the SI that fits.
func Short(n float64) string {
	for _, unit := range []string{"", "k", "M", "G", "T"} {
		switch {
		case n == 0:
			return "0"
		case n < 9.995:
			return fmt.Sprintf("%.2f%s", n, unit)
		case n < 99.95:
			return fmt.Sprintf("%.1f%s", n, unit)
		case n < 999.5:
			return fmt.Sprintf("%.0f%s", n, unit)
		}
		n /= 1000
	}
	return fmt.Sprintf("%.0fP", n)
}
