/* What the program decides for a frame. The agent reads these names from here, so each is spelled once: a metric's
 * label is the name in lower case without the prefix. Every drop has a verdict of its own, and so has what
 * is carried but remarkable; both are counted per cross-connection (cross_connect.c, `tell`). A comment that begins
 * with "dropped" is what tells them apart.
 */
#pragma once

enum verdict {
	VERDICT_FORWARDED = 0, /* sent to a link of the other side */
	VERDICT_ANSWERED = 1,  /* an ARP request or neighbour solicitation, answered to its asker */
	VERDICT_NOT_OURS = 2,  /* not from a link of ours: left to the host */
	VERDICT_UNWIRED = 3,   /* dropped: the sender's slot holds no link yet, or no longer */
	VERDICT_NO_TARGET = 4, /* dropped: no link of the other side takes it */
	VERDICT_ORPHAN = 5,    /* carried by its addresses: a fragment whose first one has not been seen */
	VERDICT_CONTESTED = 6, /* carried: its session was another serving replica's, which uses the same port */
};
