"""A CNI call, and how it travels between the plugin and the agent.

The format is written down at the top of cni/sfc-cni.c, which has the other end of the connection.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MAGIC = b"SFC1"
HEADER = struct.Struct("!4sII")
"""Magic, length of the environment, length of the configuration."""
ANSWER = struct.Struct("!II")
"""Exit status, length of the output."""
LIMIT = 1 << 20
"""Bytes of environment and configuration together; bytes of the output."""

MAX_DESCRIPTORS = 4
NS_GET_NSTYPE = 0xB703
CLONE_NEWNET = 0x40000000


@dataclass(frozen=True, slots=True)
class Call:
    """A call as it arrived; nothing in it is checked yet."""

    environment: Mapping[str, str]
    """The CNI_* variables."""
    configuration: bytes
    """The network configuration: what the plugin read from standard input."""
    netns: int | None
    """Open descriptor of the pod's network namespace. None when CNI_NETNS is unset or cannot be opened."""

    @property
    def command(self) -> str:
        """CNI_COMMAND, such as ADD; empty when the variable is unset."""
        return self.environment.get("CNI_COMMAND", "")


def receive(connection: socket.socket) -> Call:
    """Reads one call. The caller closes `Call.netns`.

    Raises OSError when the other end sends anything but a whole call, or hangs up, or is too slow.
    """
    start, descriptors, _, _ = socket.recv_fds(connection, HEADER.size, MAX_DESCRIPTORS, socket.MSG_CMSG_CLOEXEC)
    netns = _only_namespace(descriptors)
    try:
        magic, *lengths = HEADER.unpack(start + _exactly(connection, HEADER.size - len(start)))
        if magic != MAGIC or sum(lengths) > LIMIT:
            raise ConnectionError(f"not a call of this version of the CNI plugin: {magic!r}, {lengths} bytes")
        environment, configuration = (_exactly(connection, length) for length in lengths)
    except BaseException:
        if netns is not None:
            os.close(netns)
        raise
    return Call(_environment(environment), configuration, netns)


def reply(connection: socket.socket, status: int, output: Mapping[str, Any]) -> None:
    """Sends what the plugin is to do: print `output`, unless it is empty, and exit with `status`."""
    body = json.dumps(output).encode() if output else b""
    connection.sendall(ANSWER.pack(status, len(body)) + body)


def _only_namespace(descriptors: list[int]) -> int | None:
    """The first network namespace among the descriptors that came. All others are closed."""
    namespaces = [fd for fd in descriptors if _is_network_namespace(fd)]
    for fd in descriptors:
        if fd not in namespaces[:1]:
            os.close(fd)
    return namespaces[0] if namespaces else None


def _is_network_namespace(fd: int) -> bool:
    try:
        return fcntl.ioctl(fd, NS_GET_NSTYPE) == CLONE_NEWNET
    except OSError:
        return False


def _exactly(connection: socket.socket, size: int) -> bytes:
    received = bytearray()
    while len(received) < size:
        part = connection.recv(size - len(received))
        if not part:
            raise ConnectionError(f"the CNI plugin hung up after {len(received)} of {size} bytes")
        received += part
    return bytes(received)


def _environment(data: bytes) -> dict[str, str]:
    variables = (variable.partition("=") for variable in data.decode(errors="replace").split("\0") if variable)
    return {name: value for name, _, value in variables}
