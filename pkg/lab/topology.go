// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/eniplane/eniplane/pkg/api"
)

// MTUs that an underlay may have: the smallest leaves 1280 bytes (IPv6) to the guests.
const (
	defaultMTU = 1500
	minMTU     = 1280 + overlayOverhead
	maxMTU     = 65535
)

// overlayOverhead is what VXLAN over IPv4 adds to a guest's packet: inner Ethernet 14, VXLAN 8,
// UDP 8, IPv4 20.
const overlayOverhead = 50

// Topology is a file of kind Lab: what the feed does not say about a lab.
type Topology struct {
	Name          string
	Feed          string // objects file or directory, absolute
	Underlay      []netip.Prefix
	MTU           int
	UplinkOffload bool // keep transmit offloads on the uplinks; a NIC would not pass them on
	Internet      Internet
	Wiring        map[string]Wiring // by instance
	EnidFlags     []string
}

// Internet is the namespace beside the hosts on the uplink segment.
type Internet struct {
	Addresses []netip.Prefix // a full-length prefix goes to the loopback device
	Routes    []InternetRoute
}

// InternetRoute is a static route of the internet namespace.
type InternetRoute struct {
	Destination netip.Prefix
	Via         netip.Addr
}

// Wiring says how an instance is connected.
type Wiring struct {
	Migrates bool // hangs on a wire with a leg to every host
}

// The file as it is written. Everything is a string or a pointer where absence means something.
type labFile struct {
	APIVersion string `yaml:"apiVersion"`
	Kind       string `yaml:"kind"`
	Metadata   struct {
		Name string `yaml:"name"`
	} `yaml:"metadata"`
	Spec struct {
		Feed     string `yaml:"feed"`
		Underlay struct {
			CIDRs []netip.Prefix `yaml:"cidrs"`
			MTU   int            `yaml:"mtu"`
		} `yaml:"underlay"`
		UplinkOffload bool `yaml:"uplinkOffload"`
		Internet      struct {
			Addresses []netip.Prefix `yaml:"addresses"`
			Routes    []struct {
				Destination netip.Prefix `yaml:"destination"`
				Via         netip.Addr   `yaml:"via"`
			} `yaml:"routes"`
		} `yaml:"internet"`
		Instances map[string]struct {
			Kind     string `yaml:"kind"`
			Migrates bool   `yaml:"migrates"`
		} `yaml:"instances"`
		Enid struct {
			Flags []string `yaml:"flags"`
		} `yaml:"enid"`
	} `yaml:"spec"`
}

