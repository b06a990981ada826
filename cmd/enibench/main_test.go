// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"strings"
	"testing"
)

func TestUsage(t *testing.T) {
	rows := []struct {
		args string
		code int
	}{
		{"", 2}, {"nothing", 2}, {"help", 0}, {"--help", 0},
		{"flowtable -rounds 0", 2}, {"flowtable -steps 0", 2}, {"flowtable more", 2}, {"flowtable -x", 2}, {"flowtable -h", 0},
	}
	for _, r := range rows {
		var out, err bytes.Buffer
		if code := run(strings.Fields(r.args), &out, &err); code != r.code {
			t.Errorf("enibench %s: exit code %d, want %d", r.args, code, r.code)
		}
		if out.Len()+err.Len() == 0 {
			t.Errorf("enibench %s says nothing", r.args)
		}
	}
}
