/* What a frame says, without any judgement: no map, link or side is known here.
 *
 * One contract for every reader: it is given where to read and where the frame ends, never reads past that end, and
 * says false when the frame is too short or not what it should be, leaving its result untouched. A frame that no reader
 * understands is no error; it is carried by its MAC pair.
 *
 * Fragments, the first one included, are known by addresses and protocol alone: the first knows its ports, the others
 * do not, and all must go the same way.
 */
#pragma once

#include <uapi/linux/icmp.h>
#include <uapi/linux/if_ether.h>
#include <uapi/linux/in.h>
#include <uapi/linux/ip.h>
#include <uapi/linux/tcp.h>
#include <uapi/linux/udp.h>

#define LONGEST_HEADERS	 (ETH_HLEN + 60 + 20) /* Ethernet, IPv4 with all options, TCP without */
#define ETHERTYPE(value) __constant_htons(value)
#define FRAGMENTED	 __constant_htons(0x3fff) /* "more fragments" and the offset, RFC 791 */

/* IANA reserves protocol 255; it stands for ARP where a session has a protocol. */
#define PROTOCOL_ARP 255

#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10

/* The two ends of a conversation as one frame names them: who sent it, and to whom. */
struct flow {
	__be32 source;
	__be32 destination;
	__be16 source_port; /* 0 where the protocol has none */
	__be16 destination_port;
	u8 protocol;
	u8 tcp_flags;
};

struct arp_ipv4 {
	__be16 hardware;
	__be16 protocol;
	u8 hardware_length;
	u8 protocol_length;
	__be16 operation;
	u8 sender_mac[ETH_ALEN];
	__be32 sender;
	u8 target_mac[ETH_ALEN];
	__be32 target;
} __attribute__((packed));

struct arp_frame {
	struct ethhdr eth;
	struct arp_ipv4 arp;
} __attribute__((packed));

#define ARP_ETHERNET __constant_htons(1)
#define ARP_REQUEST  __constant_htons(1)
#define ARP_REPLY    __constant_htons(2)

static __always_inline bool read_arp(struct flow *flow, struct arp_frame *frame, void *end)
{
	struct arp_ipv4 *arp = &frame->arp;

	if ((void *)(frame + 1) > end)
		return false;
	if (arp->hardware != ARP_ETHERNET || arp->protocol != ETHERTYPE(ETH_P_IP) || arp->hardware_length != ETH_ALEN ||
	    arp->protocol_length != sizeof(__be32))
		return false;
	flow->source = arp->sender;
	flow->destination = arp->target;
	flow->protocol = PROTOCOL_ARP;
	return true;
}

/* A question that wants an answer: an announcement asks for its own address (RFC 5227), which nobody should answer. */
static __always_inline bool arp_asks(struct arp_frame *frame)
{
	return frame->arp.operation == ARP_REQUEST && frame->arp.sender != frame->arp.target;
}

static __always_inline void read_tcp(struct flow *flow, struct tcphdr *tcp, void *end)
{
	if ((void *)(tcp + 1) > end)
		return;
	flow->source_port = tcp->source;
	flow->destination_port = tcp->dest;
	flow->tcp_flags = ((u8 *)tcp)[13];
}

static __always_inline void read_udp(struct flow *flow, struct udphdr *udp, void *end)
{
	if ((void *)(udp + 1) > end)
		return;
	flow->source_port = udp->source;
	flow->destination_port = udp->dest;
}

/* The identifier belongs to whoever asks, like a source port: two hosts that ping each other share no session. */
static __always_inline void read_icmp(struct flow *flow, struct icmphdr *icmp, void *end)
{
	if ((void *)(icmp + 1) > end)
		return;
	if (icmp->type == ICMP_ECHO)
		flow->source_port = icmp->un.echo.id;
	if (icmp->type == ICMP_ECHOREPLY)
		flow->destination_port = icmp->un.echo.id;
}

static __always_inline bool read_ipv4(struct flow *flow, struct iphdr *ip, void *end)
{
	void *payload;

	if ((void *)(ip + 1) > end || ip->version != 4 || ip->ihl < 5)
		return false;
	flow->source = ip->saddr;
	flow->destination = ip->daddr;
	flow->protocol = ip->protocol;
	if (ip->frag_off & FRAGMENTED)
		return true;

	payload = (void *)ip + ip->ihl * 4;
	if (ip->protocol == IPPROTO_TCP)
		read_tcp(flow, payload, end);
	else if (ip->protocol == IPPROTO_UDP)
		read_udp(flow, payload, end);
	else if (ip->protocol == IPPROTO_ICMP)
		read_icmp(flow, payload, end);
	return true;
}
