/* The hashes of bpf/hash.h for what the test puts into `words`: the keyed hash of its first 0 to 7 words of 64 bits,
 * the placement of its first 3 and 6 words, and the one of all as a text.
 */
#include <uapi/linux/bpf.h>

#include "hash.h"

struct words {
	u64 word[8];
};

struct hashes {
	u64 keyed[8];
	u64 placement[3];
};

BPF_ARRAY(words, struct words, 1);
BPF_ARRAY(hashes, struct hashes, 1);

int hash(struct __sk_buff *skb)
{
	u32 only = 0;
	struct words *given = words.lookup(&only);
	struct hashes *result = hashes.lookup(&only);

	if (!given || !result)
		return 1;
	result->keyed[0] = keyed_hash(given->word, 0);
	result->keyed[1] = keyed_hash(given->word, 1);
	result->keyed[2] = keyed_hash(given->word, 2);
	result->keyed[3] = keyed_hash(given->word, 3);
	result->keyed[4] = keyed_hash(given->word, 4);
	result->keyed[5] = keyed_hash(given->word, 5);
	result->keyed[6] = keyed_hash(given->word, 6);
	result->keyed[7] = keyed_hash(given->word, 7);
	result->placement[0] = placement(given->word, 3);
	result->placement[1] = placement(given->word, 6);
	result->placement[2] = placement_of_text(given->word);
	return 0;
}
