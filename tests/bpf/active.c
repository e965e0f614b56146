/* Asks the rule of bpf/session.h about a session that is in the frame: returns 1 if it is active. */
#include <uapi/linux/bpf.h>
#include <uapi/linux/pkt_cls.h>

#include "session.h"

struct question {
	struct session session;
	u64 now;
	struct patience own;
	u32 protocol;
	u32 has_ports;
};

int ask(struct __sk_buff *skb)
{
	struct question *asked = (void *)(long)skb->data;
	struct patience patience;

	if ((void *)(asked + 1) > (void *)(long)skb->data_end)
		return -1;
	return active(&asked->session, asked->protocol, asked->has_ports, &asked->own, asked->now);
}
