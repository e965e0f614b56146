"""Our filter at the tc ingress of a host link: it runs the BPF program and gives it the link's slot as class id.

Formats: linux/rtnetlink.h, linux/pkt_sched.h and linux/pkt_cls.h.
"""

from __future__ import annotations

import errno
import socket
import struct
from dataclasses import dataclass

from controller.node.kernel.errors import ignored
from controller.node.kernel.netlink import (
    NEW,
    NLM_F_CREATE,
    NLM_F_REPLACE,
    Netlink,
    attribute,
    attributes,
    number,
)

FILTER_HANDLE = 1
FILTER_PRIORITY = 0x5FC
"""Handle and priority make a filter ours; all others are left alone."""

_RTM_NEWQDISC, _RTM_NEWTFILTER, _RTM_DELTFILTER, _RTM_GETTFILTER = 36, 44, 45, 46
_CLSACT_HANDLE, _CLSACT_PARENT = 0xFFFF0000, 0xFFFFFFF1
_INGRESS = 0xFFFFFFF2
"""The ingress hook of a clsact queueing discipline."""
_ETH_P_ALL = socket.htons(3)
_TCA_KIND, _TCA_OPTIONS = 1, 2
_TCA_BPF_CLASSID, _TCA_BPF_FD, _TCA_BPF_NAME, _TCA_BPF_FLAGS, _TCA_BPF_ID = 3, 6, 7, 8, 11
_TCA_BPF_FLAG_ACT_DIRECT = 1
_TRAFFIC_CONTROL = struct.Struct("=B3xiIII")
_NO_FILTER = (errno.ENOENT, errno.EINVAL, errno.ENODEV)
"""No such filter; no clsact, so no filter either; no such link."""


@dataclass(frozen=True, slots=True)
class Filter:
    """Our filter, as it is attached to a link."""

    class_id: int
    """The slot that the program is given."""
    program: int
    """The kernel's number of the program."""


def attach(kernel: Netlink, ifindex: int, slot: int, program: int, program_name: str) -> None:
    """Puts the program (an open descriptor) at the link's ingress; replaces our own filter. Raises OSError."""
    with ignored(errno.EEXIST):
        clsact = _TRAFFIC_CONTROL.pack(socket.AF_UNSPEC, ifindex, _CLSACT_HANDLE, _CLSACT_PARENT, 0)
        kernel.request(_RTM_NEWQDISC, clsact + attribute(_TCA_KIND, "clsact"), NEW)
    options = (
        attribute(_TCA_BPF_FD, program)
        + attribute(_TCA_BPF_NAME, program_name)
        + attribute(_TCA_BPF_CLASSID, slot)
        + attribute(_TCA_BPF_FLAGS, _TCA_BPF_FLAG_ACT_DIRECT)
    )
    kernel.request(
        _RTM_NEWTFILTER,
        _ours(ifindex) + attribute(_TCA_KIND, "bpf") + attribute(_TCA_OPTIONS, options),
        NLM_F_CREATE | NLM_F_REPLACE,
    )


def detach(kernel: Netlink, ifindex: int) -> None:
    """Removes our filter; succeeds when the filter or the link does not exist. Raises OSError."""
    with ignored(*_NO_FILTER):
        kernel.request(_RTM_DELTFILTER, _ours(ifindex) + attribute(_TCA_KIND, "bpf"))


def read(kernel: Netlink, ifindex: int) -> Filter | None:
    """Our filter; None when the link has none, or does not exist any more. Raises OSError."""
    try:
        body = kernel.get(_RTM_GETTFILTER, _ours(ifindex))
    except OSError as error:
        if error.errno in _NO_FILTER:
            return None
        raise
    options = dict(attributes(dict(attributes(body, _TRAFFIC_CONTROL.size)).get(_TCA_OPTIONS, b"")))
    if _TCA_BPF_CLASSID not in options or _TCA_BPF_ID not in options:
        return None
    return Filter(number(options[_TCA_BPF_CLASSID]), number(options[_TCA_BPF_ID]))


def _ours(ifindex: int) -> bytes:
    info = FILTER_PRIORITY << 16 | _ETH_P_ALL
    return _TRAFFIC_CONTROL.pack(socket.AF_UNSPEC, ifindex, FILTER_HANDLE, _INGRESS, info)
