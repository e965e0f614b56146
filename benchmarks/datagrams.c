/* Sends numbered datagrams from one network namespace to another, and accounts for each of them.
 *
 *   datagrams FROM TO FLOWS SEED
 *
 * FROM and TO are namespaces (/proc/PID/ns/net); the server is 10.9.1.2. A flow uses one source port for a few seconds,
 * then another flow takes its place. All flows send at every tick. The network function that a datagram crosses writes
 * its own number over the first four bytes (benchmarks/events.yaml), so each datagram shows which replica carried it.
 *
 * Every line on the standard input begins a new phase; a datagram counts for the phase in which it was sent. At the end
 * of the input the program stops and prints the account of all phases as JSON: also when each lost datagram was sent,
 * and each flow that changed its replica. Times are in ns since 1970.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <err.h>
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "sockets.h"

#define SERVER	     "10.9.1.2"
#define PORT	     9
#define TICK_NS	     5000000L
#define TICKS_A_SEC  (1000000000L / TICK_NS)
#define SHORTEST     (4 * TICKS_A_SEC) /* of a flow, in ticks */
#define LONGEST	     (8 * TICKS_A_SEC)
#define LATE_TICKS   2
#define MOST_SECONDS 3600
#define MOST_TICKS   (MOST_SECONDS * TICKS_A_SEC)
#define MOST_FLOWS   (1 << 17)
#define MOST_OPEN    1024
#define MOST_PHASES  4096
#define MOST_MOVES   (1 << 16)
#define MOST_SPANS   4096
#define SPAN_TICKS   (TICKS_A_SEC / 10) /* a longer pause ends a span */
#define BUFFER	     (128 << 20)
#define BATCH	     64
#define ATTEMPTS     3
#define SETTLE_NS    1000000000L
#define PRIORITY     -10

struct datagram {
	unsigned int replica; /* written on the way, big-endian */
	unsigned int flow;
	unsigned int number;
	unsigned int unused;
	char padding[48];
};

struct flow {
	unsigned int first_tick;
	unsigned int life;
	atomic_uint sent;
	unsigned int next; /* the number expected */
	unsigned int replica;
	unsigned short port;
	unsigned char arrived[LONGEST / 8 + 1];
};

struct phase {
	unsigned long sent, received, duplicated, reordered, moved, overflowed;
	long began;
};

struct move {
	unsigned int flow, from, to, tick;
};

/* A time during which a replica carried datagrams without a pause longer than SPAN_TICKS. */
struct span {
	unsigned int replica;
	unsigned long datagrams;
	unsigned int first_tick, last_tick;
};

static struct flow *flows;
static atomic_uint flow_count;
static long *tick_ns;
static unsigned short *tick_phase;
static atomic_uint ticks;
static struct phase phases[MOST_PHASES];
static atomic_uint phase;
static struct move moves[MOST_MOVES];
static unsigned int move_count, unstamped;
static struct span spans[MOST_SPANS];
static unsigned int span_count;
static atomic_bool stop, deaf;
static unsigned int open_flows, seed;

static long now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_REALTIME, &time);
	return time.tv_sec * 1000000000L + time.tv_nsec;
}

static void *table(size_t count, size_t size)
{
	void *made = calloc(count, size);

	if (!made)
		err(1, "no memory for %zu of %zu bytes", count, size);
	return made;
}

static struct sockaddr_in server(void)
{
	struct sockaddr_in it = {.sin_family = AF_INET, .sin_port = htons(PORT)};

	inet_pton(AF_INET, SERVER, &it.sin_addr);
	return it;
}

static int receiving_socket(void)
{
	struct timeval patience = {.tv_usec = 100000};
	struct sockaddr_in own = server();
	int fd = socket(AF_INET, SOCK_DGRAM, 0), size = BUFFER;

	if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof(size)) ||
	    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)) || bind(fd, (void *)&own, sizeof(own)))
		err(1, "receiving socket");
	return fd;
}

/* Sends without a checksum; otherwise the function would have to correct it when it writes its number. */
static int sending_socket(struct flow *flow)
{
	struct sockaddr_in to = server(), own;
	int fd = socket(AF_INET, SOCK_DGRAM, 0), yes = 1;
	socklen_t size = sizeof(own);

	if (setsockopt(fd, SOL_SOCKET, SO_NO_CHECK, &yes, sizeof(yes)) || connect(fd, (void *)&to, sizeof(to)) ||
	    getsockname(fd, (void *)&own, &size))
		err(1, "sending socket");
	flow->port = ntohs(own.sin_port);
	return fd;
}

