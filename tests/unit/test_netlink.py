"""Netlink: what is asked of the kernel for real is asked about the loopback link; what it seldom does is played."""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterator

import pytest
from pyroute2.netlink import NLM_F_DUMP, NLM_F_DUMP_INTR, NLMSG_DONE, NLMSG_ERROR
from pyroute2.netlink.rtnl import RTM_GETLINK, RTM_NEWLINK

from controller.node.kernel.netlink import DUMP_ATTEMPTS, Link, Netlink, attributes, link, read_link

HEADER = struct.Struct("=IHHII")


@pytest.fixture
def kernel() -> Iterator[Netlink]:
    opened = Netlink()
    yield opened
    opened.close()


class Played:
    """In the place of a socket: answers the n-th question with the n-th list of (type, flags, body)."""

    def __init__(self, *answers: list[tuple[int, int, bytes]]) -> None:
        self.answers = answers
        self.asked = 0

    def close(self) -> None:
        pass

    def send(self, question: bytes) -> None:
        self.asked += 1

    def recv(self, _: int) -> bytes:
        messages = self.answers[min(self.asked, len(self.answers)) - 1]
        return b"".join(
            HEADER.pack(HEADER.size + len(body), kind, flags, self.asked, 0) + body for kind, flags, body in messages
        )


def playing(kernel: Netlink, *answers: list[tuple[int, int, bytes]]) -> Played:
    kernel.close()
    kernel._socket = Played(*answers)  # type: ignore[assignment]
    return kernel._socket


def attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value.ljust(len(value) + 3 & ~3, b"\0")


def named(name: str) -> bytes:
    return link(("IFLA_IFNAME", name), index=3)


DONE = (NLMSG_DONE, 0, struct.pack("=i", 0))


def test_a_link_is_read_by_its_name(kernel: Netlink) -> None:
    found = read_link(kernel, "lo")

    assert (found.name, found.ifindex, found.mac, found.alias) == ("lo", 1, bytes(6), "")


def test_a_dump_has_the_same_link(kernel: Netlink) -> None:
    found = [Link.parse(body) for body in kernel.dump(RTM_GETLINK, link())]

    assert [each.ifindex for each in found if each.name == "lo"] == [1]


def test_a_refusal_is_an_error_with_its_number(kernel: Netlink) -> None:
    with pytest.raises(OSError, match="No such device") as refusal:
        read_link(kernel, "never-existed")

    assert refusal.value.errno == errno.ENODEV


def test_the_rest_of_an_answer_that_was_given_up_is_skipped(kernel: Netlink) -> None:
    next(kernel._answers(RTM_GETLINK, NLM_F_DUMP, link()))

    assert read_link(kernel, "lo").name == "lo"


def test_the_words_of_the_kernel_come_before_those_of_the_error_number(kernel: Netlink) -> None:
    about = struct.pack("=i", -errno.EINVAL) + HEADER.pack(HEADER.size, RTM_NEWLINK, 0, 1, 0)
    playing(kernel, [(NLMSG_ERROR, 0, about + attribute(1, b"Invalid name\0"))])

    with pytest.raises(OSError, match="Invalid name"):
        kernel.request(RTM_NEWLINK, link())


def test_a_dump_that_something_changed_is_asked_for_again(kernel: Netlink) -> None:
    changed = [(RTM_NEWLINK, NLM_F_DUMP_INTR, named("half")), DONE]
    played = playing(kernel, changed, changed, [(RTM_NEWLINK, 0, named("whole")), DONE])

    assert kernel.dump(RTM_GETLINK, link()) == [named("whole")]
    assert played.asked == 3


def test_a_dump_that_changes_all_the_time_is_taken_as_it_is(kernel: Netlink) -> None:
    played = playing(kernel, [(RTM_NEWLINK, NLM_F_DUMP_INTR, named("half")), DONE])

    assert kernel.dump(RTM_GETLINK, link()) == [named("half")]
    assert played.asked == DUMP_ATTEMPTS


def test_a_dump_that_breaks_off_is_an_error(kernel: Netlink) -> None:
    broken = (NLMSG_DONE, 0, struct.pack("=i", -errno.EMSGSIZE))
    playing(kernel, [(RTM_NEWLINK, 0, named("first")), broken])

    with pytest.raises(OSError, match="Message too long"):
        kernel.dump(RTM_GETLINK, link())


def test_what_pyroute2_writes_is_read_back() -> None:
    body = link(("IFLA_IFNAME", "lan"), ("IFLA_ADDRESS", "02:00:5e:10:00:01"), ("IFLA_MTU", 9000), index=3, flags=1)

    found = Link.parse(body)

    assert (found.ifindex, found.up, found.name, found.mtu) == (3, True, "lan", 9000)
    assert found.mac == bytes.fromhex("02005e100001")


@pytest.mark.parametrize("value", [b"lo\0", b"\1\2\3\4", b"\1\2\3\4\5\6", b""])
def test_attributes_are_read_whatever_their_padding(value: bytes) -> None:
    assert list(attributes(attribute(7, value) + attribute(8, b"next\0"))) == [(7, value), (8, b"next\0")]
