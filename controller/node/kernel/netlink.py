"""The node's links and the filters on them, read from the kernel with as little work as can be.

A general netlink library takes half a millisecond to a millisecond for each link, because it decodes all that the
kernel tells of it. The agent reads links again whenever one of them changes, so this reads the few fields it needs and
passes over the rest: 20 microseconds a link, 20 more for its filter.

Formats: linux/netlink.h, linux/rtnetlink.h, linux/if_link.h, linux/pkt_sched.h and linux/pkt_cls.h.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass

INGRESS = 0xFFFFFFF2
"""The ingress hook of a clsact queueing discipline."""

_HEADER = struct.Struct("=IHHII")
_LINK = struct.Struct("=BxHiII")
_TRAFFIC_CONTROL = struct.Struct("=B3xiIII")
_ATTRIBUTE = struct.Struct("=HH")
_NUMBER = struct.Struct("=I")
_ERROR = struct.Struct("=i")

NLM_F_REQUEST, NLM_F_DUMP, NLM_F_DUMP_INTR = 0x01, 0x300, 0x10
NLMSG_ERROR, NLMSG_DONE = 2, 3
RTM_NEWLINK, RTM_GETLINK, RTM_NEWTFILTER, RTM_GETTFILTER = 16, 18, 44, 46
IFLA_IFNAME, IFLA_LINKINFO, IFLA_INFO_KIND, IFLA_IFALIAS, IFLA_EXT_MASK, IFLA_LINK_NETNSID = 3, 18, 1, 20, 29, 37
RTEXT_FILTER_SKIP_STATS = 1 << 3
IFF_LOWER_UP = 0x10000
TCA_OPTIONS, TCA_BPF_CLASSID, TCA_BPF_ID = 2, 3, 11
ETH_P_ALL = socket.htons(3)
NESTED_AND_ORDER = 0xC000
"""Flags in an attribute's type."""

DUMP_ATTEMPTS = 5
TIMEOUT_SECONDS = 5.0
_LARGEST = 1 << 18


@dataclass(frozen=True, slots=True)
class DumpedLink:
    ifindex: int
    name: str
    alias: str
    up: bool
    """Both ends of the pair are up, so that frames can pass."""
    paired: bool
    """The other end is in another network namespace."""


@dataclass(frozen=True, slots=True)
class DumpedFilter:
    class_id: int
    program: int
    """The kernel's number of it."""


class LinkDump:
    """A socket in the network namespace of the thread that makes it. One thread at a time may use it."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        self._socket.settimeout(TIMEOUT_SECONDS)
        self._sequence = 0

    def close(self) -> None:
        self._socket.close()

    def links(self, prefix: str) -> list[DumpedLink]:
        """The veth links whose alias begins with `prefix`. Raises OSError."""
        kind = _attribute(IFLA_LINKINFO, _attribute(IFLA_INFO_KIND, b"veth"))
        mask = _attribute(IFLA_EXT_MASK, _NUMBER.pack(RTEXT_FILTER_SKIP_STATS))
        question = _LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0) + mask + kind
        for _ in range(DUMP_ATTEMPTS):
            answers = list(self._ask(RTM_GETLINK, NLM_F_DUMP, question))
            if not any(flags & NLM_F_DUMP_INTR for _, flags, _ in answers):  # else: not one moment's truth
                break
        told = [body for kind, _, body in answers if kind == RTM_NEWLINK and prefix.encode() in body]
        return [link for link in map(_link, told) if link.alias.startswith(prefix)]

    def filter(self, ifindex: int, priority: int, handle: int) -> DumpedFilter | None:
        """The BPF filter at the link's ingress; None when it has none, or is gone."""
        info = priority << 16 | ETH_P_ALL
        try:
            answers = self._ask(
                RTM_GETTFILTER, 0, _TRAFFIC_CONTROL.pack(socket.AF_UNSPEC, ifindex, handle, INGRESS, info)
            )
            body = next(body for kind, _, body in answers if kind == RTM_NEWTFILTER)
        except OSError as error:
            # no such filter; no clsact, so no filter either; no such link
            if error.errno in (errno.ENOENT, errno.EINVAL, errno.ENODEV):
                return None
            raise
        options = dict(attributes(dict(attributes(body, _TRAFFIC_CONTROL.size)).get(TCA_OPTIONS, b"")))
        if TCA_BPF_CLASSID not in options or TCA_BPF_ID not in options:
            return None
        return DumpedFilter(*(_NUMBER.unpack(options[number])[0] for number in (TCA_BPF_CLASSID, TCA_BPF_ID)))

    def _ask(self, kind: int, flags: int, body: bytes) -> Iterator[tuple[int, int, bytes]]:
        """(type, flags, body) of each message of the answer."""
        self._sequence += 1
        header = _HEADER.pack(_HEADER.size + len(body), kind, NLM_F_REQUEST | flags, self._sequence, 0)
        self._socket.send(header + body)
        while True:
            for answer in _messages(self._socket.recv(_LARGEST), self._sequence):
                yield answer
                if not flags & NLM_F_DUMP or answer[0] == NLMSG_DONE:
                    return


def _messages(data: bytes, sequence: int) -> Iterator[tuple[int, int, bytes]]:
    """Those that answer the question with this number: the rest of an answer that was given up may come before."""
    at = 0
    while at < len(data):
        length, kind, flags, answered, _ = _HEADER.unpack_from(data, at)
        body = data[at + _HEADER.size : at + length]
        if answered == sequence:
            if kind == NLMSG_ERROR and (code := -_ERROR.unpack_from(body)[0]):
                raise OSError(code, os.strerror(code))
            yield kind, flags, body
        at += _aligned(length)


def _link(body: bytes) -> DumpedLink:
    _, _, ifindex, flags, _ = _LINK.unpack_from(body)
    found = dict(attributes(body, _LINK.size))
    name, alias = (found.get(kind, b"").rstrip(b"\0").decode() for kind in (IFLA_IFNAME, IFLA_IFALIAS))
    return DumpedLink(ifindex, name, alias, up=bool(flags & IFF_LOWER_UP), paired=IFLA_LINK_NETNSID in found)


def attributes(body: bytes, start: int = 0) -> Iterator[tuple[int, bytes]]:
    while start + _ATTRIBUTE.size <= len(body):
        length, kind = _ATTRIBUTE.unpack_from(body, start)
        yield kind & ~NESTED_AND_ORDER, body[start + _ATTRIBUTE.size : start + length]
        start += _aligned(max(length, _ATTRIBUTE.size))


def _attribute(kind: int, value: bytes) -> bytes:
    length = _ATTRIBUTE.size + len(value)
    return _ATTRIBUTE.pack(length, kind) + value + bytes(_aligned(length) - length)


def _aligned(length: int) -> int:
    return length + 3 & ~3
