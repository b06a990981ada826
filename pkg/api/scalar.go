// SPDX-License-Identifier: Apache-2.0

package api

import (
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"go.yaml.in/yaml/v3"
)

const (
	maxText  = 253  // of a line of text
	maxNotes = 4096 // of any value: an annotation is the longest
)

// scalar returns the text of a value with one of the given YAML tags.
func (f *field) scalar(want string, tags ...string) (string, bool) {
	if f == nil {
		return "", false
	}
	if f.node.Kind == yaml.AliasNode {
		f.errorf("is a YAML alias, which the feed does not allow (write the value out)")
		return "", false
	}
	if len(f.node.Value) > maxNotes {
		f.errorf("has %d bytes (at most %d)", len(f.node.Value), maxNotes)
		return "", false
	}
	if f.node.Kind == yaml.ScalarNode {
		tag := f.node.ShortTag()
		for _, t := range tags {
			if tag == t {
				return f.node.Value, true
			}
		}
		if want == "text" {
			f.errorf("is %s, not text (write it in quotes)", describe(f.node))
			return "", false
		}
	}
	f.errorf("is %s, not %s", describe(f.node), want)
	return "", false
}

// text reads one printable, non-empty line.
func (f *field) text() string {
	s, ok := f.scalar("text", "!!str")
	if !ok {
		return ""
	}
	if s == "" {
		f.errorf("is empty (give a value or remove the field)")
		return ""
	}
	if len(s) > maxText {
		f.errorf("has %d bytes (at most %d)", len(s), maxText)
		return ""
	}
	if i := strings.IndexFunc(s, unprintable); i >= 0 {
		f.errorf("has the unprintable character %+q (remove it)", []rune(s[i:])[0])
		return ""
	}
	return s
}

func unprintable(r rune) bool { return !unicode.IsPrint(r) }

// note reads text that may be empty and may have several lines: the value of a label or annotation.
func (f *field) note() string {
	s, _ := f.scalar("text", "!!str")
	if strings.ContainsRune(s, 0) {
		f.errorf("has a NUL byte (remove it)")
		return ""
	}
	return s
}

// notes reads labels or annotations.
func (f *field) notes() map[string]string {
	m := f.mapping()
	if m == nil || len(m.entries) == 0 {
		return nil
	}
	values := make(map[string]string, len(m.entries))
	for _, name := range slices.Sorted(maps.Keys(m.entries)) {
		values[name] = m.entries[name].note()
	}
	return values
}

// name reads the name of an object.
func (f *field) name() string {
	s := f.text()
	if s == "" {
		return ""
	}
	if problem := NameProblem(s); problem != "" {
		f.errorf("%q is not a name: it %s (use up to 63 of a-z, 0-9 and -)", s, problem)
		return ""
	}
	return s
}

// NameProblem says why s is not a name (a DNS label), "" if it is one.
func NameProblem(s string) string {
	if s == "" {
		return "is empty"
	}
	if len(s) > 63 {
		return fmt.Sprintf("has %d characters", len(s))
	}
	if s[0] == '-' || s[len(s)-1] == '-' {
		return "begins or ends with -"
	}
	for _, c := range []byte(s) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return fmt.Sprintf("has the character %q", c)
		}
	}
	return ""
}

// number reads a decimal number in a range. Octal, hexadecimal and exponents are refused: 0443 is
// not what it seems.
func (f *field) number(low, high uint64) uint64 {
	s, ok := f.scalar("a number", "!!int")
	if !ok {
		return 0
	}
	n, err := parseNumber(s, low, high)
	if err != nil {
		f.errorf("%v", err)
		return 0
	}
	return n
}

func parseNumber(s string, low, high uint64) (uint64, error) {
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil || s != strconv.FormatUint(n, 10) || n < low || n > high {
		return 0, fmt.Errorf("%q is not a number of %d to %d", s, low, high)
	}
	return n, nil
}

func (f *field) boolean() bool {
	s, ok := f.scalar("true or false", "!!bool")
	return ok && strings.EqualFold(s, "true")
}

