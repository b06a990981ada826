#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Installs what the named jobs need from Debian's packages. Says nothing if nothing is missing.
#
#   deploy/install-deps.sh generate|kernel|bench|e2e...
#
# The lab, the demo and most tests need nothing: they talk to the kernel without tools. Only the benchmarks, the tests of
# their peers and the end-to-end proofs with real software need what people use today.
set -euo pipefail

packages() {
	case $1 in
	generate) echo clang-19 llvm-19 clang-format-19 libbpf-dev linux-libc-dev ;;
	kernel) echo qemu-system-x86 ;;
	bench) echo iperf3 nftables iptables ipset openvswitch-switch ;;
	e2e) echo nginx curl openssl ca-certificates iperf3 iproute2 iputils-ping iputils-tracepath nftables tcpdump tmux traceroute ;;
	*) echo "install-deps: unknown job $1" >&2 && return 2 ;;
	esac
}

missing=()
for job in "$@"; do
	list=$(packages "$job")
	for package in $list; do
		status=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
		[ "$status" = installed ] || missing+=("$package")
	done
done
[ ${#missing[@]} -gt 0 ] || exit 0

if [ "$(id -u)" != 0 ]; then
	echo "install-deps: as root, run: apt-get install --no-install-recommends ${missing[*]}" >&2
	exit 1
fi
echo "installing ${missing[*]}"
# Some packages bring a service (Open vSwitch). None of them is started: we need the programs only.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
	printf '#!/bin/sh\nexit 101\n' >"$policy"
	chmod 755 "$policy"
	trap 'rm -f "$policy"' EXIT
fi
export DEBIAN_FRONTEND=noninteractive
install=(apt-get install -qq -y --no-install-recommends -o Dpkg::Use-Pty=0 "${missing[@]}")
# The package lists may be absent, or older than the packages that the mirror still has.
"${install[@]}" >/dev/null 2>&1 </dev/null && exit 0
echo "updating the package lists"
apt-get update -qq </dev/null
"${install[@]}" >/dev/null </dev/null
