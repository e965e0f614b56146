/* Turns a frame into the message that its session is over: a RST for TCP (RFC 9293, 3.5.2), an ICMP error for what is
 * not TCP (RFC 792, RFC 4443). It seems to come from the frame's receiver.
 *
 * The kernel may have left the checksum of the frame to a network card. It still thinks so of the message, and then
 * writes a checksum of its own, where TCP or UDP has it. A program cannot know. So the 16 bits there have a value that
 * remains right when the kernel does that: the sum of the pseudo header, and another field, which nobody reads, makes
 * up for it.
 */
#pragma once

#include "packet.h"

#define REFUSED_TTL	  64
#define DONT_FRAGMENT	  __constant_htons(0x4000)
#define ICMPV6_UNREACHED  1
#define ICMPV6_NO_ADDRESS 3
#define ICMPV6_NO_PORT	  4
#define QUOTED		  8	/* bytes of the payload, behind the IP header */
#define BLANK		  48	/* bytes written at once; less than any message has */
#define MOST_BLANK	  10000 /* bytes */

/* The padding makes nothing packed: see `advertisement_frame`. */
struct refusal_ipv4 {
	u16 unused;
	struct ethhdr eth;
	struct iphdr ip;
	union {
		struct tcphdr reset;
		struct {
			struct icmphdr icmp;
			struct iphdr quoted;
			u8 payload[QUOTED];
		};
	};
};

struct refusal_ipv6 {
	u16 unused;
	struct ethhdr eth;
	struct ipv6hdr ip;
	union {
		struct tcphdr reset;
		struct {
			struct icmphdr icmp;
			struct ipv6hdr quoted;
			u8 payload[QUOTED];
		};
	};
};

#define ERROR_IPV4 (sizeof(struct icmphdr) + sizeof(struct iphdr) + QUOTED)
#define ERROR_IPV6 (sizeof(struct icmphdr) + sizeof(struct ipv6hdr) + QUOTED)

static __always_inline u16 folded(u32 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	return (sum & 0xffff) + (sum >> 16);
}

/* Of the pseudo header. Both addresses are at `addresses`. */
static __always_inline u16 pseudo_sum(void *addresses, u32 bytes, u32 length, u32 protocol)
{
	return folded(bpf_csum_diff(0, 0, addresses, bytes, __builtin_bswap16(length + protocol)));
}

/* The reset that a segment asks for. False if it asks for none. The window of a reset means nothing. */
static __always_inline bool make_reset(struct tcphdr *reset, const struct tcphdr *segment, u16 pseudo)
{
	if (segment->rst || !segment->ack)
		return false;
	reset->source = segment->dest;
	reset->dest = segment->source;
	reset->seq = segment->ack_seq;
	reset->doff = sizeof(*reset) / 4;
	reset->rst = 1;
	reset->check = pseudo;
	reset->window = ~folded(bpf_csum_diff(0, 0, (void *)reset, sizeof(*reset), pseudo));
	return true;
}

/* Completes an ICMP error of so many bytes. What stands where UDP has its checksum means nothing. */
static __always_inline void make_error(struct icmphdr *icmp, u8 type, u8 code, u32 length, u16 pseudo)
{
	icmp->type = type;
	icmp->code = code;
	icmp->un.frag.mtu = pseudo;
	icmp->checksum = ~folded(bpf_csum_diff(0, 0, (void *)icmp, length, pseudo));
}

static __always_inline void turn_round(struct ethhdr *eth, const struct ethhdr *of)
{
	__builtin_memcpy(eth->h_dest, of->h_source, ETH_ALEN);
	__builtin_memcpy(eth->h_source, of->h_dest, ETH_ALEN);
	eth->h_proto = of->h_proto;
}

/* Writes zeros over the whole frame. False if that is too long. */
static __always_inline bool blank(struct __sk_buff *skb)
{
	u8 zeros[BLANK] = {};
	u32 length = skb->len;

	if (length < BLANK)
		return false;
#pragma nounroll
	for (u32 at = 0; at < MOST_BLANK; at += BLANK) {
		if (at + BLANK >= length)
			return !bpf_skb_store_bytes(skb, length - BLANK, zeros, BLANK, 0);
		if (bpf_skb_store_bytes(skb, at, zeros, BLANK, 0))
			return false;
	}
	return false;
}

/* The kernel may refuse to shorten a frame that came through a tunnel (skb->encapsulation). Then zeros follow the
 * message, as padding: the kernel may sum them up, and IP says where the message ends.
 */
static __always_inline bool write_refusal(struct __sk_buff *skb, void *frame, u32 length)
{
	if (bpf_skb_change_tail(skb, length, 0) && (skb->gso_size || skb->len < length || !blank(skb)))
		return false;
	return !bpf_skb_store_bytes(skb, 0, frame, length, 0);
}

