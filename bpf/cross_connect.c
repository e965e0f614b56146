/* The cross-connection: the program of a node, at tc ingress of the host end of every data link, behind a shortcut.
 *
 * A frame from a replica goes to one replica of the other side, never to one of its own side. Its session names the
 * link. If it has no session, or the session's link is gone, the lookup table of the other side's targets names it. The
 * index of the interface that a frame comes from ends in the slot of its link, so that reading it costs no lookup.
 *
 * Nothing here is ever reset or scanned. A link's state is one byte in `links`. A side's targets are one value, which
 * the agent replaces as a whole (docs/decisions/0002). A session whose link is gone chooses again at its next packet.
 * All map calls are in this file, because BCC does not load them from a header.
 *
 * The agent (controller/node/kernel) defines these when it compiles: PIN_ROOT, a directory on a bpf file system;
 * SESSION_CAPACITY, the sessions in each of the two maps; SLOTS, a power of two; TABLE_LENGTH, the entries of a side's
 * lookup table; NEIGHBOURS_PER_LINK, the chain's addresses that a link brings room for; NUMBERS, above the number of
 * every cross-connection; DEFAULT_PATIENCE, the node's; what hash.h needs. Each cross-connection in the maps has a
 * link, so there are no more of them than slots.
 */
#include <uapi/linux/bpf.h>
#include <uapi/linux/if_packet.h>
#include <uapi/linux/pkt_cls.h>

#include "outer.h"
#include "packet.h"
#include "refusal.h"
#include "table.h"
#include "tunnel.h"
#include "verdicts.h"

/* In BPF_PROG_TEST_RUN every frame has ifindex 1 and no tc_classid; tests and benchmarks compile with another field. */
#ifndef LINK_SLOT
#define LINK_SLOT(skb) slot_of(skb)
#endif

#define MOST_ATTEMPTS 48
#define MOST_SLICES   256 /* a power of two, as of sfc/validation/fault.py */
#define FIRST_SLICED  1024
#define SLICED	      (65536 - FIRST_SLICED) /* ports that are divided into slices */
#define MOST_VERDICTS 16

/* The program writes what frames tell it into tables that all chains share. Each cross-connection, or each link, has
 * places of its own there, and a hash chooses among them: what one chain sends can only push out what it sent itself,
 * and nothing has to be cleared away. So the value says exactly what it is about; another one is not found.
 */
#define LEARNED_PLACES	 64  /* of a cross-connection; a power of two */
#define FRAGMENT_PLACES	 256 /* of a link, for datagrams; a power of two */
#define FRAGMENT_PAIRS	 64  /* of a link, behind them, for pairs of addresses; a power of two */
#define FRAGMENT_CHOICES 4   /* places that a datagram may have */

#define REFUSED_FOR 10	/* ticks; many times as long as a frame is returned, and soon over */
#define LINGERS_FOR 250 /* ticks; for so long a closed session's last acknowledgements may come */

#define LEARNED_FOR  (30 * SECOND) /* as long as a host trusts an answer, on average (RFC 4861) */
#define FOLLOWED_FOR (30 * SECOND) /* as long as Linux waits for the rest of an IPv4 datagram (ipfrag_time) */

/* The same numbers as controller.node.plane.model.LinkState; 0 is a slot without a link. */
enum link_state {
	UNWIRED = 0,
	WIRED = 1,
	SERVING = 2,
	DRAINING = 3,
	GONE = 4,
};

struct link {
	u32 ifindex;
	u32 connection;
	u8 side;
	u8 state;
	u8 plain;  /* frames go out by the host end, not by bpf_redirect_peer: the other end is in the same network
		    * namespace, or wants raw frames */
	u8 zero;   /* always; the verifier does not know that (`as_one`) */
	u32 stamp; /* session.h; of a link of another node the tick at which it refused a session */
};

/* Another node; the entry 0 is this node's own. */
struct peer {
	struct address address;
	u32 tunnel; /* by this interface its frames leave without the tunnel's device; 0: by the device. In the own
		     * entry: the device */
};

/* The other nodes that have a link in a cross-connection's chain: one bit each, by number. */
struct members {
	u8 bits[PEERS / 8];
};

struct side_key {
	u32 connection;
	u32 side;
};

/* Slots, a u16 each. As bytes, because BCC compiles code of its own for each element of other arrays in a map. */
struct targets {
	u8 slots[2 * TABLE_LENGTH];
};

/* The links that hold the slices of source ports of a side: how many slices there are, and for each the index of the
 * link; 0 if nobody holds it. A u16 each. Only of a side whose interface has `sourcePorts`.
 */
struct holders {
	u8 slots[2 * (1 + MOST_SLICES)];
};

struct neighbour_key {
	u32 connection;
	u32 side; /* the asker's */
	struct address address;
};

struct neighbour {
	u8 mac[ETH_ALEN];
	u16 unused;
};

/* One of the places of a cross-connection (its number) or of a link (its slot). */
struct place {
	u32 owner;
	u32 at;
};

/* An address that a frame announced; the chain does not give it. First what it is about: the kernel may write a new
 * element into the memory that a program still reads, from the front, so who reads the rest looks at that again.
 */
struct learned {
	struct neighbour_key about;
	struct neighbour neighbour;
	u64 at; /* ns, CLOCK_MONOTONIC */
};

/* Another serving link of the same side used a session of this one, or the other way round: by the slot of the latter.
 */
struct contest {
	u64 former; /* end */
	u64 count;
};

/* Where the fragments of a datagram go; or, with the number 0, where those of the latest one between two addresses
 * went.
 */
struct fragment {
	struct address source;
	struct address destination;
	u64 datagram;
	u64 to;	   /* end; 0: not known */
	u64 at;	   /* ns, CLOCK_MONOTONIC: when the first one came, or another one before it */
	u32 early; /* so many came before the first one, which has not come; 0: it has */
	u32 last;  /* 1: the last one has passed */
};

/* Received from the replica, and sent to it. A frame with segmentation offload counts once. */
struct traffic {
	u64 received_packets;
	u64 received_bytes;
	u64 sent_packets;
	u64 sent_bytes;
	u64 sessions_opened; /* the replica sent the first packet */
	u64 sessions_chosen; /* the replica was chosen, when the session began or later */
};

struct drop_key {
	u32 connection;
	u32 verdict;
};

/* What a cross-connection has of both session tables: by its number. */
struct holding {
	u64 places;
	u64 evicted; /* sessions that had proved themselves, were not closed, and had to give way */
};

/* What the number of a cross-connection stands for: for the agent, and for people. The choice of a replica depends on
 * the namespace. Text ends with a zero; what follows is zeros, too.
 */
struct numbered {
	char chain_uid[40];
	char namespace[64];
	char connection[224];
};

BPF_TABLE_PINNED("array", u32, struct link, links, SLOTS + FAR_LINKS + PEERS, PIN_ROOT "/links");
BPF_TABLE_PINNED("array", u32, struct bucket, session_table, BUCKETS, PIN_ROOT "/session_table");
BPF_TABLE_PINNED("array", u32, struct wide_bucket, wide_table, BUCKETS, PIN_ROOT "/wide_table");
BPF_TABLE_PINNED("array", u32, struct holding, holdings, NUMBERS, PIN_ROOT "/holdings");
BPF_TABLE_PINNED("hash", struct side_key, struct targets, targets, 2 * SLOTS, PIN_ROOT "/targets", BPF_F_NO_PREALLOC);
BPF_TABLE_PINNED("hash", struct side_key, struct holders, holders, 2 * SLOTS, PIN_ROOT "/holders", BPF_F_NO_PREALLOC);
BPF_TABLE_PINNED("hash", struct neighbour_key, struct neighbour, neighbours, SLOTS *NEIGHBOURS_PER_LINK,
		 PIN_ROOT "/neighbours", BPF_F_NO_PREALLOC);
BPF_TABLE_PINNED("hash", struct place, struct learned, learned, SLOTS *LEARNED_PLACES, PIN_ROOT "/learned",
		 BPF_F_NO_PREALLOC);
BPF_TABLE_PINNED("hash", struct place, struct fragment, fragments, SLOTS *(FRAGMENT_PLACES + FRAGMENT_PAIRS),
		 PIN_ROOT "/fragments", BPF_F_NO_PREALLOC);
BPF_TABLE_PINNED("percpu_array", u32, struct traffic, traffic, SLOTS, PIN_ROOT "/traffic");
BPF_TABLE_PINNED("percpu_hash", struct drop_key, u64, drops, SLOTS *MOST_VERDICTS, PIN_ROOT "/drops",
		 BPF_F_NO_PREALLOC);
BPF_TABLE_PINNED("array", u32, struct contest, contests, SLOTS, PIN_ROOT "/contests");
BPF_TABLE_PINNED("hash", u32, struct numbered, numbers, 2 * SLOTS, PIN_ROOT "/numbers", BPF_F_NO_PREALLOC);
BPF_TABLE_PINNED("array", u32, struct patience, patience, NUMBERS, PIN_ROOT "/patience");
BPF_TABLE_PINNED("array", u32, u32, session_keys, NUMBERS, PIN_ROOT "/session_keys"); /* enum key_kind */
/* Where in `links` a serving link of another node is, by its identity. */
BPF_TABLE_PINNED("hash", u32, u32, far_links, FAR_LINKS, PIN_ROOT "/far_links", BPF_F_NO_PREALLOC);
BPF_TABLE_PINNED("array", u32, struct peer, peers, PEERS, PIN_ROOT "/peers");
BPF_TABLE_PINNED("hash", struct address, u32, peer_numbers, PEERS, PIN_ROOT "/peer_numbers", BPF_F_NO_PREALLOC);
BPF_TABLE_PINNED("hash", u32, struct members, members, 2 * SLOTS, PIN_ROOT "/members", BPF_F_NO_PREALLOC);
/* When a peer last answered an echo, or sent in another version: ns, CLOCK_MONOTONIC (`heard_at`). */
BPF_TABLE_PINNED("array", u32, u64, heard, PEERS, PIN_ROOT "/heard");
BPF_TABLE_PINNED("array", u32, struct underlay, underlay, 1, PIN_ROOT "/underlay");
/* Tells one key of the hashes from another one: by which the sessions' places were found. For the agent. */
BPF_TABLE_PINNED("array", u32, u64, hash_key_note, 1, PIN_ROOT "/hash_key_note");
BPF_TABLE("array", u32, u64, activity, SLOTS);

/* Empty until this agent retires. Then it puts the sessions here (`survey`), where an agent of the version before looks
 * for them in a program that it replaces.
 */
