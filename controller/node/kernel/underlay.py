"""Past the tunnel's device: the program writes and removes the outer headers itself, at the node's own interface.

That is faster, and what is on the wire is the same (docs/decisions/0035). The device stays: it takes whatever the
program leaves to it, and everything while this way is shut.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import struct
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from pyroute2.netlink import NLM_F_REQUEST, NLMSG_ERROR
from pyroute2.netlink.rtnl import RTM_GETLINK, RTM_GETROUTE

from controller.node.kernel import tcx
from controller.node.kernel.errors import explained
from controller.node.kernel.netlink import Link, Netlink, attributes, number
from controller.node.kernel.tunnel import interface_with

ETHERNET = 1
"""ARPHRD_ETHER: the kind of an interface whose frames begin with an Ethernet header."""
_IPV4 = 4
_ROUTE = struct.Struct("=BBBBBBBBI")
_RTA_DST, _RTA_SRC, _RTA_OIF, _RTA_IP_PROTO, _RTA_DPORT = 1, 2, 4, 27, 29
_RTN_UNICAST = 1
_ATTRIBUTE = struct.Struct("=HH")
_LINK_BY_INDEX = struct.Struct("=BxHiII")
_NO_ROUTE = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENODEV, errno.EACCES, errno.EINVAL)

_NETLINK_XFRM, _XFRM_MSG_GETSPDINFO, _XFRMA_SPD_INFO = 6, 0x25, 1
_NETLINK_MESSAGE = struct.Struct("=IHHII")
_UNSUPPORTED = (errno.EPROTONOSUPPORT, errno.EAFNOSUPPORT)


@dataclass(frozen=True, slots=True)
class Interface:
    """The one with the node's address; 0 with the reason why frames have to go by the device."""

    ifindex: int
    reason: str = ""


class Underlay:
    """In the network namespace of the thread that makes it. Any thread may call its methods; they raise LinkError."""

    def __init__(self, address: str, port: int, shortcut: tcx.Shortcut, *, by_device: bool = False) -> None:
        """`address` and `port` are the tunnel's. `shortcut` is for the interface with the address. `by_device`: the
        operator wants all frames to go by the device."""
        self._kernel = Netlink()
        self._address = ipaddress.ip_address(address)
        self._port = port
        self._shortcut = shortcut
        self._tcx = tcx.offered()
        self._by_device = by_device
        self._busy = threading.Lock()

    def close(self) -> None:
        """Lets go of the kernel's socket."""
        self._kernel.close()

    def interface(self) -> Interface:
        """The one with the node's address, or why frames have to go by the device."""
        with explained(f"find the interface with the node's address {self._address}"), self._busy:
            return self._interface()

    def attach(self, ifindex: int) -> None:
        """Puts the shortcut before all other programs at the interface's tcx hook; does nothing if it is there."""
        with explained(f"give interface {ifindex}, which has the node's address, the tunnel's shortcut"):
            tcx.attach(ifindex, self._shortcut)

    def detach(self, ifindex: int) -> None:
        """The counterpart of `attach`, for what former agents left, too."""
        with explained(f"take the tunnel's shortcut from interface {ifindex}"):
            tcx.detach(ifindex, self._shortcut.name)

    def leave(self, ifindex: int) -> None:
        """Takes this agent's own shortcut from the interface; another agent's stays."""
        with explained(f"take this agent's shortcut from interface {ifindex}"):
            tcx.remove(ifindex, self._shortcut.number)

    def routes(self, peers: Iterable[str], interface: int) -> dict[str, int]:
        """By the address of each node to which frames leave by that interface: its index. 0 for the others."""
        with explained("find the routes to the other nodes"), self._busy:
            return {each: interface if interface and self._leaves_by(each) == interface else 0 for each in peers}

    def _interface(self) -> Interface:
        if self._by_device:
            return Interface(0, "--tunnel-by-device")
        if self._address.version != _IPV4:
            return Interface(0, f"the node's address {self._address} is not IPv4")
        if not self._tcx:
            return Interface(0, "the kernel has no tcx (Linux 6.6)")
        if encrypts():
            return Interface(0, "the node has IPsec policies (ip xfrm policy)")
        index = interface_with(self._kernel, self._address)
        body = self._kernel.get(RTM_GETLINK, _LINK_BY_INDEX.pack(socket.AF_UNSPEC, 0, index, 0, 0))
        if (found := Link.parse(body)).kind != ETHERNET:
            return Interface(0, f"{found.name}, which has the node's address, is no Ethernet interface")
        return Interface(index)

    def _leaves_by(self, peer: str) -> int:
        """The index of the interface, of any kind; 0 if there is no route, or the peer's address is of another version.

        The question is the kernel's own for a datagram of the tunnel: rules and other tables count.
        """
        address = ipaddress.ip_address(peer)
        if address.version != _IPV4:
            return 0
        body = _ROUTE.pack(socket.AF_INET, 32, 32, 0, 0, 0, 0, 0, 0) + b"".join(
            _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value + bytes(-len(value) % 4)
            for kind, value in (
                (_RTA_DST, address.packed),
                (_RTA_SRC, self._address.packed),
                (_RTA_IP_PROTO, bytes((socket.IPPROTO_UDP,))),
                (_RTA_DPORT, self._port.to_bytes(2, "big")),
            )
        )
        try:
            answer = self._kernel.get(RTM_GETROUTE, body)
        except OSError as error:
            if error.errno in _NO_ROUTE:
                return 0
            raise
        kind = _ROUTE.unpack_from(answer)[7]
        leaves = dict(attributes(answer, _ROUTE.size)).get(_RTA_OIF)
        return number(leaves) if leaves and kind == _RTN_UNICAST else 0


def encrypts() -> bool:
    """Whether the calling thread's network namespace has policies of IPsec: they are for what goes through the node's
    own stack, and what does not would leave unencrypted. Raises OSError."""
    return any(_policies())


def _policies() -> Iterator[int]:
    """Numbers of policies, one for each direction."""
    try:
        asked = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_XFRM)
    except OSError as error:
        if error.errno in _UNSUPPORTED:
            return
        raise
    with asked:
        asked.settimeout(5.0)
        flags = bytes(4)
        length = _NETLINK_MESSAGE.size + len(flags)
        asked.send(_NETLINK_MESSAGE.pack(length, _XFRM_MSG_GETSPDINFO, NLM_F_REQUEST, 1, 0) + flags)
        answer = asked.recv(1 << 12)
    if _NETLINK_MESSAGE.unpack_from(answer)[1] == NLMSG_ERROR:
        code = -struct.unpack_from("=i", answer, _NETLINK_MESSAGE.size)[0]
        raise OSError(code, f"IPsec policies cannot be counted: {os.strerror(code)}")
    found = dict(attributes(answer, _NETLINK_MESSAGE.size + len(flags))).get(_XFRMA_SPD_INFO, b"")
    yield from struct.unpack(f"={len(found) // 4}I", found)
