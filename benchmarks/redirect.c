/* Programs that only redirect every frame, to the other interface of the pair, or drop it. The indexes of a pair differ
 * in the last bit.
 */
#include <uapi/linux/bpf.h>
#include <uapi/linux/if_packet.h>
#include <uapi/linux/pkt_cls.h>

int redirect(struct __sk_buff *skb)
{
	return bpf_redirect(skb->ifindex ^ 1, 0);
}

int redirect_peer(struct __sk_buff *skb)
{
	/* See `send` of the cross-connection. */
	if (skb->pkt_type == PACKET_OTHERHOST)
		bpf_skb_change_type(skb, PACKET_HOST);
	return bpf_redirect_peer(skb->ifindex ^ 1, 0);
}

int nowhere(struct __sk_buff *skb)
{
	return TC_ACT_SHOT;
}