BPF_F_TABLE("hash", struct session_key, struct session, sessions, SESSION_CAPACITY, BPF_F_NO_PREALLOC);
BPF_F_TABLE("hash", struct wide_key, struct session, wide_sessions, SESSION_CAPACITY, BPF_F_NO_PREALLOC);

BPF_TABLE_PINNED("prog", u32, u32, tunnel_entry, 1, PIN_ROOT "/tunnel_entry"); /* into_tunnel */
/* Leads to `refuse`. */
BPF_TABLE_PINNED("prog", u32, u32, refusal_entry, 1, PIN_ROOT "/refusal_entry");
BPF_PROG_ARRAY(underlay_to, 1); /* from_tunnel, while the agent that loaded it leads; else empty */
BPF_PROG_ARRAY(shortcut_to, 1); /* the cross-connection, while the agent that loaded it leads; else empty */

/* The slot of the link that a frame comes from, without a lookup. A link of an earlier version has an index of the
 * kernel's, and the slot in its filter's class id. The agent defines CHOSEN_IFINDEX, the bit that tells them apart.
 */
static __always_inline u32 slot_of(const struct __sk_buff *skb)
{
	u32 ifindex = skb->ifindex;

	return ifindex & CHOSEN_IFINDEX ? ifindex & (SLOTS - 1) : skb->tc_classid;
}

/* The sender of this frame. */
struct sender {
	u64 end;
	u32 connection;
	u32 stamp;
	u8 side;
	u8 state;
	u8 zero; /* struct link */
	u8 kind; /* enum key_kind */
};

/* Counts the verdict of a cross-connection for some frames. */
static __always_inline void tell_of(u32 frames, u32 connection, u32 verdict)
{
	struct drop_key key = {.connection = connection, .verdict = verdict};
	u64 none = 0, *count = drops.lookup_or_try_init(&key, &none);

	if (count)
		*count += frames;
}

static __always_inline void tell(u32 connection, u32 verdict)
{
	tell_of(1, connection, verdict);
}

static __always_inline int drop(u32 connection, u32 verdict)
{
	tell(connection, verdict);
	return TC_ACT_SHOT;
}

/* True when a link belongs to this side and may receive frames. */
static __always_inline bool receives(const struct link *link, u32 connection, u32 side)
{
	return link->connection == connection && link->side == side && link->state != UNWIRED && link->state != GONE;
}

/* True for a link of another node that has just refused a session, although this node believes that it serves. So a
 * frame that was returned does not go there again. Soon it is asked once more: it may serve again before this node has
 * learned that it did not, and then nobody else would tell.
 */
static __always_inline bool refused_lately(u32 index, const struct link *link)
{
	return index >= SLOTS && (u32)bpf_jiffies64() - link->stamp < REFUSED_FOR;
}

/* A remembered end, if it is still the same link and may still receive frames; otherwise 0. A link of another node may,
 * as long as that node is up and has not returned the session: if it does not, its node returns the frame. Without
 * branches: see `as_one`.
 */
static __always_inline u64 alive(u64 end, u32 connection, u32 side)
{
	u64 far = far_mask(end), now;
	u32 index = end_slot(end) | (far & (SLOTS + FAR_LINKS + peer_in(end_ifindex(end))));
	struct link *link = links.lookup(&index);
	u32 of;

	if (!link || link->state == UNWIRED || link->state == GONE)
		return 0;
	of = (link->connection & ~far) | (far & (owner_in(end) | (end & REFUSED)));
	if (of != connection || ((link->side ^ side) & ~far))
		return 0;
	now = (end & far) | (end_of(index, link->ifindex, link->plain, connection) & ~far);
	return same_link(end & (far | ~PLAIN), now & (far | ~PLAIN)) ? now : 0;
}

/* A link among the targets of a side, or 0. Each attempt looks the table up again and checks the link: the kernel may
 * reuse a table's memory for another side while we read it, and a link may be gone before the agent replaces its table.
 */
static __always_inline u64 choose(u32 connection, u32 side, u32 hash)
{
	struct side_key key = {.connection = connection, .side = side};

	for (int attempt = 0; attempt < MOST_ATTEMPTS; attempt++) {
		struct targets *table = targets.lookup(&key);
		u64 place = (u64)hash * TABLE_LENGTH >> 32; /* like hash % TABLE_LENGTH, without the division */
		struct link *link;
		u32 slot;

		if (!table)
			return 0;
		/* Keeps shift and index apart: "invalid access to map value, value_size=16256 off=16255 size=2" */
		asm volatile("" : "+r"(place));
		slot = ((u16 *)table->slots)[place];
		link = links.lookup(&slot);
		if (link && receives(link, connection, side) && !refused_lately(slot, link))
			return end_of(near_slot(slot), link->ifindex, link->plain, connection);
		hash = mixed(hash, attempt + 1);
	}
	return 0;
}

/* The link that holds the slice of source ports in which a frame's destination port is, or 0: what its replica has
 * opened, or expects, may be answered from anywhere. sfc/source_ports.py divides the ports.
 */
static __always_inline u64 holder_of(const struct flow *flow, u32 connection, u32 side)
{
	struct side_key key = {.connection = connection, .side = side};
	u64 place = __builtin_bswap16(flow->destination_port) - FIRST_SLICED;
	struct holders *held;
	struct link *link;
	u32 slot;

	if (!begins_with_ports(flow->protocol) || place >= SLICED)
		return 0;
	held = holders.lookup(&key);
	if (!held)
		return 0;
	place = ((place + 1) * *(u16 *)held->slots - 1) / SLICED;
	asm volatile("" : "+r"(place)); /* as in `choose` */
	slot = ((u16 *)held->slots)[1 + (place & (MOST_SLICES - 1))];
	link = links.lookup(&slot);
	if (!slot || !link || !receives(link, connection, side) || refused_lately(slot, link))
		return 0;
	return end_of(near_slot(slot), link->ifindex, link->plain, connection);
}

/* Keeps a value on the stack as one piece. In pieces, each in a register or a place of its own, the values of the slow
 * path together need more than the stack has: "BPF stack limit of 512 bytes is exceeded".
 */
static __always_inline void in_memory(const void *value)
{
	asm volatile("" : : "r"(value) : "memory");
}

/* Where a session is, or may be put. */
struct spot {
	struct bucket_head *head;
	u64 tag;
	struct session *session; /* NULL: there is none */
};

/* `quickly`: there most probably is one, and it is all that is asked for. */
static __always_inline struct spot find(const union any_key *key, bool wide, bool quickly)
{
	u64 hash = placement(key->word, KEY_WORDS(wide));
	struct spot spot = {.tag = tag_of(hash)};
	u32 at = bucket_of(hash);
	u64 *place;

	spot.head = wide ? (void *)wide_table.lookup(&at) : (void *)session_table.lookup(&at);
	if (!spot.head)
		return spot;
	place = quickly ? likely_place_with(spot.head, spot.tag, key->word, wide)
			: place_with(spot.head, spot.tag, key->word, wide);
	if (place)
		spot.session = (void *)(place + KEY_WORDS(wide));
	return spot;
}

static __always_inline struct holding *holding_of(u32 connection)
{
	u32 number = connection & (NUMBERS - 1); /* numbers of an early version are larger, and may share */

	return holdings.lookup(&number);
}

static __always_inline u64 places_of(u32 connection)
{
	struct holding *holding = holding_of(connection);

	return holding ? holding->places : 0;
}

/* Above the ticks of a silence: what comes first. */
#define OWN_OR_RICHER (1ULL << 33)
#define FINISHED      (1ULL << 34)

/* The session that gives way to another one of its bucket (table.h), or NOBODY. With `proven`, among those that have
 * proved themselves; PLACES if there are few enough of them.
 */
static __always_inline u64 giving_way(struct bucket_head *head, u32 connection, bool proven, bool wide)
{
	u64 own = places_of(connection), tick = bpf_jiffies64(), best = 0, count = 0;

#pragma nounroll
	for (u64 at = 0; at < PLACES; at++) {
		struct session *session = session_at(head, at, wide);
		u64 silence = 1 + (u64)(u32)(tick - session->last_tick);
		u64 has_proved = session->standing & PROVEN;
		u32 owner = connection_at(head, at, wide);

		if (!*tag_at(head, at))
			continue;
		count = disguised(count + has_proved / PROVEN, tick);
		if (!has_proved == proven)
			continue;
		if (owner == connection || places_of(owner) >= own)
			silence |= OWN_OR_RICHER;
		else if (proven)
			continue;
		if (!proven && closed(session) && (u32)silence > LINGERS_FOR)
			silence |= FINISHED;
		silence = silence * PLACES | at;
		if (silence > best)
			best = disguised(silence, tick);
	}
	if (proven && count < PROVEN_PLACES)
		return PLACES;
	return best ? best & (PLACES - 1) : NOBODY;
}

/* Puts a session into the table, unless there is no room, or another CPU was faster. */
static __always_inline bool add(const struct spot *spot, const union any_key *key, bool wide,
				const struct session *session)
{
	u32 connection = wide ? key->wide.connection : key->narrow.connection, owner = 0;
	struct bucket_head *head = spot->head;
	struct holding *holding;
	bool live = false;
	u16 former = 0;
	u64 at;

	if (!head)
		return false;
	at = disguised(free_place(head, spot->tag), bpf_jiffies64());
	if (at == PLACES) {
		struct session *giving;

		at = giving_way(head, connection, false, wide);
		if (at == NOBODY) {
			tell(connection, VERDICT_NO_ROOM);
			return false;
		}
		former = *tag_at(head, at);
		owner = connection_at(head, at, wide);
		giving = session_at(head, at, wide);
		live = giving->standing & WAS_PROVEN && !closed(giving);
	}
	if (!put(head, at, former, spot->tag, (u64 *)key, session, wide))
		return false;
	if (former) {
		holding = holding_of(owner);
		if (holding) {
			__sync_fetch_and_add(&holding->places, -1);
			if (live)
				__sync_fetch_and_add(&holding->evicted, 1);
		}
	}
	holding = holding_of(connection);
	if (holding)
		__sync_fetch_and_add(&holding->places, 1);
	return true;
}

/* A frame from this side has told more about the session. If its bucket has no room for another proven one, and nobody
 * there may be demoted, it stays as it is.
 */
static __always_inline void rise(const struct spot *spot, u32 connection, bool wide)
{
	struct session *session = spot->session;
	u64 at;

	if (!(session->standing & (ANSWERED | WAS_PROVEN))) {
		session->standing |= ANSWERED;
		return;
	}
	at = giving_way(spot->head, connection, true, wide);
	if (at == NOBODY)
		return;
	if (at != PLACES)
		session_at(spot->head, at, wide)->standing &= ~PROVEN;
	session->standing |= PROVEN | WAS_PROVEN;
}

