// SPDX-License-Identifier: Apache-2.0

package main

import (
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestVerdict(t *testing.T) {
	good := "=== RUN TestA\r\n--- PASS: TestA (0.1s)\r\n    --- SKIP: TestA/b (0.0s)\nPASS\n@@exit 0\n@@end\n"
	rows := []struct {
		name, out, want string // want: part of the error, "" for none
		console         string
	}{
		{name: "all passed", out: good},
		{name: "a test failed", out: strings.Replace(good, "--- PASS", "--- FAIL", 1), want: "1 tests failed"},
		{name: "binary panicked", out: strings.Replace(good, "exit 0", "exit 2", 1), want: "exited with 2"},
		{name: "machine died in the tests", out: "--- PASS: TestA (0.1s)\n", want: "stopped before"},
		{name: "nothing matched", out: "PASS\n@@exit 0\n@@end\n", want: "no test passed"},
		{name: "kernel broke", out: good, console: "[ 1.0] BUG: kernel NULL pointer", want: "NULL pointer"},
	}
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) {
			res := count(strings.NewReader(r.out), io.Discard)
			res.oops = findOops(r.console)
			err := res.verdict(1)
			switch {
			case err == nil && r.want != "":
				t.Errorf("judged good, want %q", r.want)
			case err != nil && (r.want == "" || !strings.Contains(err.Error(), r.want)):
				t.Errorf("judged %q, want %q", err, r.want)
			}
		})
	}
}

func TestNewestCloudKernel(t *testing.T) {
	names := []string{
		"linux-image-6.12-cloud-amd64", "linux-image-6.12.9+deb12-cloud-amd64", "linux-image-6.12.117+deb12-cloud-amd64",
		"linux-image-6.12.118+deb12-amd64", "linux-image-6.12.200+deb12-cloud-amd64-unsigned", "linux-image-6.120.1-cloud-amd64",
	}
	if got, want := newestCloudKernel(names, "6.12"), "linux-image-6.12.117+deb12-cloud-amd64"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := newestCloudKernel(names, "6.6"); got != "" {
		t.Errorf("got %q for a version that is not there", got)
	}
}

func TestParseModinfo(t *testing.T) {
	got := parseModinfo([]byte("license=GPL\x00depends=nfnetlink,lib-crc32c\x00softdep=pre: udp_tunnel ip6-udp-tunnel\x00depends=\x00"))
	if d := cmp.Diff([]string{"nfnetlink", "lib_crc32c", "udp_tunnel", "ip6_udp_tunnel"}, got); d != "" {
		t.Error(d)
	}
}
