/* Between nodes: what a frame in the tunnel says, and how a replica of another node is named.
 *
 * Frames go through VXLAN (RFC 7348), with its group based policy extension. The id carries two slots, the sender's
 * first; the policy carries the rest (`mark_of`). So a node needs to know about another one only its address.
 *
 * A link of another node has an identity: the peer's number, which this node gives, and what the peer itself says of
 * the link: some bits of its generation, and its slot. In an end (session.h) it stands in the place of an interface
 * index, with slot 0, which no link of this node has, and with PLAIN, so that the fast path leaves it to `send`.
 */
#pragma once

#include "session.h"

#define SLOT_BITS	12
#define GENERATION_BITS 6
#define GENERATION	((1U << GENERATION_BITS) - 1)
#define PEERS		4096

/* In `links`, the links of other nodes that targets may name follow those of this node, and then come the peers:
 * whether one of them is up is a state, too.
 */
#define FAR_LINKS 12288

/* On a frame that is sent again (skb->mark); the kernel takes marks off all frames that come from a pod. */
#define MARKED_RETURNED 0x5fc00001

/* In an end of another node, in a bit that no identity has: its link has returned the session. It gets the session's
 * frames only while nobody else takes them.
 */
#define REFUSED (1U << 31)

/* What the slots mean, and the bits of the policy, has a version, which the agent defines: TUNNEL_VERSION, 1 to 3. A
 * node drops, and counts, what has another version.
 */

enum tunnel_flag {
	RETURNED = 1,	  /* the receiver does not take this session: its sender is to choose again */
	CHOSEN_AGAIN = 2, /* it was returned before: a link that drains takes it */
};

/* A frame with target slot 0 is for the node itself.
 *
 * The last one is about a session that a link of that node has returned, although nobody else takes it: the node may
 * not know that yet. The first slot names that link, and not the sender's. It is never returned, so that no frame goes
 * to and fro for ever; a program that does not know it drops it.
 */
enum tunnel_message {
	ECHO_ASKED = RETURNED,
	ECHO_ANSWERED = CHOSEN_AGAIN,
	LAST_RESORT = RETURNED | CHOSEN_AGAIN,
};

/* What the tunnel device keeps beside a frame (struct vxlan_metadata). */
struct policy {
	u32 mark;
};

static __always_inline u32 mark_of(u32 flags, u32 from_generation, u32 to_generation)
{
	return TUNNEL_VERSION << 14 | flags << 12 | (from_generation & GENERATION) << GENERATION_BITS |
	       (to_generation & GENERATION);
}

static __always_inline u32 version_in(u32 mark)
{
	return mark >> 14 & 3;
}

/* When a frame of a peer came, and in `heard`, in the last bits, how its version differs from this node's. */
static __always_inline u64 heard_at(u64 now, u32 mark)
{
	return (now & ~3ULL) | (version_in(mark) ^ TUNNEL_VERSION);
}

static __always_inline u32 flags_in(u32 mark)
{
	return mark >> 12 & 3;
}

static __always_inline u32 from_generation_in(u32 mark)
{
	return mark >> GENERATION_BITS & GENERATION;
}

static __always_inline u32 to_generation_in(u32 mark)
{
	return mark & GENERATION;
}

static __always_inline u32 tunnel_id_of(u32 from_slot, u32 to_slot)
{
	return from_slot << SLOT_BITS | to_slot;
}

static __always_inline u32 from_slot_in(u32 tunnel_id)
{
	return tunnel_id >> SLOT_BITS & (SLOTS - 1);
}

static __always_inline u32 to_slot_in(u32 tunnel_id)
{
	return tunnel_id & (SLOTS - 1);
}

/* Some bits of the number by which successive links in a slot differ (controller/node/kernel/links.py). A link of an
 * early version has an index of the kernel's, and tells nothing.
 */
static __always_inline u32 generation_of(u32 ifindex)
{
	return ifindex & CHOSEN_IFINDEX ? ifindex >> SLOT_BITS & GENERATION : 0;
}

static __always_inline u32 identity_of(u32 peer, u32 generation, u32 slot)
{
	return peer << (SLOT_BITS + GENERATION_BITS) | generation << SLOT_BITS | slot;
}

static __always_inline u32 peer_in(u32 identity)
{
	return identity >> (SLOT_BITS + GENERATION_BITS) & (PEERS - 1);
}

static __always_inline u32 generation_in(u32 identity)
{
	return identity >> SLOT_BITS & GENERATION;
}

static __always_inline u32 slot_in(u32 identity)
{
	return identity & (SLOTS - 1);
}

/* A target's index in `links`, as the slot of its end: 0 for a link of another node. */
static __always_inline u32 near_slot(u32 index)
{
	return index & (u32)((s32)(index - SLOTS) >> 31);
}

static __always_inline u64 far_end(u32 identity, u32 connection)
{
	return PLAIN | owner_of(connection) | identity;
}

/* All ones for the end of a link of another node, else 0. */
static __always_inline u64 far_mask(u64 end)
{
	u64 far = (end >> 63) & (((u64)end_slot(end) - 1) >> 63);

	return -far;
}

static __always_inline bool is_far(u64 end)
{
	return end & PLAIN && !end_slot(end);
}
