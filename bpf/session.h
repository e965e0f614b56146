/* A session: one conversation, pinned to one link on each side.
 *
 * Its key is oriented: whoever sends, the upstream end comes first, so both directions meet in one entry. Side is data:
 * everything below takes it as an index. The key is made of whole words, because the kernel reads it as such at once
 * and what was written in pieces has to be waited for; it has 24 bytes, hardly more than IPv4 needs, for hashing them
 * is a good part of what a known session costs. Whatever is not plain IPv4 has a wide key, in a map of its own with the
 * same value.
 *
 * An end is written as one 64-bit word (slot << 32 | ifindex), so that a reader on another CPU never sees half of it,
 * and the interface index tells a link from an earlier one in the same slot. Its highest bit says how frames get there
 * (`send`).
 *
 * A session also bears the stamp of the link that sent each side's latest frame. A link's stamp changes whenever a link
 * of its cross-connection leaves, and no two links ever have the same: so while the stamp is the sender's, the sender
 * is the latest one, the other end has not left, and nothing else needs to be looked at.
 */
#pragma once

#include "packet.h"

enum side {
	UPSTREAM = 0,
	DOWNSTREAM = 1,
};

struct session_key {
	__be32 upstream_address;
	__be32 downstream_address;
	u32 ports; /* the upstream end's first */
	u32 protocol;
	u32 vlans;
	u32 connection;
};

struct wide_key {
	struct address upstream_address;
	struct address downstream_address;
	u32 ports;
	u32 protocol;
	u32 vlans;
	u32 connection;
};

/* Whether a session is wide is always a constant, so that each kind has code of its own. */
union any_key {
	struct session_key narrow;
	struct wide_key wide;
};

struct session {
	u64 end[2];
	u32 stamp[2];  /* of each side's latest sender, when its other end was last looked at; 0: never */
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

/* Since its last frame a session is still its sender's, and a drain waits for it unless it is TCP
 * (controller/node/plane/sessions.py). A port that is used again after that begins a session of its own.
 */
#define SILENT_FOR 5000000000ULL

#define PLAIN (1ULL << 63)

static __always_inline u64 end_of(u32 slot, u32 ifindex, bool plain)
{
	return (u64)slot << 32 | ifindex | (plain ? PLAIN : 0);
}

static __always_inline u32 end_slot(u64 end)
{
	return end >> 32 & (SLOTS - 1);
}

static __always_inline u32 end_ifindex(u64 end)
{
	return (u32)end;
}

static __always_inline u32 oriented_ports(const struct flow *flow, u32 side)
{
	return side == UPSTREAM ? flow->ports : flow->ports << 16 | flow->ports >> 16;
}

static __always_inline struct session_key session_key_of(u32 connection, const struct flow *flow, u32 side)
{
	struct session_key key = {.connection = connection, .protocol = flow->protocol, .vlans = flow->vlans};

	key.upstream_address = side == UPSTREAM ? flow->source.word[3] : flow->destination.word[3];
	key.downstream_address = side == UPSTREAM ? flow->destination.word[3] : flow->source.word[3];
	key.ports = oriented_ports(flow, side);
	return key;
}

static __always_inline struct wide_key wide_key_of(u32 connection, const struct flow *flow, u32 side)
{
	struct wide_key key = {.connection = connection, .protocol = flow->protocol, .vlans = flow->vlans};

	key.upstream_address = side == UPSTREAM ? flow->source : flow->destination;
	key.downstream_address = side == UPSTREAM ? flow->destination : flow->source;
	key.ports = oriented_ports(flow, side);
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

/* Leaves the connection out: the cross-connections before and after a stage choose the same replica of it; and VLANs,
 * which a function may add or take away.
 */
static __always_inline u32 session_hash(const struct session_key *key)
{
	u64 addresses = (u64)key->upstream_address << 32 | key->downstream_address;

	return mixed(addresses, (u64)key->ports << 8 | key->protocol);
}

/* An IPv4 address stands for itself, so that a session has one hash, whichever kind its key is of. */
static __always_inline u32 address_hash(const struct address *address)
{
	if (!(address->word[0] | address->word[1]) && address->word[2] == __constant_htonl(0xffff))
		return address->word[3];
	return mixed((u64)address->word[0] << 32 | address->word[1], (u64)address->word[2] << 32 | address->word[3]);
}

static __always_inline u32 wide_hash(const struct wide_key *key)
{
	u64 addresses = (u64)address_hash(&key->upstream_address) << 32 | address_hash(&key->downstream_address);

	return mixed(addresses, (u64)key->ports << 8 | key->protocol);
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

static __always_inline void note_flags(struct session *session, u8 tcp_flags, u32 side)
{
	if (tcp_flags & (TCP_FIN | TCP_RST)) {
		session->fin[side] |= tcp_flags & TCP_FIN;
		session->rst |= tcp_flags & TCP_RST;
	}
}

static __always_inline bool noted_lately(const struct session *session)
{
	return (u32)bpf_jiffies64() - session->last_tick < SEEN_GRANULARITY;
}

/* Another CPU may have noted a later time than ours. */
static __always_inline bool silent(const struct session *session, u64 now)
{
	return (s64)(now - session->last_seen) > (s64)SILENT_FOR;
}

static __always_inline void note_time(struct session *session, u64 now)
{
	session->last_tick = bpf_jiffies64();
	session->last_seen = now;
}
