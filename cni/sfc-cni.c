// SPDX-License-Identifier: Apache-2.0
/*
 * The CNI plugin `sfc`: hands a CNI call to the node agent and prints the agent's answer. It interprets neither; the
 * agent does the work (controller/node/cni; call.py has the other end of the connection).
 *
 * One connection to SFC_SOCKET carries one call. Numbers are 32 bits, big-endian.
 *
 *   call    "SFC1" | length of environment | length of configuration | environment | configuration
 *           environment: each CNI_* variable as NAME=VALUE, ended by NUL; configuration: standard input as it came.
 *           The descriptor of the network namespace CNI_NETNS travels with the first byte (SCM_RIGHTS);
 *           there is none when CNI_NETNS is unset or cannot be opened.
 *   answer  exit status | length of output | output
 *
 * Environment and configuration together, and the output, are at most LIMIT bytes each.
 *
 * When no agent listens, DEL succeeds (docs/decisions/0003-del-without-agent.md); every other command, and a DEL
 * whose agent does not answer, fails with CNI code 11, "try again later".
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#ifndef SFC_SOCKET
#define SFC_SOCKET "/run/sfc/cni.sock"
#endif
#ifndef SFC_TIMEOUT_SECONDS
#define SFC_TIMEOUT_SECONDS 60 /* less than the runtime waits for us, more than the agent waits for anything */
#endif
#define LIMIT (1U << 20)

enum cni_error {
	INVALID_ENVIRONMENT = 4,
	IO_FAILURE = 5,
	TRY_AGAIN = 11
};

struct call {
	char magic[4];
	uint32_t environment_length;
	uint32_t configuration_length;
	char payload[LIMIT];
} __attribute__((packed));

struct answer {
	uint32_t status;
	uint32_t output_length;
} __attribute__((packed));

static struct call call = {.magic = {'S', 'F', 'C', '1'}};
static char output[LIMIT];

/* Prints a CNI error object and exits. The texts are ours, or strerror's: nothing in them needs escaping. */
static _Noreturn void fail(enum cni_error code, const char *message, int error)
{
	printf("{\"cniVersion\":\"1.0.0\",\"code\":%d,\"msg\":\"sfc: %s\",\"details\":\"" SFC_SOCKET "%s%s\"}\n", code,
	       message, error ? ": " : "", error ? strerror(error) : "");
	fflush(stdout);
	_exit(1);
}

static _Noreturn void no_agent(int error)
{
	const char *command = getenv("CNI_COMMAND");

	if (command && !strcmp(command, "DEL"))
		_exit(0);
	fail(TRY_AGAIN,
	     "the node agent is not running on this node; it will be tried again; "
	     "see: kubectl -n sfc-system get pods -o wide",
	     error);
}

static _Noreturn void no_answer(int error)
{
	fail(TRY_AGAIN,
	     "the node agent does not answer; it will be tried again; "
	     "see its log: kubectl -n sfc-system logs daemonset/sfc-node",
	     error);
}

/* Reads until `size` bytes or the end of the file; returns how many bytes came, or -1. */
static ssize_t read_all(int fd, char *buffer, size_t size)
{
	size_t length = 0;

	while (length < size) {
		ssize_t n = read(fd, buffer + length, size - length);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -1;
		if (n == 0)
			break;
		length += n;
	}
	return length;
}

static size_t gather_environment(char *buffer, size_t size)
{
	size_t length = 0;

	for (char **variable = environ; *variable; variable++) {
		size_t n = strlen(*variable) + 1;

		if (strncmp(*variable, "CNI_", 4))
			continue;
		if (n > size - length)
			fail(INVALID_ENVIRONMENT, "the CNI_* environment is longer than 1 MiB", 0);
		memcpy(buffer + length, *variable, n);
		length += n;
	}
	return length;
}

static size_t gather_configuration(char *buffer, size_t size)
{
	ssize_t length = read_all(STDIN_FILENO, buffer, size);
	char beyond;

	if (length < 0)
		fail(IO_FAILURE, "cannot read the network configuration from standard input", errno);
	if ((size_t)length == size && read_all(STDIN_FILENO, &beyond, 1) != 0)
		fail(IO_FAILURE, "environment and network configuration are longer than 1 MiB", 0);
	return length;
}

static int open_namespace(void)
{
	const char *path = getenv("CNI_NETNS");

	return path && *path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
}

static int connect_agent(void)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = SFC_SOCKET};
	struct timeval timeout = {.tv_sec = SFC_TIMEOUT_SECONDS};
	int agent = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (agent < 0)
		fail(IO_FAILURE, "cannot make a socket", errno);
	/* The send time-out also bounds connect(), which waits while the agent's backlog is full. */
	setsockopt(agent, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof(timeout));
	setsockopt(agent, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout));
	while (connect(agent, (struct sockaddr *)&address, sizeof(address)) < 0) {
		if (errno == EINTR)
			continue;
		if (errno == ENOENT || errno == ECONNREFUSED)
			no_agent(errno);
		no_answer(errno);
	}
	return agent;
}

/* Sends everything, and the descriptor with the first part of it; -1 for no descriptor. */
static void send_call(int agent, const char *data, size_t size, int descriptor)
{
	while (size) {
		union {
			struct cmsghdr header;
			char space[CMSG_SPACE(sizeof(int))];
		} control = {.header = {.cmsg_level = SOL_SOCKET,
					.cmsg_type = SCM_RIGHTS,
					.cmsg_len = CMSG_LEN(sizeof(int))}};
		struct iovec part = {.iov_base = (void *)data, .iov_len = size};
		struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
		ssize_t n;

		if (descriptor >= 0) {
			memcpy(CMSG_DATA(&control.header), &descriptor, sizeof(int));
			message.msg_control = &control;
			message.msg_controllen = sizeof(control.space);
		}
		n = sendmsg(agent, &message, MSG_NOSIGNAL);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			no_answer(errno);
		data += n;
		size -= n;
		descriptor = -1;
	}
}

static void receive(int agent, void *buffer, size_t size)
{
	ssize_t n = read_all(agent, buffer, size);

	if (n < 0)
		no_answer(errno);
	if ((size_t)n < size)
		no_answer(ECONNRESET);
}

static void print(const char *data, size_t size)
{
	while (size) {
		ssize_t n = write(STDOUT_FILENO, data, size);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			_exit(1);
		data += n;
		size -= n;
	}
}

int main(void)
{
	size_t environment = gather_environment(call.payload, LIMIT);
	size_t configuration = gather_configuration(call.payload + environment, LIMIT - environment);
	int agent = connect_agent();
	struct answer answer;
	size_t length;

	call.environment_length = htonl(environment);
	call.configuration_length = htonl(configuration);
	send_call(agent, (char *)&call, sizeof(call) - LIMIT + environment + configuration, open_namespace());
	receive(agent, &answer, sizeof(answer));
	length = ntohl(answer.output_length);
	if (length > LIMIT)
		no_answer(EMSGSIZE);
	receive(agent, output, length);
	print(output, length);
	return ntohl(answer.status) & 0xff;
}