// addr reads an IP address.
func (f *field) addr() netip.Addr {
	s, ok := f.scalar("text", "!!str")
	if !ok {
		return netip.Addr{}
	}
	a, err := netip.ParseAddr(s)
	switch {
	case err != nil:
		f.errorf("%q is not an IP address (write one without prefix length)", s)
	case a.Zone() != "":
		f.errorf("%q has a zone (write the address only)", s)
	case a.Is4In6():
		f.errorf("%q is IPv4 written as IPv6 (write %s)", s, a.Unmap())
	default:
		return a
	}
	return netip.Addr{}
}

// prefix reads a CIDR.
func (f *field) prefix() netip.Prefix {
	s, ok := f.scalar("text", "!!str")
	if !ok {
		return netip.Prefix{}
	}
	p, err := parsePrefix(s)
	if err != nil {
		f.errorf("%v", err)
		return netip.Prefix{}
	}
	return p
}

func parsePrefix(s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	switch {
	case err != nil && !strings.Contains(s, "/"):
		if a, err := netip.ParseAddr(s); err == nil && a.Zone() == "" {
			return netip.Prefix{}, fmt.Errorf("%q has no prefix length (write %s/%d for one address)", s, a, a.BitLen())
		}
		return netip.Prefix{}, fmt.Errorf("%q is not a CIDR (write it as 10.0.0.0/16 or fd00::/56)", s)
	case err != nil:
		return netip.Prefix{}, fmt.Errorf("%q is not a CIDR (write it as 10.0.0.0/16 or fd00::/56)", s)
	case p.Addr().Is4In6():
		return netip.Prefix{}, fmt.Errorf("%q is IPv4 written as IPv6 (write it as IPv4)", s)
	case p != p.Masked():
		return netip.Prefix{}, fmt.Errorf("%q has host bits (write %s)", s, p.Masked())
	}
	return p, nil
}

// addrPort reads ADDR:PORT.
func (f *field) addrPort() netip.AddrPort {
	s, ok := f.scalar("text", "!!str")
	if !ok {
		return netip.AddrPort{}
	}
	ap, err := netip.ParseAddrPort(s)
	a := ap.Addr()
	switch {
	case err != nil || a.Zone() != "" || a.Is4In6():
		f.errorf("%q is not ADDR:PORT (write it as 192.0.2.1:9967 or [2001:db8::1]:9967)", s)
	case ap.Port() == 0:
		f.errorf("%q has port 0 (give the port of the agent)", s)
	case a.IsUnspecified() || a.IsMulticast():
		f.errorf("%q does not name one host (give its address)", s)
	default:
		return ap
	}
	return netip.AddrPort{}
}

// mac reads the unicast Ethernet address of an interface.
func (f *field) mac() MAC {
	s, ok := f.scalar("text", "!!str")
	if !ok {
		return MAC{}
	}
	hw, err := net.ParseMAC(s)
	if err != nil || len(hw) != len(MAC{}) {
		f.errorf("%q is not a MAC (write it as 02:00:00:00:01:10)", s)
		return MAC{}
	}
	m := MAC(hw)
	switch {
	case m.IsZero():
		f.errorf("is all zero (give the MAC of an interface)")
	case !m.IsUnicast():
		f.errorf("%s is a group address (give a unicast MAC: the first byte is even)", m)
		return MAC{}
	}
	return m
}

// device reads the name of a network device. Those that the kernel gives a meaning of its own
// ("all" and "default" are directories of sysctls), and the overlay's device, are nobody's port.
func (f *field) device() string {
	s := f.text()
	if s == "" {
		return ""
	}
	bad := func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune("/:%", r) }
	switch {
	case len(s) > 15:
		f.errorf("%q has %d bytes (a device's name has at most 15)", s, len(s))
	case strings.IndexFunc(s, bad) >= 0 || s == "." || s == "..":
		f.errorf("%q is not a name of a device (use letters, digits, - and .)", s)
	case s == "all" || s == "default" || s == "lo" || s == OverlayDevice:
		f.errorf("%q is a reserved name (give the device another one)", s)
	default:
		return s
	}
	return ""
}

// OverlayDevice is the name of the VXLAN device of every host.
const OverlayDevice = "eniplane0"
