/* Reads frames, and decides nothing: this file knows no map, link or side.
 *
 * All readers have one contract. A reader gets a pointer to its header and the end of the frame, and never reads past
 * that end. If the frame is too short or of another kind, it returns false and leaves its result as it was. A frame
 * that no reader understands is no error: it is forwarded by its MAC pair.
 *
 * The first fragment of a datagram has everything that a whole datagram has. Later fragments have only addresses and
 * protocol. All fragments share the number of the datagram.
 */
#pragma once

/* Instead of what the headers below include of the kernel itself. To read that takes the compiler a second. */
#include <uapi/linux/socket.h>
#define _LINUX_SOCKET_H
#define _LINUX_IF_H
#define IFNAMSIZ 16

#include <uapi/linux/icmp.h>
#include <uapi/linux/icmpv6.h>
#include <uapi/linux/if_ether.h>
#include <uapi/linux/in.h>
#include <uapi/linux/ip.h>
#include <uapi/linux/ipv6.h>
#include <uapi/linux/tcp.h>
#include <uapi/linux/udp.h>

#define VLAN_ID	  0x0fff
#define MOST_TAGS 2

#define ETHERTYPE(value) __constant_htons(value)
#define FRAGMENTED	 __constant_htons(0x3fff) /* "more fragments" and the offset, RFC 791 */

#define FRAGMENT_OFFSET __constant_htons(0x1fff)
#define MORE_FRAGMENTS	__constant_htons(0x2000)
#define PLAIN_IPV4	0x45 /* version, and header length in words: no options */

/* IPv6 does not limit extension headers. Behind so many, a flow has its addresses and the number of the next header as
 * its protocol.
 */
#define MOST_EXTENSIONS 6

/* Bytes that are pulled into the linear part of a frame for the readers: Ethernet, IPv6, and room for extensions. */
#define LONGEST_HEADERS 256

/* The protocols of sessions that have none of IP: for ARP and neighbour discovery (IANA reserves 255); for all packets
 * between two addresses, or of one (`fold` in session.h); for frames without IP (both are for experiments).
 */
#define PROTOCOL_NEIGHBOUR 255
#define PROTOCOL_ANY	   254
#define PROTOCOL_NONE	   253

#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10

/* What a packet says about its connection. The first three TCP flags have the same values. */
enum signal {
	CLOSES = 1, /* its sender has no more data */
	OPENS = 2,  /* the first packet of a connection */
	ABORTS = 4, /* the connection ends at once, if the packet is what it claims to be */
};

/* IPv4 is ::ffff:a.b.c.d (RFC 4291), so that only the fast path needs to know two kinds of address. */
struct address {
	__be32 word[4];
};

enum part {
	WHOLE,
	FIRST,
	LATER,
	LAST,
};

