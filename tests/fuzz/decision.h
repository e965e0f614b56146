/* Put before the program when it is fuzzed (-include). A test run shows only that a frame is redirected. These put the
 * end that it is sent to into skb->cb, where user space reads it: cb[2] and cb[3] the end, and in cb[4] the way.
 */
#pragma once

#define bpf_redirect_peer(ifindex, flags)                                                                              \
	((skb)->cb[2] = (u32)(to), (skb)->cb[3] = (u32)((to) >> 32), (skb)->cb[4] = 1, 7 /* TC_ACT_REDIRECT */)
#define bpf_redirect(ifindex, flags)                                                                                   \
	((skb)->cb[2] = (u32)(to), (skb)->cb[3] = (u32)((to) >> 32), (skb)->cb[4] = 2, 7 /* TC_ACT_REDIRECT */)
