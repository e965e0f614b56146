/* Sends small packets from one network namespace to another, and measures them. It is one process, so that both ends
 * stop at the same moment; a socket stays in the namespace in which it was made.
 *
 *   traffic flood   FROM TO SOURCE DESTINATION SECONDS INTERFACE SOURCE-MAC DESTINATION-MAC
 *   traffic ping    FROM TO SOURCE DESTINATION SECONDS
 *   traffic connect FROM TO SOURCE DESTINATION SECONDS
 *
 * flood: a packet socket in FROM sends frames of 64 bytes (60 and the checksum), bypassing queueing; a UDP socket in
 *	  TO receives them. Prints frames sent, datagrams that reached that socket, and nanoseconds.
 * ping:  a datagram goes to TO and back, one at a time. Both ends spin, so that no sleep or wake-up is measured.
 *	  Prints the number of round trips, and the 50th, 90th and 99th percentile of their times in nanoseconds.
 * connect: one TCP connection after the other, each until TO has sent a byte. A reset then frees its port. Prints
 *	  the number of connections, and nanoseconds.
 *
 * FROM and TO are namespaces, SOURCE and DESTINATION their IPv4 addresses; the sender has CPU 0, the receiver CPU 1.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <err.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <netinet/ip.h>
#include <netinet/udp.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "sockets.h"

#define BATCH	    64
#define BUFFER	    (16 << 20)
#define PORT	    9
#define MOST_ROUNDS 2000000
#define REPLY_NS    5000000000UL

struct frame {
	struct ether_header eth;
	struct iphdr ip;
	struct udphdr udp;
	char payload[18];
} __attribute__((packed));

_Static_assert(sizeof(struct frame) == 60, "the smallest Ethernet frame");

struct way {
	const char *from, *to, *source, *destination;
	double seconds;
};

static atomic_bool stop;
static unsigned long received;

static unsigned long now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1000000000UL + time.tv_nsec;
}

static void run_on(int cpu)
{
	cpu_set_t cpus;

	CPU_ZERO(&cpus);
	CPU_SET(cpu, &cpus);
	if (sched_setaffinity(0, sizeof(cpus), &cpus))
		err(1, "CPU %d", cpu);
}

static struct sockaddr_in host(const char *address)
{
	struct sockaddr_in it = {.sin_family = AF_INET, .sin_port = htons(PORT)};

	inet_pton(AF_INET, address, &it.sin_addr);
	return it;
}

static int udp_socket(const char *own, const char *peer)
{
	struct sockaddr_in from = host(own), to = host(peer);
	int fd = socket(AF_INET, SOCK_DGRAM, 0), size = BUFFER;

	if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof(size)) || bind(fd, (void *)&from, sizeof(from)) ||
	    connect(fd, (void *)&to, sizeof(to)))
		err(1, "UDP socket %s", own);
	return fd;
}

static int packet_socket(const char *interface)
{
	struct sockaddr_ll link = {.sll_family = AF_PACKET, .sll_ifindex = if_nametoindex(interface)};
	int fd = socket(AF_PACKET, SOCK_RAW, 0), yes = 1;

	if (setsockopt(fd, SOL_PACKET, PACKET_QDISC_BYPASS, &yes, sizeof(yes)) || bind(fd, (void *)&link, sizeof(link)))
		err(1, "packet socket on %s", interface);
	return fd;
}

static void parse_mac(unsigned char *mac, const char *text)
{
	if (sscanf(text, "%hhx:%hhx:%hhx:%hhx:%hhx:%hhx", mac, mac + 1, mac + 2, mac + 3, mac + 4, mac + 5) != 6)
		errx(1, "not a MAC: %s", text);
}

static unsigned short checksum(const void *header)
{
	const unsigned short *words = header;
	unsigned int sum = 0;

	for (int i = 0; i < 10; i++)
		sum += words[i];
	sum = (sum & 0xffff) + (sum >> 16);
	return ~(sum + (sum >> 16));
}

static struct frame frame_of(const struct way *way, const char *source_mac, const char *destination_mac)
{
	struct frame it = {
		.eth.ether_type = htons(ETHERTYPE_IP),
		.ip = {.version = 4, .ihl = 5, .ttl = 64, .protocol = IPPROTO_UDP},
		.udp = {.source = htons(PORT), .dest = htons(PORT)}, /* UDP over IPv4 needs no checksum */
	};

	parse_mac(it.eth.ether_shost, source_mac);
	parse_mac(it.eth.ether_dhost, destination_mac);
	it.ip.tot_len = htons(sizeof(it) - sizeof(it.eth));
	it.ip.saddr = host(way->source).sin_addr.s_addr;
	it.ip.daddr = host(way->destination).sin_addr.s_addr;
	it.ip.check = checksum(&it.ip);
	it.udp.len = htons(sizeof(it.udp) + sizeof(it.payload));
	return it;
}

static void *receive(void *socket)
{
	static char data[BATCH][64];
	struct iovec places[BATCH];
	struct mmsghdr messages[BATCH] = {};
	int fd = *(int *)socket;

	run_on(1);
	for (int i = 0; i < BATCH; i++) {
		places[i] = (struct iovec){data[i], sizeof(data[i])};
		messages[i].msg_hdr = (struct msghdr){.msg_iov = &places[i], .msg_iovlen = 1};
	}
	for (;;) {
		bool last = atomic_load(&stop);
		int got = recvmmsg(fd, messages, BATCH, MSG_DONTWAIT, NULL);

		if (got > 0)
			received += got;
		else if (last)
			return NULL;
	}
}