/* Opens another flow. The first flows have shorter, random lives, so that not all end at the same time. */
static unsigned int opened(int *fd, unsigned int tick, bool first)
{
	unsigned int id = atomic_load(&flow_count);
	struct flow *flow = &flows[id];

	if (id == MOST_FLOWS)
		errx(1, "more than %d flows", MOST_FLOWS);
	flow->first_tick = tick;
	flow->life = (first ? 1 : SHORTEST) + rand_r(&seed) % (LONGEST - (first ? 1 : SHORTEST));
	if (*fd >= 0)
		close(*fd);
	*fd = sending_socket(flow);
	atomic_store(&flow_count, id + 1);
	return id;
}

/* Tries again, because send also reports errors of earlier datagrams. */
static void send_one(int fd, const struct datagram *datagram)
{
	for (int attempt = 0; attempt < ATTEMPTS; attempt++)
		if (send(fd, datagram, sizeof(*datagram), 0) == sizeof(*datagram))
			return;
	err(1, "send");
}

static void send_tick(int *fds, unsigned int *ids, unsigned int tick)
{
	for (unsigned int i = 0; i < open_flows; i++) {
		struct flow *flow = &flows[ids[i]];
		struct datagram datagram = {};

		if (tick - flow->first_tick == flow->life) {
			ids[i] = opened(&fds[i], tick, false);
			flow = &flows[ids[i]];
		}
		datagram.flow = ids[i];
		datagram.number = tick - flow->first_tick;
		send_one(fds[i], &datagram);
		atomic_store(&flow->sent, datagram.number + 1);
	}
}

/* A late tick delays all that follow, so that datagrams never come as a burst. */
static void *send_all(void *unused)
{
	static unsigned int ids[MOST_OPEN];
	static int fds[MOST_OPEN];
	long next = now();

	for (unsigned int i = 0; i < open_flows; i++) {
		fds[i] = -1;
		ids[i] = opened(&fds[i], 0, true);
	}
	for (unsigned int tick = 0; tick < MOST_TICKS && !atomic_load(&stop); tick++) {
		unsigned int current = atomic_load(&phase);
		long time = now();

		if (time - next > LATE_TICKS * TICK_NS)
			next = time;
		tick_ns[tick] = time;
		tick_phase[tick] = current;
		atomic_store(&ticks, tick + 1);
		send_tick(fds, ids, tick);
		phases[current].sent += open_flows;
		next += TICK_NS;
		clock_nanosleep(CLOCK_REALTIME, TIMER_ABSTIME,
				&(struct timespec){next / 1000000000L, next % 1000000000L}, NULL);
	}
	return unused;
}

static struct span *span_of(unsigned int replica, unsigned int tick)
{
	for (unsigned int i = span_count; i-- > 0;)
		if (spans[i].replica == replica) {
			if (tick > spans[i].last_tick + SPAN_TICKS)
				break;
			return &spans[i];
		}
	if (span_count == MOST_SPANS)
		errx(1, "more than %d spans", MOST_SPANS);
	spans[span_count] = (struct span){.replica = replica, .first_tick = tick, .last_tick = tick};
	return &spans[span_count++];
}

static void note_replica(struct flow *flow, unsigned int id, unsigned int number, unsigned int tick)
{
	struct span *span = span_of(number, tick);

	span->datagrams++;
	if (tick > span->last_tick)
		span->last_tick = tick;
	if (flow->replica && flow->replica != number) {
		phases[tick_phase[tick]].moved++;
		if (move_count < MOST_MOVES)
			moves[move_count++] = (struct move){id, flow->replica, number, tick};
	}
	flow->replica = number;
}

static void note(const struct datagram *datagram)
{
	struct flow *flow = &flows[datagram->flow];
	unsigned int tick = flow->first_tick + datagram->number;
	struct phase *sent_in = &phases[tick_phase[tick]];
	unsigned char bit = 1 << datagram->number % 8, *byte = &flow->arrived[datagram->number / 8];

	if (*byte & bit) {
		sent_in->duplicated++;
		return;
	}
	*byte |= bit;
	sent_in->received++;
	if (datagram->number < flow->next)
		sent_in->reordered++;
	else
		flow->next = datagram->number + 1;
	if (datagram->replica)
		note_replica(flow, datagram->flow, ntohl(datagram->replica), tick);
	else
		unstamped++;
}

