// SPDX-License-Identifier: Apache-2.0

package diff

import (
	"fmt"
	"slices"
	"strings"

	"github.com/eniplane/eniplane/pkg/api"
)

// replay plays a case from the beginning and says how the sides differ, comparing flows after each packet.
func (p *player) replay(c *Case) (string, error) {
	if err := p.start(c); err != nil {
		return "", err
	}
	for i := range c.Steps {
		diff, _, err := p.step(c, &c.Steps[i])
		if err != nil {
			return "", err
		}
		if diff += p.compareFlows(); diff != "" {
			return fmt.Sprintf("step %d of %d:\n%s", i+1, len(c.Steps), diff), nil
		}
	}
	return "", nil
}

// shrink drops steps and objects as long as the sides still differ.
func (p *player) shrink(c *Case, diff string) (*Case, string) {
	again, err := p.replay(c)
	if again == "" {
		return c, fmt.Sprintf("%s(it does not happen again when replayed: %v)", diff, err)
	}
	diff = again
	for {
		before := size(c)
		c, diff = p.dropSteps(c, diff)
		c, diff = p.dropObjects(c, diff)
		if size(c) == before {
			return c, diff
		}
	}
}

func size(c *Case) int {
	n := len(c.Steps)
	for _, s := range c.Steps {
		if s.Toggle != "" || s.Revision > 0 {
			n++
		}
		if s.After > 0 {
			n++
		}
	}
	for _, o := range c.Worlds {
		n += len(simplifications(o))
	}
	return n
}

// try keeps a smaller case if the sides still differ.
func (p *player) try(c *Case, diff *string, smaller *Case) *Case {
	if again, err := p.replay(smaller); err == nil && again != "" {
		*diff = again
		return smaller
	}
	return c
}

func (p *player) dropSteps(c *Case, diff string) (*Case, string) {
	for chunk := len(c.Steps); chunk > 0; chunk /= 2 {
		for i := len(c.Steps) - chunk; i >= 0; i -= chunk {
			if i+chunk > len(c.Steps) {
				continue
			}
			smaller := &Case{Limits: c.Limits, Worlds: c.Worlds, Steps: slices.Concat(c.Steps[:i], c.Steps[i+chunk:])}
			c = p.try(c, &diff, smaller)
		}
	}
	for i := range c.Steps {
		for _, change := range []func(*Step){
			func(s *Step) { s.After = 0 }, func(s *Step) { s.Revision = 0 }, func(s *Step) { s.Toggle = "" },
			func(s *Step) { s.Frame = nil }, func(s *Step) { s.From.GSO = 0 }, func(s *Step) { s.Linear = 0 },
		} {
			smaller := &Case{Limits: c.Limits, Worlds: c.Worlds, Steps: slices.Clone(c.Steps)}
			change(&smaller.Steps[i])
			if fmt.Sprint(smaller.Steps[i]) != fmt.Sprint(c.Steps[i]) {
				c = p.try(c, &diff, smaller)
			}
		}
	}
	return p.dropWorlds(c, diff)
}

// dropWorlds forgets revisions that no step uses, and begins later where it can.
func (p *player) dropWorlds(c *Case, diff string) (*Case, string) {
	used := []int{0}
	for _, s := range c.Steps {
		if s.Revision > 0 {
			used = append(used, s.Revision)
		}
	}
	smaller := &Case{Limits: c.Limits, Steps: slices.Clone(c.Steps)}
	number := map[int]int{}
	for _, i := range used {
		if _, ok := number[i]; !ok {
			number[i] = len(smaller.Worlds)
			smaller.Worlds = append(smaller.Worlds, c.Worlds[i])
		}
	}
	for i := range smaller.Steps {
		smaller.Steps[i].Revision = number[smaller.Steps[i].Revision]
	}
	c = p.try(c, &diff, smaller)
	if len(c.Worlds) > 1 && len(c.Steps) > 0 && c.Steps[0].Revision == 1 {
		smaller := &Case{Limits: c.Limits, Worlds: c.Worlds[1:], Steps: slices.Clone(c.Steps)}
		for i := range smaller.Steps {
			smaller.Steps[i].Revision = max(0, smaller.Steps[i].Revision-1)
		}
		c = p.try(c, &diff, smaller)
	}
	return c, diff
}

// dropObjects leaves out what can be left out, in all revisions at once, then in single ones.
func (p *player) dropObjects(c *Case, diff string) (*Case, string) {
	for world := range c.Worlds {
		for i := 0; ; i++ {
			list := simplifications(c.Worlds[world])
			if i >= len(list) {
				break
			}
			name := list[i]
			smaller := &Case{Limits: c.Limits, Worlds: slices.Clone(c.Worlds), Steps: c.Steps}
			for j := range smaller.Worlds {
				smaller.Worlds[j] = without(smaller.Worlds[j], name)
			}
			if next := p.try(c, &diff, smaller); next != c {
				c = next
				i--
				continue
			}
			smaller = &Case{Limits: c.Limits, Worlds: slices.Clone(c.Worlds), Steps: c.Steps}
			smaller.Worlds[world] = without(smaller.Worlds[world], name)
			if next := p.try(c, &diff, smaller); next != c {
				c = next
				i--
			}
		}
	}
	return c, diff
}

