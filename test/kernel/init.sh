#!/bin/busybox sh
# SPDX-License-Identifier: Apache-2.0
# First process of the test machine: what a kernel needs to run the tests, then the tests, then off.
# Kernel messages go to the first serial line, what the tests say to the second.
/bin/busybox mkdir -p /proc /sys /dev /tmp /run /usr/bin /usr/sbin /sbin /etc /var/lib
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmpfs /tmp
mount -t tmpfs tmpfs /run
mount -t bpf bpffs /sys/fs/bpf
mkdir -p /dev/net /dev/shm
[ -e /dev/net/tun ] || mknod /dev/net/tun c 10 200
for m in /modules/*.ko; do
	insmod "$m" || echo "module $m did not load"
done
ip link set lo up
export PATH=/src/bin:/bin HOME=/tmp ENIPLANE_ROOT_TESTS=1 ENIPLANE_BIN=/src/bin
stty -F /dev/ttyS1 raw -echo
exec >/dev/ttyS1 2>&1 </dev/null
sh /payload
echo "@@end"
poweroff -f
