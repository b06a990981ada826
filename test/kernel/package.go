// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// kernel is an unpacked kernel package.
type kernel struct {
	release string // as uname -r says it
	image   string
	modules string // .../lib/modules/<release>
	busybox string
}

// fetchKernel finds the newest cloud kernel of the version in the configured Debian sources and unpacks it.
func fetchKernel(ctx context.Context, cache, version string) (*kernel, error) {
	name, err := findKernel(ctx, version)
	if err == nil && name == "" { // the package lists may be absent or old
		if _, err = output(ctx, "apt-get", "-qq", "update"); err == nil {
			name, err = findKernel(ctx, version)
		}
	}
	if err != nil {
		return nil, err
	}
	if name == "" {
		return nil, fmt.Errorf("find a package linux-image-%s.*-cloud-amd64: the configured Debian sources have none", version)
	}
	dir, err := unpack(ctx, cache, name)
	if err != nil {
		return nil, err
	}
	tools, err := unpack(ctx, cache, "busybox-static")
	if err != nil {
		return nil, err
	}
	busybox := filepath.Join(tools, "bin/busybox")
	if _, err := os.Stat(busybox); err != nil { // Debian 13 has merged /usr
		busybox = filepath.Join(tools, "usr/bin/busybox")
	}
	release := strings.TrimPrefix(name, "linux-image-")
	modules := filepath.Join(dir, "lib/modules", release)
	if _, err := os.Stat(modules); err != nil {
		modules = filepath.Join(dir, "usr/lib/modules", release)
	}
	return &kernel{release: release, image: filepath.Join(dir, "boot/vmlinuz-"+release), modules: modules, busybox: busybox}, nil
}

// findKernel looks for the package in the lists that are here; "" if it is not in them.
func findKernel(ctx context.Context, version string) (string, error) {
	names, err := output(ctx, "apt-cache", "pkgnames", "linux-image-"+version)
	return newestCloudKernel(strings.Fields(names), version), err
}

// newestCloudKernel picks the highest signed cloud kernel among package names; "" if there is none.
func newestCloudKernel(names []string, version string) string {
	re := regexp.MustCompile(`^linux-image-` + regexp.QuoteMeta(version) + `\.(\d+)(\+\S+)?-cloud-amd64$`)
	names = slices.DeleteFunc(slices.Clone(names), func(n string) bool { return !re.MatchString(n) })
	if len(names) == 0 {
		return ""
	}
	return slices.MaxFunc(names, func(a, b string) int {
		pa, pb := re.FindStringSubmatch(a)[1], re.FindStringSubmatch(b)[1]
		if len(pa) != len(pb) {
			return len(pa) - len(pb)
		}
		return strings.Compare(pa, pb)
	})
}

// unpack downloads a Debian package and unpacks it below the cache, without installing anything. A directory that
// exists is complete: it got its name by a rename.
func unpack(ctx context.Context, cache, name string) (string, error) {
	dir, err := filepath.Abs(filepath.Join(cache, name))
	if err != nil {
		return "", fmt.Errorf("name the cache directory: %w", err)
	}
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", fmt.Errorf("make the cache directory: %w", err)
	}
	tmp, err := os.MkdirTemp(cache, "tmp-")
	if err != nil {
		return "", fmt.Errorf("make a temporary directory: %w", err)
	}
	defer os.RemoveAll(tmp)
	cmd := exec.CommandContext(ctx, "apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", name)
	cmd.Dir, cmd.Stderr = tmp, os.Stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("download package %s: %w", name, err)
	}
	debs, err := filepath.Glob(filepath.Join(tmp, "*.deb"))
	if err != nil || len(debs) != 1 {
		return "", errors.Join(fmt.Errorf("download package %s: found %d files", name, len(debs)), err)
	}
	tree := filepath.Join(tmp, "tree")
	if _, err := output(ctx, "dpkg-deb", "-x", debs[0], tree); err != nil {
		return "", err
	}
	if err := os.Rename(tree, dir); err != nil {
		return "", fmt.Errorf("put package %s into the cache: %w", name, err)
	}
	return dir, nil
}