/* What stands for a cross-connection's namespace in its choices. */
static __always_inline u64 namespace_of(u32 connection)
{
	struct numbered *numbered = numbers.lookup(&connection);

	return numbered ? placement_of_text((u64 *)numbered->namespace) : 0;
}

static __always_inline u32 hash_of(const union any_key *key, bool wide, u32 connection)
{
	u64 namespace = namespace_of(connection);

	return wide ? wide_hash(&key->wide, namespace) : session_hash(&key->narrow, namespace);
}

/* What belongs to one session of a cross-connection: enum key_kind. */
static __always_inline u8 key_kind_of(u32 connection)
{
	u32 *kind = session_keys.lookup(&connection);

	return kind ? *kind : BY_FLOW;
}

/* True when the session was silent for longer than its cross-connection has patience. */
static __always_inline bool silent_too_long(const struct session *session, const struct flow *flow, u32 connection)
{
	struct patience *own = patience.lookup(&connection);

	return silent(session, patience_with(session, flow->protocol, flow->ports, own), bpf_ktime_get_coarse_ns());
}

/* True if this side sent the first frame. */
static __always_inline bool opened_by(const struct session *session, u32 side)
{
	return (session->standing & OPENER) == side;
}

/* True for a session that its link has lost. A link that is only wired may lead to a function that hangs, so it has
 * none but those that its own side opened: through them the function can become ready (again).
 *
 * Of a draining link: a session that the drain does not wait for any more, if the frame does not belong to it. Frames
 * that use its ports again go to another replica, otherwise they would hold up the drain again and again. A connection
 * may go on after hours of silence, so there only a frame that opens one begins anew.
 */
static __always_inline bool over(const struct session *session, const struct flow *flow, u32 connection, u32 side,
				 u64 far)
{
	u32 slot = end_slot(far);
	struct link *link = links.lookup(&slot);

	if (link && link->state == WIRED)
		return opened_by(session, side);
	if (!link || link->state != DRAINING || (connected(flow->protocol) && !(flow->signals & OPENS)))
		return false;
	return silent_too_long(session, flow, connection);
}

/* The end that frames of a session go to from this side. 0 if `choose` has to name one: there is no session, it has
 * ended and begins anew, or its link does not receive any more.
 */
static __always_inline u64 remembered(struct session *session, const struct flow *flow, u32 connection, u32 side)
{
	u64 far;

	if (!session || (flow->signals & OPENS && ended(session, bpf_ktime_get_coarse_ns())))
		return 0;
	far = alive(session->end[!side], connection, !side);
	return far && !over(session, flow, connection, side, far) ? far : 0;
}

/* The link of another node that has returned the session, if its node is up; otherwise 0. That node may not know yet
 * that nobody else takes the session.
 */
static __always_inline u64 last_resort(const struct session *session, u32 connection, u32 side)
{
	u64 far = session ? session->end[!side] : 0;

	return is_far(far) && far & REFUSED && alive(far & ~(u64)REFUSED, connection, !side) ? far : 0;
}

/* Counts a contest: the sender of a session changed while both links serve. Replicas share their addresses, so two of
 * them may use the same port for two connections, which cannot work. A session that moved because its replica left is
 * no contest.
 */
static __always_inline void tell_contest(const struct session *session, const struct flow *flow,
					 const struct sender *from)
{
	u64 former = session->end[from->side];
	u32 slot = end_slot(former), latter = end_slot(from->end);
	struct link *link = links.lookup(&slot);
	struct contest *contest;

	if (!begins_with_ports(flow->protocol) || from->state != SERVING || !link || link->state != SERVING ||
	    closed(session))
		return;
	if (same_link(former, from->end) || !alive(former, from->connection, from->side) ||
	    silent_too_long(session, flow, from->connection))
		return;
	tell(from->connection, VERDICT_CONTESTED);
	contest = contests.lookup(&latter);
	if (contest) {
		contest->former = former;
		__sync_fetch_and_add(&contest->count, 1);
	}
}

/* The sender's stamp for a session with this end. 0 if frames take the plain way there: `known` cannot send those. */
static __always_inline u32 stamp_for(u64 end, const struct sender *from)
{
	return end & PLAIN ? 0 : from->stamp;
}

/* True if answers go to the sender. Otherwise it would get a session back that it has lost. */
static __always_inline bool gets_answers(const struct session *session, const struct sender *from)
{
	if (session->end[from->side] == LOST)
		return from->state == SERVING;
	return from->state != GONE && (from->state != WIRED || opened_by(session, from->side));
}

/* True for a session whose replica has left at the deadline of a drain that ends sessions, if the frame is not the
 * first one of a new connection: its sender is to hear that the session is over, and no other replica gets it. It hears
 * so again and again in a connection; in what has no connection once, because who goes on after that begins anew.
 */
static __always_inline bool refused(struct session *session, const struct flow *flow, u32 side)
{
	if (session->end[!side] != LOST || flow->quoted || flow->signals & OPENS)
		return false;
	session->rst = 1;
	if (!connected(flow->protocol))
		session->end[!side] = 0;
	return true;
}

/* Updates a session for one more frame, which goes to `far`. The latest sender gets the answers, unless its link is
 * gone, or has lost the session.
 */
static __always_inline void keep(const struct spot *spot, const struct flow *flow, const struct sender *from, u64 far,
				 bool wide)
{
	struct session *session = spot->session;

	if (session->end[!from->side] != far)
		session->end[!from->side] = far;
	if (gets_answers(session, from)) {
		if (session->end[from->side] != from->end) {
			tell_contest(session, flow, from);
			session->end[from->side] = from->end;
		}
		session->stamp[from->side] = stamp_for(far, from);
	}
	note_signals(session, flow->signals, from->side);
	if (unlikely(flow->carries & ~session->standing))
		session->standing |= flow->carries;
	if (closed(session))
		session->standing &= ~PROVEN;
	else if (rises(session->standing, from->side))
		rise(spot, from->connection, wide);
	if (!noted_lately(session))
		note_time(session, bpf_ktime_get_coarse_ns());
}

/* Opens a session between its sender and the chosen link, in the place of a closed one with the same key if there is
 * one.
 */
static __always_inline void open(const union any_key *key, bool wide, const struct spot *spot, const struct flow *flow,
				 const struct sender *from, u64 chosen)
{
	struct session fresh = {.last_tick = bpf_jiffies64(), .standing = from->side | flow->carries};
	u32 opener = end_slot(from->end);
	u32 stamp = flow->signals & ABORTS ? 0 : stamp_for(chosen, from); /* note_signals */
	struct traffic *counters;

	fresh.end[UPSTREAM] = from->side == UPSTREAM ? from->end : chosen;
	fresh.end[DOWNSTREAM] = from->side == UPSTREAM ? chosen : from->end;
	fresh.stamp[UPSTREAM] = from->side == UPSTREAM ? stamp : 0;
	fresh.stamp[DOWNSTREAM] = from->side == UPSTREAM ? 0 : stamp;
	fresh.rst = !!(flow->signals & ABORTS);
	fresh.last_seen = bpf_ktime_get_coarse_ns();
	in_memory(&fresh);
	if (spot->session)
		begin_anew(spot->session, &fresh);
	else if (!add(spot, key, wide, &fresh))
		return;
	counters = traffic.lookup(&opener);
	if (counters)
		counters->sessions_opened++;
}

static __always_inline struct place place_of(const struct neighbour_key *about)
{
	u32 hash = address_hash(&about->address);

	return (struct place){about->connection, mixed(hash, about->side) & (LEARNED_PLACES - 1)};
}

static __always_inline bool same_address(const struct address *one, const struct address *other)
{
	return one->word[3] == other->word[3] && one->word[2] == other->word[2] && one->word[1] == other->word[1] &&
	       one->word[0] == other->word[0];
}

static __always_inline bool is_about(const struct learned *heard, const struct neighbour_key *about)
{
	return heard->about.connection == about->connection && heard->about.side == about->side &&
	       same_address(&heard->about.address, &about->address);
}

/* The neighbour that a frame asks for: from the chain, or from a recent frame of the other side. False if unknown. */
static __always_inline bool neighbour_asked(const struct flow *flow, const struct sender *from,
					    struct neighbour *neighbour)
{
	struct neighbour_key key = {.connection = from->connection, .side = from->side, .address = flow->destination};
	struct neighbour *known = neighbours.lookup(&key);
	struct place place;
	struct learned *heard;

	if (known) {
		*neighbour = *known;
		return true;
	}
	place = place_of(&key);
	heard = learned.lookup(&place);
	if (!heard || !is_about(heard, &key) || bpf_ktime_get_coarse_ns() - heard->at >= LEARNED_FOR)
		return false;
	*neighbour = heard->neighbour;
	asm volatile("" : : : "memory"); /* look again, and not at what was read before */
	return is_about(heard, &key);
}

/* Remembers an address for questions from the other side. The sender's own side has the same address. */
static __always_inline void learn(const struct address *address, const u8 *mac, const struct sender *from)
{
	struct learned heard = {.at = bpf_ktime_get_coarse_ns()};
	struct place place;

	heard.about.connection = from->connection;
	heard.about.side = !from->side;
	heard.about.address = *address;
	__builtin_memcpy(heard.neighbour.mac, mac, ETH_ALEN);
	place = place_of(&heard.about);
	learned.update(&place, &heard);
}

/* Turns an ARP request into its answer. False if the frame could not be changed. */
static __always_inline bool answer_arp(struct __sk_buff *skb, const struct arp_frame *request,
				       const struct neighbour *neighbour)
{
	struct arp_frame reply = {};

	__builtin_memcpy(reply.eth.h_dest, request->eth.h_source, ETH_ALEN);
	__builtin_memcpy(reply.eth.h_source, neighbour->mac, ETH_ALEN);
	reply.eth.h_proto = ETHERTYPE(ETH_P_ARP);
	reply.arp.hardware = ARP_ETHERNET;
	reply.arp.protocol = ETHERTYPE(ETH_P_IP);
	reply.arp.hardware_length = ETH_ALEN;
	reply.arp.protocol_length = sizeof(__be32);
	reply.arp.operation = ARP_REPLY;
	__builtin_memcpy(reply.arp.sender_mac, neighbour->mac, ETH_ALEN);
	reply.arp.sender = request->arp.target;
	__builtin_memcpy(reply.arp.target_mac, request->arp.sender_mac, ETH_ALEN);
	reply.arp.target = request->arp.sender;
	return !bpf_skb_store_bytes(skb, 0, &reply, sizeof(reply), 0);
}

