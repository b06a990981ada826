/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What we need of the kernel's and libbpf's headers, and the few names that are newer than the
 * headers of the oldest distribution that builds this (the values are kernel ABI).
 */
#pragma once

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/types.h>
#include <linux/udp.h>
#include <stdbool.h>
#include <stddef.h>

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define AF_INET 2
#define AF_INET6 10

/* enum tcx_action_base */
#define TCX_NEXT (-1)
#define TCX_PASS 0
#define TCX_DROP 2
#define TCX_REDIRECT 7

/* Since 6.16: the checksum of an IPv6 packet is not part of skb->csum's address difference. */
#define CSUM_F_IPV6 (1ULL << 7)

/* Keeps what established flows do not need out of their way. */
#define unlikely(condition) __builtin_expect(!!(condition), 0)
