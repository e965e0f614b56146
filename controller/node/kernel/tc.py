"""Our filter at the tc ingress of a host link: it runs the BPF program and gives it the link's slot as class id.

Formats: linux/rtnetlink.h, linux/pkt_sched.h and linux/pkt_cls.h.
"""

from __future__ import annotations

import errno
import socket
import struct
from dataclasses import dataclass

from pyroute2.netlink import NLM_F_CREATE, NLM_F_REPLACE
from pyroute2.netlink.rtnl import RTM_DELTFILTER, RTM_GETTFILTER, RTM_NEWQDISC, RTM_NEWTFILTER
from pyroute2.netlink.rtnl.tcmsg import tcmsg

from controller.node.kernel.errors import ignored
from controller.node.kernel.netlink import NEW, Netlink, attributes, number, packed

FILTER_HANDLE = 1
FILTER_PRIORITY = 0x5FC
"""Handle and priority make a filter ours; all others are left alone."""

_CLSACT_HANDLE, _CLSACT_PARENT = 0xFFFF0000, 0xFFFFFFF1
_INGRESS = 0xFFFFFFF2
"""The ingress hook of a clsact queueing discipline."""
_ETH_P_ALL = socket.htons(3)
_INFO = FILTER_PRIORITY << 16 | _ETH_P_ALL
_TCA_OPTIONS, _TCA_BPF_CLASSID, _TCA_BPF_ID = 2, 3, 11
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
        place = {"index": ifindex, "handle": _CLSACT_HANDLE, "parent": _CLSACT_PARENT}
        kernel.request(RTM_NEWQDISC, packed(tcmsg, ("TCA_KIND", "clsact"), **place), NEW)
    options = [
        ("TCA_BPF_FD", program),
        ("TCA_BPF_NAME", program_name),
        ("TCA_BPF_CLASSID", slot),
        ("TCA_BPF_FLAGS", _TCA_BPF_FLAG_ACT_DIRECT),
    ]
    kernel.request(RTM_NEWTFILTER, _ours(ifindex, ("TCA_OPTIONS", {"attrs": options})), NLM_F_CREATE | NLM_F_REPLACE)


def detach(kernel: Netlink, ifindex: int) -> None:
    """Removes our filter; succeeds when the filter or the link does not exist. Raises OSError."""
    with ignored(*_NO_FILTER):
        kernel.request(RTM_DELTFILTER, _ours(ifindex))


def read(kernel: Netlink, ifindex: int) -> Filter | None:
    """Our filter; None when the link has none, or does not exist any more. Raises OSError."""
    try:
        body = kernel.get(
            RTM_GETTFILTER, _TRAFFIC_CONTROL.pack(socket.AF_UNSPEC, ifindex, FILTER_HANDLE, _INGRESS, _INFO)
        )
    except OSError as error:
        if error.errno in _NO_FILTER:
            return None
        raise
    options = dict(attributes(dict(attributes(body, _TRAFFIC_CONTROL.size)).get(_TCA_OPTIONS, b"")))
    if _TCA_BPF_CLASSID not in options or _TCA_BPF_ID not in options:
        return None
    return Filter(number(options[_TCA_BPF_CLASSID]), number(options[_TCA_BPF_ID]))


def _ours(ifindex: int, *attrs: tuple[str, object]) -> bytes:
    place = {"index": ifindex, "handle": FILTER_HANDLE, "parent": _INGRESS, "info": _INFO}
    return packed(tcmsg, ("TCA_KIND", "bpf"), *attrs, **place)
