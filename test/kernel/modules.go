// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os/exec"
	"path/filepath"
	"strings"
)

// wanted are the modules that the dataplane, its guard and its labs use. A module that is built into the kernel is
// left out by the loader; one that needs others brings them along.
var wanted = []string{
	"veth", "vxlan", "tun", "bridge", "sch_ingress", "cls_bpf", "sch_htb",
	"nf_tables", "nft_ct", "nft_limit", "nft_log", "nft_reject_inet", "nft_fib_inet", "nft_nat", "nft_chain_nat", "nft_masq",
	"nf_conntrack_netlink", "virtio_net",
}

// module is one loadable module of the kernel package.
type module struct {
	name  string
	image []byte
}

// orderModules returns the wanted modules and all they need, each after what it needs.
func orderModules(ctx context.Context, k *kernel) ([]module, error) {
	files := map[string]string{}
	err := filepath.WalkDir(k.modules, func(path string, d fs.DirEntry, err error) error {
		if base, _, ok := strings.Cut(filepath.Base(path), ".ko"); ok && err == nil && !d.IsDir() {
			files[strings.ReplaceAll(base, "-", "_")] = path
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list modules: %w", err)
	}
	var order []module
	seen := map[string]bool{}
	var add func(name string) error
	add = func(name string) error {
		path, loadable := files[name]
		if seen[name] || !loadable {
			return nil
		}
		seen[name] = true
		image, err := readModule(ctx, k.busybox, path)
		if err != nil {
			return err
		}
		needs, err := moduleNeeds(image)
		if err != nil {
			return fmt.Errorf("read dependencies of module %s: %w", name, err)
		}
		for _, n := range needs {
			if err := add(n); err != nil {
				return err
			}
		}
		order = append(order, module{name: name, image: image})
		return nil
	}
	for _, name := range wanted {
		if err := add(name); err != nil {
			return nil, err
		}
	}
	return order, nil
}

// readModule returns a module as ELF, whatever it is packed with.
func readModule(ctx context.Context, busybox, path string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, busybox, "cat", path)
	if strings.HasSuffix(path, ".xz") {
		cmd.Args[1] = "xzcat"
	}
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("read module %s: %w", path, err)
	}
	return out, nil
}

// moduleNeeds reads the names of the modules that must be loaded before this one.
func moduleNeeds(image []byte) ([]string, error) {
	f, err := elf.NewFile(bytes.NewReader(image))
	if err != nil {
		return nil, err
	}
	info := f.Section(".modinfo")
	if info == nil {
		return nil, errors.New("no section .modinfo")
	}
	data, err := info.Data()
	if err != nil {
		return nil, err
	}
	return parseModinfo(data), nil
}

// parseModinfo returns what `depends=` and `softdep=pre:` name.
func parseModinfo(data []byte) []string {
	var needs []string
	for _, field := range strings.Split(string(data), "\x00") {
		key, value, _ := strings.Cut(field, "=")
		switch {
		case key == "depends" && value != "":
			needs = append(needs, strings.Split(value, ",")...)
		case key == "softdep" && strings.HasPrefix(value, "pre:"):
			needs = append(needs, strings.Fields(strings.TrimPrefix(value, "pre:"))...)
		}
	}
	for i := range needs {
		needs[i] = strings.ReplaceAll(needs[i], "-", "_")
	}
	return needs
}
