/* Programs that only redirect every frame, to the interface that the filter's class id names, or drop it. */
#include <uapi/linux/bpf.h>
#include <uapi/linux/if_packet.h>
#include <uapi/linux/pkt_cls.h>

int redirect(struct __sk_buff *skb)
{
	return bpf_redirect(skb->tc_classid, 0);
}

int redirect_peer(struct __sk_buff *skb)
{
	/* See `send` of the cross-connection. */
	if (skb->pkt_type == PACKET_OTHERHOST)
		bpf_skb_change_type(skb, PACKET_HOST);
	return bpf_redirect_peer(skb->tc_classid, 0);
}

int nowhere(struct __sk_buff *skb)
{
	return TC_ACT_SHOT;
}
