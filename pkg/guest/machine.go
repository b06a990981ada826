// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/eniplane/eniplane/pkg/api"
)

// Kind is the kind of the file that an instance reads.
const Kind = "Guest"

// maxFile bounds what is read of a file or of an answer of a metadata service.
const maxFile = 1 << 20

// Machine is what an instance must know of its ENIs.
type Machine struct {
	Name string
	ENIs []ENI // by index
}

// ENI is one of them. Its device is the one with its MAC.
type ENI struct {
	Name  string
	Index int
	MAC   string // lower case, with colons
	Addrs []Addr // the first of a family is its primary
}

// Addr is a private IP.
type Addr struct {
	IP      netip.Addr
	Subnet  netip.Prefix
	Gateway netip.Addr // network + 1, or as the file says
}

// primary is the ENI's first address of a family.
func (e *ENI) primary(v6 bool) (Addr, bool) {
	for _, a := range e.Addrs {
		if a.IP.Is6() == v6 {
			return a, true
		}
	}
	return Addr{}, false
}

// The file, as it is written in YAML and JSON.
type machineFile struct {
	APIVersion string   `json:"apiVersion" yaml:"apiVersion"`
	Kind       string   `json:"kind" yaml:"kind"`
	Metadata   metadata `json:"metadata" yaml:"metadata"`
	Spec       struct {
		ENIs []eniFile `json:"enis" yaml:"enis"`
	} `json:"spec" yaml:"spec"`
}

type metadata struct {
	Name string `json:"name" yaml:"name"`
}

type eniFile struct {
	Name     string         `json:"name" yaml:"name"`
	Index    *int           `json:"index" yaml:"index"`
	MAC      string         `json:"mac" yaml:"mac"`
	IPs      []netip.Addr   `json:"ips" yaml:"ips"`
	Subnets  []netip.Prefix `json:"subnets" yaml:"subnets"`
	Gateways []netip.Addr   `json:"gateways,omitempty" yaml:"gateways,omitempty"`
}

// ReadFile reads a file of kind Guest; "-" is the standard input.
func ReadFile(path string, stdin io.Reader) (*Machine, error) {
	in := stdin
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return nil, fmt.Errorf("read what ENIs this machine has: %w (-f names another file, --from a metadata service; "+
				"`enictl guest describe INSTANCE` prints the file on the host)", err)
		}
		defer f.Close()
		in = f
	}
	data, err := io.ReadAll(io.LimitReader(in, maxFile))
	if err != nil {
		return nil, fmt.Errorf("read what ENIs this machine has from %s: %w", path, err)
	}
	m, err := Decode(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return m, nil
}

// Decode reads the text of a file of kind Guest, YAML or JSON. Unknown fields are errors.
func Decode(data []byte) (*Machine, error) {
	var f machineFile
	dec := yaml.NewDecoder(bytes.NewReader(data))
	dec.KnownFields(true)
	if err := dec.Decode(&f); errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("the file is empty (enictl guest describe INSTANCE prints one on the host)")
	} else if err != nil {
		return nil, fmt.Errorf("this is no file of kind %s: %w", Kind, err)
	}
	if f.Kind != Kind || f.APIVersion != api.Version {
		return nil, fmt.Errorf("this is %s of %s, want %s of %s (enictl guest describe INSTANCE prints one on the host)",
			f.Kind, f.APIVersion, Kind, api.Version)
	}
	m := &Machine{Name: f.Metadata.Name}
	for i := range f.Spec.ENIs {
		e, err := f.Spec.ENIs[i].eni()
		if err != nil {
			return nil, fmt.Errorf("spec.enis[%d] (%s): %w", i, f.Spec.ENIs[i].Name, err)
		}
		m.ENIs = append(m.ENIs, e)
	}
	return m, m.check()
}

func (f *eniFile) eni() (ENI, error) {
	e := ENI{Name: f.Name}
	if f.Index == nil {
		return e, errors.New("index is missing")
	}
	e.Index = *f.Index
	mac, err := net.ParseMAC(f.MAC)
	if err != nil || len(mac) != 6 {
		return e, fmt.Errorf("mac: %q is not a MAC", f.MAC)
	}
	e.MAC = mac.String()
	for _, ip := range f.IPs {
		a, err := address(ip, f.Subnets, f.Gateways)
		if err != nil {
			return e, err
		}
		e.Addrs = append(e.Addrs, a)
	}
	return e, nil
}

