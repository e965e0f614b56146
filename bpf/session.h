/* A session: one conversation, pinned to one link on each side.
 *
 * Its key is oriented: the upstream end comes first in both directions, so both find the same entry. Side is data:
 * every function below takes it as an index. A key is 24 bytes, hardly more than IPv4 needs, so that a session with its
 * key is one cache line. A flow that is not plain IPv4 has a wide key, in a table of its own with the same value.
 *
 * An end is one 64-bit word, so that a reader on another CPU never sees half of it: slot << 32 | ifindex, with the
 * number of the cross-connection above. The interface index tells a link from an earlier one in the same slot. The
 * highest bit says how to send frames there (`send`).
 *
 * The place of a session that gives way becomes another one's at once, even while a program on another CPU holds it
 * (table.h). So what was found under a key may be somebody else's a moment later. Nothing is sent to an end that does
 * not have the sender's own cross-connection in it, and a session that begins anew does so in its place (`begin_anew`).
 *
 * A session proves itself when its opener sends again after the other side has answered: a TCP connection by the end of
 * its handshake. An exchange of two packets never does, nor does a SYN without an answer.
 *
 * A session also has, for each side, the stamp of the link that sent the latest frame. A link's stamp changes whenever
 * a link of its cross-connection leaves, and no two links ever have the same stamp. So if the session has the sender's
 * stamp, the sender is still the latest one, the other end has not left, and nothing else needs to be checked.
 */
#pragma once

#include "hash.h"
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

/* `wide` is a constant at every call, so that each kind of key gets code of its own. */
union any_key {
	struct session_key narrow;
	struct wide_key wide;
	u64 word[6]; /* a narrow key has 3; the upper half of the last one is the connection, which is never zero */
};

#define KEY_WORDS(wide) ((wide) ? 6 : 3)

struct session {
	u64 end[2];
	u32 stamp[2];  /* of each side's latest sender, when its other end was last checked; 0: never */
	u64 last_seen; /* ns, CLOCK_MONOTONIC; late by up to SEEN_GRANULARITY */
	u32 last_tick; /* the low half of jiffies at that time */
	u8 fin[2];     /* the side CLOSES; one byte each, so that two CPUs need no atomic operation */
	u8 rst;	       /* the latest packet ABORTS */
	u8 standing;   /* bits of enum standing; a lost update of two CPUs is made good by the next frame */
};

enum standing {
	OPENER = 1, /* the side that sent the first frame */
	ANSWERED = 2,
	PROVEN = 4,
	WAS_PROVEN = 8, /* also after it was demoted (table.h): any frame proves it again */
	/* What a session of PROTOCOL_ANY has carried. */
	CARRIED_TCP = 16,
	CARRIED_SCTP = 32,
	CARRIED_UDP = 64,
};

/* What belongs to one session: `sessionKey` of the chain. The same numbers as controller.node.plane.model.KEY_NUMBERS.
 */
enum key_kind {
	BY_FLOW = 0,
	BY_ADDRESSES = 1,
	BY_UPSTREAM_ADDRESS = 2,
	BY_INNER = 3,
};

/* How long a silent session stays active, in seconds. In the map, 0 stands for the node's default. */
struct patience {
	u32 tcp;
	u32 sctp;
	u32 udp;
	u32 other;
};

/* Ticks between two updates of a session's time: 12 … 120 ms at 1000 … 100 ticks a second. A drain is late by as much.
 * A store for every packet would move the cache line between the CPUs of the two directions all the time. Reading the
 * clock costs a sixth of the whole program; reading the tick count is one inlined load.
 */
#define SEEN_GRANULARITY 12

#define SECOND 1000000000ULL

/* ns. How long a connection stays active after its end: time for the last acknowledgements, and to see whether it goes
 * on after a reset, which may be forged. A connection that nobody has answered is active for as long, too. No patience
 * is shorter.
 */
#define CLOSED_FOR (1 * SECOND)

/* In an end: frames go the plain way, by the host end of the link. */
#define PLAIN (1ULL << 63)

/* In the place of an end: the link has left at a deadline, and the session is over (`refused`). No interface of a link
 * has this index, and without an owner the fast path leaves it to `decide`.
 */
#define LOST 1ULL

/* In an end: the cross-connection that it belongs to. A version before this one wrote zeros. */
#define OWNER_SHIFT 44
#define OWNER	    (((1ULL << 19) - 1) << OWNER_SHIFT)

static __always_inline u64 owner_of(u32 connection)
{
	return (u64)connection << OWNER_SHIFT & OWNER;
}

