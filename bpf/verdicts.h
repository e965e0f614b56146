/* What the program decides for a frame. The agent reads the names from this file: a metric's label is the name in lower
 * case without the prefix. Every reason to drop a frame has a verdict. So has a frame that is forwarded in an unusual
 * way. Both kinds are counted for each cross-connection (cross_connect.c, `tell`). The agent counts a verdict as a drop
 * if its comment begins with "dropped".
 */
#pragma once

enum verdict {
	VERDICT_FORWARDED = 0,	   /* sent to a link of the other side */
	VERDICT_ANSWERED = 1,	   /* an ARP request or neighbour solicitation; the answer goes back */
	VERDICT_NOT_OURS = 2,	   /* not from one of our links: left to the host */
	VERDICT_UNWIRED = 3,	   /* dropped: the sender's slot has no link yet, or no longer */
	VERDICT_NO_TARGET = 4,	   /* dropped: the other side has no link that receives */
	VERDICT_LONE_FRAGMENT = 5, /* forwarded by its addresses: a fragment whose first one was not seen before it */
	VERDICT_CONTESTED = 6,	   /* forwarded: another serving replica uses the same port for its session */
	/* A lone fragment again, when its first one comes: */
	VERDICT_EARLY_FRAGMENT = 7,  /* forwarded before its first one, to the same replica */
	VERDICT_PARTED_FRAGMENT = 8, /* forwarded before its first one, to another replica: the datagram is lost */
	VERDICT_NO_ROOM = 9,	     /* forwarded by its hash: the table has no room for its session */
	VERDICT_PEER_DOWN = 10,	     /* dropped: the node of its target is not heard, or the tunnel takes no frame */
	VERDICT_STRANGER = 11,	     /* dropped: came through the tunnel, from an address that no node has */
	VERDICT_WIRE_VERSION = 12,   /* dropped: came through the tunnel, in a format that this version does not know */
	VERDICT_RETURNED = 13,	     /* returned to its node: the replica takes no new session any more */
	VERDICT_OUTSIDER = 14,	     /* dropped: came through the tunnel, from a node without a link in the chain */
	VERDICT_CHOSEN_AGAIN = 15,   /* came back from another node, and chooses again */
	VERDICT_RESET = 16,	     /* dropped: of a session that a drain's deadline ended; its sender is told */
};