static __always_inline bool refuse_ipv4(struct __sk_buff *skb, const struct ethhdr *eth)
{
	const u32 at = ETH_HLEN + sizeof(struct iphdr);
	struct refusal_ipv4 to = {};
	struct tcphdr segment;
	struct iphdr ip;
	u32 length;

	if (bpf_skb_load_bytes(skb, ETH_HLEN, &ip, sizeof(ip)) || *(u8 *)&ip != PLAIN_IPV4)
		return false;
	turn_round(&to.eth, eth);
	to.ip.version = 4;
	to.ip.ihl = sizeof(ip) / 4;
	to.ip.frag_off = DONT_FRAGMENT;
	to.ip.ttl = REFUSED_TTL;
	to.ip.saddr = ip.daddr;
	to.ip.daddr = ip.saddr;
	if (ip.protocol == IPPROTO_TCP) {
		length = sizeof(to.reset);
		to.ip.protocol = IPPROTO_TCP;
		if (bpf_skb_load_bytes(skb, at, &segment, sizeof(segment)) ||
		    !make_reset(&to.reset, &segment, pseudo_sum(&to.ip.saddr, 8, length, IPPROTO_TCP)))
			return false;
	} else {
		length = ERROR_IPV4;
		to.ip.protocol = IPPROTO_ICMP;
		to.quoted = ip;
		if (bpf_skb_load_bytes(skb, at, to.payload, QUOTED))
			return false;
		make_error(&to.icmp, ICMP_DEST_UNREACH,
			   ip.protocol == IPPROTO_UDP ? ICMP_PORT_UNREACH : ICMP_PROT_UNREACH, ERROR_IPV4, 0);
	}
	to.ip.tot_len = __builtin_bswap16(sizeof(ip) + length);
	to.ip.check = ~folded(bpf_csum_diff(0, 0, (void *)&to.ip, sizeof(to.ip), 0));
	if (ip.protocol == IPPROTO_TCP)
		return write_refusal(skb, &to.eth, at + sizeof(to.reset));
	return write_refusal(skb, &to.eth, at + ERROR_IPV4);
}

static __always_inline bool refuse_ipv6(struct __sk_buff *skb, const struct ethhdr *eth)
{
	const u32 at = ETH_HLEN + sizeof(struct ipv6hdr);
	struct refusal_ipv6 to = {};
	struct tcphdr segment;
	struct ipv6hdr ip;

	if (bpf_skb_load_bytes(skb, ETH_HLEN, &ip, sizeof(ip)))
		return false;
	turn_round(&to.eth, eth);
	to.ip.version = 6;
	to.ip.hop_limit = REFUSED_TTL;
	to.ip.saddr = ip.daddr;
	to.ip.daddr = ip.saddr;
	if (ip.nexthdr == IPPROTO_TCP) {
		to.ip.nexthdr = IPPROTO_TCP;
		to.ip.payload_len = __constant_htons(sizeof(to.reset));
		if (bpf_skb_load_bytes(skb, at, &segment, sizeof(segment)) ||
		    !make_reset(&to.reset, &segment, pseudo_sum(&to.ip.saddr, 32, sizeof(to.reset), IPPROTO_TCP)))
			return false;
		return write_refusal(skb, &to.eth, at + sizeof(to.reset));
	}
	to.ip.nexthdr = IPPROTO_ICMPV6;
	to.ip.payload_len = __constant_htons(ERROR_IPV6);
	to.quoted = ip;
	if (bpf_skb_load_bytes(skb, at, to.payload, QUOTED))
		return false;
	make_error(&to.icmp, ICMPV6_UNREACHED, ip.nexthdr == IPPROTO_UDP ? ICMPV6_NO_PORT : ICMPV6_NO_ADDRESS,
		   ERROR_IPV6, pseudo_sum(&to.ip.saddr, 32, ERROR_IPV6, IPPROTO_ICMPV6));
	return write_refusal(skb, &to.eth, at + ERROR_IPV6);
}

/* False, and perhaps a frame that is of no more use, if nothing can be said: behind VLAN tags in the frame and IP
 * options, and to a RST. A tag that the kernel keeps beside the frame stays there.
 */
static __always_inline bool become_refusal(struct __sk_buff *skb)
{
	struct ethhdr eth;

	if (bpf_skb_load_bytes(skb, 0, &eth, sizeof(eth)))
		return false;
	if (eth.h_proto == ETHERTYPE(ETH_P_IP))
		return refuse_ipv4(skb, &eth);
	return eth.h_proto == ETHERTYPE(ETH_P_IPV6) && refuse_ipv6(skb, &eth);
}
