// SPDX-License-Identifier: Apache-2.0

package etcd_test

import (
	"context"
	"os"
	"testing"

	"github.com/eniplane/eniplane/pkg/api"
	"github.com/eniplane/eniplane/pkg/feed/etcd"
	"github.com/eniplane/eniplane/pkg/feed/etcdtest"
)

// TestViewsOfMoves: both hosts of a migration are sent all of the instance, from its preparation until it is over, and the
// others know between which hosts it moves.
func TestViewsOfMoves(t *testing.T) {
	text, err := os.ReadFile("../../../examples/two-hosts.yaml")
	if err != nil {
		t.Fatal(err)
	}
	s := open(t, etcdtest.Start(t, etcdtest.Options{}))
	commit(t, s, put(t, string(text)+"\n---\napiVersion: eniplane.io/v1alpha1\nkind: Host\nmetadata: {name: host-c}\nspec: {zone: az-1, vtep: 192.0.2.77, uplinks: [eth0]}\n"+
		"---\napiVersion: eniplane.io/v1alpha1\nkind: Instance\nmetadata: {name: third-vm}\nspec: {host: host-c, type: g-large}\n"))
	all := read(t, s)
	web := all.ENIs["web-0"]
	from := all.HostOf(web)
	move := func(change func(*api.Instance)) {
		commit(t, s, func(d *etcd.Draft) error {
			i := *d.Get(api.Reference{Kind: "Instance", Name: web.Attachment.Instance}).(*api.Instance)
			change(&i)
			d.Put(&i)
			return nil
		})
	}
	sent := func(host string) *api.Objects {
		v, err := s.View(context.Background(), host, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		objects, err := v.Documents().Objects()
		if err != nil {
			t.Fatalf("what %s is sent is not valid: %v", host, err)
		}
		for _, err := range etcd.AddRecords(objects, v.Records(), nil) {
			t.Errorf("%s: %v", host, err)
		}
		return objects
	}
	knows := func(host string) bool {
		e := sent(host).ENIs["web-0"]
		return e != nil && e.Attachment != nil
	}
	eips := func(host string) (n int) {
		for _, e := range sent(host).EIPs {
			if e.ENI == "web-0" {
				n++
			}
		}
		return n
	}
	if knows("host-c") {
		t.Fatal("host-c knows all of an instance that is elsewhere")
	}
	move(func(i *api.Instance) { i.Migration = &api.Migration{To: "host-c"} })
	if !knows(from) || !knows("host-c") || eips("host-c") == 0 || eips("host-c") != eips(from) {
		t.Error("the hosts of a migration are not sent all of it")
	}
	move(func(i *api.Instance) { i.Host = "host-c" })
	if o := sent(from); !knows(from) || !knows("host-c") || eips(from) == 0 || o.MovedFrom(o.ENIs["web-0"]) != from {
		t.Error("the host that it has left cannot send on")
	}
	for host := range all.Hosts {
		if host == from {
			continue
		}
		o := sent(host)
		if e := o.ENIs["web-0"]; e != nil && (o.HostOf(e) != "host-c" || o.MovedFrom(e) != from) {
			t.Errorf("%s has it on %s, from %q", host, o.HostOf(e), o.MovedFrom(e))
		}
	}
	move(func(i *api.Instance) { i.Migration = nil })
	if knows(from) || eips(from) != 0 {
		t.Error("the host that it has left still knows all of it when that is over")
	}
}

// TestViewsAreWhole: what a host is sent is valid by itself, and with the records it knows all ENIs of its VPCs.
func TestViewsAreWhole(t *testing.T) {
	c := etcdtest.Start(t, etcdtest.Options{})
	for name, file := range map[string]string{"example": "../../../examples/two-hosts.yaml", "e2e": "../../../test/e2e/testdata/objects.yaml"} {
		t.Run(name, func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			s := open(t, c)
			commit(t, s, put(t, string(text)))
			all := read(t, s)
			for host := range all.Hosts {
				v, err := s.View(context.Background(), host, nil, nil)
				if err != nil {
					t.Fatal(err)
				}
				got, err := v.Documents().Objects()
				if err != nil {
					t.Errorf("what %s is sent is not valid: %v", host, err)
					continue
				}
				for _, err := range etcd.AddRecords(got, v.Records(), nil) {
					t.Errorf("%s: %v", host, err)
				}
				here := 0
				for eni, e := range all.ENIs {
					vpc := all.VPCOf(e).Name
					sent := got.ENIs[eni]
					switch {
					case all.HostOf(e) == host:
						here++
						if sent == nil || sent.Attachment == nil {
							t.Errorf("%s is not sent its own ENI %s", host, eni)
						}
					case got.VPCs[vpc] != nil && (sent == nil || got.HostOf(sent) != all.HostOf(e) || sent.UID != e.UID):
						t.Errorf("%s does not know ENI %s of VPC %s: %+v", host, eni, vpc, sent)
					case got.VPCs[vpc] == nil && sent != nil:
						t.Errorf("%s is sent ENI %s, but not its VPC", host, eni)
					}
				}
				if here == 0 {
					t.Errorf("%s has no ENI: the test tests little", host)
				}
			}
		})
	}
}
