"""Netlink over one plain socket: requests, questions about one object, and dumps.

pyroute2 writes the messages that change something. Questions are a few words and packed here; answers are read here.
pyroute2's own sockets take a quarter to half a millisecond of Python for each request, which adds up to most of an ADD,
and half a millisecond or more for each link of a dump, because they decode everything in the kernel's answer. The agent
lists its links whenever one of them changes, so the code here reads the few fields that are needed and skips the rest:
20 microseconds for a link.

Formats: linux/netlink.h, linux/rtnetlink.h and linux/if_link.h.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pyroute2.netlink import (
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_DUMP_INTR,
    NLM_F_EXCL,
    NLM_F_REQUEST,
    NLMSG_DONE,
    NLMSG_ERROR,
)
from pyroute2.netlink.rtnl import RTM_GETLINK
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

NEW = NLM_F_CREATE | NLM_F_EXCL
"""Refused with EEXIST when the object exists."""
IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_IFALIAS, IFLA_LINK_NETNSID = 1, 3, 4, 20, 37
IFF_UP, IFF_NOARP, IFF_LOWER_UP = 0x01, 0x80, 0x10000

TIMEOUT_SECONDS = 5.0
DUMP_ATTEMPTS = 5

_HEADER = struct.Struct("=IHHII")
_LINK = struct.Struct("=BxHiII")
_ATTRIBUTE = struct.Struct("=HH")
_NUMBER = struct.Struct("=I")
_ERROR = struct.Struct("=i")
_WORDS_AT = _ERROR.size + _HEADER.size
"""In an error: behind the number and the header of the message that it is about come words, as attributes."""
_NLMSGERR_ATTR_MSG = 1
_NESTED_AND_ORDER = 0xC000
"""Flags in an attribute's type."""
_SOL_NETLINK, _NETLINK_CAP_ACK, _NETLINK_EXT_ACK = 270, 10, 11
_LARGEST = 1 << 15
"""Bytes that the kernel puts into one piece of a dump at most (netlink_recvmsg); every other answer is smaller."""


def open_socket(timeout: float, groups: int = 0) -> socket.socket:
    """A socket in the calling thread's network namespace. `groups` is a mask of the multicast groups it receives."""
    made = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
    for option in (_NETLINK_CAP_ACK, _NETLINK_EXT_ACK):
        made.setsockopt(_SOL_NETLINK, option, 1)
    made.settimeout(timeout)
    made.bind((0, groups))
    return made


class Netlink:
    """A socket in the network namespace of the thread that makes it. One thread at a time may use it.

    All methods raise OSError, with the kernel's own words where it gives any; TimeoutError when it does not answer.
    """

    def __init__(self) -> None:
        self._socket = open_socket(TIMEOUT_SECONDS)
        self._sequence = 0

    def close(self) -> None:
        """Closes the socket; changes that were made stay."""
        self._socket.close()

    def request(self, kind: int, body: bytes, flags: int = 0) -> None:
        """Changes something; returns when the kernel has acknowledged it."""
        next(self._answers(kind, NLM_F_ACK | flags, body))

    def get(self, kind: int, body: bytes) -> bytes:
        """The body of the message that describes one object."""
        _, found = next(self._answers(kind, 0, body))
        return found

    def dump(self, kind: int, body: bytes) -> list[bytes]:
        """The bodies of the messages that describe all objects.

        Asks again when something changed meanwhile; takes the last answer after DUMP_ATTEMPTS.
        """
        for _ in range(DUMP_ATTEMPTS):
            answers = list(self._answers(kind, NLM_F_DUMP, body))
            if not any(flags & NLM_F_DUMP_INTR for flags, _ in answers):
                break
        return [each for _, each in answers]

    def _answers(self, kind: int, flags: int, body: bytes) -> Iterator[tuple[int, bytes]]:
        """(flags, body) of each message of the answer. Ends with the dump's end; without a dump, take what you need."""
        self._sequence += 1
        header = _HEADER.pack(_HEADER.size + len(body), kind, NLM_F_REQUEST | flags, self._sequence, 0)
        self._socket.send(header + body)
        while True:
            for answer, answer_flags, found in _messages(self._socket.recv(_LARGEST), self._sequence):
                if answer == NLMSG_DONE:
                    return
                yield answer_flags, found