/* The two ends of a conversation as one frame names them: its sender and its receiver. */
struct flow {
	struct address source;
	struct address destination;
	union {
		struct {
			__be16 source_port; /* 0 if the protocol has none */
			__be16 destination_port;
		};
		u32 ports; /* both, in the order of the frame */
	};
	u8 protocol;
	u8 signals;   /* enum signal */
	bool quoted;  /* read from an ICMP error about a packet of the flow */
	u8 part;      /* enum part */
	u32 vlans;    /* ids: inner << 16 | outer; 0: no tag, or one that only has a priority */
	u8 carries;   /* what a frame of PROTOCOL_ANY has: bits of enum standing (session.h) */
	u64 datagram; /* only for fragments: unique for a while between source and destination */
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

struct vlan_tag {
	__be16 tci;
	__be16 ethertype; /* of what follows */
};

/* The content of a frame, behind its VLAN tags. */
struct payload {
	void *header;
	__be16 ethertype;
	u32 vlans; /* struct flow */
};

/* A neighbour solicitation or advertisement, RFC 4861. */
struct neighbour_discovery {
	struct ipv6hdr ip;
	u8 type;
	u8 code;
	__be16 checksum;
	u8 flags;
	u8 reserved[3];
	struct address target;
};

struct nd_option {
	u8 kind;
	u8 length; /* in units of 8 bytes */
	u8 mac[ETH_ALEN];
};

/* Two bytes longer than the frame, so that nothing needs to be packed. The verifier refuses packed values on the stack:
 * "bitwise operator |= on pointer prohibited".
 */
struct advertisement_frame {
	u16 unused;
	struct ethhdr eth;
	struct neighbour_discovery nd;
	struct nd_option option;
};

/* ADVERTISEMENT_LENGTH is the part behind the IPv6 header. */
#define ADVERTISEMENT_FRAME_LENGTH (sizeof(struct advertisement_frame) - sizeof(u16))
#define ADVERTISEMENT_LENGTH	   (ADVERTISEMENT_FRAME_LENGTH - ETH_HLEN - sizeof(struct ipv6hdr))

#define ND_HOPS		 255 /* a router would have lowered it (RFC 4861) */
#define ND_SOLICITATION	 135
#define ND_ADVERTISEMENT 136
#define ND_SOLICITED	 0x40
#define ND_OVERRIDE	 0x20
#define ND_TARGET_MAC	 2

/* PPPoE, RFC 2516. In discovery the session is 0 until the answer that assigns one. */
struct pppoe {
	u8 version;
	u8 code;
	__be16 session;
};

#define MPLS_LABEL __constant_htonl(0xfffff000) /* RFC 3032 */

#define ARP_ETHERNET __constant_htons(1)
#define ARP_REQUEST  __constant_htons(1)
#define ARP_REPLY    __constant_htons(2)

/* The same value, of which the verifier knows nothing any more, if it knows nothing of `noise`. Otherwise it would
 * follow each value that it knows as a case of its own: "processed 1000001 insns".
 */
static __always_inline u64 disguised(u64 value, u64 noise)
{
	value ^= noise;
	asm volatile("" : "+r"(value));
	return value ^ noise;
}

static __always_inline struct address mapped(__be32 ipv4)
{
	return (struct address){.word = {0, 0, __constant_htonl(0xffff), ipv4}};
}

static __always_inline bool is_tag(__be16 ethertype)
{
	return ethertype == ETHERTYPE(ETH_P_8021Q) || ethertype == ETHERTYPE(ETH_P_8021AD);
}

/* Skips up to two VLAN tags. A third one remains as an EtherType that no reader understands. `outer` is the id of the
 * tag that the kernel keeps beside the frame, or 0; a tag with id 0 counts as none. `beside`: there is such a tag.
 */
static __always_inline struct payload past_tags(struct ethhdr *eth, u32 outer, bool beside, void *end)
{
	struct payload payload = {.header = eth + 1, .ethertype = eth->h_proto, .vlans = outer};
	u32 tags = beside;

	for (int i = 0; i < MOST_TAGS; i++) {
		struct vlan_tag *tag = payload.header;
		u32 id;

		if (!is_tag(payload.ethertype) || tags == MOST_TAGS || (void *)(tag + 1) > end)
			return payload;
		id = __builtin_bswap16(tag->tci) & VLAN_ID;
		payload.vlans = payload.vlans ? payload.vlans | id << 16 : id;
		payload.ethertype = tag->ethertype;
		payload.header = tag + 1;
		tags++;
	}
	return payload;
}

static __always_inline bool unspecified(const struct address *address)
{
	return !(address->word[0] | address->word[1] | address->word[2] | address->word[3]);
}

static __always_inline void read_mac(struct address *address, const u8 *mac)
{
	__be16 *half = (void *)mac;

	address->word[2] = half[0];
	address->word[3] = half[1] | (u32)half[2] << 16;
}

/* What tells the sessions between two MACs apart: the session of PPPoE, the first label of MPLS. A PPPoE session begins
 * in discovery, with the frame that assigns its number.
 */
struct label {
	u32 kind; /* never 0, so that no MAC looks like an IPv4 address */
	u32 number;
};

static __always_inline void read_label(struct label *label, const struct payload *payload, void *end)
{
	__be16 ethertype = payload->ethertype;
	u32 *word = payload->header;

	if ((void *)(word + 1) > end)
		return;
	if (ethertype == ETHERTYPE(ETH_P_PPP_SES) || ethertype == ETHERTYPE(ETH_P_PPP_DISC)) {
		label->kind = ETH_P_PPP_SES;
		label->number = ((struct pppoe *)word)->session;
	} else if (ethertype == ETHERTYPE(ETH_P_MPLS_UC) || ethertype == ETHERTYPE(ETH_P_MPLS_MC)) {
		label->kind = ETH_P_MPLS_UC;
		label->number = *word & MPLS_LABEL;
	}
}

/* Any frame: its ends are its MACs, with its label. */
static __always_inline void read_macs(struct flow *flow, const struct ethhdr *eth, const struct payload *payload,
				      void *end)
{
	struct label label = {.kind = ETH_P_802_3};

	read_label(&label, payload, end);
	read_mac(&flow->source, eth->h_source);
	read_mac(&flow->destination, eth->h_dest);
	label.kind = disguised(label.kind, flow->source.word[3]);
	label.number = disguised(label.number, flow->source.word[3]);
	flow->source.word[0] = flow->destination.word[0] = label.kind;
	flow->source.word[1] = flow->destination.word[1] = label.number;
	flow->protocol = PROTOCOL_NONE;
}

static __always_inline bool read_arp(struct flow *flow, struct arp_ipv4 *arp, void *end)
{
	if ((void *)(arp + 1) > end)
		return false;
	if (arp->hardware != ARP_ETHERNET || arp->protocol != ETHERTYPE(ETH_P_IP) || arp->hardware_length != ETH_ALEN ||
	    arp->protocol_length != sizeof(__be32))
		return false;
	flow->source = mapped(arp->sender);
	flow->destination = mapped(arp->target);
	flow->protocol = PROTOCOL_NEIGHBOUR;
	return true;
}

/* True for a question that needs an answer. An announcement asks for its own address (RFC 5227) and needs none. */
static __always_inline bool arp_asks(struct arp_ipv4 *arp)
{
	return arp->operation == ARP_REQUEST && arp->sender != arp->target;
}

/* True if the sender's address can be learned: an answer or an announcement. A probe has no sender's address. */
static __always_inline bool arp_tells(struct arp_ipv4 *arp)
{
	return arp->sender && (arp->operation == ARP_REPLY || arp->sender == arp->target);
}

/* Source is the address that asks, destination the one it asks for; an answer has them the other way round. */
static __always_inline bool read_nd(struct flow *flow, struct neighbour_discovery *nd, void *end)
{
	bool asks;

	if ((void *)(nd + 1) > end || nd->ip.version != 6)
		return false;
	if (nd->ip.nexthdr != IPPROTO_ICMPV6 || nd->ip.hop_limit != ND_HOPS || nd->code)
		return false;
	asks = nd->type == ND_SOLICITATION;
	if (!asks && nd->type != ND_ADVERTISEMENT)
		return false;
	/* Chooses between pointers into the frame. The verifier refuses the same with pointers to the stack:
	 * "bitwise operator |= on pointer prohibited".
	 */
	flow->source = *(asks ? (struct address *)&nd->ip.saddr : &nd->target);
	flow->destination = *(asks ? &nd->target : (struct address *)&nd->ip.daddr);
	flow->protocol = PROTOCOL_NEIGHBOUR;
	return true;
}

/* True for a question that needs an answer. A host without an address asks whether another one has its own (RFC 4862).
 * That needs none: all replicas of its stage have the same address.
 */
static __always_inline bool nd_asks(const struct flow *flow, struct neighbour_discovery *nd)
{
	return nd->type == ND_SOLICITATION && !unspecified(&flow->source);
}

/* True for an advertisement with its target's MAC. An answer to a single host may lack it. */
static __always_inline bool nd_tells(struct neighbour_discovery *nd, void *end)
{
	struct nd_option *option = (void *)(nd + 1);

	return nd->type == ND_ADVERTISEMENT && (void *)(option + 1) <= end && option->kind == ND_TARGET_MAC &&
	       option->length == 1;
}

/* Without branches, as is sctp_signals: the verifier would follow each value as a case of its own. ACK is the bit of
 * OPENS, three further left. A RST says nothing else.
 */
static __always_inline u8 tcp_signals(u8 flags)
{
	u8 aborts = flags & ABORTS;

	return flags & (CLOSES | OPENS | ABORTS) & ~(flags >> 3 & OPENS) & ~(aborts >> 1 | aborts >> 2);
}

static __always_inline void read_tcp(struct flow *flow, struct tcphdr *tcp, void *end)
{
	if ((void *)(tcp + 1) > end)
		return;
	flow->source_port = tcp->source;
	flow->destination_port = tcp->dest;
	flow->signals = tcp_signals(((u8 *)tcp)[13]);
}

/* UDP and SCTP both begin with their ports. */
static __always_inline void read_ports(struct flow *flow, __be16 *port, void *end)
{
	if ((void *)(port + 2) > end)
		return;
	flow->source_port = port[0];
	flow->destination_port = port[1];
}

struct sctp_header {
	__be16 source;
	__be16 destination;
	__be32 verification_tag;
	__be32 checksum;
	u8 chunk; /* type of the first one */
	u8 chunk_flags;
	__be16 chunk_length;
};

#define SCTP_CHUNK(type, signals) ((u64)(signals) << (type)*4)

/* By the type of a chunk, RFC 9260. Each side says by itself that it is done, as in TCP: SHUTDOWN and later SHUTDOWN
 * COMPLETE come from the one that begins, SHUTDOWN ACK from the other one.
 */
static __always_inline u8 sctp_signals(u8 chunk)
{
	u64 by_type = SCTP_CHUNK(1, OPENS)    /* INIT */
		      | SCTP_CHUNK(6, ABORTS) /* ABORT */
		      | SCTP_CHUNK(7, CLOSES) /* SHUTDOWN */
		      | SCTP_CHUNK(8, CLOSES) /* SHUTDOWN ACK */
		      | SCTP_CHUNK(14, CLOSES) /* SHUTDOWN COMPLETE */;
	u32 all_or_none = ((u32)(chunk >> 4) - 1) >> 28; /* 15 for the types below 16 */

	return by_type >> (chunk & 15) * 4 & all_or_none;
}

/* Of the chunks in a packet only the first one is read. Control chunks come before data, and INIT and SHUTDOWN COMPLETE
 * come alone (RFC 9260, section 6.10).
 */
static __always_inline void read_sctp(struct flow *flow, struct sctp_header *sctp, void *end)
{
	read_ports(flow, &sctp->source, end);
	if ((void *)(sctp + 1) <= end)
		flow->signals = sctp_signals(sctp->chunk);
}

static __always_inline bool begins_with_ports(u8 protocol)
{
	return protocol == IPPROTO_TCP || protocol == IPPROTO_UDP || protocol == IPPROTO_SCTP;
}

/* The identifier belongs to the host that asks, like a source port. Two hosts that ping each other share no session. */
static __always_inline void read_echo(struct flow *flow, struct icmphdr *icmp, u8 request, u8 reply)
{
	if (icmp->type == request)
		flow->source_port = icmp->un.echo.id;
	if (icmp->type == reply)
		flow->destination_port = icmp->un.echo.id;
}

/* An ICMP error follows the session of the packet that it quotes, back to that packet's sender, so the two ends are
 * swapped. Only the first 8 bytes of the quoted payload are certain (RFC 792).
 */
static __always_inline void read_quoted(struct flow *flow, void *header, u8 icmp, u8 request, u8 reply, void *end)
{
	__be16 *word = header;
	u8 *type = header;

	if ((void *)(word + 4) > end)
		return;
	if (begins_with_ports(flow->protocol)) {
		flow->source_port = word[1];
		flow->destination_port = word[0];
	} else if (flow->protocol == icmp) {
		if (*type == request)
			flow->destination_port = word[2];
		if (*type == reply)
			flow->source_port = word[2];
	}
}

static __always_inline void read_transport(struct flow *flow, void *header, void *end)
{
	if (flow->protocol == IPPROTO_TCP)
		read_tcp(flow, header, end);
	else if (flow->protocol == IPPROTO_SCTP)
		read_sctp(flow, header, end);
	else if (begins_with_ports(flow->protocol))
		read_ports(flow, header, end);
}

static __always_inline bool icmp_complains(u8 type)
{
	return type == ICMP_DEST_UNREACH || type == ICMP_SOURCE_QUENCH || type == ICMP_REDIRECT ||
	       type == ICMP_TIME_EXCEEDED || type == ICMP_PARAMETERPROB;
}

static __always_inline void read_icmp(struct flow *flow, struct icmphdr *icmp, void *end)
{
	struct iphdr *ip = (void *)(icmp + 1);

	if ((void *)(icmp + 1) > end)
		return;
	read_echo(flow, icmp, ICMP_ECHO, ICMP_ECHOREPLY);
	if (!icmp_complains(icmp->type) || (void *)(ip + 1) > end || ip->version != 4 || ip->ihl < 5)
		return;
	flow->quoted = true;
	flow->part = WHOLE;
	flow->source = mapped(ip->daddr);
	flow->destination = mapped(ip->saddr);
	flow->protocol = ip->protocol;
	if (!(ip->frag_off & FRAGMENT_OFFSET))
		read_quoted(flow, (void *)ip + ip->ihl * 4, IPPROTO_ICMP, ICMP_ECHO, ICMP_ECHOREPLY, end);
}

static __always_inline u8 part_of(__be16 offset, __be16 more)
{
	return !offset ? FIRST : more ? LATER : LAST;
}

static __always_inline bool read_ipv4(struct flow *flow, struct iphdr *ip, void *end)
{
	void *payload;

	if ((void *)(ip + 1) > end || ip->version != 4 || ip->ihl < 5)
		return false;
	flow->source = mapped(ip->saddr);
	flow->destination = mapped(ip->daddr);
	flow->protocol = ip->protocol;
	if (unlikely(ip->frag_off & FRAGMENTED)) {
		flow->part = part_of(ip->frag_off & FRAGMENT_OFFSET, ip->frag_off & MORE_FRAGMENTS);
		flow->datagram = (u64)ip->protocol << 16 | ip->id;
		if (flow->part != FIRST)
			return true;
	}

	payload = (void *)ip + ip->ihl * 4;
	read_transport(flow, payload, end);
	if (flow->protocol == IPPROTO_ICMP)
		read_icmp(flow, payload, end);
	return true;
}

/* What most frames are: TCP without SYN, FIN and RST, or UDP, directly behind an IP header without options, not
 * fragmented, and in the linear part. There is nothing else to know of them.
 */
struct plain {
	u64 *addresses; /* in the frame, the source first */
	u32 ports;
	u8 protocol;
};

static __always_inline bool read_plain_ports(struct plain *plain, u8 protocol, void *header, void *end)
{
	if (header + sizeof(struct udphdr) > end)
		return false;
	if (protocol == IPPROTO_TCP) {
		if (header + sizeof(struct tcphdr) > end || ((u8 *)header)[13] & (TCP_SYN | TCP_FIN | TCP_RST))
			return false;
	} else if (protocol != IPPROTO_UDP) {
		return false;
	}
	plain->ports = *(u32 *)header;
	plain->protocol = protocol;
	return true;
}

static __always_inline bool read_plain_ipv4(struct plain *plain, struct iphdr *ip, void *end)
{
	if ((void *)(ip + 1) > end || *(u8 *)ip != PLAIN_IPV4 || ip->frag_off & FRAGMENTED)
		return false;
	plain->addresses = (void *)&ip->saddr;
	return read_plain_ports(plain, ip->protocol, ip + 1, end);
}

static __always_inline bool read_plain_ipv6(struct plain *plain, struct ipv6hdr *ip, void *end)
{
	if ((void *)(ip + 1) > end || ip->version != 6)
		return false;
	plain->addresses = (void *)&ip->saddr;
	return read_plain_ports(plain, ip->nexthdr, ip + 1, end);
}

struct extension {
	u8 next;
	u8 length; /* in units of 8 bytes, the first unit not counted */
	__be16 fragment;
	__be32 fragment_id;
};

/* True for the number of an extension header that can be skipped. */
static __always_inline bool extends(u8 protocol)
{
	return protocol == IPPROTO_HOPOPTS || protocol == IPPROTO_ROUTING || protocol == IPPROTO_DSTOPTS ||
	       protocol == IPPROTO_FRAGMENT || protocol == IPPROTO_MH;
}

#define FRAGMENTED6	 __constant_htons(0xfff9) /* the offset and "more fragments", RFC 8200 */
#define FRAGMENT_OFFSET6 __constant_htons(0xfff8)
#define MORE_FRAGMENTS6	 __constant_htons(0x0001)

/* The payload behind the extension headers, with its protocol in the flow; NULL if it cannot be reached. */
static __always_inline void *past_extensions(struct flow *flow, void *header, void *end)
{
	for (int i = 0; i < MOST_EXTENSIONS; i++) {
		struct extension *extension = header;
		bool divides = flow->protocol == IPPROTO_FRAGMENT;

		if (!extends(flow->protocol))
			return header;
		if ((void *)(extension + 1) > end)
			return NULL;
		flow->protocol = extension->next;
		header += 8;
		if (!divides) {
			header += extension->length * 8;
		} else if (extension->fragment & FRAGMENTED6) {
			flow->part =
				part_of(extension->fragment & FRAGMENT_OFFSET6, extension->fragment & MORE_FRAGMENTS6);
			flow->datagram = extension->fragment_id;
			if (flow->part != FIRST)
				return NULL;
		}
	}
	return extends(flow->protocol) ? NULL : header;
}

static __always_inline void read_icmp6(struct flow *flow, struct icmphdr *icmp, void *end)
{
	struct ipv6hdr *ip = (void *)(icmp + 1);
	void *payload;

	if ((void *)(icmp + 1) > end)
		return;
	read_echo(flow, icmp, ICMPV6_ECHO_REQUEST, ICMPV6_ECHO_REPLY);
	if (icmp->type & ICMPV6_INFOMSG_MASK || (void *)(ip + 1) > end || ip->version != 6)
		return;
	flow->quoted = true;
	flow->source = *(struct address *)&ip->daddr;
	flow->destination = *(struct address *)&ip->saddr;
	flow->protocol = ip->nexthdr;
	payload = past_extensions(flow, ip + 1, end);
	flow->part = WHOLE;
	if (payload)
		read_quoted(flow, payload, IPPROTO_ICMPV6, ICMPV6_ECHO_REQUEST, ICMPV6_ECHO_REPLY, end);
}

static __always_inline bool read_ipv6(struct flow *flow, struct ipv6hdr *ip, void *end)
{
	void *payload;

	if ((void *)(ip + 1) > end || ip->version != 6)
		return false;
	flow->source = *(struct address *)&ip->saddr;
	flow->destination = *(struct address *)&ip->daddr;
	flow->protocol = ip->nexthdr;
	payload = past_extensions(flow, ip + 1, end);
	if (!payload)
		return true;
	read_transport(flow, payload, end);
	if (flow->protocol == IPPROTO_ICMPV6)
		read_icmp6(flow, payload, end);
	return true;
}

/* Reads IPv4 or IPv6 behind any VLAN tags. */
static __always_inline bool read_ip(struct flow *flow, const struct payload *payload, void *end)
{
	if (payload->ethertype == ETHERTYPE(ETH_P_IPV6))
		return read_ipv6(flow, payload->header, end);
	return payload->ethertype == ETHERTYPE(ETH_P_IP) && read_ipv4(flow, payload->header, end);
}

#define PORT_GTPU	     __constant_htons(2152) /* 3GPP TS 29.281 */
#define PORT_VXLAN	     __constant_htons(4789) /* RFC 7348 */
#define GTPU_VERSION	     0x30		    /* version 1, protocol type GTP */
#define GTPU_OPTIONS	     0x07		    /* one of them: four bytes more */
#define GTPU_EXTENDED	     0x04
#define GTPU_PACKET	     255 /* the type of what carries a packet */
#define MOST_GTPU_EXTENSIONS 2
#define VXLAN_LENGTH	     8
#define GRE_CHECKSUM	     0x80 /* RFC 2784, RFC 2890 */
#define GRE_KEY		     0x20
#define GRE_SEQUENCE	     0x10
#define GRE_ETHERNET	     __constant_htons(0x6558)

static __always_inline bool has_port(const struct flow *flow, __be16 port)
{
	return flow->source_port == port || flow->destination_port == port;
}

/* True for a packet of a tunnel, whole or its first fragment. */
static __always_inline bool is_tunnel(const struct flow *flow)
{
	if (flow->part > FIRST)
		return false;
	if (flow->protocol == IPPROTO_UDP)
		return has_port(flow, PORT_GTPU) || has_port(flow, PORT_VXLAN);
	return flow->protocol == IPPROTO_GRE || flow->protocol == IPPROTO_IPIP || flow->protocol == IPPROTO_IPV6;
}

/* Each of these returns what is behind a header, or NULL if that cannot be reached. */

static __always_inline void *behind_ip(void *header, __be16 ethertype, u8 protocol, void *end)
{
	struct iphdr *ip = header;
	struct ipv6hdr *ip6 = header;

	if ((void *)(ip + 1) > end)
		return NULL;
	if (ethertype == ETHERTYPE(ETH_P_IP))
		return (void *)ip + ip->ihl * 4;
	return (void *)(ip6 + 1) > end || ip6->nexthdr != protocol ? NULL : ip6 + 1;
}

static __always_inline void *behind_ethernet(struct ethhdr *eth, void *end)
{
	if ((void *)(eth + 1) > end)
		return NULL;
	return eth->h_proto == ETHERTYPE(ETH_P_IP) || eth->h_proto == ETHERTYPE(ETH_P_IPV6) ? eth + 1 : NULL;
}

static __always_inline void *behind_gtpu(u8 *gtpu, void *end)
{
	u8 next;

	if ((void *)(gtpu + 12) > end || (gtpu[0] & 0xf0) != GTPU_VERSION || gtpu[1] != GTPU_PACKET)
		return NULL;
	if (!(gtpu[0] & GTPU_OPTIONS))
		return gtpu + 8;
	next = gtpu[0] & GTPU_EXTENDED ? gtpu[11] : 0;
	gtpu += 12;
	for (int i = 0; i < MOST_GTPU_EXTENSIONS && next; i++) {
		u64 length;

		if ((void *)(gtpu + 1) > end || !gtpu[0])
			return NULL;
		length = gtpu[0] * 4;
		gtpu += length;
		if ((void *)gtpu > end)
			return NULL;
		next = gtpu[-1];
	}
	return next ? NULL : gtpu;
}

static __always_inline void *behind_gre(u8 *gre, void *end)
{
	__be16 *words = (void *)gre;
	u64 length;

	if ((void *)(gre + 4) > end || gre[0] & ~(GRE_CHECKSUM | GRE_KEY | GRE_SEQUENCE) || gre[1])
		return NULL;
	length = 4 + (gre[0] >> 7) * 4 + (gre[0] >> 5 & 1) * 4 + (gre[0] >> 4 & 1) * 4;
	if (words[1] == GRE_ETHERNET)
		return behind_ethernet((void *)gre + length, end);
	return words[1] == ETHERTYPE(ETH_P_IP) || words[1] == ETHERTYPE(ETH_P_IPV6) ? gre + length : NULL;
}

static __always_inline void *behind_tunnel(const struct flow *flow, void *header, void *end)
{
	void *udp = header + sizeof(struct udphdr);

	if (flow->protocol == IPPROTO_GRE)
		return behind_gre(header, end);
	if (flow->protocol != IPPROTO_UDP)
		return header;
	if (has_port(flow, PORT_GTPU))
		return behind_gtpu(udp, end);
	return behind_ethernet(udp + VXLAN_LENGTH, end);
}

/* The packet in the tunnel, of which `flow` has the outer one. False if there is none that can be read; then the flow
 * is as it was.
 */
static __always_inline bool read_inner(struct flow *flow, const struct payload *outer, void *frame, void *end,
				       u64 noise)
{
	struct payload inner = {.ethertype = ETHERTYPE(ETH_P_IP)};
	u64 at = disguised(outer->header - frame, noise);
	u8 *first;

	/* Whichever way a header was reached, the verifier knows the same of it. */
	if (at >= LONGEST_HEADERS)
		return false;
	flow->protocol = disguised(flow->protocol, noise);
	inner.header = behind_ip(frame + at, disguised(outer->ethertype, noise), flow->protocol, end);
	if (inner.header)
		inner.header = behind_tunnel(flow, inner.header, end);
	if (!inner.header)
		return false;
	at = disguised(inner.header - frame, noise);
	if (at >= LONGEST_HEADERS)
		return false;
	inner.header = frame + at;
	first = inner.header;
	if ((void *)(first + sizeof(struct iphdr)) > end)
		return false;
	if (*first >> 4 == 6) {
		inner.ethertype = ETHERTYPE(ETH_P_IPV6);
		if ((void *)(first + sizeof(struct ipv6hdr)) > end)
			return false;
	} else if (*first >> 4 != 4 || (*first & 15) < 5) {
		return false;
	}
	flow->ports = 0;
	flow->signals = 0;
	flow->quoted = false;
	flow->part = WHOLE;
	return read_ip(flow, &inner, end);
}
