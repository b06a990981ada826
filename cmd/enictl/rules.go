// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/eniplane/eniplane/pkg/api"
	"github.com/eniplane/eniplane/pkg/compile"
	"github.com/eniplane/eniplane/pkg/dataplane"
)

// hits are how many connections each rule has decided on this host, by the key of its name.
type hits map[string]uint64

// ruleHits reads the counters of all rules in force. Without an agent's maps there are none.
func (a *app) ruleHits() hits {
	counted := hits{}
	if _, err := a.oneHost(); err != nil {
		return counted // objects of a feed exist without a host
	}
	err := a.withMaps(true, func(m pinnedMaps, names compile.Names) error {
		for id, name := range names.Rules {
			if name.Key == "" {
				continue
			}
			n, err := m.RuleHits(id)
			if err != nil {
				return err
			}
			counted[name.Key] = n
		}
		return nil
	})
	if err != nil && !errors.Is(err, dataplane.ErrNotLoaded) {
		fmt.Fprintf(a.err, "No hits of rules are shown: %v\n", err)
	}
	return counted
}

// ruleRow is a rule of a group or a network ACL as -o wide and the status of -o json show it.
type ruleRow struct {
	Name  string  `json:"name"`
	Hits  *uint64 `json:"hits,omitempty"` // nil: the host does not have the rule
	match string
}

// ruleRows lists the rules of an object by direction; nil if it has none by its kind.
func (h hits) ruleRows(o api.Object) map[string][]ruleRow {
	rows := map[string][]ruleRow{}
	add := func(dir string, names []compile.RuleName, match func(i int) string) {
		for i, n := range names {
			r := ruleRow{Name: n.Name, match: match(i)}
			if count, ok := h[n.Key]; ok {
				r.Hits = &count
			}
			rows[dir] = append(rows[dir], r)
		}
	}
	switch v := o.(type) {
	case *api.SecurityGroup:
		add("ingress", compile.GroupRules(v, "ingress"), func(i int) string { return groupMatch(&v.Ingress[i], "from") })
		add("egress", compile.GroupRules(v, "egress"), func(i int) string { return groupMatch(&v.Egress[i], "to") })
	case *api.NetworkACL:
		add("ingress", compile.ACLRules(v, "ingress"), func(i int) string { return aclMatch(&v.Ingress[i], "from") })
		add("egress", compile.ACLRules(v, "egress"), func(i int) string { return aclMatch(&v.Egress[i], "to") })
	default:
		return nil
	}
	return rows
}

func groupMatch(r *api.Rule, word string) string {
	var peers []string
	for _, p := range r.Peers {
		peers = append(peers, p.String())
	}
	return serviceText(r.Protocol, r.Ports, r.ICMP) + " " + word + " " + strings.Join(peers, ",")
}

func aclMatch(e *api.NACLEntry, word string) string {
	action := "deny "
	if e.Allow {
		action = "allow "
	}
	return action + serviceText(e.Protocol, e.Ports, e.ICMP) + " " + word + " " + e.CIDR.String()
}

func serviceText(p api.Protocol, ports []api.PortRange, icmp *api.ICMP) string {
	text := p.String()
	if len(ports) > 0 {
		var list []string
		for _, r := range ports {
			list = append(list, r.String())
		}
		text += " " + strings.Join(list, ",")
	}
	if icmp != nil {
		text += fmt.Sprintf(" type %d", icmp.Type)
		if icmp.Code != nil {
			text += fmt.Sprintf(" code %d", *icmp.Code)
		}
	}
	return text
}

// cells are the wide columns of a rule.
func (r *ruleRow) cells(dir string) []string {
	count := "-"
	if r.Hits != nil {
		count = fmt.Sprint(*r.Hits)
	}
	return []string{dir + " " + r.Name, r.match, count}
}

// addHits adds the rules of an object to its row: the first to its line, each further one below it, all
// to its status.
func (h hits) addHits(r *row, o api.Object) error {
	rows := h.ruleRows(o)
	if rows == nil {
		return nil
	}
	var lines [][]string
	for _, dir := range []string{"ingress", "egress"} {
		for i := range rows[dir] {
			lines = append(lines, rows[dir][i].cells(dir))
		}
	}
	if len(lines) == 0 {
		lines = [][]string{{"-", "-", "-"}}
	}
	plain := make([]string, len(r.cells))
	r.cells = append(r.cells, lines[0]...)
	for _, line := range lines[1:] {
		r.more = append(r.more, slices.Concat(plain, line))
	}
	if len(h) == 0 {
		return nil
	}
	return addStatus(r, rows)
}

// addStatus adds a status to the JSON of an object.
func addStatus(r *row, status any) error {
	text, err := json.Marshal(status)
	if err != nil {
		return err
	}
	object := r.value.(json.RawMessage)
	r.value = json.RawMessage(slices.Concat(object[:len(object)-1], []byte(`,"status":`), text, []byte("}")))
	return nil
}
