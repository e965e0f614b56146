/* Makes every run of a repeated test run the first of its kind. It is included before the cross-connection's source,
 * and replaces the macro by which a test run gives the program its slot (tests/bpf/node.py). It first changes the
 * frame:
 *
 *   RENEW_SESSION   another IPv4 source address, so that every run opens a session; with RENEW_AMONG, a power of two,
 *                   so many addresses in turn
 *   RENEW_QUESTION  turns the ARP answer, which the last run left, back into a request by the host that answered
 *
 * This takes 1 to 2 ns of the figure.
 */
#pragma once

#ifdef RENEW_SESSION
#define RENEWED_OFFSET 26
#define RENEWED_TYPE   unsigned int
#ifdef RENEW_AMONG
#define RENEW(type, word)                                                                                              \
	(*(type *)(word) = *(type *)(word) & ~(RENEW_AMONG - 1U) | *(type *)(word) + 1 & RENEW_AMONG - 1U)
#else
#define RENEW(type, word) (*(type *)(word))++
#endif
#else
#define RENEWED_OFFSET	  20
#define RENEW(type, word) *(type *)(word) = __constant_htons(1)
#define RENEWED_TYPE	  unsigned short
#endif

#define LINK_SLOT(skb)                                                                                                 \
	({                                                                                                             \
		void *_word = (void *)(long)(skb)->data + RENEWED_OFFSET;                                              \
		if (_word + sizeof(RENEWED_TYPE) <= (void *)(long)(skb)->data_end)                                     \
			RENEW(RENEWED_TYPE, _word);                                                                    \
		(skb)->mark;                                                                                           \
	})
