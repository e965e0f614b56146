"""The thread that accepts connections goes on, whatever the kernel answers."""

from __future__ import annotations

import errno
import logging
import socket
from collections.abc import Iterator
from queue import Queue

import pytest

from controller.listener import Acceptor
from sfc import threads


class OutOfDescriptors(socket.socket):
    """Cannot accept for a while, as when the process has no file descriptor left."""

    refusals = 3

    def accept(self) -> tuple[socket.socket, object]:
        if self.refusals:
            self.refusals -= 1
            raise OSError(errno.EMFILE, "Too many open files")
        return super().accept()


@pytest.fixture
def listener() -> Iterator[OutOfDescriptors]:
    with OutOfDescriptors() as opened:
        opened.bind(("127.0.0.1", 0))
        opened.listen()
        yield opened


def test_a_thread_that_could_not_accept_a_connection_accepts_the_next(
    listener: OutOfDescriptors, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    accepted: Queue[socket.socket] = Queue()
    acceptor = Acceptor("cni", listener, accepted.put)

    acceptor.start()
    with socket.create_connection(listener.getsockname()):
        accepted.get(timeout=20).close()
    problem = threads.problem()
    acceptor.stop()

    assert problem is None
    assert [record.getMessage() for record in caplog.records] == ["connections cannot be accepted"]  # once, not thrice
    assert threads.problem() is None  # it was told to end
