// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"strings"
	"testing"
)

func TestCount(t *testing.T) {
	rows := []struct {
		name, in                string
		passed, failed, skipped int
		shows, hides            string
	}{
		{name: "a parent is not counted beside its subtests", passed: 2, hides: "noise", in: `
{"Action":"run","Package":"p","Test":"A"}
{"Action":"run","Package":"p","Test":"A/x"}
{"Action":"output","Package":"p","Test":"A/x","Output":"noise\n"}
{"Action":"pass","Package":"p","Test":"A/x"}
{"Action":"run","Package":"p","Test":"A/y"}
{"Action":"pass","Package":"p","Test":"A/y"}
{"Action":"pass","Package":"p","Test":"A"}
{"Action":"pass","Package":"p"}`},
		{name: "a failed subtest explains its parent", failed: 1, shows: "why", in: `
{"Action":"run","Package":"p","Test":"A"}
{"Action":"run","Package":"p","Test":"A/x"}
{"Action":"output","Package":"p","Test":"A/x","Output":"why\n"}
{"Action":"fail","Package":"p","Test":"A/x"}
{"Action":"fail","Package":"p","Test":"A"}
{"Action":"fail","Package":"p"}`},
		{name: "a parent that fails by itself counts", passed: 1, failed: 1, in: `
{"Action":"run","Package":"p","Test":"A"}
{"Action":"run","Package":"p","Test":"A/x"}
{"Action":"pass","Package":"p","Test":"A/x"}
{"Action":"fail","Package":"p","Test":"A"}
{"Action":"fail","Package":"p"}`},
		{name: "a panic counts and shows the test that ran", failed: 1, shows: "goroutine 7", in: `
{"Action":"run","Package":"p","Test":"A"}
{"Action":"output","Package":"p","Test":"A","Output":"panic: x\ngoroutine 7\n"}
{"Action":"fail","Package":"p"}`},
		{name: "a package that does not build counts", failed: 1, shows: "undefined: x", in: `
{"ImportPath":"p [p.test]","Action":"build-output","Output":"undefined: x\n"}
{"ImportPath":"p [p.test]","Action":"build-fail"}
{"Action":"fail","Package":"p","FailedBuild":"p [p.test]"}`},
		{name: "a skip is no pass, and says why", skipped: 1, shows: "no kvm", in: `
{"Action":"run","Package":"p","Test":"A"}
{"Action":"output","Package":"p","Test":"A","Output":"no kvm\n"}
{"Action":"skip","Package":"p","Test":"A"}
{"Action":"pass","Package":"p"}`},
	}
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) {
			var out bytes.Buffer
			c := newCounter(&out)
			if err := c.read(strings.NewReader(strings.TrimSpace(r.in))); err != nil {
				t.Fatal(err)
			}
			if c.passed != r.passed || c.failed != r.failed || c.skipped != r.skipped {
				t.Errorf("%d passed, %d failed, %d skipped; want %d, %d, %d",
					c.passed, c.failed, c.skipped, r.passed, r.failed, r.skipped)
			}
			if !strings.Contains(out.String(), r.shows) || r.hides != "" && strings.Contains(out.String(), r.hides) {
				t.Errorf("shown:\n%s", &out)
			}
		})
	}
}
