// SPDX-License-Identifier: Apache-2.0

package etcd_test

import (
	"context"
	"os"
	"testing"

	"github.com/eniplane/eniplane/pkg/feed/etcd"
	"github.com/eniplane/eniplane/pkg/feed/etcdtest"
)

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