static __always_inline __be16 checksum_of(const struct advertisement_frame *frame)
{
	const u32 pseudo_header = __constant_htons(ADVERTISEMENT_LENGTH + IPPROTO_ICMPV6);
	s64 sum = bpf_csum_diff(0, 0, (void *)&frame->nd.ip.saddr, 2 * sizeof(struct address) + ADVERTISEMENT_LENGTH,
				pseudo_header);

	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

/* Turns a neighbour solicitation into its answer. The answer has exactly one option, the target's MAC; the length of
 * the frame may change. False if the frame could not be changed.
 */
static __always_inline bool answer_nd(struct __sk_buff *skb, const struct ethhdr *eth, const struct flow *question,
				      const struct neighbour *neighbour)
{
	struct advertisement_frame reply = {};

	__builtin_memcpy(reply.eth.h_dest, eth->h_source, ETH_ALEN);
	__builtin_memcpy(reply.eth.h_source, neighbour->mac, ETH_ALEN);
	reply.eth.h_proto = ETHERTYPE(ETH_P_IPV6);
	reply.nd.ip.version = 6;
	reply.nd.ip.payload_len = __constant_htons(ADVERTISEMENT_LENGTH);
	reply.nd.ip.nexthdr = IPPROTO_ICMPV6;
	reply.nd.ip.hop_limit = ND_HOPS;
	__builtin_memcpy(&reply.nd.ip.saddr, &question->destination, sizeof(struct address));
	__builtin_memcpy(&reply.nd.ip.daddr, &question->source, sizeof(struct address));
	reply.nd.type = ND_ADVERTISEMENT;
	reply.nd.flags = ND_SOLICITED | ND_OVERRIDE;
	reply.nd.target = question->destination;
	reply.option.kind = ND_TARGET_MAC;
	reply.option.length = 1;
	__builtin_memcpy(reply.option.mac, neighbour->mac, ETH_ALEN);
	reply.nd.checksum = checksum_of(&reply);
	if (skb->len != ADVERTISEMENT_FRAME_LENGTH && bpf_skb_change_tail(skb, ADVERTISEMENT_FRAME_LENGTH, 0))
		return false;
	return !bpf_skb_store_bytes(skb, 0, &reply.eth, ADVERTISEMENT_FRAME_LENGTH, 0);
}

/* Forwards by the flow's session, and opens one if there is none: to `wished`, or if that is 0 by choice. An ICMP error
 * about the flow follows the session, but neither opens nor changes it.
 */
static __always_inline enum verdict carry(const struct flow *flow, bool wide, const struct sender *from, u64 wished,
					  u64 *to)
{
	struct traffic *counters;
	union any_key key;
	struct spot spot;
	u32 choice;

	if (wide)
		key.wide = wide_key_of(from->connection, flow, from->side);
	else
		key.narrow = session_key_of(from->connection, flow, from->side);
	in_memory(&key);
	spot = find(&key, wide, false);
	*to = disguised(remembered(spot.session, flow, from->connection, from->side), bpf_jiffies64());
	if (!*to) {
		if (spot.session && refused(spot.session, flow, from->side))
			return VERDICT_RESET;
		*to = wished ? wished : holder_of(flow, from->connection, !from->side);
		*to = disguised(*to, bpf_jiffies64());
		if (!*to)
			*to = choose(from->connection, !from->side, hash_of(&key, wide, from->connection));
		if (!*to)
			*to = last_resort(spot.session, from->connection, from->side);
		*to = disguised(*to, bpf_jiffies64());
		if (!*to)
			return VERDICT_NO_TARGET;
		if (flow->quoted)
			return VERDICT_FORWARDED;
		choice = end_slot(*to);
		counters = traffic.lookup(&choice);
		if (counters)
			counters->sessions_chosen++;
		if (!spot.session || flow->signals & OPENS) {
			open(&key, wide, &spot, flow, from, *to);
			return VERDICT_FORWARDED;
		}
	}
	if (!flow->quoted && spot.session)
		keep(&spot, flow, from, *to, wide);
	return VERDICT_FORWARDED;
}

/* In one step: a branch for each word would multiply the paths that the verifier follows. */
static __always_inline bool is_of(const struct fragment *there, const struct fragment *wanted)
{
	u32 differs = there->datagram != wanted->datagram;

	for (int word = 0; word < 4; word++)
		differs |= (there->source.word[word] ^ wanted->source.word[word]) |
			   (there->destination.word[word] ^ wanted->destination.word[word]);
	return !differs;
}

/* Signed, because another CPU may have noted a later time than `now`. */
static __always_inline bool aged(const struct fragment *there, u64 now)
{
	return (s64)(now - there->at) >= (s64)FOLLOWED_FOR;
}

/* One of the places that a datagram may have among those of its sender's link. Successive datagrams to the same address
 * never have the same first one.
 */
static __always_inline struct place choice_of(const struct fragment *part, u32 slot, u32 choice)
{
	u32 source = address_hash(&part->source), destination = address_hash(&part->destination);
	u32 hash = source + destination;

	if (choice)
		hash = mixed((u64)source << 32 | destination, part->datagram * FRAGMENT_CHOICES + choice);
	else
		/* the number's low bits: IPv4, IPv6 */
		hash += __builtin_bswap16(part->datagram) + __builtin_bswap32(part->datagram);
	return (struct place){slot, hash & (FRAGMENT_PLACES - 1)};
}

/* Makes a fragment the pair of its addresses. The result is the place of the pair. */
static __always_inline struct place as_pair(struct fragment *part, u32 slot)
{
	u32 source = address_hash(&part->source), destination = address_hash(&part->destination);
	u32 hash = mixed((u64)source << 32 | destination, part->datagram >> 32);

	part->datagram &= ~0xffffffffULL;
	return (struct place){slot, FRAGMENT_PLACES + (hash & (FRAGMENT_PAIRS - 1))};
}

static __always_inline struct fragment part_of_flow(const struct flow *flow)
{
	struct fragment part = {.source = flow->source, .destination = flow->destination};

	part.datagram = flow->datagram | (u64)flow->vlans << 32;
	return part;
}

/* Completes what is known of a fragment's datagram. The place is the one where that is noted. If it is not noted, the
 * place is the one of the datagram's choices that has been of use to nobody for the longest time.
 */
static __always_inline struct place recall(struct fragment *part, u32 slot, u64 now)
{
	struct place place, room = {slot, 0};
	u64 oldest = ~0ULL;

	for (u32 choice = 0; choice < FRAGMENT_CHOICES; choice++) {
		struct fragment *there;
		u64 since = 0;

		place = choice_of(part, slot, choice);
		there = fragments.lookup(&place);
		if (there) {
			if (is_of(there, part) && !aged(there, now)) {
				part->to = there->to;
				part->at = there->at;
				part->early = there->early;
				part->last = there->last;
				return place;
			}
			since = there->last && !there->early ? 0 : there->at;
		}
		if (since < oldest) {
			oldest = since;
			room = place;
		}
	}
	return room;
}

/* Where the latest datagram in fragments between these addresses went, from this link; 0 if that is not known. */
static __always_inline u64 pair_went_to(const struct fragment *part, u32 slot, u64 now)
{
	struct fragment pair = *part, *there;
	struct place place = as_pair(&pair, slot);

	there = fragments.lookup(&place);
	return there && is_of(there, &pair) && !aged(there, now) ? there->to : 0;
}

/* A later fragment goes where the first one went. One that comes before the first one, or whose first one was lost,
 * cannot be kept until more is known. It goes where the latest datagram between its addresses went, or else by its
 * addresses alone. All such fragments of a datagram go the same way, and that is noted for the first one.
 */
static __always_inline enum verdict carry_later(const struct flow *flow, struct fragment *part, struct place *place,
						const struct sender *from, u64 now, u64 *to)
{
	*to = alive(part->to, from->connection, !from->side);
	if (*to && !part->early) {
		if (flow->part != LAST)
			return VERDICT_FORWARDED;
	} else {
		if (!*to)
			*to = alive(pair_went_to(part, place->owner, now), from->connection, !from->side);
		if (!*to) {
			struct wide_key addresses = wide_key_of(from->connection, flow, from->side);

			*to = choose(from->connection, !from->side,
				     wide_hash(&addresses, namespace_of(from->connection)));
		}
		if (!*to)
			return VERDICT_NO_TARGET;
		tell(from->connection, VERDICT_LONE_FRAGMENT);
		if (!part->early)
			part->at = now;
		part->early++;
		part->to = *to;
	}
	part->last |= flow->part == LAST;
	fragments.update(place, part);
	return VERDICT_FORWARDED;
}

/* The end that fragments went to which came before their first one, if it may have new sessions; otherwise 0. */
static __always_inline u64 wish_of(const struct fragment *part, const struct sender *from)
{
	u64 end = part->early ? alive(part->to, from->connection, !from->side) : 0;
	u32 slot = end_slot(end);
	struct link *link = links.lookup(&slot);

	return link && link->state == SERVING ? end : 0;
}

/* Notes where the first fragment went, and tells what that means for those that came before it. */
static __always_inline void note_first(struct fragment *part, struct place *place, const struct sender *from, u64 now,
				       u64 to)
{
	struct place pair;

	if (part->early)
		tell_of(part->early, from->connection,
			same_link(part->to, to) ? VERDICT_EARLY_FRAGMENT : VERDICT_PARTED_FRAGMENT);
	part->to = to;
	part->at = now;
	part->early = 0;
	fragments.update(place, part);
	pair = as_pair(part, place->owner);
	fragments.update(&pair, part);
}

/* The id of the outermost VLAN tag, which the kernel keeps beside the frame; 0 without one. */
static __always_inline u32 tag_beside(struct __sk_buff *skb)
{
	return skb->vlan_present ? skb->vlan_tci & VLAN_ID : 0;
}

/* Notes the time of a session. False, without noting it, if the session was silent for CLOSED_FOR: it may be over. */
static __always_inline bool goes_on(struct session *session)
{
	u64 now;

	if (likely(noted_lately(session)))
		return true;
	now = bpf_ktime_get_coarse_ns();
	if (silent(session, CLOSED_FOR, now))
		return false;
	note_time(session, now);
	return true;
}

/* The fast path: the end that a plain frame of a known session goes to; 0 if `decide` has to decide. The result is
 * always the one of `decide`, with fewer steps.
 */
static __always_inline u64 known_by(const union any_key *key, const struct link *link, bool wide)
{
	u32 side = link->side & 1;
	struct session *session = find(key, wide, true).session;
	u64 far;

	if (!session || session->stamp[side] != link->stamp || rises(session->standing, side) || !goes_on(session))
		return 0;
	far = session->end[!side];
	return (far & (OWNER | PLAIN)) == owner_of(link->connection) ? far : 0;
}

static __always_inline u64 known(struct __sk_buff *skb, const struct link *link)
{
	void *end = (void *)(long)skb->data_end;
	struct ethhdr *eth = (void *)(long)skb->data;
	__be16 *ethertype = (void *)eth + offsetof(struct ethhdr, h_proto); /* in one piece, although eth is packed */
	u32 vlans = tag_beside(skb), side = link->side & 1;
	struct plain plain;
	union any_key key;

	if ((void *)(eth + 1) > end || eth->h_dest[0] & 1)
		return 0;
	if (*ethertype == ETHERTYPE(ETH_P_IP)) {
		if (!read_plain_ipv4(&plain, (void *)(eth + 1), end))
			return 0;
		key = plain_key_of(link->connection, &plain, vlans, side, false);
		return known_by(&key, link, false);
	}
	if (*ethertype != ETHERTYPE(ETH_P_IPV6) || !read_plain_ipv6(&plain, (void *)(eth + 1), end))
		return 0;
	key = plain_key_of(link->connection, &plain, vlans, side, true);
	return known_by(&key, link, true);
}

/* Forwards by the pair of MACs, without a session: multicast and broadcast. */
static __always_inline enum verdict carry_any(const struct ethhdr *eth, const struct sender *from, u64 *to)
{
	*to = choose(from->connection, !from->side, mac_pair_hash(eth, from->side, namespace_of(from->connection)));
	return *to ? VERDICT_FORWARDED : VERDICT_NO_TARGET;
}

/* Answers an ARP request if the neighbour is known, and learns from answers and announcements. True if answered. */
static __always_inline bool settle_arp(struct __sk_buff *skb, struct arp_frame *frame, const struct flow *flow,
				       const struct sender *from)
{
	struct neighbour neighbour;

	if (arp_asks(&frame->arp))
		return neighbour_asked(flow, from, &neighbour) && answer_arp(skb, frame, &neighbour);
	if (arp_tells(&frame->arp))
		learn(&flow->source, frame->arp.sender_mac, from);
	return false;
}

/* The same for neighbour discovery. */
static __always_inline bool settle_nd(struct __sk_buff *skb, const struct ethhdr *eth, struct neighbour_discovery *nd,
				      void *end, const struct flow *flow, const struct sender *from)
{
	struct neighbour neighbour;

	if (nd_asks(flow, nd))
		return neighbour_asked(flow, from, &neighbour) && answer_nd(skb, eth, flow, &neighbour);
	if (nd_tells(nd, end))
		learn(&flow->source, ((struct nd_option *)(nd + 1))->mac, from);
	return false;
}

/* What reading a frame found. */
enum found {
	NOTHING, /* it is for a group */
	FLOW,
	NEIGHBOUR, /* a question or an answer that a session leads */
	FRAME,	   /* without IP */
	ANSWER,	   /* the frame has become the answer */
};

/* Reads every frame whose EtherType is not IPv4: ARP, IPv6, VLAN tags in the frame, any other protocol. */
static __always_inline enum found read_wide(struct __sk_buff *skb, struct ethhdr *eth, void *end,
					    const struct sender *from, struct flow *flow, struct payload *payload)
{
	/* The chain gives the addresses of the interface itself, not those of VLANs on it. */
	bool untagged;

	*payload = past_tags(eth, flow->vlans, skb->vlan_present, end);
	untagged = eth->h_proto == payload->ethertype && !payload->vlans;
	flow->vlans = payload->vlans;
	if (payload->ethertype == ETHERTYPE(ETH_P_ARP) && read_arp(flow, payload->header, end))
		return untagged && settle_arp(skb, (void *)eth, flow, from) ? ANSWER : NEIGHBOUR;
	if (payload->ethertype == ETHERTYPE(ETH_P_IPV6) && read_nd(flow, payload->header, end))
		return untagged && settle_nd(skb, eth, payload->header, end, flow, from) ? ANSWER : NEIGHBOUR;
	if (eth->h_dest[0] & 1)
		return NOTHING;
	if (read_ip(flow, payload, end))
		return FLOW;
	read_macs(flow, eth, payload, end);
	return FRAME;
}

/* Makes what a frame is about the session's: of a tunnel the packet in it, or all between two addresses. A packet of a
 * tunnel without a readable one goes by its own addresses, so that `known` finds no session for the whole tunnel.
 */
static __always_inline void make_session(struct flow *flow, struct fragment *part, const struct payload *payload,
					 void *frame, void *end, const struct sender *from)
{
	u64 noise = bpf_jiffies64();
	u8 outer = flow->part;

	if (likely(from->kind != BY_INNER)) {
		fold(flow, from->kind, from->side);
	} else if (is_tunnel(flow)) {
		outer = disguised(outer, noise);
		if (flow->quoted || !read_inner(flow, payload, frame, end, noise))
			fold(flow, BY_ADDRESSES, from->side);
		else if (!outer)
			*part = part_of_flow(flow);
		flow->part = disguised(outer ? outer : flow->part, noise);
	}
}

/* What `decide` knows of a frame before it looks for the session. */
struct matter {
	struct flow flow;
	struct fragment part; /* of a first fragment, and where it is noted */
	struct place place;
	u64 now;
	u64 wished;
};

/* Reads any frame. `wide`: the kind of key that its session has. */
static __always_inline enum found read_any(struct __sk_buff *skb, struct ethhdr *eth, void *end,
					   const struct sender *from, struct matter *it, bool *wide)
{
	struct payload payload = {.header = eth + 1, .ethertype = eth->h_proto};
	enum found found = FLOW;

	it->flow.vlans = tag_beside(skb);
	*wide = eth->h_proto != ETHERTYPE(ETH_P_IP);
	if (*wide) {
		found = read_wide(skb, eth, end, from, &it->flow, &payload);
	} else if (eth->h_dest[0] & 1) {
		found = NOTHING;
	} else if (!read_ipv4(&it->flow, payload.header, end)) {
		read_macs(&it->flow, eth, &payload, end);
		found = FRAME;
	}
	it->part = part_of_flow(&it->flow);
	if (found == FLOW)
		make_session(&it->flow, &it->part, &payload, eth, end, from);
	*wide |= found == FRAME || !is_ipv4(&it->flow.source);
	return found;
}

/* Makes the verifier forget what it knows of a frame and its sender; it knows nothing of `zero`. Otherwise it would
 * follow all that comes then once for every kind of frame: "processed 1000001 insns".
 */
static __always_inline void as_one(struct matter *it, struct sender *from)
{
	u8 zero = from->zero;

	it->flow.ports |= zero;
	it->flow.protocol |= zero;
	it->flow.signals |= zero;
	it->flow.quoted |= zero;
	it->flow.part |= zero;
	it->flow.carries |= zero;
	it->part.datagram |= zero;
	it->part.to |= zero;
	it->part.at |= zero;
	it->part.early |= zero;
	it->part.last |= zero;
	it->place.owner |= zero;
	it->place.at |= zero;
	it->now |= zero;
	it->wished |= zero;
	from->end |= zero;
	from->connection |= zero;
	from->stamp |= zero;
	from->side = (from->side | zero) & 1;
	from->state |= zero;
}

/* Decides where a frame goes; `to` is set for VERDICT_FORWARDED and VERDICT_ANSWERED. */
static __always_inline enum verdict decide(struct __sk_buff *skb, struct sender *from, u64 *to)
{
	void *end = (void *)(long)skb->data_end;
	struct ethhdr *eth = (void *)(long)skb->data;
	struct matter it = {};
	enum verdict verdict;
	enum found found;
	bool wide;

	if ((void *)(eth + 1) > end)
		return VERDICT_NOT_OURS; /* never happens on an Ethernet device; the verifier needs the check */
	found = read_any(skb, eth, end, from, &it, &wide);
	if (found == ANSWER) {
		*to = from->end;
		return VERDICT_ANSWERED;
	}
	if (found == NOTHING)
		return carry_any(eth, from, to);
	if (unlikely(it.flow.part)) {
		it.now = bpf_ktime_get_coarse_ns();
		it.place = recall(&it.part, end_slot(from->end), it.now);
		if (it.flow.part != FIRST)
			return carry_later(&it.flow, &it.part, &it.place, from, it.now, to);
		it.wished = wish_of(&it.part, from);
	}
	as_one(&it, from);
	verdict = wide ? carry(&it.flow, true, from, it.wished, to) : carry(&it.flow, false, from, it.wished, to);
	*to = disguised(*to, bpf_jiffies64());
	verdict = disguised(verdict, bpf_jiffies64());
	as_one(&it, from);
	if (unlikely(it.flow.part) && verdict == VERDICT_FORWARDED)
		note_first(&it.part, &it.place, from, it.now, *to);
	return verdict;
}

/* Sends into the replica's end of the link. */
static __always_inline int send_across(struct __sk_buff *skb, u64 to)
{
	u32 slot = end_slot(to);
	struct traffic *counters = traffic.lookup(&slot);

	if (counters) {
		counters->sent_packets++;
		counters->sent_bytes += skb->len;
	}
	/* The kernel compared the destination with the host end's MAC, so the replica would drop the frame. */
	if (skb->pkt_type == PACKET_OTHERHOST)
		bpf_skb_change_type(skb, PACKET_HOST);
	return bpf_redirect_peer(end_ifindex(to), 0);
}

/* The counters of the tunnel have the place of slot 0, which no link has. */
static __always_inline void count_tunnel(u32 length, bool received)
{
	u32 zero = 0;
	struct traffic *counters = traffic.lookup(&zero);

	if (!counters)
		return;
	if (received) {
		counters->received_packets++;
		counters->received_bytes += length;
	} else {
		counters->sent_packets++;
		counters->sent_bytes += length;
	}
}

/* Sends through the tunnel, to the peer with that number. The drop of a frame that cannot be sent counts for the
 * cross-connection.
 */
static __always_inline int send_through(struct __sk_buff *skb, u32 number, u32 tunnel_id, u32 mark, u32 connection)
{
	struct bpf_tunnel_key key = {.tunnel_id = tunnel_id, .tunnel_ttl = 64};
	u64 flags = BPF_F_ZERO_CSUM_TX | BPF_F_DONT_FRAGMENT;
	struct policy policy = {.mark = mark};
	u32 zero = 0;
	u64 to; /* as where a frame goes is called, for tests/fuzz/decision.h */
	struct peer *peer = peers.lookup(&number), *own = peers.lookup(&zero);

	if (!peer || !own)
		return drop(connection, VERDICT_PEER_DOWN);
	if (is_ipv4(&peer->address)) {
		key.remote_ipv4 = bpf_ntohl(peer->address.word[3]);
	} else {
		__builtin_memcpy(key.remote_ipv6, &peer->address, sizeof(key.remote_ipv6));
		flags |= BPF_F_TUNINFO_IPV6;
	}
	bpf_get_hash_recalc(skb); /* so that flows leave from different ports */
	if (bpf_skb_set_tunnel_key(skb, &key, sizeof(key), flags) ||
	    bpf_skb_set_tunnel_opt(skb, &policy, sizeof(policy)))
		return drop(connection, VERDICT_PEER_DOWN);
	count_tunnel(skb->len, false);
	to = own->tunnel;
	return bpf_redirect(to, 0);
}

/* Neither is in BCC's headers as it is in the kernel's. */
static long (*redirect_neighbour)(u32 ifindex, void *neighbour, int size, u64 flags) = (void *)152;
#define ENCAPSULATED_ETHERNET (1ULL << 6) /* BPF_F_ADJ_ROOM_ENCAP_L2_ETH */
#define DECAPSULATED_IPV4     (1ULL << 7) /* BPF_F_ADJ_ROOM_DECAP_L3_IPV4 */
#define DECAPSULATED_IPV6     (1ULL << 8) /* BPF_F_ADJ_ROOM_DECAP_L3_IPV6 */
#define WITHOUT_THE_NEIGHBOUR (1U << 2)	  /* BPF_FIB_LOOKUP_SKIP_NEIGH */
#define FAMILY_IPV4	      2		  /* AF_INET */
#define ALREADY_ENCAPSULATED  -114	  /* EALREADY */
#define A_WORD		      4
#define HALFWAY		      1

/* Makes room for the outer headers of a TCP frame, or of one that no device has to take apart.
 *
 * The kernel forgets in `from_tunnel` that such a frame was in a tunnel, where its inner headers are, and that they are
 * encapsulated; so it refuses to encapsulate it again. What it remembers is right for the next tunnel, too, so that
 * only the room is needed, and the new protocol. That the kernel sets by a flag for the way back alone.
 */
static __always_inline long make_room(struct __sk_buff *skb, bool ipv6)
{
	u64 outer = BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 | BPF_F_ADJ_ROOM_ENCAP_L4_UDP |
		    ENCAPSULATED_ETHERNET | BPF_F_ADJ_ROOM_ENCAP_L2(ETH_HLEN);
	u64 again = BPF_F_ADJ_ROOM_FIXED_GSO;
	long failed = bpf_skb_adjust_room(skb, OUTER_BYTES, BPF_ADJ_ROOM_MAC, outer);

	if (failed != ALREADY_ENCAPSULATED)
		return failed;
	if (!ipv6)
		return bpf_skb_adjust_room(skb, OUTER_BYTES, BPF_ADJ_ROOM_MAC, again);
	failed = bpf_skb_adjust_room(skb, OUTER_BYTES + A_WORD, BPF_ADJ_ROOM_MAC, again);
	if (failed)
		return failed;
	return bpf_skb_adjust_room(skb, -A_WORD, BPF_ADJ_ROOM_MAC, again | DECAPSULATED_IPV4) ? HALFWAY : 0;
}

/* Writes the outer headers and sends the frame by the node's own interface, as the device would. False if it has to go
 * by the device; then the frame is as it was.
 */
static __always_inline bool send_directly(struct __sk_buff *skb, const struct peer *peer, u32 tunnel_id, u32 mark,
					  int *action)
{
	u32 zero = 0, length = skb->len + OUTER_BYTES - ETH_HLEN, hash;
	struct underlay *own = underlay.lookup(&zero);
	void *end = (void *)(long)skb->data_end;
	struct ethhdr *eth = (void *)(long)skb->data;
	union any_ip *ip = (void *)(eth + 1);
	struct bpf_redir_neigh neighbour = {};
	struct bpf_fib_lookup route = {.family = FAMILY_IPV4, .l4_protocol = IPPROTO_UDP};
	struct outer outer = {};
	long failed, found;
	bool ipv6;
	u8 ecn;

	if (!own || !own->ifindex || !peer->tunnel || !is_ipv4(&peer->address) || (void *)(ip + 1) > end)
		return false;
	ipv6 = eth->h_proto == ETHERTYPE(ETH_P_IPV6);
	if ((!ipv6 && eth->h_proto != ETHERTYPE(ETH_P_IP)) || skb->vlan_present || length > 0xffff ||
	    (skb->gso_size && protocol_of(ip, eth->h_proto) != IPPROTO_TCP))
		return false;
	ecn = outer_ecn(ip, eth->h_proto);
	outer.inner = *eth;
	hash = bpf_get_hash_recalc(skb); /* so that flows leave from different ports */

	route.tot_len = skb->gso_size ? 0 : length;
	route.ifindex = peer->tunnel;
	route.ipv4_src = own->address;
	route.ipv4_dst = peer->address.word[3];
	found = bpf_fib_lookup(skb, &route, sizeof(route), BPF_FIB_LOOKUP_OUTPUT | WITHOUT_THE_NEIGHBOUR);
	if (found && found != BPF_FIB_LKUP_RET_FWD_DISABLED)
		return false;
	neighbour.nh_family = route.family; /* of the gateway, if there is one */
	__builtin_memcpy(neighbour.ipv6_nh, route.ipv6_dst, sizeof(neighbour.ipv6_nh));

	failed = make_room(skb, ipv6);
	if (failed && failed != HALFWAY)
		return false;
	write_outer(&outer, own, peer->address.word[3], length, ecn, hash);
	outer.policy = bpf_htonl(WITH_POLICY | mark);
	outer.id = bpf_htonl(tunnel_id << 8);
	/* A checksum of the whole frame, as some cards note it, is about what is behind the Ethernet header. */
	if (failed || bpf_skb_store_bytes(skb, 0, &outer.eth, ETH_HLEN, 0) ||
	    bpf_skb_store_bytes(skb, ETH_HLEN, &outer.ip, OUTER_BYTES, BPF_F_RECOMPUTE_CSUM))
		*action = TC_ACT_SHOT;
	else
		/* Where the interface forwards nothing, only the kernel itself may look the route up. */
		*action = redirect_neighbour(peer->tunnel, &neighbour, found ? 0 : sizeof(neighbour), 0);
	return true;
}

/* What `into_tunnel` is told about a frame, in skb->cb. Programs of two versions may meet there. */
enum told {
	TOLD_TO,   /* identity of a link of another node */
	TOLD_FROM, /* the sender's slot, with its generation above */
	TOLD_CONNECTION,
};

/* Sends a frame from a link of this node to one of another node. */
int into_tunnel(struct __sk_buff *skb)
{
	u32 to = skb->cb[TOLD_TO], from = skb->cb[TOLD_FROM], flags = skb->mark == MARKED_RETURNED ? CHOSEN_AGAIN : 0;
	u32 number = peer_in(to), tunnel_id = tunnel_id_of(slot_in(from), slot_in(to));
	u32 mark = mark_of(flags, generation_in(from), generation_in(to)), connection = skb->cb[TOLD_CONNECTION];
	struct peer *peer = peers.lookup(&number);
	u32 length = skb->len;
	int action;

	if (to & REFUSED) {
		tunnel_id = tunnel_id_of(slot_in(to), 0);
		mark = mark_of(LAST_RESORT, 0, generation_in(to));
	}

	if (peer && send_directly(skb, peer, tunnel_id, mark, &action)) {
		count_tunnel(length, false);
		return action;
	}
	return send_through(skb, number, tunnel_id, mark, connection);
}

/* Sends to any end of this node, also on the plain way. */
static __always_inline int send_near(struct __sk_buff *skb, u64 to)
{
	int action = send_across(skb, to);

	return to & PLAIN ? bpf_redirect(end_ifindex(to), 0) : action;
}

/* Sends to a link of another node. Returns only if the tunnel is not there. */
static __always_inline enum verdict send_far(struct __sk_buff *skb, const struct sender *from, u64 to)
{
	skb->cb[TOLD_TO] = end_ifindex(to);
	skb->cb[TOLD_FROM] = identity_of(0, generation_of(end_ifindex(from->end)), end_slot(from->end));
	skb->cb[TOLD_CONNECTION] = from->connection;
	tunnel_entry.call(skb, 0);
	return VERDICT_PEER_DOWN;
}

/* What `refuse` is told about a frame, in skb->cb. Programs of two versions may meet there. */
enum told_refused {
	TOLD_ASKER,	   /* the peer that the frame came from, or 0 */
	TOLD_BACK,	   /* the sender's end, its lower half; for a peer the tunnel id */
	TOLD_BACK_MARK,	   /* its upper half; for a peer the mark */
	TOLD_REFUSED_FROM, /* the cross-connection */
};

/* Answers a frame of a session that is over. Returns only if the program for it is not there. */
static __always_inline void send_refusal(struct __sk_buff *skb, u32 peer, u32 back, u32 mark, u32 connection)
{
	skb->cb[TOLD_ASKER] = peer;
	skb->cb[TOLD_BACK] = back;
	skb->cb[TOLD_BACK_MARK] = mark;
	skb->cb[TOLD_REFUSED_FROM] = connection;
	refusal_entry.call(skb, 0);
}

/* Turns a frame of a session that is over into the message that says so, and sends it back. A program of its own: the
 * others would need more stack than there is.
 */
int refuse(struct __sk_buff *skb)
{
	u32 peer = skb->cb[TOLD_ASKER], back = skb->cb[TOLD_BACK], mark = skb->cb[TOLD_BACK_MARK];
	u32 connection = skb->cb[TOLD_REFUSED_FROM];

	tell(connection, VERDICT_RESET);
	if (!become_refusal(skb))
		return TC_ACT_SHOT;
	if (peer)
		return send_through(skb, peer, back, mark, connection);
	return send_near(skb, (u64)mark << 32 | back);
}

/* True when the headers of the most common frames, TCP or UDP directly behind IP, are in the linear part. A large TCP
 * frame has little more than its headers there, and pulling in bytes that no reader needs would cost time.
 */
static __always_inline bool headers_in_reach(struct __sk_buff *skb)
{
	struct ethhdr *eth = (void *)(long)skb->data;
	void *end = (void *)(long)skb->data_end;
	struct ipv6hdr *ip6 = (void *)(eth + 1);
	struct iphdr *ip = (void *)(eth + 1);

	if ((void *)(ip + 1) + sizeof(struct tcphdr) > end)
		return false;
	if (eth->h_proto == ETHERTYPE(ETH_P_IP))
		return ip->ihl == 5 && (ip->protocol == IPPROTO_TCP || ip->protocol == IPPROTO_UDP);
	return eth->h_proto == ETHERTYPE(ETH_P_IPV6) && (void *)(ip6 + 1) + sizeof(struct tcphdr) <= end &&
	       (ip6->nexthdr == IPPROTO_TCP || ip6->nexthdr == IPPROTO_UDP);
}

/* Headers may be outside the linear part of an skb; pull in up to LONGEST_HEADERS bytes. */
static __always_inline void pull_headers(struct __sk_buff *skb, u8 kind)
{
	u32 linear = skb->data_end - skb->data;

	if (linear < LONGEST_HEADERS && linear < skb->len && (kind == BY_INNER || !headers_in_reach(skb)))
		bpf_skb_pull_data(skb, skb->len < LONGEST_HEADERS ? skb->len : LONGEST_HEADERS);
}

/* On the way, it makes the tables for the version before part of this program: their keys are in no session. */
static __always_inline int drop_unwired(void)
{
	struct session_key nobody = {};
	struct wide_key wide_nobody = {};

	if (sessions.lookup(&nobody) || wide_sessions.lookup(&wide_nobody))
		return TC_ACT_SHOT;
	return drop(0, VERDICT_UNWIRED);
}

int cross_connect(struct __sk_buff *skb)
{
	u32 slot = LINK_SLOT(skb);
	struct link *link = links.lookup(&slot);
	struct traffic *counters = traffic.lookup(&slot);
	struct sender from = {};
	enum verdict verdict;
	u64 to = 0;

	if (!link || !counters)
		return TC_ACT_UNSPEC;
	/* Whatever connection the entry has: the agent is about to wire the link, or to clear it. */
	if (link->state == UNWIRED)
		return slot ? drop_unwired() : TC_ACT_UNSPEC;
	if (link->ifindex != skb->ifindex)
		return TC_ACT_UNSPEC;

	counters->received_packets++;
	counters->received_bytes += skb->len;
	to = known(skb, link);
	if (likely(to))
		return send_across(skb, to);

	from.end = end_of(slot, link->ifindex, link->plain, link->connection);
	from.connection = link->connection;
	from.side = link->side & 1;
	from.state = link->state;
	from.zero = link->zero;
	from.stamp = link->stamp;
	from.kind = key_kind_of(link->connection);
	pull_headers(skb, from.kind);
	verdict = decide(skb, &from, &to);
	if (verdict == VERDICT_FORWARDED || verdict == VERDICT_ANSWERED) {
		if (!is_far(to))
			return send_near(skb, to);
		verdict = send_far(skb, &from, to);
	}
	if (verdict == VERDICT_NOT_OURS)
		return TC_ACT_UNSPEC;
	if (verdict == VERDICT_RESET)
		send_refusal(skb, 0, from.end, from.end >> 32, from.connection);
	return drop(from.connection, verdict);
}

/* The link that a frame in the tunnel is for, as far as this node has it. */
struct given {
	u64 end;     /* 0: it receives nothing, or is not there */
	bool serves; /* it may have a session that this node does not know */
	u8 last;     /* 1, of LAST_RESORT: it may have a session that it has lost */
};

/* Takes a frame of a session from another node. What this node knows of the session counts more than the sender's
 * choice, which may be late. A session that it does not know is only for a link that serves.
 *
 * A last resort changes no session: it continues one that is known, and its sender is not in it.
 */
static __always_inline enum verdict take(const struct flow *flow, bool wide, const struct sender *from,
					 const struct given *given, u64 *to)
{
	struct traffic *counters;
	union any_key key;
	struct spot spot;
	u32 slot;

	if (wide)
		key.wide = wide_key_of(from->connection, flow, from->side);
	else
		key.narrow = session_key_of(from->connection, flow, from->side);
	in_memory(&key);
	spot = find(&key, wide, false);
	*to = disguised(remembered(spot.session, flow, from->connection, from->side), bpf_jiffies64());
	if (!*to || is_far(*to)) {
		if (spot.session && refused(spot.session, flow, from->side))
			return VERDICT_RESET;
		*to = given->end;
		if (given->last) {
			if (!spot.session || flow->signals & OPENS)
				*to = 0;
			return *to ? VERDICT_FORWARDED : VERDICT_RETURNED;
		}
		if (!*to || (!given->serves && !flow->quoted))
			return VERDICT_RETURNED;
		if (flow->quoted)
			return VERDICT_FORWARDED;
		slot = end_slot(*to);
		counters = traffic.lookup(&slot);
		if (counters)
			counters->sessions_chosen++;
		if (!spot.session || flow->signals & OPENS) {
			open(&key, wide, &spot, flow, from, *to);
			return VERDICT_FORWARDED;
		}
	}
	if (!flow->quoted && spot.session && !given->last)
		keep(&spot, flow, from, *to, wide);
	return VERDICT_FORWARDED;
}

/* Reads a frame. What it is about is in `it`; the verdict is VERDICT_FORWARDED for a flow, VERDICT_ANSWERED if the
 * frame has become an answer, and VERDICT_NOT_OURS if it belongs to no session.
 */
static __always_inline enum verdict read_frame(struct __sk_buff *skb, struct sender *from, struct matter *it,
					       bool *wide)
{
	void *end = (void *)(long)skb->data_end;
	struct ethhdr *eth = (void *)(long)skb->data;
	enum found found;

	if ((void *)(eth + 1) > end)
		return VERDICT_NOT_OURS;
	found = read_any(skb, eth, end, from, it, wide);
	if (found == ANSWER)
		return VERDICT_ANSWERED;
	if (found == NOTHING || (it->flow.part && it->flow.part != FIRST))
		return VERDICT_NOT_OURS;
	as_one(it, from);
	return VERDICT_FORWARDED;
}

/* A frame came back: the link that it was for takes no new session. Its session chooses again, and the frame enters the
 * node once more, as if its sender had sent it now.
 */
static __always_inline void choose_again(const struct flow *flow, bool wide, const struct sender *from, u64 refused)
{
	union any_key key;
	struct spot spot;

	if (wide)
		key.wide = wide_key_of(from->connection, flow, from->side);
	else
		key.narrow = session_key_of(from->connection, flow, from->side);
	in_memory(&key);
	spot = find(&key, wide, false);
	if (spot.session && spot.session->end[!from->side] == refused)
		spot.session->end[!from->side] = refused | REFUSED;
}

static __always_inline void note_refusal(u32 identity, u32 connection)
{
	u32 *index = far_links.lookup(&identity);
	struct link *far = index ? links.lookup(index) : NULL;

	if (far && far->ifindex == identity && far->connection == connection)
		far->stamp = bpf_jiffies64(); /* for `refused_lately` */
}

/* Where a frame of another node comes from, and whether it may. False if it must be dropped; the reason is counted. */
static __always_inline bool read_outer(struct __sk_buff *skb, u32 *peer, u32 *tunnel_id, u32 *mark)
{
	struct address address = {.word = {0, 0, __constant_htonl(0xffff)}};
	struct bpf_tunnel_key key = {};
	struct policy policy = {};
	u32 *number;
	u64 now;

	if (!bpf_skb_get_tunnel_key(skb, &key, sizeof(key), 0))
		address.word[3] = bpf_htonl(key.remote_ipv4);
	else if (!bpf_skb_get_tunnel_key(skb, &key, sizeof(key), BPF_F_TUNINFO_IPV6))
		__builtin_memcpy(&address, key.remote_ipv6, sizeof(address));
	else
		return false;
	number = peer_numbers.lookup(&address);
	if (!number) {
		tell(0, VERDICT_STRANGER);
		return false;
	}
	if (bpf_skb_get_tunnel_opt(skb, &policy, sizeof(policy)) < 0 || version_in(policy.mark) != TUNNEL_VERSION) {
		now = heard_at(bpf_ktime_get_ns(), policy.mark);
		heard.update(number, &now);
		tell(0, VERDICT_WIRE_VERSION);
		return false;
	}
	*peer = *number;
	*tunnel_id = key.tunnel_id;
	*mark = policy.mark;
	return true;
}

/* What `from_tunnel` is told about a frame that has not been at the tunnel's device, in skb->cb. */
enum told_outer {
	TOLD_PEER,
	TOLD_TUNNEL_ID,
	TOLD_MARK,
};

/* Takes the outer headers off. False if the kernel refuses; then the frame is as it was. */
static __always_inline bool unwrap(struct __sk_buff *skb)
{
	struct ethhdr inner;
	u64 decapsulated;

	if (bpf_skb_load_bytes(skb, OUTER_BYTES, &inner, sizeof(inner)))
		return false;
	decapsulated = inner.h_proto == ETHERTYPE(ETH_P_IP) ? DECAPSULATED_IPV4 : DECAPSULATED_IPV6;
	return !bpf_skb_adjust_room(skb, -(s32)OUTER_BYTES, BPF_ADJ_ROOM_MAC,
				    BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_NO_CSUM_RESET | decapsulated) &&
	       !bpf_skb_store_bytes(skb, 0, &inner, sizeof(inner), 0);
}

/* True if the node has a link in the chain, as far as this node has ever heard. Its links are not asked for one by one:
 * it may name any of them as the sender, and one that has just come up is not known yet (docs/decisions/0036).
 */
static __always_inline bool is_member(u32 peer, u32 connection)
{
	struct members *there = members.lookup(&connection);

	peer &= PEERS - 1;
	return there && there->bits[peer / 8] >> peer % 8 & 1;
}

/* A frame for the node itself: an echo is answered here, so that a node is heard also while it has no agent. */
static __always_inline int echo(struct __sk_buff *skb, u32 peer, u32 message)
{
	u64 now = heard_at(bpf_ktime_get_ns(), mark_of(0, 0, 0));

	if (message == ECHO_ASKED)
		return send_through(skb, peer, 0, mark_of(ECHO_ANSWERED, 0, 0), 0);
	if (message == ECHO_ANSWERED)
		heard.update(&peer, &now);
	return TC_ACT_SHOT;
}

/* Frames of other nodes: at the tunnel's device, or at the node's interface before any socket (`sfc_underlay`). */
int from_tunnel(struct __sk_buff *skb)
{
	u32 peer, tunnel_id, mark, slot, identity, flags, reply = RETURNED, zero = 0;
	struct given given = {};
	struct sender from = {};
	struct matter it = {};
	enum verdict verdict;
	struct link *link;
	bool wide = false;
	struct underlay *own = underlay.lookup(&zero);
	u64 to = 0;

	if (own && own->ifindex == skb->ifindex) {
		peer = skb->cb[TOLD_PEER];
		tunnel_id = skb->cb[TOLD_TUNNEL_ID];
		mark = skb->cb[TOLD_MARK];
		if (!unwrap(skb))
			return TC_ACT_UNSPEC;
	} else if (!read_outer(skb, &peer, &tunnel_id, &mark)) {
		return TC_ACT_SHOT;
	}
	count_tunnel(skb->len, true);
	flags = flags_in(mark);
	slot = to_slot_in(tunnel_id);
	if (!slot && flags == LAST_RESORT)
		slot = from_slot_in(tunnel_id);
	else if (!slot)
		return echo(skb, peer, flags);
	identity = identity_of(peer, from_generation_in(mark), from_slot_in(tunnel_id));
	link = links.lookup(&slot);
	if (!link)
		return TC_ACT_SHOT;
	given.last = disguised(!to_slot_in(tunnel_id), bpf_jiffies64());
	if (link->state == UNWIRED || generation_of(link->ifindex) != to_generation_in(mark)) {
		if (flags & RETURNED)
			return drop(0, VERDICT_NO_TARGET);
		goto back;
	}
	if (!is_member(peer, link->connection)) {
		if (flags & RETURNED)
			return drop(link->connection, VERDICT_OUTSIDER);
		tell(link->connection, VERDICT_RETURNED); /* it may be this node that is late */
		goto back;
	}
	from.connection = link->connection;
	from.side = (link->side & 1) ^ (flags != RETURNED);
	from.state = SERVING;
	from.zero = link->zero;
	from.end = far_end(identity, link->connection);
	given.end = end_of(slot, link->ifindex, link->plain, link->connection);
	given.serves =
		(link->state == SERVING && flags != LAST_RESORT) || (flags == CHOSEN_AGAIN && link->state == DRAINING);
	if (link->state == GONE && flags != RETURNED)
		given.end = 0;
	/* So that the verifier follows the rest once, and not for each value that these may have. */
	given.end = disguised(given.end, bpf_jiffies64());
	given.serves = disguised(given.serves, bpf_jiffies64());
	flags = disguised(flags, bpf_jiffies64());
	from.kind = key_kind_of(from.connection);
	pull_headers(skb, from.kind);
	verdict = read_frame(skb, &from, &it, &wide);
	if (verdict == VERDICT_ANSWERED && flags == RETURNED)
		return send_near(skb, given.end);
	if (verdict == VERDICT_ANSWERED) {
		if (flags == LAST_RESORT)
			return drop(from.connection, VERDICT_NO_TARGET);
		reply = CHOSEN_AGAIN;
		goto back;
	}
	if (flags == RETURNED) {
		tell(from.connection, VERDICT_CHOSEN_AGAIN);
		note_refusal(identity, from.connection);
		if (verdict == VERDICT_FORWARDED && wide)
			choose_again(&it.flow, true, &from, from.end);
		else if (verdict == VERDICT_FORWARDED)
			choose_again(&it.flow, false, &from, from.end);
		skb->mark = MARKED_RETURNED;
		return bpf_redirect(end_ifindex(given.end), BPF_F_INGRESS);
	}
	if (verdict == VERDICT_NOT_OURS) {
		to = given.end;
		verdict = to ? VERDICT_FORWARDED : VERDICT_RETURNED;
	} else {
		verdict = wide ? take(&it.flow, true, &from, &given, &to) : take(&it.flow, false, &from, &given, &to);
		verdict = disguised(verdict, bpf_jiffies64());
		to = disguised(to, bpf_jiffies64());
	}
	if (verdict == VERDICT_FORWARDED)
		return send_near(skb, to);
	if (flags == LAST_RESORT)
		return drop(from.connection, VERDICT_NO_TARGET);
	if (verdict == VERDICT_RESET) {
		send_refusal(skb, peer, tunnel_id_of(slot, slot_in(identity)),
			     mark_of(CHOSEN_AGAIN, to_generation_in(mark), generation_in(identity)), from.connection);
		return drop(from.connection, verdict);
	}
	tell(from.connection, VERDICT_RETURNED);
back:
	return send_through(skb, peer, tunnel_id_of(slot, slot_in(identity)),
			    mark_of(reply, to_generation_in(mark), generation_in(identity)), 0);
}

/* At tcx, before the filters: a shorter way into the cross-connection, while an agent leads (docs/decisions/0026). */
int sfc_shortcut(struct __sk_buff *skb)
{
	shortcut_to.call(skb, 0);
	return TC_ACT_UNSPEC;
}

/* At tcx of the node's interface, before all others: a shorter way into `from_tunnel`, while an agent leads. It changes
 * nothing. Whatever it does not take goes on to the device, which refuses and counts strangers and other versions.
 */
int sfc_underlay(struct __sk_buff *skb)
{
	struct address address = {.word = {0, 0, __constant_htonl(0xffff)}};
	u32 zero = 0, tunnel_id, mark, *number;
	struct underlay *own = underlay.lookup(&zero);

	if (!own || own->ifindex != skb->ifindex || !read_directly(skb, own, &address.word[3], &tunnel_id, &mark) ||
	    !to_slot_in(tunnel_id) || version_in(mark) != TUNNEL_VERSION)
		return TC_ACT_UNSPEC;
	number = peer_numbers.lookup(&address);
	if (number) {
		skb->cb[TOLD_PEER] = *number;
		skb->cb[TOLD_TUNNEL_ID] = tunnel_id;
		skb->cb[TOLD_MARK] = mark;
		underlay_to.call(skb, 0);
	}
	return TC_ACT_UNSPEC;
}

/* What the agent asks the program to do with the session tables, by BPF_PROG_TEST_RUN. One run looks at one bucket of
 * each table, and the next one at the bucket after it. In skb->cb: the bucket, the time in two halves, and a number.
 */
enum question {
	ASKED_BUCKET,
	ASKED_NOW_LOW,
	ASKED_NOW_HIGH,
	ASKED_FORGET, /* the cross-connection whose sessions are removed; 0: none */
	ASKED_FOR,    /* enum survey_for */
};

enum survey_for {
	COUNTING = 0,  /* the active sessions of each link */
	EXPORTING = 1, /* the sessions seen since that time go into the tables for the version before */
	ENDING = 2,    /* what is left of the links that LOSE their sessions is over */
};

#define LOSES (1ULL << 63) /* in `activity`: the link loses its sessions, and whoever sends in them is refused */

static __always_inline u64 *activity_of(u64 end, u32 connection)
{
	u32 slot = end_slot(end);
	struct link *link = links.lookup(&slot);

	if (!link || link->ifindex != end_ifindex(end) || link->connection != connection)
		return NULL;
	return activity.lookup(&slot);
}

/* Notes that a session is active. One that its link is to lose loses that end. */
static __always_inline void count_end(struct session *session, u32 side, u32 connection)
{
	u64 *count = activity_of(session->end[side], connection);

	if (!count)
		return;
	(*count)++;
	if (*count & LOSES) { /* while ENDING; the count means nothing then */
		session->rst = 1;
		session->end[side] = LOST;
	}
}

static __always_inline void survey_bucket(struct bucket_head *head, u64 now, u32 forgotten, u32 purpose, bool wide)
{
	u64 any = head->tags[0] | head->tags[1] | head->tags[2] | head->tags[3];

	if (!any)
		return;
#pragma nounroll
	for (u32 at = 0; at < PLACES; at++) {
		struct session *session = session_at(head, at, wide);
		u64 *words = place_at(head, at, wide);
		u32 connection = connection_at(head, at, wide);
		u32 protocol = words[wide ? 4 : 1] >> 32;
		struct patience *own;
		struct holding *holding;

		if (!*tag_at(head, at))
			continue;
		if (purpose == EXPORTING) {
			if ((s64)(session->last_seen - now) >= 0)
				wide ? wide_sessions.update((void *)words, session)
				     : sessions.update((void *)words, session);
		} else if (!forgotten) {
			own = patience.lookup(&connection);
			/* A connection may go on after a silence for which no drain waits. */
			if (active(session, protocol, !!(u32)words[wide ? 4 : 1], own, now) ||
			    (purpose == ENDING && connected(protocol) && !closed(session))) {
				count_end(session, UPSTREAM, connection);
				count_end(session, DOWNSTREAM, connection);
			}
		} else if (connection == forgotten && clear(head, at, connection, wide)) {
			holding = holding_of(connection);
			if (holding)
				__sync_fetch_and_add(&holding->places, -1);
		}
	}
}

int survey(struct __sk_buff *skb)
{
	u64 now = (u64)skb->cb[ASKED_NOW_HIGH] << 32 | skb->cb[ASKED_NOW_LOW];
	u32 at = skb->cb[ASKED_BUCKET], forgotten = skb->cb[ASKED_FORGET], purpose = skb->cb[ASKED_FOR];
	struct bucket_head *narrow = (void *)session_table.lookup(&at), *wide = (void *)wide_table.lookup(&at);

	if (!narrow || !wide)
		return TC_ACT_SHOT;
	survey_bucket(narrow, now, forgotten, purpose, false);
	survey_bucket(wide, now, forgotten, purpose, true);
	skb->cb[ASKED_BUCKET] = at + 1;
	return TC_ACT_OK;
}

/* A session that the agent brings from another table: the frame's content, behind ETH_HLEN bytes. */
struct brought {
	u16 wide;
	u64 key[6];
	struct session session;
} __attribute__((packed));

/* TC_ACT_OK if the table has the session now. */
int bring(struct __sk_buff *skb)
{
	struct brought *brought = (void *)(long)skb->data + ETH_HLEN;
	struct session session;
	union any_key key;
	struct spot spot;
	bool done;

	if ((void *)(brought + 1) > (void *)(long)skb->data_end)
		return TC_ACT_SHOT;
	__builtin_memcpy(&key, brought->key, sizeof(key));
	__builtin_memcpy(&session, &brought->session, sizeof(session));
	if (brought->wide) {
		spot = find(&key, true, false);
		done = spot.session || add(&spot, &key, true, &session);
	} else {
		spot = find(&key, false, false);
		done = spot.session || add(&spot, &key, false, &session);
	}
	if (spot.session)
		unite(spot.session, &session);
	return done ? TC_ACT_OK : TC_ACT_SHOT;
}
