// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"strings"
	"testing"

	"github.com/eniplane/eniplane/bench/catalog"
)

func TestUsage(t *testing.T) {
	rows := []struct {
		args string
		code int
	}{
		{"", 2}, {"nothing", 2}, {"help", 0}, {"--help", 0}, {"list", 0}, {"list more", 2}, {"run -h", 0},
		{"run nothing", 2}, {"run --size huge", 2}, {"run --repeats 0", 2}, {"run --cpu -1", 2}, {"run -x", 2},
		{"report", 2}, {"report a b", 2}, {"report --format pdf x", 2}, {"report missing.json", 1},
		{"compare a", 2}, {"compare missing.json missing.json", 1},
	}
	for _, r := range rows {
		var out, err bytes.Buffer
		code := run(context.Background(), &app{out: &out, err: &err, scenarios: catalog.Scenarios()}, strings.Fields(r.args))
		if code != r.code {
			t.Errorf("enibench %s: exit code %d, want %d", r.args, code, r.code)
		}
		if out.Len()+err.Len() == 0 {
			t.Errorf("enibench %s says nothing", r.args)
		}
	}
}