// labName keeps namespace names readable and paths short.
var labName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$`)

// ReadTopology reads and checks a topology file. Errors name the file and the field.
func ReadTopology(path string) (*Topology, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read topology: %w", err)
	}
	t, err := parseTopology(data)
	if err != nil {
		return nil, fmt.Errorf("topology %s: %w", path, err)
	}
	if !filepath.IsAbs(t.Feed) {
		t.Feed = filepath.Join(filepath.Dir(path), t.Feed)
	}
	if t.Feed, err = filepath.Abs(t.Feed); err != nil {
		return nil, fmt.Errorf("topology %s: find feed: %w", path, err)
	}
	return t, nil
}

func parseTopology(data []byte) (*Topology, error) {
	var f labFile
	dec := yaml.NewDecoder(bytes.NewReader(data))
	dec.KnownFields(true)
	if err := dec.Decode(&f); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, errors.New("the file is empty")
		}
		return nil, readable(err)
	}
	if err := dec.Decode(new(any)); !errors.Is(err, io.EOF) {
		return nil, errors.New("one document of kind Lab is expected, there are more; objects belong into spec.feed")
	}
	t := f.topology()
	if errs := f.check(t); len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return t, nil
}

// readable removes the names of our Go types from the messages of the YAML decoder.
func readable(err error) error {
	var te *yaml.TypeError
	if !errors.As(err, &te) {
		return err
	}
	inType := regexp.MustCompile(`field (\S+) not found in type .*`)
	lines := make([]error, len(te.Errors))
	for i, s := range te.Errors {
		lines[i] = errors.New(inType.ReplaceAllString(s, "unknown field $1"))
	}
	return errors.Join(lines...)
}

func (f *labFile) topology() *Topology {
	t := &Topology{
		Name:          f.Metadata.Name,
		Feed:          f.Spec.Feed,
		Underlay:      f.Spec.Underlay.CIDRs,
		MTU:           f.Spec.Underlay.MTU,
		UplinkOffload: f.Spec.UplinkOffload,
		Internet:      Internet{Addresses: f.Spec.Internet.Addresses},
		Wiring:        make(map[string]Wiring, len(f.Spec.Instances)),
		EnidFlags:     f.Spec.Enid.Flags,
	}
	if t.MTU == 0 {
		t.MTU = defaultMTU
	}
	for _, r := range f.Spec.Internet.Routes {
		t.Internet.Routes = append(t.Internet.Routes, InternetRoute{Destination: r.Destination, Via: r.Via})
	}
	for name, w := range f.Spec.Instances {
		t.Wiring[name] = Wiring{Migrates: w.Migrates}
	}
	return t
}

// check returns everything that is wrong with the file on its own.
func (f *labFile) check(t *Topology) []error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if f.APIVersion != api.Version {
		bad("apiVersion: %q, want %q", f.APIVersion, api.Version)
	}
	if f.Kind != "Lab" {
		bad("kind: %q, want Lab", f.Kind)
	}
	if !labName.MatchString(t.Name) {
		bad("metadata.name: %q: lower-case letters, digits and -, at most 32", t.Name)
	}
	if t.Feed == "" {
		bad("spec.feed: the path of the objects is missing")
	}
	if t.MTU < minMTU || t.MTU > maxMTU {
		bad("spec.underlay.mtu: %d is not in %d-%d", t.MTU, minMTU, maxMTU)
	}
	errs = append(errs, checkUnderlay(t)...)
	for name, i := range f.Spec.Instances {
		switch i.Kind {
		case "", "namespace":
		case "vm":
			bad("spec.instances.%s.kind: vm is not supported by this version", name)
		default:
			bad("spec.instances.%s.kind: %q, want namespace", name, i.Kind)
		}
	}
	for _, r := range t.Internet.Routes {
		if !r.Destination.IsValid() || !r.Via.IsValid() {
			bad("spec.internet.routes: each needs destination and via")
		}
	}
	for _, flag := range t.EnidFlags {
		name, _, _ := strings.Cut(strings.TrimLeft(flag, "-"), "=")
		switch name {
		case "host", "feed", "bpffs", "state-dir", "listen", "config":
			bad("spec.enid.flags: %s is set by the lab", flag)
		}
	}
	return errs
}

// checkUnderlay wants one prefix of each family at most and an internet address inside each: it is
// the default gateway of the hosts.
func checkUnderlay(t *Topology) []error {
	var errs []error
	families := map[bool]bool{}
	for _, p := range t.Underlay {
		if p != p.Masked() {
			errs = append(errs, fmt.Errorf("spec.underlay.cidrs: %s has host bits, write %s", p, p.Masked()))
		}
		if families[p.Addr().Is4()] {
			errs = append(errs, fmt.Errorf("spec.underlay.cidrs: %s is the second of its family", p))
		}
		families[p.Addr().Is4()] = true
		if !t.gateway(p).IsValid() {
			errs = append(errs, fmt.Errorf("spec.internet.addresses: none is in the underlay %s; the hosts need it as their gateway", p))
		}
	}
	if !families[true] {
		errs = append(errs, errors.New("spec.underlay.cidrs: an IPv4 prefix is missing, VTEPs are IPv4"))
	}
	return errs
}

// gateway is the internet's address inside an underlay prefix.
func (t *Topology) gateway(underlay netip.Prefix) netip.Addr {
	for _, a := range t.Internet.Addresses {
		if underlay.Contains(a.Addr()) {
			return a.Addr()
		}
	}
	return netip.Addr{}
}
