/* The outer headers of a frame between nodes, where the program writes and reads them itself (docs/decisions/0035): a
 * VXLAN frame with the group policy, over IPv4, as the tunnel's device makes it and takes it. What is not exactly like
 * this is left to the device.
 */
#pragma once

#include "tunnel.h"

#define DONT_FRAGMENT __constant_htons(0x4000)
#define HOPS_TO_LIVE  64
#define WITH_POLICY   0x88000000 /* VXLAN: the id counts, and so does the policy */
#define FLOW_PORTS    0xc000	 /* RFC 7348, section 5: from the dynamic range */
#define ECN	      3		 /* RFC 3168: bits of the type of service */
#define ECN_CAPABLE   2
#define ECN_CONGESTED 3

/* The way past the device, at the interface with the node's address. All zeros: there is none. */
struct underlay {
	__be32 address; /* this node's */
	__be16 port;	/* the tunnel's */
	u16 unused;
	u32 ifindex;
};

/* What stands before the frame itself, from the Ethernet header of the node's own link on. */
struct outer {
	u16 unused; /* aligns the headers behind it */
	struct ethhdr eth;
	struct iphdr ip;
	struct udphdr udp;
	__be32 policy;
	__be32 id;
	struct ethhdr inner;
};

#define OUTER_BYTES (sizeof(struct iphdr) + sizeof(struct udphdr) + 2 * sizeof(__be32) + ETH_HLEN)

/* What of an IP header either version may be asked for. */
union any_ip {
	struct iphdr v4;
	struct {
		__be16 class; /* version, traffic class */
		__be16 unused[2];
		u8 next;
	} v6;
};

static __always_inline u8 protocol_of(const union any_ip *ip, __be16 ethertype)
{
	return ethertype == ETHERTYPE(ETH_P_IP) ? ip->v4.protocol : ip->v6.next;
}

/* What the outer header says about congestion: the inner one's mark stays inside (RFC 6040). */
static __always_inline u8 outer_ecn(const union any_ip *ip, __be16 ethertype)
{
	u8 ecn = (ethertype == ETHERTYPE(ETH_P_IP) ? ip->v4.tos : bpf_ntohs(ip->v6.class) >> 4) & ECN;

	return ecn == ECN_CONGESTED ? ECN_CAPABLE : ecn;
}

static __always_inline __sum16 header_checksum(const struct iphdr *ip)
{
	const u16 *words = (const void *)ip;
	u32 sum = 0;

#pragma unroll
	for (int at = 0; at < 10; at++)
		sum += words[at];
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

/* All but the MACs of the node's own link. `length`: of the frame from its outer IP header on. */
static __always_inline void write_outer(struct outer *outer, const struct underlay *own, __be32 to, u32 length, u8 tos,
					u32 hash)
{
	outer->eth.h_proto = ETHERTYPE(ETH_P_IP);
	*(u8 *)&outer->ip = PLAIN_IPV4;
	outer->ip.tos = tos;
	outer->ip.tot_len = bpf_htons(length);
	outer->ip.frag_off = DONT_FRAGMENT;
	outer->ip.ttl = HOPS_TO_LIVE;
	outer->ip.protocol = IPPROTO_UDP;
	outer->ip.saddr = own->address;
	outer->ip.daddr = to;
	outer->ip.check = header_checksum(&outer->ip);
	outer->udp.source = bpf_htons(FLOW_PORTS | (hash & ~FLOW_PORTS));
	outer->udp.dest = own->port;
	outer->udp.len = bpf_htons(length - sizeof(outer->ip)); /* without a checksum, as RFC 7348 wants it */
}

/* Reads a frame at the node's interface. True if it came through the tunnel to this node, and the program may take its
 * headers off; who sent it is not known yet. The device gets what is for the node itself, and what has to be looked at
 * more closely: a mark of congestion, a checksum, a fragment, a large datagram, bytes behind the frame.
 */
static __always_inline bool read_directly(const struct __sk_buff *skb, const struct underlay *own, __be32 *from,
					  u32 *tunnel_id, u32 *mark)
{
	void *end = (void *)(long)skb->data_end;
	struct ethhdr *eth = (void *)(long)skb->data;
	struct iphdr *ip = (void *)(eth + 1);
	struct udphdr *udp = (void *)(ip + 1);
	__be32 *policy = (void *)(udp + 1);
	struct ethhdr *inner = (void *)(policy + 2);
	union any_ip *inner_ip = (void *)(inner + 1);
	u32 id;

	if ((void *)(inner_ip + 1) > end || eth->h_proto != ETHERTYPE(ETH_P_IP) || *(u8 *)ip != PLAIN_IPV4 ||
	    ip->protocol != IPPROTO_UDP || udp->dest != own->port || ip->daddr != own->address)
		return false;
	if (skb->pkt_type != PACKET_HOST || skb->vlan_present || ip->frag_off & FRAGMENTED || udp->check ||
	    (ip->tos & ECN) == ECN_CONGESTED || header_checksum(ip))
		return false;
	if (inner->h_proto != ETHERTYPE(ETH_P_IP) && inner->h_proto != ETHERTYPE(ETH_P_IPV6))
		return false;
	if (skb->gso_size ? protocol_of(inner_ip, inner->h_proto) != IPPROTO_TCP
			  : bpf_ntohs(ip->tot_len) + ETH_HLEN != skb->len)
		return false;
	*mark = bpf_ntohl(policy[0]);
	id = bpf_ntohl(policy[1]);
	*from = ip->saddr;
	*tunnel_id = id >> 8;
	return (*mark & ~0xffff) == WITH_POLICY && !(id & 0xff);
}
