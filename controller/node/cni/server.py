"""The agent's end of the CNI plugin: a unix socket, one call per connection, each answered in a thread of its own.

The format on the wire is described in cni/sfc-cni.c.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import socket
import struct
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

from controller.listener import take_over
from controller.node.cni import call as cni
from controller.node.cni.call import Call, CniError, Code, Request

log = logging.getLogger(__name__)

WORKERS = 32
RECEIVE_SECONDS = 10.0
"""How long a plugin may take to hand over its call; it has all of it ready before it connects."""

MAX_DESCRIPTORS = 4
NS_GET_NSTYPE = 0xB703
CLONE_NEWNET = 0x40000000
PEER_CREDENTIALS = struct.Struct("iII")


class Wiring(Protocol):
    def add(self, request: Request) -> dict[str, Any]:
        """Returns the CNI result."""

    def delete(self, request: Request) -> None: ...

    def check(self, request: Request) -> None: ...


class CniServer:
    """Serves `wiring` at `path`. A newer server at the same path takes over from an older one without a gap."""

    def __init__(self, path: Path, wiring: Wiring) -> None:
        self._path = path
        self._wiring = wiring
        self._workers = ThreadPoolExecutor(WORKERS, "cni")
        self._socket = take_over(path)
        self._inode = path.stat().st_ino
        self._thread = threading.Thread(target=self._accept, name="cni-accept", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Lets calls in progress finish. Leaves the path alone when a newer server has taken it over."""
        if self._path.exists() and self._path.stat().st_ino == self._inode:
            self._path.unlink()
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._socket.close()
        self._workers.shutdown()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:  # shut down by stop()
                return
            self._workers.submit(self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        """Without an answer, the plugin reports "try again later"."""
        with connection:
            try:
                _answer(connection, self._wiring)
            except Exception:
                log.exception("CNI call failed")


def _answer(connection: socket.socket, wiring: Wiring) -> None:
    connection.settimeout(RECEIVE_SECONDS)
    if _peer_uid(connection) != 0:
        raise PermissionError("a process that is not root connected to the CNI socket")
    call = _receive(connection)
    try:
        status, output = perform(call, wiring)
    finally:
        if call.netns is not None:
            os.close(call.netns)
    body = json.dumps(output).encode() if output else b""
    connection.sendall(cni.ANSWER.pack(status, len(body)) + body)


def perform(call: Call, wiring: Wiring) -> tuple[int, Mapping[str, Any]]:
    """Exit status and output."""
    try:
        return 0, _command(call)(call, wiring)
    except CniError as error:
        log.warning(
            "CNI call refused",
            extra={"command": call.command, "cni_code": int(error.code), "reason": error.message},
        )
        return 1, error.output()


def _command(call: Call) -> Callable[[Call, Wiring], Mapping[str, Any]]:
    try:
        return COMMANDS[call.command]
    except KeyError:
        raise CniError(
            Code.INVALID_ENVIRONMENT, f"CNI_COMMAND is {call.command[:64]!r}: use one of {', '.join(COMMANDS)}"
        ) from None


def _add(call: Call, wiring: Wiring) -> Mapping[str, Any]:
    return wiring.add(cni.request_of(call))


def _delete(call: Call, wiring: Wiring) -> Mapping[str, Any]:
    wiring.delete(cni.deletion_of(call))
    return {}


def _check(call: Call, wiring: Wiring) -> Mapping[str, Any]:
    wiring.check(cni.request_of(call))
    return {}


def _version(call: Call, _: Wiring) -> Mapping[str, Any]:
    return cni.versions_output(call)


def _nothing(_: Call, __: Wiring) -> Mapping[str, Any]:
    """STATUS: answering is the answer. GC: a link dies with its namespace, so there is nothing to collect."""
    return {}


COMMANDS: Mapping[str, Callable[[Call, Wiring], Mapping[str, Any]]] = {
    "ADD": _add,
    "DEL": _delete,
    "CHECK": _check,
    "VERSION": _version,
    "STATUS": _nothing,
    "GC": _nothing,
}


def _receive(connection: socket.socket) -> Call:
    start, descriptors, _, _ = socket.recv_fds(connection, cni.HEADER.size, MAX_DESCRIPTORS, socket.MSG_CMSG_CLOEXEC)
    netns = _only_namespace(descriptors)
    try:
        magic, *lengths = cni.HEADER.unpack(start + _exactly(connection, cni.HEADER.size - len(start)))
        if magic != cni.MAGIC or sum(lengths) > cni.LIMIT:
            raise ConnectionError(f"not a call of this version of the CNI plugin: {magic!r}, {lengths} bytes")
        environment, configuration = (_exactly(connection, length) for length in lengths)
    except BaseException:
        if netns is not None:
            os.close(netns)
        raise
    return Call(_environment(environment), configuration, netns)


def _only_namespace(descriptors: list[int]) -> int | None:
    """The network namespace among what was received; everything else is closed."""
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


def _peer_uid(connection: socket.socket) -> int:
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, PEER_CREDENTIALS.size)
    _, uid, _ = PEER_CREDENTIALS.unpack(credentials)
    return int(uid)
