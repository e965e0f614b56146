/* The session table: which place of it a session has, and who gives way.
 *
 * The table is an array of buckets, each of PLACES places. A session's key decides on the bucket; within it, the
 * session may have any place, and has the one that its tag prefers if that was free. So a lookup reads one to three
 * cache lines, calls nothing, and whoever has to give way to a new session is chosen among the sessions of one bucket,
 * with all that is known of them:
 *
 *   1. nobody, while a place is free;
 *   2. a closed session;
 *   3. a session that has not proved itself (session.h), of the same cross-connection or of one that holds at least as
 *      many places in the whole table;
 *   4. any other session that has not proved itself;
 *
 * and of several the one that was silent for longest. So a flood replaces its own sessions, and takes from a smaller
 * cross-connection at most the first place in a bucket.
 *
 * A session that has proved itself gives way to no new one, whatever arrives. So that new ones have room at all, a
 * bucket has at most PROVEN_PLACES proven sessions. When another one proves itself there, the longest silent of them is
 * demoted, if it is of the same cross-connection or of one that holds at least as many places: it has to prove itself
 * again, by one more frame. So the sessions of a cross-connection that holds less than its share are never pushed out
 * by those of others. If nobody can be demoted, the new one remains unproven.
 *
 * Places are taken and freed under the lock of their bucket. Nobody else waits for it: a reader compares the whole key,
 * whose last word is written last and cleared first, as is the tag. It may still read or note something in a place that
 * becomes another session's at that moment, which session.h makes harmless.
 *
 * This file knows no map. `wide` is a constant at every call, so that each kind of key gets code of its own.
 */
#pragma once

#include "session.h"

#define PLACES	      16
#define PROVEN_PLACES 14
#define NOBODY	      (PLACES + 1)
#define TAGS_IN_WORD  4

/* A tag in each quarter of a word. */
#define EACH_TAG  0x0001000100010001ULL
#define HIGH_BITS 0x8000800080008000ULL

/* How many buckets the table has. The agent gives the capacity in sessions. */
#define BUCKETS ((SESSION_CAPACITY + PLACES - 1) / PLACES)

struct narrow_place {
	struct session_key key;
	struct session session;
};

struct wide_place {
	struct wide_key key;
	struct session session;
};

/* What both kinds of bucket begin with. The size puts the places of narrow buckets at the beginning of cache lines. */
struct bucket_head {
	struct bpf_spin_lock lock;
	u32 unused[3];
	u64 tags[PLACES / TAGS_IN_WORD]; /* 0: the place is free */
};

struct bucket {
	struct bucket_head head;
	struct narrow_place place[PLACES];
};

struct wide_bucket {
	struct bucket_head head;
	struct wide_place place[PLACES];
};

static __always_inline u32 bucket_of(u64 hash)
{
	return (hash >> 32) * BUCKETS >> 32;
}

/* Never zero. Of the good bits (hash.h) the lowest; the highest ones chose the bucket. */
static __always_inline u64 tag_of(u64 hash)
{
	return (hash >> 32 & 0x7fff) | 0x8000;
}

/* The key of a place: words of 64 bits. A session follows its key. */
static __always_inline u64 *place_at(struct bucket_head *head, u64 at, bool wide)
{
	/* Keeps index and shift apart, and tells the verifier the bound in the form in which it is used. */
	asm volatile("" : "+r"(at));
	at &= PLACES - 1;
	return (void *)(head + 1) + at * (wide ? sizeof(struct wide_place) : sizeof(struct narrow_place));
}

static __always_inline struct session *session_at(struct bucket_head *head, u64 at, bool wide)
{
	return (void *)place_at(head, at, wide) + (wide ? sizeof(struct wide_key) : sizeof(struct session_key));
}

static __always_inline u32 connection_at(struct bucket_head *head, u64 at, bool wide)
{
	u64 *words = place_at(head, at, wide);

	return words[KEY_WORDS(wide) - 1] >> 32;
}

static __always_inline u16 *tag_at(struct bucket_head *head, u64 at)
{
	asm volatile("" : "+r"(at));
	at &= PLACES - 1;
	return (u16 *)head->tags + at;
}