static __always_inline u32 owner_in(u64 end)
{
	return (end & OWNER) >> OWNER_SHIFT;
}

static __always_inline u64 end_of(u32 slot, u32 ifindex, bool plain, u32 connection)
{
	return (u64)slot << 32 | ifindex | (plain ? PLAIN : 0) | owner_of(connection);
}

/* True when both name the same link. An end of the version before has no owner. */
static __always_inline bool same_link(u64 remembered, u64 end)
{
	return remembered == end || remembered == (end & ~OWNER);
}

static __always_inline u32 end_slot(u64 end)
{
	return end >> 32 & (SLOTS - 1);
}

static __always_inline u32 end_ifindex(u64 end)
{
	return (u32)end;
}

/* Makes a flow the session that it belongs to, if that has many flows. Nothing is known of the end of such a session,
 * and a later fragment needs no ports.
 */
static __always_inline void fold(struct flow *flow, u32 kind, u32 side)
{
	if (likely(kind == BY_FLOW))
		return;
	if (kind == BY_UPSTREAM_ADDRESS) {
		if (side == UPSTREAM)
			flow->destination = flow->source;
		else
			flow->source = flow->destination;
	}
	if (flow->protocol == IPPROTO_TCP)
		flow->carries = CARRIED_TCP;
	else if (flow->protocol == IPPROTO_SCTP)
		flow->carries = CARRIED_SCTP;
	else if (flow->protocol == IPPROTO_UDP)
		flow->carries = CARRIED_UDP;
	flow->protocol = PROTOCOL_ANY;
	flow->ports = 0;
	flow->signals = 0;
	flow->part = WHOLE;
}

static __always_inline u32 oriented_ports(u32 ports, u32 side)
{
	return side == UPSTREAM ? ports : ports << 16 | ports >> 16;
}

static __always_inline struct session_key session_key_of(u32 connection, const struct flow *flow, u32 side)
{
	struct session_key key = {.connection = connection, .protocol = flow->protocol, .vlans = flow->vlans};

	key.upstream_address = side == UPSTREAM ? flow->source.word[3] : flow->destination.word[3];
	key.downstream_address = side == UPSTREAM ? flow->destination.word[3] : flow->source.word[3];
	key.ports = oriented_ports(flow->ports, side);
	return key;
}

static __always_inline struct wide_key wide_key_of(u32 connection, const struct flow *flow, u32 side)
{
	struct wide_key key = {.connection = connection, .protocol = flow->protocol, .vlans = flow->vlans};

	key.upstream_address = side == UPSTREAM ? flow->source : flow->destination;
	key.downstream_address = side == UPSTREAM ? flow->destination : flow->source;
	key.ports = oriented_ports(flow->ports, side);
	return key;
}

/* The same for a plain frame, word by word: with fewer steps than field by field. */
static __always_inline union any_key plain_key_of(u32 connection, const struct plain *plain, u32 vlans, u32 side,
						  bool wide)
{
	const u64 *addresses = plain->addresses, *up, *down;
	union any_key key;

	if (wide) {
		up = side == UPSTREAM ? addresses : addresses + 2;
		down = side == UPSTREAM ? addresses + 2 : addresses;
		asm("" : "+r"(up), "+r"(down)); /* one choice, and not one for each word */
		key.word[0] = up[0];
		key.word[1] = up[1];
		key.word[2] = down[0];
		key.word[3] = down[1];
	} else {
		key.word[0] = side == UPSTREAM ? *addresses : *addresses << 32 | *addresses >> 32;
	}
	key.word[KEY_WORDS(wide) - 2] = (u64)plain->protocol << 32 | oriented_ports(plain->ports, side);
	key.word[KEY_WORDS(wide) - 1] = (u64)connection << 32 | vlans;
	return key;
}

/* Two rounds of multiply and shift, with constants from the finalizer of MurmurHash3 (public domain). */
static __always_inline u32 mixed(u64 a, u64 b)
{
	a ^= b * 0xff51afd7ed558ccdULL;
	a ^= a >> 33;
	a *= 0xff51afd7ed558ccdULL;
	a ^= a >> 33;
	a *= 0xc4ceb9fe1a85ec53ULL;
	return a >> 32;
}

/* What chooses for plain IPv4. It leaves out the connection, so that the cross-connections before and after a stage
 * choose the same replica of it. It leaves out VLANs, because a function may add or remove them. `namespace` stands for
 * the chain's (`namespace_of`): what somebody sees chosen in chains of its own says nothing about those of others.
 */
