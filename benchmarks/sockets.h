/* What both programs that make traffic do with namespaces and sockets. Include it after defining _GNU_SOURCE. */
#pragma once

#include <err.h>
#include <fcntl.h>
#include <linux/sock_diag.h>
#include <sched.h>
#include <sys/socket.h>
#include <unistd.h>

/* Moves this thread into a network namespace, given by its path. */
static void enter(const char *namespace)
{
	int fd = open(namespace, O_RDONLY);

	if (fd < 0 || setns(fd, CLONE_NEWNET))
		err(1, "enter %s", namespace);
	close(fd);
}

/* Packets that arrived at a socket while its buffer was full. */
static unsigned int overflowed(int fd)
{
	unsigned int info[SK_MEMINFO_VARS];
	socklen_t size = sizeof(info);

	if (getsockopt(fd, SOL_SOCKET, SO_MEMINFO, info, &size))
		err(1, "SO_MEMINFO");
	return info[SK_MEMINFO_DROPS];
}