static void *echo(void *socket)
{
	int fd = *(int *)socket;
	char data[64];

	run_on(1);
	while (!atomic_load(&stop)) {
		ssize_t size = recv(fd, data, sizeof(data), MSG_DONTWAIT);

		if (size > 0 && send(fd, data, size, 0) < 0)
			err(1, "echo");
	}
	return NULL;
}

static void flood(const struct way *way, char **argument)
{
	struct frame frame = frame_of(way, argument[1], argument[2]);
	struct iovec place = {&frame, sizeof(frame)};
	struct mmsghdr messages[BATCH] = {};
	unsigned long begin, end, sent = 0;
	pthread_t receiver;
	int from, to;

	enter(way->to);
	to = udp_socket(way->destination, way->source);
	enter(way->from);
	from = packet_socket(argument[0]);
	for (int i = 0; i < BATCH; i++)
		messages[i].msg_hdr = (struct msghdr){.msg_iov = &place, .msg_iovlen = 1};
	pthread_create(&receiver, NULL, receive, &to);
	run_on(0);

	begin = now();
	end = begin + way->seconds * 1e9;
	while (now() < end) {
		int done = sendmmsg(from, messages, BATCH, 0);

		if (done > 0)
			sent += done;
	}
	end = now();
	atomic_store(&stop, true);
	pthread_join(receiver, NULL);
	printf("%lu %lu %lu\n", sent, received + overflowed(to), end - begin);
}

static int ascending(const void *a, const void *b)
{
	unsigned int x = *(unsigned int *)a, y = *(unsigned int *)b;

	return (x > y) - (x < y);
}

static void ping(const struct way *way)
{
	static unsigned int times[MOST_ROUNDS];
	unsigned long begin, end, rounds = 0;
	pthread_t receiver;
	char data[18] = {};
	int from, to;

	enter(way->to);
	to = udp_socket(way->destination, way->source);
	enter(way->from);
	from = udp_socket(way->source, way->destination);
	pthread_create(&receiver, NULL, echo, &to);
	run_on(0);

	end = now() + way->seconds * 1e9;
	while ((begin = now()) < end && rounds < MOST_ROUNDS) {
		if (send(from, data, sizeof(data), 0) < 0)
			err(1, "send");
		while (recv(from, data, sizeof(data), MSG_DONTWAIT) < 0)
			if (now() - begin > REPLY_NS)
				errx(1, "no answer after %lu rounds", rounds);
		times[rounds++] = now() - begin;
	}
	atomic_store(&stop, true);
	pthread_join(receiver, NULL);
	qsort(times, rounds, sizeof(*times), ascending);
	printf("%lu %u %u %u\n", rounds, times[rounds / 2], times[rounds * 9 / 10], times[rounds * 99 / 100]);
}

static void *accept_all(void *socket)
{
	int fd = *(int *)socket;

	run_on(1);
	while (!atomic_load(&stop)) {
		int connection = accept4(fd, NULL, NULL, SOCK_NONBLOCK);

		if (connection < 0)
			continue;
		if (send(connection, "", 1, MSG_NOSIGNAL) < 0)
			err(1, "send");
		close(connection);
	}
	return NULL;
}

static int listening_socket(const char *address)
{
	struct sockaddr_in own = host(address);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), yes = 1;

	if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes)) || bind(fd, (void *)&own, sizeof(own)) ||
	    listen(fd, 128))
		err(1, "listen on %s", address);
	return fd;
}

static void converse(const struct sockaddr_in *to)
{
	struct timeval patience = {.tv_sec = REPLY_NS / 1000000000UL};
	struct linger reset = {.l_onoff = 1};
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	char byte;

	if (setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset)) ||
	    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)) ||
	    connect(fd, (void *)to, sizeof(*to)) || recv(fd, &byte, 1, 0) != 1)
		err(1, "connection");
	close(fd);
}

static void connect_all(const struct way *way)
{
	struct sockaddr_in to = host(way->destination);
	unsigned long begin, end, connections = 0;
	pthread_t receiver;
	int listening;

	enter(way->to);
	listening = listening_socket(way->destination);
	enter(way->from);
	pthread_create(&receiver, NULL, accept_all, &listening);
	run_on(0);

	begin = now();
	end = begin + way->seconds * 1e9;
	for (; now() < end; connections++)
		converse(&to);
	end = now();
	atomic_store(&stop, true);
	pthread_join(receiver, NULL);
	printf("%lu %lu\n", connections, end - begin);
}

int main(int count, char **arguments)
{
	struct way way;

	if (count < 7)
		errx(2, "see the top of the source");
	way = (struct way){arguments[2], arguments[3], arguments[4], arguments[5], atof(arguments[6])};
	if (count == 10 && !strcmp(arguments[1], "flood"))
		flood(&way, arguments + 7);
	else if (count == 7 && !strcmp(arguments[1], "ping"))
		ping(&way);
	else if (count == 7 && !strcmp(arguments[1], "connect"))
		connect_all(&way);
	else
		errx(2, "see the top of the source");
	return 0;
}