static __always_inline u32 choice_between(__be32 upstream, __be32 downstream, u32 ports, u32 protocol, u64 namespace)
{
	const u64 flow[] = {namespace, (u64)upstream << 32 | downstream, (u64)protocol << 32 | ports};

	return keyed_hash(flow, 3) >> 32;
}

static __always_inline u32 session_hash(const struct session_key *key, u64 namespace)
{
	return choice_between(key->upstream_address, key->downstream_address, key->ports, key->protocol, namespace);
}

static __always_inline bool is_ipv4(const struct address *address)
{
	return !(address->word[0] | address->word[1]) && address->word[2] == __constant_htonl(0xffff);
}

/* The same for a flow of IPv4, so that it has the same hash with either kind of key. */
static __always_inline u32 wide_hash(const struct wide_key *key, u64 namespace)
{
	const struct address *up = &key->upstream_address, *down = &key->downstream_address;
	const u64 flow[] = {
		namespace,
		(u64)up->word[0] << 32 | up->word[1],
		(u64)up->word[2] << 32 | up->word[3],
		(u64)down->word[0] << 32 | down->word[1],
		(u64)down->word[2] << 32 | down->word[3],
		(u64)key->protocol << 32 | key->ports,
	};

	if (is_ipv4(up) && is_ipv4(down))
		return choice_between(up->word[3], down->word[3], key->ports, key->protocol, namespace);
	return keyed_hash(flow, 6) >> 32;
}

/* An IPv4 address is its own hash. */
static __always_inline u32 address_hash(const struct address *address)
{
	if (is_ipv4(address))
		return address->word[3];
	return mixed((u64)address->word[0] << 32 | address->word[1], (u64)address->word[2] << 32 | address->word[3]);
}

static __always_inline u32 mac_pair_hash(const struct ethhdr *eth, u32 side, u64 namespace)
{
	u64 pair[3] = {namespace};

	__builtin_memcpy(&pair[1], side == UPSTREAM ? eth->h_source : eth->h_dest, ETH_ALEN);
	__builtin_memcpy(&pair[2], side == UPSTREAM ? eth->h_dest : eth->h_source, ETH_ALEN);
	return keyed_hash(pair, 3) >> 32;
}

/* True for protocols whose packets show the end of a connection. */
static __always_inline bool connected(u8 protocol)
{
	return protocol == IPPROTO_TCP || protocol == IPPROTO_SCTP;
}

static __always_inline bool finished(const struct session *session)
{
	return session->fin[UPSTREAM] && session->fin[DOWNSTREAM];
}

static __always_inline bool closed(const struct session *session)
{
	return session->rst || finished(session);
}

/* Only the opener has sent. */
static __always_inline bool unanswered(const struct session *session)
{
	return !(session->standing & (ANSWERED | PROVEN | WAS_PROVEN));
}

/* Signed, because another CPU may have noted a later time than `now`. */
static __always_inline bool silent(const struct session *session, u64 patience, u64 now)
{
	return (s64)(now - session->last_seen) > (s64)patience;
}

/* Seconds, for a session of PROTOCOL_ANY: the longest of what it has carried, and of `other`. TCP and SCTP count when
 * the other side has answered.
 */
static __always_inline u32 longest_patience(const struct session *session, const struct patience *own)
{
	const struct patience node = DEFAULT_PATIENCE;
	struct patience each = {};
	u8 carried = session->standing;
	u32 longest;

	if (own)
		each = *own;
	longest = each.other ? each.other : node.other;
	each.udp = each.udp ? each.udp : node.udp;
	each.tcp = each.tcp ? each.tcp : node.tcp;
	each.sctp = each.sctp ? each.sctp : node.sctp;
	if (carried & CARRIED_UDP && each.udp > longest)
		longest = each.udp;
	if (unanswered(session))
		return longest;
	if (carried & CARRIED_TCP && each.tcp > longest)
		longest = each.tcp;
	if (carried & CARRIED_SCTP && each.sctp > longest)
		longest = each.sctp;
	return longest;
}

/* ns. After such a silence the session is not active any more. Without ports (a first fragment that is too short), the
 * end of a connection is not seen. `own` is the chain's patience, or NULL; what it leaves out is the node's.
 */