// simplifications lists by name all that can be left out of objects.
func simplifications(o *api.Objects) []string {
	var list []string
	for _, n := range sortedKeys(o.EIPs) {
		list = append(list, "eip/"+n)
	}
	for _, n := range sortedKeys(o.ENIs) {
		e := o.ENIs[n]
		list = append(list, "eni/"+n)
		if e.AllowedAddresses != nil {
			list = append(list, "allowed/"+n)
		}
		for i := range e.PolicyRoutes {
			list = append(list, fmt.Sprintf("policy/%s/%d", n, i))
		}
		if !e.SourceDestCheck {
			list = append(list, "source/"+n)
		}
		if e.OnPolicyChange != api.Reevaluate {
			list = append(list, "onchange/"+n)
		}
		if e.Limits != api.DefaultLimits() {
			list = append(list, "limits/"+n)
		}
		if e.Timeouts != api.DefaultTimeouts() {
			list = append(list, "timeouts/"+n)
		}
		for _, g := range e.SecurityGroups[1:] {
			list = append(list, "member/"+n+"/"+g)
		}
		for _, ip := range e.IPs[1:] {
			list = append(list, "ip/"+n+"/"+ip.String())
		}
	}
	for _, n := range sortedKeys(o.SecurityGroups) {
		for i := range o.SecurityGroups[n].Ingress {
			list = append(list, fmt.Sprintf("ingress/%s/%d", n, i))
		}
		for i := range o.SecurityGroups[n].Egress {
			list = append(list, fmt.Sprintf("egress/%s/%d", n, i))
		}
	}
	for _, n := range sortedKeys(o.NetworkACLs) {
		for i := range o.NetworkACLs[n].Ingress {
			list = append(list, fmt.Sprintf("aclin/%s/%d", n, i))
		}
		for i := range o.NetworkACLs[n].Egress {
			list = append(list, fmt.Sprintf("aclout/%s/%d", n, i))
		}
	}
	for _, n := range sortedKeys(o.RouteTables) {
		for i := range o.RouteTables[n].Routes {
			list = append(list, fmt.Sprintf("route/%s/%d", n, i))
		}
	}
	for _, n := range sortedKeys(o.Subnets) {
		if o.Subnets[n].NetworkACL != "" {
			list = append(list, "acl/"+n)
		}
	}
	return list
}

// without leaves one thing out.
func without(before *api.Objects, what string) *api.Objects {
	o := clone(before)
	parts := strings.SplitN(what, "/", 3)
	kind, name, rest := parts[0], parts[1], ""
	if len(parts) > 2 {
		rest = parts[2]
	}
	switch kind {
	case "eip":
		delete(o.EIPs, name)
	case "eni":
		delete(o.ENIs, name)
		dropEIPs(o, func(e *api.EIP) bool { return e.ENI == name })
	case "acl":
		if o.Subnets[name] != nil {
			o.Subnets[name].NetworkACL = ""
		}
	case "allowed", "source", "onchange", "limits", "timeouts", "member", "ip":
		if e := o.ENIs[name]; e != nil {
			withoutOfENI(o, e, kind, rest)
		}
	default:
		withoutRule(o, kind, name, rest)
	}
	tidy(o)
	return o
}

func dropEIPs(o *api.Objects, drop func(*api.EIP) bool) {
	for n, e := range o.EIPs {
		if drop(e) {
			delete(o.EIPs, n)
		}
	}
}

func withoutOfENI(o *api.Objects, e *api.ENI, kind, rest string) {
	switch kind {
	case "allowed":
		e.AllowedAddresses = nil
	case "source":
		e.SourceDestCheck = true
	case "onchange":
		e.OnPolicyChange = api.Reevaluate
	case "limits":
		e.Limits = api.DefaultLimits()
	case "timeouts":
		e.Timeouts = api.DefaultTimeouts()
	case "member":
		if len(e.SecurityGroups) > 1 {
			e.SecurityGroups = slices.DeleteFunc(e.SecurityGroups, func(g string) bool { return g == rest })
		}
	case "ip":
		for i, ip := range e.IPs {
			if ip.String() == rest && len(e.IPs) > 1 {
				e.IPs = slices.Delete(e.IPs, i, i+1)
				dropEIPs(o, func(eip *api.EIP) bool { return eip.ENI == e.Name && eip.PrivateIP == ip })
				return
			}
		}
	}
}

func withoutRule(o *api.Objects, kind, name, rest string) {
	var i int
	_, _ = fmt.Sscan(rest, &i)
	switch kind {
	case "ingress":
		o.SecurityGroups[name].Ingress = drop(o.SecurityGroups[name].Ingress, i)
	case "egress":
		o.SecurityGroups[name].Egress = drop(o.SecurityGroups[name].Egress, i)
	case "aclin":
		o.NetworkACLs[name].Ingress = drop(o.NetworkACLs[name].Ingress, i)
	case "aclout":
		o.NetworkACLs[name].Egress = drop(o.NetworkACLs[name].Egress, i)
	case "policy":
		if e := o.ENIs[name]; e != nil {
			e.PolicyRoutes = drop(e.PolicyRoutes, i)
		}
	case "route":
		o.RouteTables[name].Routes = drop(o.RouteTables[name].Routes, i)
	}
}

func drop[T any](list []T, i int) []T {
	if i >= len(list) {
		return list
	}
	return slices.Delete(list, i, i+1)
}
