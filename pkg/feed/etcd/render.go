// SPDX-License-Identifier: Apache-2.0

package etcd

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/eniplane/eniplane/pkg/api"
)

// rendered holds the values of views, by view and key.
type rendered map[string]map[string][]byte

func (r rendered) put(view, key string, value []byte) {
	if r[view] == nil {
		r[view] = map[string][]byte{}
	}
	r[view][key] = value
}

func sortedReferences[V any](m map[api.Reference]V) []api.Reference {
	return slices.SortedFunc(maps.Keys(m), api.Reference.Compare)
}

// render makes all views of a valid revision. It is pure: the views follow from the objects.
func render(objects *api.Objects) (rendered, error) {
	out := rendered{}
	vpcs := listUsers(objects)
	targets, peerings := targetENIs(objects), objects.Peerings()
	gateways := gatewayHosts(objects)
	for _, o := range objects.All() {
		var views []string
		switch v := o.(type) {
		case *api.Region:
			if v.Name == api.NewObjects().Region.Name && v.UID == v.Name {
				continue // the defaults
			}
			views = []string{regionView}
		case *api.Host, *api.InstanceType:
			views = []string{regionView}
		case *api.Instance:
			views = targetViews(objects, targets, v.Name)
			for _, host := range append(hostsOfInstance(v), gateways.ofInstance[v.Name]...) {
				views = append(views, hostView(host))
			}
		case *api.VPC:
			views = []string{vpcView(v.Name)}
		case *api.Subnet:
			views = []string{vpcView(v.VPC)}
		case *api.RouteTable:
			views = []string{vpcView(v.VPC)}
		case *api.NetworkACL:
			views = []string{vpcView(v.VPC)}
		case *api.SecurityGroup:
			views = []string{vpcView(v.VPC)}
		case *api.PrefixList:
			for _, vpc := range vpcs[v.Name] {
				views = append(views, vpcView(vpc))
			}
		case *api.ENI:
			vpc := objects.VPCOf(v).Name
			out.put(vpcView(vpc), recordKind+"/"+v.Name, RecordOf(objects, v).text())
			if targets[v.Name] {
				views = []string{vpcView(vpc)}
			}
			for _, host := range append(hostsOf(objects, v), gateways.ofENI[v.Name]...) {
				views = append(views, hostView(host))
				for _, name := range append(peerings.Named(vpc), vpc) {
					out.put(hostView(host), presentKind+"/"+name, nil)
				}
				for i := range v.PolicyRoutes {
					if t := v.PolicyRoutes[i].Target; t.Kind == api.TargetVPC {
						out.put(hostView(host), presentKind+"/"+t.Name, nil)
					}
				}
			}
		case *api.EIP:
			if eni := objects.ENIs[v.ENI]; eni != nil {
				for _, host := range append(hostsOf(objects, eni), objects.GatewaysOf(v.Address)...) {
					views = append(views, hostView(host))
				}
			}
		}
		if len(views) == 0 {
			continue
		}
		text, err := api.MarshalJSON(o)
		if err != nil {
			return nil, err
		}
		for _, view := range views {
			out.put(view, api.ReferenceTo(o).String(), text)
		}
	}
	return out, nil
}

// gatewayViews says which hosts must know an ENI and its instance because they are gateways of its EIPs. They judge
// nothing for it, but what names an object is judged by it.
type gatewayViews struct{ ofENI, ofInstance map[string][]string }

func gatewayHosts(objects *api.Objects) gatewayViews {
	g := gatewayViews{map[string][]string{}, map[string][]string{}}
	add := func(to map[string][]string, name, host string) {
		if !slices.Contains(to[name], host) {
			to[name] = append(to[name], host)
		}
	}
	for _, eip := range objects.EIPs {
		eni := objects.ENIs[eip.ENI]
		if eni == nil {
			continue
		}
		for _, host := range objects.GatewaysOf(eip.Address) {
			add(g.ofENI, eni.Name, host)
			if eni.Attachment != nil {
				add(g.ofInstance, eni.Attachment.Instance, host)
			}
		}
	}
	return g
}

// hostsOfInstance are the hosts that must know all of an instance: where it is, and meanwhile where it moves to or has left.
func hostsOfInstance(i *api.Instance) []string {
	hosts := []string{i.Host}
	switch m := i.Migration; {
	case m == nil:
	case m.To != i.Host:
		hosts = append(hosts, m.To)
	case m.From != "":
		hosts = append(hosts, m.From)
	}
	return hosts
}

// hostsOf are those that must know all of an ENI.
func hostsOf(objects *api.Objects, e *api.ENI) []string {
	if e.Attachment == nil {
		return nil
	}
	return hostsOfInstance(objects.Instances[e.Attachment.Instance])
}

// targetENIs are those that routes name: all hosts of the VPC are sent their documents, since what names them
// must be judged by them.
func targetENIs(objects *api.Objects) map[string]bool {
	targets := map[string]bool{}
	add := func(t api.Target) {
		if t.Kind == api.TargetENI {
			targets[t.Name] = true
		}
	}
	for _, t := range objects.RouteTables {
		for i := range t.Routes {
			add(t.Routes[i].Target)
		}
	}
	for _, e := range objects.ENIs {
		for i := range e.PolicyRoutes {
			add(e.PolicyRoutes[i].Target)
		}
	}
	return targets
}

// targetViews are the VPCs whose hosts must know an instance, because of its ENIs.
func targetViews(objects *api.Objects, targets map[string]bool, instance string) []string {
	for name := range targets {
		if e := objects.ENIs[name]; e != nil && e.Attachment != nil && e.Attachment.Instance == instance {
			return []string{vpcView(objects.VPCOf(e).Name)}
		}
	}
	return nil
}

// listUsers returns by prefix list the VPCs whose groups, route tables and policy routes name it, sorted.
func listUsers(objects *api.Objects) map[string][]string {
	users := map[string][]string{}
	add := func(o api.Object, vpc string) {
		for _, ref := range api.References(o) {
			if ref.Kind == "PrefixList" && !slices.Contains(users[ref.Name], vpc) {
				users[ref.Name] = append(users[ref.Name], vpc)
			}
		}
	}
	for _, g := range objects.SecurityGroups {
		add(g, g.VPC)
	}
	for _, t := range objects.RouteTables {
		add(t, t.VPC)
	}
	for _, e := range objects.ENIs {
		if len(e.PolicyRoutes) > 0 {
			add(e, objects.VPCOf(e).Name)
		}
	}
	for _, vpcs := range users {
		slices.Sort(vpcs)
	}
	return users
}

// viewChanges returns what leads from the old views to the new ones, by view; the keys are sorted.
func viewChanges(old, fresh rendered) map[string][]entry {
	changes := map[string][]entry{}
	for view, state := range fresh {
		for key, value := range state {
			if was, ok := old[view][key]; !ok || !bytes.Equal(was, value) {
				changes[view] = append(changes[view], entry{Key: key, Value: value})
			}
		}
	}
	for view, state := range old {
		for key := range state {
			if _, ok := fresh[view][key]; !ok {
				changes[view] = append(changes[view], entry{Key: key, Deleted: true})
			}
		}
	}
	for _, entries := range changes {
		slices.SortFunc(entries, func(a, b entry) int { return strings.Compare(a.Key, b.Key) })
	}
	return changes
}

// splitViewKey takes VIEW/state/KIND/NAME apart.
func splitViewKey(key string) (view, rest string, err error) {
	view, rest, ok := strings.Cut(key, "/state/")
	if !ok {
		return "", "", fmt.Errorf("the key views/%s is of no view", key)
	}
	return view, rest, nil
}