static __always_inline u64 patience_with(const struct session *session, u8 protocol, bool has_ports,
					 const struct patience *own)
{
	const struct patience node = DEFAULT_PATIENCE;
	u32 seconds = 0;

	if (unlikely(protocol == PROTOCOL_ANY)) {
		seconds = longest_patience(session, own);
	} else if (has_ports && connected(protocol)) {
		if (closed(session) || unanswered(session))
			return CLOSED_FOR;
		if (own)
			seconds = protocol == IPPROTO_TCP ? own->tcp : own->sctp;
		if (!seconds)
			seconds = protocol == IPPROTO_TCP ? node.tcp : node.sctp;
	} else {
		if (own)
			seconds = protocol == IPPROTO_UDP ? own->udp : own->other;
		if (!seconds)
			seconds = protocol == IPPROTO_UDP ? node.udp : node.other;
	}
	return SECOND * seconds;
}

/* True for a session that a drain waits for. It does not wait for a neighbour that was asked for: that entry only leads
 * the answer back. controller/node/plane/sessions.py has the same rule.
 */
static __always_inline bool active(const struct session *session, u8 protocol, bool has_ports,
				   const struct patience *own, u64 now)
{
	return protocol != PROTOCOL_NEIGHBOUR &&
	       !silent(session, patience_with(session, protocol, has_ports, own), now);
}

/* True for a connection that has really ended, so that the same ports may open a new one. */
static __always_inline bool ended(const struct session *session, u64 now)
{
	return finished(session) || (session->rst && silent(session, CLOSED_FOR, now));
}

/* A packet that does not abort takes an earlier reset back: the connection goes on. So that the fast path does not
 * carry it, nobody has a stamp meanwhile.
 */
static __always_inline void note_signals(struct session *session, u8 signals, u32 side)
{
	if (session->rst)
		session->rst = 0;
	if (likely(!signals))
		return;
	if (signals & CLOSES)
		session->fin[side] = 1;
	if (signals & ABORTS) {
		session->rst = 1;
		session->stamp[UPSTREAM] = 0;
		session->stamp[DOWNSTREAM] = 0;
	}
}

static __always_inline bool noted_lately(const struct session *session)
{
	return (u32)bpf_jiffies64() - session->last_tick < SEEN_GRANULARITY;
}

/* True if one more frame from this side tells more about a session than is known. */
static __always_inline bool rises(u8 standing, u32 side)
{
	if (standing & (PROVEN | WAS_PROVEN))
		return !(standing & PROVEN);
	return !(standing & ANSWERED) == ((standing & OPENER) != side);
}

/* The session becomes a new one, as `fresh`. Another CPU may be using it: it finds no stamp until the last store, and
 * so decides by the ends.
 */
static __always_inline void begin_anew(struct session *session, const struct session *fresh)
{
	session->stamp[UPSTREAM] = 0;
	session->stamp[DOWNSTREAM] = 0;
	barrier();
	session->end[UPSTREAM] = fresh->end[UPSTREAM];
	session->end[DOWNSTREAM] = fresh->end[DOWNSTREAM];
	session->fin[UPSTREAM] = 0;
	session->fin[DOWNSTREAM] = 0;
	session->rst = fresh->rst;
	session->standing = fresh->standing;
	session->last_tick = fresh->last_tick;
	session->last_seen = fresh->last_seen;
	barrier();
	session->stamp[UPSTREAM] = fresh->stamp[UPSTREAM];
	session->stamp[DOWNSTREAM] = fresh->stamp[DOWNSTREAM];
}

/* What two programs know of one session, while one takes the filters of the other: each has seen frames that the other
 * has not, and so may know of an end that the other missed. Where they differ, the later one is right. One that was
 * seen here long after its end there is another connection with the same ports.
 */
static __always_inline void unite(struct session *here, const struct session *there)
{
	bool later = (s64)(there->last_seen - here->last_seen) > 0;
	bool same = same_link(there->end[UPSTREAM], here->end[UPSTREAM]) &&
		    same_link(there->end[DOWNSTREAM], here->end[DOWNSTREAM]);

	if (later && (!same || (finished(here) && !finished(there)))) {
		begin_anew(here, there);
		return;
	}
	if (!same || (finished(there) && (s64)(here->last_seen - there->last_seen) > (s64)CLOSED_FOR))
		return;
	if (there->fin[UPSTREAM])
		here->fin[UPSTREAM] = 1;
	if (there->fin[DOWNSTREAM])
		here->fin[DOWNSTREAM] = 1;
	here->standing |= there->standing;
	if (!later)
		return;
	here->last_tick = there->last_tick;
	here->last_seen = there->last_seen;
	if (there->rst)
		note_signals(here, ABORTS, UPSTREAM);
}

static __always_inline void note_time(struct session *session, u64 now)
{
	session->last_tick = bpf_jiffies64();
	session->last_seen = now;
}
