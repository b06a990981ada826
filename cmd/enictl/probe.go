// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/features"
	"github.com/cilium/ebpf/link"
	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/eniplane/eniplane/loader"
	"github.com/eniplane/eniplane/pkg/agent"
)

// probe tries one feature. It runs in a network namespace of its own.
type probe struct {
	name, needs string
	try         func() error
	optional    bool // without it only some fields of the feed cannot be served
}

// checkFeatures tries all features, then looks at what is on this host.
func checkFeatures(bpffs string) []feature {
	var found []feature
	err := inScratchNamespace(func() {
		for _, p := range kernelProbes() {
			found = append(found, p.run())
		}
	})
	if err != nil {
		found = append(found, feature{
			Name: "network namespace", State: featureMissing, Needs: "root, CONFIG_NET_NS", Detail: err.Error(),
		})
	}
	found = append(found, probe{
		name: "BPF file system", needs: "CONFIG_BPF_SYSCALL; mount -t bpf bpffs /sys/fs/bpf",
		try: func() error { return probeBPFFS(bpffs) },
	}.run())
	return append(found, overlayObstacles()...)
}

func (p probe) run() feature {
	f := feature{Name: p.name, State: featureOK, Needs: p.needs}
	if err := p.try(); err != nil {
		f.State, f.Detail = featureMissing, err.Error()
		if p.optional {
			f.State = featureWarning
		}
	}
	return f
}

// inScratchNamespace runs fn on a thread in a new network namespace. Both end with fn.
func inScratchNamespace(fn func()) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with this goroutine
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("make a network namespace: %w", err)
			return
		}
		fn()
		done <- nil
	}()
	return <-done
}

func kernelProbes() []probe {
	return []probe{
		{name: "kernel", needs: "6.6 or newer", try: probeVersion},
		{name: "BTF", needs: "CONFIG_DEBUG_INFO_BTF", try: probeBTF},
		{name: "BPF JIT", needs: "CONFIG_BPF_JIT, net.core.bpf_jit_enable=1", try: probeJIT},
		{name: "tcx links", needs: "6.6, CONFIG_NET_XGRESS (CONFIG_NET_CLS_ACT, CONFIG_BPF_SYSCALL)", try: probeTCX},
		{name: "XDP links", needs: "5.9, CONFIG_BPF_SYSCALL, CONFIG_NET", try: probeXDP},
		{name: "LPM trie", needs: "CONFIG_BPF_SYSCALL", try: func() error { return features.HaveMapType(ebpf.LPMTrie) }},
		{name: "mmapable array", needs: "5.5", try: func() error { return features.HaveMapFlag(features.BPF_F_MMAPABLE) }},
		{name: "BPF instructions v3", needs: "5.1", try: features.HaveV3ISA},
		{name: "tunnel key helpers", needs: "CONFIG_NET_IP_TUNNEL", try: haveHelper(asm.FnSkbSetTunnelKey)},
		{name: "FIB lookup helper", needs: "CONFIG_INET", try: haveHelper(asm.FnFibLookup)},
		{name: "neighbour redirect helper", needs: "5.10, CONFIG_NET", try: haveHelper(asm.FnRedirectNeigh)},
		{name: "veth devices", needs: "CONFIG_VETH", try: probeVeth},
		{name: "VXLAN devices", needs: "CONFIG_VXLAN", try: probeVXLAN},
		{name: "nftables inet", needs: "CONFIG_NF_TABLES, CONFIG_NF_TABLES_INET", try: probeTable(nftables.TableFamilyINet, nftables.ChainHookPrerouting)},
		{name: "nftables arp", needs: "CONFIG_NF_TABLES_ARP", try: probeTable(nftables.TableFamilyARP, nftables.ChainHookInput)},
		{name: "nftables netdev", needs: "CONFIG_NF_TABLES_NETDEV, CONFIG_NETFILTER_INGRESS", try: probeTable(nftables.TableFamilyNetdev, nftables.ChainHookIngress)},
		{name: "nftables notrack", needs: "CONFIG_NFT_CT, CONFIG_NF_CONNTRACK", try: probeNotrack},
		{name: "queueing for caps", needs: "CONFIG_NET_SCHED, CONFIG_NET_SCH_HTB, CONFIG_NET_SCH_FIFO: only egressMbps and ingressMbps need them", try: loader.ProbeCaps, optional: true},
	}
}

func haveHelper(fn asm.BuiltinFunc) func() error {
	return func() error { return features.HaveProgramHelper(ebpf.SchedCLS, fn) }
}

func probeVersion() error {
	const wanted = 6<<16 | 6<<8
	v, err := features.LinuxVersionCode()
	if err != nil {
		return err
	}
	if v < wanted {
		return fmt.Errorf("this is %d.%d.%d", v>>16, v>>8&0xff, v&0xff)
	}
	return nil
}