def _messages(data: bytes, sequence: int) -> Iterator[tuple[int, int, bytes]]:
    """(type, flags, body) of messages with this number. The rest of an answer that was given up may come before."""
    at = 0
    while at < len(data):
        length, kind, flags, answered, _ = _HEADER.unpack_from(data, at)
        body = data[at + _HEADER.size : at + length]
        if answered == sequence:
            if kind in (NLMSG_ERROR, NLMSG_DONE):
                _raise_for(body)
            yield kind, flags, body
        at += _aligned(length)


def _raise_for(body: bytes) -> None:
    """Acknowledgements and the ends of dumps have the same form, with error number 0."""
    code = -_ERROR.unpack_from(body)[0]
    if code:
        words = dict(attributes(body, _WORDS_AT)).get(_NLMSGERR_ATTR_MSG, b"")
        raise OSError(code, _text(words) or os.strerror(code))


def packed(kind: Callable[[], Any], *attrs: tuple[str, object], **fields: int) -> bytes:
    """The body of a message of one of pyroute2's kinds, with attributes and fields by pyroute2's names."""
    message = kind()
    for name, value in fields.items():
        message[name] = value
    message["attrs"] = list(attrs)
    message.encode()
    return bytes(message.data[_HEADER.size :])


def attributes(body: bytes, start: int = 0) -> Iterator[tuple[int, bytes]]:
    """(type, value) of each attribute in `body`, from `start` on."""
    while start + _ATTRIBUTE.size <= len(body):
        length, kind = _ATTRIBUTE.unpack_from(body, start)
        yield kind & ~_NESTED_AND_ORDER, body[start + _ATTRIBUTE.size : start + length]
        start += _aligned(max(length, _ATTRIBUTE.size))


def number(value: bytes) -> int:
    """A 32-bit attribute's value."""
    found: int = _NUMBER.unpack(value)[0]
    return found


def _text(value: bytes) -> str:
    return value.rstrip(b"\0").decode()


def _aligned(length: int) -> int:
    return length + 3 & ~3


@dataclass(frozen=True, slots=True)
class Link:
    """A network interface as the kernel describes it; a property decodes its attribute when it is read."""

    ifindex: int
    kind: int
    """ARPHRD_*."""
    flags: int
    """IFF_*."""
    found: Mapping[int, bytes]
    """By IFLA_*."""

    @classmethod
    def parse(cls, body: bytes) -> Link:
        """From the body of an RTM_NEWLINK message."""
        _, kind, ifindex, flags, _ = _LINK.unpack_from(body)
        return cls(ifindex, kind, flags, dict(attributes(body, _LINK.size)))

    @property
    def name(self) -> str:
        """In its network namespace."""
        return _text(self.found.get(IFLA_IFNAME, b""))

    @property
    def alias(self) -> str:
        """Empty when it has none."""
        return _text(self.found.get(IFLA_IFALIAS, b""))

    @property
    def mac(self) -> bytes:
        """Six octets."""
        return self.found.get(IFLA_ADDRESS, b"")

    @property
    def mtu(self) -> int:
        """Bytes."""
        return number(self.found[IFLA_MTU])

    @property
    def up(self) -> bool:
        """It is switched on. Whether frames can pass depends on its other end, too."""
        return bool(self.flags & IFF_UP)

    @property
    def running(self) -> bool:
        """Both ends of the pair are up, so that frames can pass."""
        return bool(self.flags & IFF_LOWER_UP)

    @property
    def paired(self) -> bool:
        """The other end is in another network namespace."""
        return IFLA_LINK_NETNSID in self.found


def link(*attrs: tuple[str, object], **fields: int) -> bytes:
    """The body of a message about a link; the field `change` is the mask of the flags that it sets."""
    return packed(ifinfmsg, *attrs, **fields)


def read_link(kernel: Netlink, name: str) -> Link:
    """Raises OSError; with ENODEV when there is none of that name."""
    asked = name.encode() + b"\0"
    length = _ATTRIBUTE.size + len(asked)
    attribute = _ATTRIBUTE.pack(length, IFLA_IFNAME) + asked.ljust(_aligned(length) - _ATTRIBUTE.size, b"\0")
    return Link.parse(kernel.get(RTM_GETLINK, _LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0) + attribute))
