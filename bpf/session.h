/* A session: one conversation, pinned to one link on each side.
 *
 * Its key is oriented: whoever sends, the upstream end comes first, so both directions meet in one entry. Side is data:
 * everything below takes it as an index. The key has 20 bytes, as few as IPv4 needs, for hashing them is a good part of
 * what a known session costs; whatever is not plain IPv4 has a wide key, in a map of its own with the same value.
 *
 * An end is written as one 64-bit word (slot << 32 | ifindex), so that a reader on another CPU never sees half of it,
 * and the interface index tells a link from an earlier one in the same slot.
 */
#pragma once

#include "packet.h"

enum side {
	UPSTREAM = 0,
	DOWNSTREAM = 1,
};

struct session_key {
	u32 connection;
	__be32 upstream_address;
	__be32 downstream_address;
	__be16 upstream_port;
	__be16 downstream_port;
	u8 protocol;
	u8 unused[3]; /* room for the VLANs, 2 × 12 bits */
};

struct wide_key {
	u32 connection;
	struct address upstream_address;
	struct address downstream_address;
	__be16 upstream_port;
	__be16 downstream_port;
	u8 protocol;
	u8 unused[3];
};

/* Whether a session is wide is always a constant, so that each kind has code of its own. */
union any_key {
	struct session_key narrow;
	struct wide_key wide;
};

struct session {
	u64 end[2];
	u64 last_seen; /* ns, CLOCK_MONOTONIC; up to SEEN_GRANULARITY behind */
	u32 last_tick; /* the low half of jiffies then */
	u8 fin[2];     /* sent by the side; bytes of their own, so that two CPUs need no atomic operation */
	u8 rst;
	u8 unused;
};

/* A session's time is renewed only once in so many ticks (12 … 120 ms at 1000 … 100 ticks a second), which a drain can
 * afford. A store per packet would keep moving the cache line between the CPUs of the two directions; and reading the
 * clock costs a sixth of the whole program, while reading the tick count is one inlined load.
 */
#define SEEN_GRANULARITY 12

static __always_inline u64 end_of(u32 slot, u32 ifindex)
{
	return (u64)slot << 32 | ifindex;
}

static __always_inline u32 end_slot(u64 end)
{
	return end >> 32;
}

static __always_inline u32 end_ifindex(u64 end)
{
	return (u32)end;
}

static __always_inline struct session_key session_key_of(u32 connection, const struct flow *flow, u32 side)
{
	struct session_key key = {.connection = connection, .protocol = flow->protocol};

	if (side == UPSTREAM) {
		key.upstream_address = flow->source.word[3];
		key.downstream_address = flow->destination.word[3];
		key.upstream_port = flow->source_port;
		key.downstream_port = flow->destination_port;
	} else {
		key.upstream_address = flow->destination.word[3];
		key.downstream_address = flow->source.word[3];
		key.upstream_port = flow->destination_port;
		key.downstream_port = flow->source_port;
	}
	return key;
}

static __always_inline struct wide_key wide_key_of(u32 connection, const struct flow *flow, u32 side)
{
	struct wide_key key = {.connection = connection, .protocol = flow->protocol};

	if (side == UPSTREAM) {
		key.upstream_address = flow->source;
		key.downstream_address = flow->destination;
		key.upstream_port = flow->source_port;
		key.downstream_port = flow->destination_port;
	} else {
		key.upstream_address = flow->destination;
		key.downstream_address = flow->source;
		key.upstream_port = flow->destination_port;
		key.downstream_port = flow->source_port;
	}
	return key;
}

/* Two rounds of a multiply and shift, constants from the finalizer of MurmurHash3 (public domain). */
static __always_inline u32 mixed(u64 a, u64 b)
{
	a ^= b * 0xff51afd7ed558ccdULL;
	a ^= a >> 33;
	a *= 0xff51afd7ed558ccdULL;
	a ^= a >> 33;
	a *= 0xc4ceb9fe1a85ec53ULL;
	return a >> 32;
}

/* Leaves the connection out: the cross-connections before and after a stage choose the same replica of it. */
static __always_inline u32 session_hash(const struct session_key *key)
{
	u64 addresses = (u64)key->upstream_address << 32 | key->downstream_address;
	u64 ports = (u64)key->upstream_port << 16 | key->downstream_port;

	return mixed(addresses, ports << 8 | key->protocol);
}

static __always_inline u32 address_hash(const struct address *address)
{
	return mixed((u64)address->word[0] << 32 | address->word[1], (u64)address->word[2] << 32 | address->word[3]);
}

static __always_inline u32 wide_hash(const struct wide_key *key)
{
	u64 addresses = (u64)address_hash(&key->upstream_address) << 32 | address_hash(&key->downstream_address);
	u64 ports = (u64)key->upstream_port << 16 | key->downstream_port;

	return mixed(addresses, ports << 8 | key->protocol);
}

static __always_inline u32 mac_pair_hash(const struct ethhdr *eth, u32 side)
{
	u64 source = 0, destination = 0;

	__builtin_memcpy(&source, eth->h_source, ETH_ALEN);
	__builtin_memcpy(&destination, eth->h_dest, ETH_ALEN);
	return side == UPSTREAM ? mixed(source, destination) : mixed(destination, source);
}

static __always_inline bool closed(const struct session *session)
{
	return session->rst || (session->fin[UPSTREAM] && session->fin[DOWNSTREAM]);
}

/* A first SYN over the remains of a closed connection is a new session that reuses its ports. */
static __always_inline bool reopened(const struct session *session, u8 tcp_flags)
{
	return (tcp_flags & (TCP_SYN | TCP_ACK)) == TCP_SYN && closed(session);
}

static __always_inline void note(struct session *session, u8 tcp_flags, u32 side)
{
	u32 tick = bpf_jiffies64();

	if (tcp_flags & (TCP_FIN | TCP_RST)) {
		session->fin[side] |= tcp_flags & TCP_FIN;
		session->rst |= tcp_flags & TCP_RST;
	}
	if (tick - session->last_tick >= SEEN_GRANULARITY) {
		session->last_tick = tick;
		session->last_seen = bpf_ktime_get_ns();
	}
}
