/* Keyed hashes. Who sends frames knows this code, but not the key: the cluster made it, and only node agents read it
 * (controller/node/kernel/hash_key.py). So nobody can work out in advance which flows meet.
 *
 * `keyed_hash` chooses among replicas. Everybody can watch what it chose, and still learns nothing about other flows.
 * That is why a seed for a faster mixer would not do: such mixers have inputs that meet under every seed.
 *
 * `placement` finds a place in a table. Nobody can watch it, and every frame pays for it. So it is only what that
 * needs: two different inputs meet by chance alone, as long as the factors stay unknown.
 *
 * CHOICE_KEY (two 64-bit numbers) and PLACEMENT_FACTORS (MOST_PLACEMENT_WORDS + 1 of them) are defined when the program
 * is compiled. The compiler writes them into the instructions, so they cost no lookup; only root can read those.
 */
#pragma once

#define MOST_PLACEMENT_WORDS 16

static __always_inline u64 turned(u64 word, u32 bits)
{
	return word << bits | word >> (64 - bits);
}

static __always_inline void sip_round(u64 *v)
{
	v[0] += v[1];
	v[2] += v[3];
	v[1] = turned(v[1], 13) ^ v[0];
	v[3] = turned(v[3], 16) ^ v[2];
	v[0] = turned(v[0], 32);
	v[2] += v[1];
	v[0] += v[3];
	v[1] = turned(v[1], 17) ^ v[2];
	v[3] = turned(v[3], 21) ^ v[0];
	v[2] = turned(v[2], 32);
}

static __always_inline void sip_absorb(u64 *v, u64 word)
{
	v[3] ^= word;
	sip_round(v);
	v[0] ^= word;
}

/* SipHash-1-3 of whole words (Aumasson and Bernstein, "SipHash: a fast short-input PRF", 2012). `count` is a constant
 * at every call.
 */
static __always_inline u64 keyed_hash(const u64 *words, u32 count)
{
	const u64 key[] = {CHOICE_KEY};
	u64 v[] = {
		key[0] ^ 0x736f6d6570736575ULL,
		key[1] ^ 0x646f72616e646f6dULL,
		key[0] ^ 0x6c7967656e657261ULL,
		key[1] ^ 0x7465646279746573ULL,
	};

#pragma unroll
	for (u32 at = 0; at < count; at++)
		sip_absorb(v, words[at]);
	sip_absorb(v, (u64)count << 59); /* the length in bytes, in the highest byte */
	v[2] ^= 0xff;
	sip_round(v);
	sip_round(v);
	sip_round(v);
	return v[0] ^ v[1] ^ v[2] ^ v[3];
}

/* A multilinear hash of `count` words of 64 bits, a constant of 3 or 6. Each half of a word has a factor of its own. Of
 * the upper 32 bits of the result, all are equally good: two inputs of the same length have any two given values there
 * with probability 2^-64 over the factors (strongly universal: Lemire and Kaser, "Strongly universal string hashing is
 * fast", 2014). Of the others, bit n depends on the lowest n + 1 bits of the halves alone: they may save a comparison,
 * but not choose a place.
 *
 * lower * a + upper * b is word * a + upper * (b - (a << 32)), so that no lower half has to be cut out.
 */
#define TERM(words, at)                                                                                                \
	((words)[at] * factors[2 * (at) + 1] +                                                                         \
	 ((words)[at] >> 32) * (factors[2 * (at) + 2] - (factors[2 * (at) + 1] << 32)))

static __always_inline u64 placement(const u64 *words, u32 count)
{
	const u64 factors[] = {PLACEMENT_FACTORS};
	u64 sum = factors[0];

	_Static_assert(sizeof(factors) == 8 * (MOST_PLACEMENT_WORDS + 1), "PLACEMENT_FACTORS has another length");
	/* Written out, because the compiler does not unroll a loop in a function as large as ours: the factors would be
	 * in memory that BCC does not bring.
	 */
	sum += TERM(words, 0) + TERM(words, 1) + TERM(words, 2);
	if (count == 6)
		sum += TERM(words, 3) + TERM(words, 4) + TERM(words, 5);
	return sum;
}

/* The same for a text of 64 bytes that ends with zeros, which add nothing. */
static __always_inline u64 placement_of_text(const u64 *words)
{
	const u64 factors[] = {PLACEMENT_FACTORS};
	u64 sum = factors[0] + TERM(words, 0) + TERM(words, 1);

	if (words[2])
		sum += TERM(words, 2) + TERM(words, 3);
	if (words[4])
		sum += TERM(words, 4) + TERM(words, 5) + TERM(words, 6) + TERM(words, 7);
	return sum;
}
