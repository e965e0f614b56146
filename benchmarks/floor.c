/* The least that a session-aware redirect can do: parse IPv4 and TCP, look one session up, redirect.
 *
 * `cross_connect` is compared with it. So the same compiler compiles it with the same options, it checks its bounds,
 * and its table and values have the same size. It counts nothing, knows no sides, links or states, updates no time, and
 * forwards no other packets.
 */
#include <uapi/linux/bpf.h>
#include <uapi/linux/if_ether.h>
#include <uapi/linux/in.h>
#include <uapi/linux/ip.h>
#include <uapi/linux/pkt_cls.h>
#include <uapi/linux/tcp.h>

struct key {
	__be32 source;
	__be32 destination;
	__be16 source_port;
	__be16 destination_port;
	u32 protocol;
};

struct session {
	u64 ifindex;
	u64 unused[3];
};

BPF_TABLE("lru_hash", struct key, struct session, sessions, SESSION_CAPACITY);

int empty(struct __sk_buff *skb)
{
	return TC_ACT_OK;
}

int session_floor(struct __sk_buff *skb)
{
	void *end = (void *)(long)skb->data_end;
	struct ethhdr *eth = (void *)(long)skb->data;
	struct iphdr *ip = (void *)(eth + 1);
	struct session *session;
	struct key key = {};
	struct tcphdr *tcp;

	if ((void *)(ip + 1) > end || eth->h_proto != __constant_htons(ETH_P_IP))
		return TC_ACT_SHOT;
	tcp = (void *)ip + ip->ihl * 4;
	if (ip->protocol != IPPROTO_TCP || (void *)(tcp + 1) > end)
		return TC_ACT_SHOT;
	key.source = ip->saddr;
	key.destination = ip->daddr;
	key.source_port = tcp->source;
	key.destination_port = tcp->dest;
	key.protocol = ip->protocol;

	session = sessions.lookup(&key);
	if (!session)
		return TC_ACT_SHOT;
	return bpf_redirect_peer(session->ifindex, 0);
}
