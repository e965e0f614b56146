/* Delivers a test run's frame to the program as the kernel delivers a frame that a link received. A test run alone
 * cannot do this: the outermost VLAN tag is taken out of the frame and kept outside it (skb_vlan_untag), and the frame
 * may be shorter than the IP header that its type promises.
 *
 * In skb->cb: the tag (EtherType << 16 | TCI), or 0; and the length.
 */
#include <uapi/linux/bpf.h>
#include <uapi/linux/pkt_cls.h>

BPF_TABLE("prog", u32, u32, program, 1);

int deliver(struct __sk_buff *skb)
{
	u32 tag = skb->cb[0], length = skb->cb[1];

	if (length != skb->len && bpf_skb_change_tail(skb, length, 0))
		return TC_ACT_STOLEN;
	if (tag && bpf_skb_vlan_push(skb, __constant_htons(tag >> 16), tag & 0xffff))
		return TC_ACT_STOLEN;
	skb->cb[0] = skb->cb[1] = 0;
	program.call(skb, 0);
	return TC_ACT_STOLEN;
}