// address finds the subnet of a private IP, and its gateway among those that are given, or network + 1. A link-local
// gateway is that of every IPv6 subnet.
func address(ip netip.Addr, subnets []netip.Prefix, gateways []netip.Addr) (Addr, error) {
	for _, subnet := range subnets {
		if !subnet.Contains(ip) {
			continue
		}
		a := Addr{IP: ip, Subnet: subnet.Masked(), Gateway: subnet.Masked().Addr().Next()}
		near := func(g netip.Addr) bool { return subnet.Contains(g) }
		if !slices.ContainsFunc(gateways, near) {
			near = func(g netip.Addr) bool { return ip.Is6() && g.Is6() && g.IsLinkLocalUnicast() }
		}
		if i := slices.IndexFunc(gateways, near); i >= 0 {
			a.Gateway = gateways[i]
		}
		return a, nil
	}
	return Addr{}, fmt.Errorf("%s is in none of its subnets", ip)
}

// check sorts the ENIs and refuses what cannot be of one machine.
func (m *Machine) check() error {
	slices.SortFunc(m.ENIs, func(a, b ENI) int { return cmp.Compare(a.Index, b.Index) })
	macs, indexes, ips := map[string]string{}, map[int]string{}, map[netip.Addr]string{}
	for i := range m.ENIs {
		e := &m.ENIs[i]
		if e.Index < 0 || e.Index > maxIndex {
			return fmt.Errorf("%s: index %d: want 0 to %d", e.Name, e.Index, maxIndex)
		}
		if other, taken := indexes[e.Index]; taken {
			return fmt.Errorf("%s and %s both have index %d", other, e.Name, e.Index)
		}
		if other, taken := macs[e.MAC]; taken {
			return fmt.Errorf("%s and %s both have the MAC %s", other, e.Name, e.MAC)
		}
		indexes[e.Index], macs[e.MAC] = e.Name, e.Name
		for _, a := range e.Addrs {
			if other, taken := ips[a.IP]; taken {
				return fmt.Errorf("%s is a private IP of %s and of %s", a.IP, other, e.Name)
			}
			ips[a.IP] = e.Name
		}
		if len(e.Addrs) == 0 {
			return fmt.Errorf("%s has no private IP", e.Name)
		}
	}
	if len(m.ENIs) == 0 {
		return errors.New("the machine has no ENI")
	}
	return nil
}

// Describe says what an instance must know of its ENIs.
func Describe(objects *api.Objects, instance string) (*Machine, error) {
	if objects.Instances[instance] == nil {
		return nil, fmt.Errorf("no Instance %q (enictl get instances lists them)", instance)
	}
	m := &Machine{Name: instance}
	for _, e := range objects.ENIs {
		if e.Attachment == nil || e.Attachment.Instance != instance {
			continue
		}
		eni := ENI{Name: e.Name, Index: e.Attachment.Index, MAC: e.MAC.String()}
		for _, ip := range e.IPs {
			a, err := address(ip, objects.Subnets[e.Subnet].CIDRs, nil)
			if err != nil {
				return nil, fmt.Errorf("ENI %s: %w", e.Name, err)
			}
			eni.Addrs = append(eni.Addrs, a)
		}
		m.ENIs = append(m.ENIs, eni)
	}
	if err := m.check(); err != nil {
		return nil, fmt.Errorf("instance %s: %w", instance, err)
	}
	return m, nil
}

// File is the machine as a file of kind Guest: what encoding/json makes of it Decode reads.
func (m *Machine) File() any {
	f := machineFile{APIVersion: api.Version, Kind: Kind, Metadata: metadata{Name: m.Name}}
	for _, e := range m.ENIs {
		out := eniFile{Name: e.Name, Index: &e.Index, MAC: strings.ToLower(e.MAC)}
		for _, a := range e.Addrs {
			out.IPs = append(out.IPs, a.IP)
			if !slices.Contains(out.Subnets, a.Subnet) {
				out.Subnets = append(out.Subnets, a.Subnet)
			}
			if !slices.Contains(out.Gateways, a.Gateway) {
				out.Gateways = append(out.Gateways, a.Gateway)
			}
		}
		f.Spec.ENIs = append(f.Spec.ENIs, out)
	}
	return f
}
