// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"os"
	"regexp"
	"strconv"
	"testing"

	"github.com/eniplane/eniplane/pkg/api"
)

// TestSizes compares what this package knows of the maps with the source of the maps.
func TestSizes(t *testing.T) {
	var source []byte
	for _, name := range []string{"../../bpf/types.h", "../../bpf/maps.h"} {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		source = append(source, text...)
	}
	capacity := MapCapacity()
	for _, tt := range []struct {
		pattern string
		want    int
	}{
		{`MAX_ENIS = (\d+)()`, MaxENIs},
		{`MAX_EIPS = (\d+) << (\d+)`, 2 * api.MaxEIPsPerHost},
		{`MAX_NEXTHOPS = (\d+) << (\d+)`, MaxNextHops},
		{`NEXTHOP_FIRST = (\d+)()`, firstNextHop},
		{`ROUTE_LOCAL = (\d+)()`, int(RouteLocal)},
		{`ROUTE_INTERNET = (\d+)()`, int(RouteInternet)},
		{`ROUTE_BLACKHOLE = (\d+)()`, int(RouteBlackhole)},
		{`ROUTE_INFRA = (\d+)()`, int(RouteInfra)},
		{`MAP\(addrs4,[^;]* (\d+) << (\d+),`, capacity.Addrs},
		{`MAP\(addrs6,[^;]* (\d+) << (\d+),`, capacity.Addrs},
		{`MAP\(groups,[^;]* (\d+) << (\d+),`, capacity.Groups},
		{`MAP\(services,[^;]* (\d+) << (\d+),`, capacity.Services},
		{`MAP\(verdicts,[^;]* (\d+) << (\d+),`, capacity.Verdicts},
		{`MAP\(service_blocks,[^;]* (\d+) << (\d+),`, capacity.Blocks},
		{`MAP\(class_rules,[^;]* (\d+) << (\d+),`, capacity.Classes},
		{`RULESET_WORDS = (\d+)()`, WordsPerSet},
		{`RULESET_CLASSES = (\d+)()`, ClassesPerEntry},
		{`CLASS_ADDR = (\d+)()`, int(OfAddr)},
		{`CLASS_LIST = (\d+)()`, int(OfList)},
		{`CLASS_GROUP = (\d+)()`, int(OfGroup)},
		{`CLASS_SERVICE = (\d+)()`, int(OfService)},
		{`MAP\(routes4,[^;]* (\d+) << (\d+),`, capacity.Routes},
		{`MAP\(routes6,[^;]* (\d+) << (\d+),`, capacity.Routes},
	} {
		m := regexp.MustCompile(tt.pattern).FindSubmatch(source)
		if m == nil {
			t.Errorf("%s is not in bpf/types.h or bpf/maps.h", tt.pattern)
			continue
		}
		got, err := strconv.Atoi(string(m[1]))
		if err != nil {
			t.Fatal(err)
		}
		if len(m[2]) > 0 {
			shift, err := strconv.Atoi(string(m[2]))
			if err != nil {
				t.Fatal(err)
			}
			got <<= shift
		}
		if got != tt.want {
			t.Errorf("%s is %d, this package says %d", tt.pattern, got, tt.want)
		}
	}
}