static __always_inline bool same_key(const u64 *one, const u64 *other, bool wide)
{
	u64 differs = one[0] ^ other[0] | one[1] ^ other[1] | one[2] ^ other[2];

	if (wide)
		differs |= one[3] ^ other[3] | one[4] ^ other[4] | one[5] ^ other[5];
	return !differs;
}

/* One bit in each quarter of the word that is the tag; a quarter above such a one may have it, too. */
static __always_inline u64 hits(u64 word, u64 tag)
{
	u64 zero = word ^ tag * EACH_TAG;

	return (zero - EACH_TAG) & ~zero & HIGH_BITS;
}

/* The quarter of the lowest bit that is set. */
static __always_inline u64 first_hit(u64 found)
{
	return ((found & -found) >> 15) * 0x0000000100020003ULL >> 48;
}

/* The place with this key, or NULL. */
static __always_inline u64 *place_with(struct bucket_head *head, u64 tag, const u64 *key, bool wide)
{
#pragma unroll
	for (int word = 0; word < PLACES / TAGS_IN_WORD; word++) {
		u64 found = hits(head->tags[word], tag);

#pragma nounroll
		for (int try = 0; found && try < TAGS_IN_WORD; try++, found &= found - 1) {
			u64 *place = place_at(head, word * TAGS_IN_WORD + first_hit(found), wide);

			if (likely(same_key(place, key, wide)))
				return place;
		}
	}
	return NULL;
}

/* One of the first four, so that a bucket is filled from its beginning, where its tags are. */
static __always_inline u64 preferred(u64 tag)
{
	return tag & 3;
}

/* The same, but it first looks at the preferred place, before it reads any tag. */
static __always_inline u64 *likely_place_with(struct bucket_head *head, u64 tag, const u64 *key, bool wide)
{
	u64 *place = place_at(head, preferred(tag), wide);

	return likely(same_key(place, key, wide)) ? place : place_with(head, tag, key, wide);
}

/* A place that is free, the preferred one if it is, or PLACES. */
static __always_inline u64 free_place(struct bucket_head *head, u64 tag)
{
	if (!*tag_at(head, preferred(tag)))
		return preferred(tag);
#pragma unroll
	for (int word = 0; word < PLACES / TAGS_IN_WORD; word++) {
		u64 found = hits(head->tags[word], 0);

		if (found)
			return word * TAGS_IN_WORD + first_hit(found);
	}
	return PLACES;
}

/* Puts a session into a place whose tag was `former` when it was chosen. False if that has changed, or another CPU has
 * put the same key into the bucket.
 */
static __always_inline bool put(struct bucket_head *head, u64 at, u16 former, u64 tag, const u64 *key,
				const struct session *session, bool wide)
{
	const u32 last = KEY_WORDS(wide) - 1;
	u64 *place = place_at(head, at, wide);
	u16 *own = tag_at(head, at);
	bool done = false;

	bpf_spin_lock(&head->lock);
	if (*own == former && !place_with(head, tag, key, wide)) {
		*own = 0;
		place[last] = 0;
		barrier();
#pragma unroll
		for (u32 word = 0; word < last; word++)
			place[word] = key[word];
		*(struct session *)((void *)place + (wide ? sizeof(struct wide_key) : sizeof(struct session_key))) =
			*session;
		barrier();
		place[last] = key[last];
		*own = tag;
		done = true;
	}
	bpf_spin_unlock(&head->lock);
	return done;
}

/* Frees a place that a session of the connection still has. True if it did. */
static __always_inline bool clear(struct bucket_head *head, u64 at, u32 connection, bool wide)
{
	u64 *place = place_at(head, at, wide);
	u16 *tag = tag_at(head, at);
	bool done;

	bpf_spin_lock(&head->lock);
	done = *tag && connection_at(head, at, wide) == connection;
	if (done) {
		*tag = 0;
		place[KEY_WORDS(wide) - 1] = 0;
	}
	bpf_spin_unlock(&head->lock);
	return done;
}