func probeBTF() error {
	_, err := os.Stat("/sys/kernel/btf/vmlinux")
	return err
}

// passProgram is the smallest program of a type.
func passProgram(t ebpf.ProgramType, verdict int32) (*ebpf.Program, error) {
	return ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: t, License: "GPL", Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, verdict), asm.Return()},
	})
}

func probeJIT() (err error) {
	prog, err := passProgram(ebpf.SchedCLS, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, prog.Close()) }()
	info, err := prog.Info()
	if err != nil {
		return err
	}
	if size, err := info.JitedSize(); err != nil || size == 0 {
		return errors.New("programs are interpreted")
	}
	return nil
}

func probeTCX() (err error) {
	return probeAttach(ebpf.SchedCLS, 0, func(p *ebpf.Program, ifindex int) (link.Link, error) {
		return link.AttachTCX(link.TCXOptions{Program: p, Interface: ifindex, Attach: ebpf.AttachTCXIngress})
	})
}

func probeXDP() (err error) {
	const pass = 2 // XDP_PASS
	return probeAttach(ebpf.XDP, pass, func(p *ebpf.Program, ifindex int) (link.Link, error) {
		return link.AttachXDP(link.XDPOptions{Program: p, Interface: ifindex})
	})
}

// probeAttach attaches a program to the loopback device of the scratch namespace.
func probeAttach(t ebpf.ProgramType, verdict int32,
	attach func(*ebpf.Program, int) (link.Link, error),
) (err error) {
	prog, err := passProgram(t, verdict)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, prog.Close()) }()
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	l, err := attach(prog, lo.Attrs().Index)
	if err != nil {
		return err
	}
	return l.Close()
}

func probeVeth() error {
	return netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "probe0"}, PeerName: "probe1"})
}

func probeVXLAN() error {
	return netlink.LinkAdd(&netlink.Vxlan{
		LinkAttrs: netlink.LinkAttrs{Name: "probe2"}, FlowBased: true, GBP: true, Port: 4789,
	})
}

// probeTable makes a base chain of a family as the guards need it.
func probeTable(family nftables.TableFamily, hook *nftables.ChainHook) func() error {
	return func() error {
		return withTable(family, func(c *nftables.Conn, t *nftables.Table) {
			chain := &nftables.Chain{
				Name: "probe", Table: t, Type: nftables.ChainTypeFilter,
				Hooknum: hook, Priority: nftables.ChainPriorityFilter,
			}
			if family == nftables.TableFamilyNetdev {
				chain.Device = "lo"
			}
			c.AddChain(chain)
		})
	}
}

func probeNotrack() error {
	return withTable(nftables.TableFamilyINet, func(c *nftables.Conn, t *nftables.Table) {
		chain := c.AddChain(&nftables.Chain{
			Name: "notrack", Table: t, Type: nftables.ChainTypeFilter,
			Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityRaw,
		})
		c.AddRule(&nftables.Rule{Table: t, Chain: chain, Exprs: []expr.Any{&expr.Notrack{}}})
	})
}

func withTable(family nftables.TableFamily, fill func(*nftables.Conn, *nftables.Table)) error {
	c, err := nftables.New()
	if err != nil {
		return err
	}
	fill(c, c.AddTable(&nftables.Table{Family: family, Name: "probe"}))
	return c.Flush()
}

// probeBPFFS looks at the directory of the pins, or where it would be made.
func probeBPFFS(dir string) error {
	for {
		var st unix.Statfs_t
		err := unix.Statfs(dir, &st)
		switch {
		case err == nil && st.Type == unix.BPF_FS_MAGIC:
			return nil
		case err == nil:
			return fmt.Errorf("%s is not in a BPF file system", dir)
		case !errors.Is(err, unix.ENOENT) || dir == filepath.Dir(dir):
			return fmt.Errorf("look at %s: %w", dir, err)
		}
		dir = filepath.Dir(dir)
	}
}

// overlayObstacles looks for what stands in the way of UDP 4789 in this network namespace.
func overlayObstacles() []feature {
	device := feature{
		Name: "UDP 4789 is free", State: featureOK,
		Needs: "no other VXLAN device or socket on the port",
	}
	if found, err := agent.ForeignVXLAN(); err != nil {
		device.State, device.Detail = featureWarning, err.Error()
	} else if found != "" {
		device.State, device.Detail = featureMissing, found
	}
	firewall := feature{
		Name: "UDP 4789 passes", State: featureOK,
		Needs: "no firewall that drops it",
	}
	if found, err := agent.Firewalls(); err != nil {
		firewall.State, firewall.Detail = featureWarning, err.Error()
	} else if found != "" {
		firewall.State, firewall.Detail = featureWarning, found
	}
	return []feature{device, firewall}
}
