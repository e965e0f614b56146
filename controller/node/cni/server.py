"""The agent's end of the CNI plugin: a unix socket, one call per connection, each answered in a thread of its own."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from controller.listener import Acceptor, peer_user, take_over
from controller.node.cni.answer import CniError, Code, version_result
from controller.node.cni.attachment import Addition, Attachment
from controller.node.cni.call import Call, receive, reply
from controller.node.cni.reading import addition_of, asked_version, attachment_of
from sfc import threads

log = logging.getLogger(__name__)

WORKERS = 32
RECEIVE_SECONDS = 10.0
"""For a plugin to hand over its call, all of which it has ready before it connects."""


class Wiring(Protocol):
    """Carries calls out. Each method raises CniError for a call that it refuses."""

    def add(self, addition: Addition) -> dict[str, Any]:
        """Makes the link; returns the CNI result."""

    def delete(self, attachment: Attachment) -> None:
        """Removes the link and releases its addresses; succeeds when neither exists."""

    def check(self, addition: Addition) -> None:
        """Succeeds when all is as `add` made it."""


class CniServer:
    """Serves `wiring` at `path`. A newer server at the same path takes over from an older one without a gap."""

    def __init__(self, path: Path, wiring: Wiring) -> None:
        self._path = path
        self._wiring = wiring
        self._workers = threads.pool(WORKERS, "cni")
        self._acceptor = Acceptor("cni", take_over(path), lambda call: self._workers.submit(self._serve, call))
        self._inode = path.stat().st_ino

    def start(self) -> None:
        """Answers calls, in threads, until `stop`."""
        self._acceptor.start()

    def stop(self) -> None:
        """Stops listening, then waits for the calls in progress. Removes the path unless a newer server has it."""
        if self._path.exists() and self._path.stat().st_ino == self._inode:
            self._path.unlink()
        self._acceptor.stop()
        self._workers.shutdown()

    def _serve(self, connection: socket.socket) -> None:
        """After a failure there is no answer, so that the plugin reports "try again later"."""
        with connection:
            try:
                _answer(connection, self._wiring)
            except Exception:
                log.exception("CNI call failed")


def _answer(connection: socket.socket, wiring: Wiring) -> None:
    connection.settimeout(RECEIVE_SECONDS)
    if peer_user(connection) != 0:
        raise PermissionError("a process that is not root connected to the CNI socket")
    call = receive(connection)
    try:
        status, output = perform(call, wiring)
    finally:
        if call.netns is not None:
            os.close(call.netns)
    reply(connection, status, output)


def perform(call: Call, wiring: Wiring) -> tuple[int, Mapping[str, Any]]:
    """Carries the call out; returns the plugin's exit status and output. A refusal is an answer, too."""
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
    return wiring.add(addition_of(call))


def _delete(call: Call, wiring: Wiring) -> Mapping[str, Any]:
    wiring.delete(attachment_of(call))
    return {}


def _check(call: Call, wiring: Wiring) -> Mapping[str, Any]:
    wiring.check(addition_of(call))
    return {}


def _version(call: Call, _: Wiring) -> Mapping[str, Any]:
    return version_result(asked_version(call))


def _nothing(_: Call, __: Wiring) -> Mapping[str, Any]:
    """STATUS: any answer means that the agent is ready. GC: nothing to do, as a link dies with its namespace."""
    return {}


COMMANDS: Mapping[str, Callable[[Call, Wiring], Mapping[str, Any]]] = {
    "ADD": _add,
    "DEL": _delete,
    "CHECK": _check,
    "VERSION": _version,
    "STATUS": _nothing,
    "GC": _nothing,
}