static void *receive_all(void *socket)
{
	static struct datagram data[BATCH];
	struct iovec places[BATCH];
	struct mmsghdr messages[BATCH] = {};
	unsigned int lost = 0;
	int fd = *(int *)socket;

	for (int i = 0; i < BATCH; i++) {
		places[i] = (struct iovec){&data[i], sizeof(data[i])};
		messages[i].msg_hdr = (struct msghdr){.msg_iov = &places[i], .msg_iovlen = 1};
	}
	while (!atomic_load(&deaf)) {
		int got = recvmmsg(fd, messages, BATCH, MSG_WAITFORONE, NULL);
		unsigned int all = overflowed(fd);

		phases[atomic_load(&phase)].overflowed += all - lost;
		lost = all;
		for (int i = 0; i < got; i++)
			if (messages[i].msg_len == sizeof(*data))
				note(&data[i]);
	}
	return NULL;
}

static void print_phases(void)
{
	printf("{\"phases\": [");
	for (unsigned int i = 0; i <= phase; i++) {
		struct phase *it = &phases[i];

		printf("%s\n{\"began\": %ld, \"sent\": %lu, \"received\": %lu, \"duplicated\": %lu, \"reordered\": "
		       "%lu, "
		       "\"moved\": %lu, \"overflowed\": %lu}",
		       i ? "," : "", it->began, it->sent, it->received, it->duplicated, it->reordered, it->moved,
		       it->overflowed);
	}
	printf("],\n\"ended\": %ld, \"unstamped\": %u, ", tick_ns[ticks - 1], unstamped);
}

/* `replica` is the one that carried the flow's latest datagram. */
static void print_lost(void)
{
	const char *comma = "";

	printf("\"lost\": [");
	for (unsigned int id = 0; id < flow_count; id++)
		for (unsigned int number = 0; number < flows[id].sent; number++) {
			unsigned int tick = flows[id].first_tick + number;

			if (flows[id].arrived[number / 8] & 1 << number % 8)
				continue;
			printf("%s\n{\"at\": %ld, \"phase\": %u, \"flow\": %u, \"number\": %u, \"port\": %u, "
			       "\"replica\": \"%08x\"}",
			       comma, tick_ns[tick], tick_phase[tick], id, number, flows[id].port, flows[id].replica);
			comma = ",";
		}
	printf("],\n");
}

static void print_ways(void)
{
	printf("\"moves\": [");
	for (unsigned int i = 0; i < move_count; i++)
		printf("%s\n{\"at\": %ld, \"phase\": %u, \"flow\": %u, \"port\": %u, \"from\": \"%08x\", \"to\": "
		       "\"%08x\"}",
		       i ? "," : "", tick_ns[moves[i].tick], tick_phase[moves[i].tick], moves[i].flow,
		       flows[moves[i].flow].port, moves[i].from, moves[i].to);
	printf("],\n\"spans\": [");
	for (unsigned int i = 0; i < span_count; i++)
		printf("%s\n{\"replica\": \"%08x\", \"datagrams\": %lu, \"first\": %ld, \"last\": %ld}", i ? "," : "",
		       spans[i].replica, spans[i].datagrams, tick_ns[spans[i].first_tick], tick_ns[spans[i].last_tick]);
	printf("],\n\"flows\": %u}\n", flow_count);
}

int main(int count, char **arguments)
{
	pthread_t sender, receiver;
	char line[64];
	int to;

	if (count != 5)
		errx(2, "see the top of the source");
	open_flows = atoi(arguments[3]);
	seed = atoi(arguments[4]);
	if (!open_flows || open_flows > MOST_OPEN)
		errx(2, "FLOWS: 1 to %d", MOST_OPEN);
	setpriority(PRIO_PROCESS, 0, PRIORITY);
	flows = table(MOST_FLOWS, sizeof(*flows));
	tick_ns = table(MOST_TICKS, sizeof(*tick_ns));
	tick_phase = table(MOST_TICKS, sizeof(*tick_phase));
	enter(arguments[2]);
	to = receiving_socket();
	pthread_create(&receiver, NULL, receive_all, &to);
	enter(arguments[1]);
	phases[0].began = now();
	pthread_create(&sender, NULL, send_all, NULL);

	while (fgets(line, sizeof(line), stdin)) {
		if (phase + 1 == MOST_PHASES)
			errx(1, "more than %d phases", MOST_PHASES);
		phases[phase + 1].began = now();
		atomic_fetch_add(&phase, 1);
	}
	atomic_store(&stop, true);
	pthread_join(sender, NULL);
	clock_nanosleep(CLOCK_MONOTONIC, 0, &(struct timespec){.tv_sec = SETTLE_NS / 1000000000L}, NULL);
	atomic_store(&deaf, true);
	pthread_join(receiver, NULL);
	print_phases();
	print_lost();
	print_ways();
	return 0;
}
