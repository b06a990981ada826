// SPDX-License-Identifier: Apache-2.0

package api_test

import (
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/eniplane/eniplane/pkg/api"
)

// TestTimeouts: what is not given is the default, and what is written is read back.
func TestTimeouts(t *testing.T) {
	base, err := os.ReadFile("testdata/base.yaml")
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Replace(string(base), "onPolicyChange: reevaluate", "onPolicyChange: cut\n  timeouts: {tcpEstablished: 600, udpStream: 90}", 1)
	o, problems := api.Decode([]api.File{{Name: "base.yaml", Data: []byte(text)}})
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	web := o.ENIs["web-0"]
	if diff := cmp.Diff(api.Timeouts{TCPEstablished: 600, UDP: 30, UDPStream: 90}, web.Timeouts); diff != "" || web.OnPolicyChange != api.Cut {
		t.Errorf("%s (-want +got):\n%s", web.OnPolicyChange, diff)
	}
	written, err := api.MarshalYAML(web)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"onPolicyChange: cut\n", "tcpEstablished: 600\n", "udpStream: 90\n"} {
		if !strings.Contains(string(written), want) {
			t.Errorf("written without %q:\n%s", want, written)
		}
	}
	if strings.Contains(string(written), "udp: ") {
		t.Errorf("a default is written:\n%s", written)
	}
	if got := o.ENIs["web-1"]; got.Timeouts != api.DefaultTimeouts() || got.OnPolicyChange != api.Reevaluate {
		t.Errorf("got %+v, %s without a word, want the defaults", got.Timeouts, got.OnPolicyChange)
	}
}
