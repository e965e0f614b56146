"""The device of the tunnel to the other nodes: VXLAN (RFC 7348) that takes its outer headers from the program."""

from __future__ import annotations

import errno
import ipaddress
import socket
import struct
import threading
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager

from pyroute2.netlink.rtnl import RTM_GETADDR, RTM_GETLINK, RTM_NEWLINK

from controller.node.kernel import sysctl, tc
from controller.node.kernel.errors import LinkError, explained, ignored
from controller.node.kernel.firewall import guard
from controller.node.kernel.netlink import (
    IFF_NOARP,
    IFF_UP,
    NEW,
    Link,
    Netlink,
    attributes,
    link,
    read_link,
)
from controller.node.plane.model import FROM_TUNNEL

DEVICE = "sfc-tunnel"
"""Its name on the node."""
ANY_MTU = 65485
"""The device's own. Frames come from interfaces of chains, which have the right one."""
_FILTER_CLASS = 1
_HEADERS = {4: 50, 6: 70}
"""Bytes that the tunnel adds to the packet in a frame, by the version of IP between the nodes."""
_ADDRESS = struct.Struct("=BBBBI")
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_LINK_BY_INDEX = struct.Struct("=BxHiII")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Tunnel:
    """In the network namespace of the thread that makes it. Any thread may call its methods; they raise LinkError."""

    def __init__(
        self,
        address: str,
        port: int,
        program: int,
        program_number: int,
        succeeding: Callable[[Collection[int]], AbstractContextManager[None]],
    ) -> None:
        """`address`: this node's, under which the others know it. `port`: UDP, the same on all nodes. `program`: an
        open descriptor of the one for the device's ingress, and the kernel's number of it. `succeeding`: to be held
        while it replaces programs (numbers, too), so that it knows their sessions."""
        self._kernel = Netlink()
        self._address = ipaddress.ip_address(address)
        self._port = port
        self._program = program
        self._number = program_number
        self._succeeding = succeeding
        self._busy = threading.Lock()

    def close(self) -> None:
        """Lets go of the device, which stays."""
        self._kernel.close()

    def make(self) -> int:
        """Makes the device unless it is there, with our program at its ingress, and guards its port; returns its
        interface index."""
        data = [
            ("IFLA_VXLAN_COLLECT_METADATA", 1),
            ("IFLA_VXLAN_GBP", True),
            ("IFLA_VXLAN_PORT", self._port),
            ("IFLA_VXLAN_LEARNING", 0),
            ("IFLA_VXLAN_UDP_ZERO_CSUM6_TX", 1),
            ("IFLA_VXLAN_UDP_ZERO_CSUM6_RX", 1),
        ]
        kind = [("IFLA_INFO_KIND", "vxlan"), ("IFLA_INFO_DATA", {"attrs": data})]
        doing = f"make {DEVICE} on UDP port {self._port} (`ss -lunp` shows who has a port; --tunnel-port takes another)"
        with explained(doing), self._busy:
            guard(
                self._port, socket.if_indextoname(interface_with(self._kernel, self._address))
            )  # first: no frame of others may get in
            with ignored(errno.EEXIST):
                self._kernel.request(
                    RTM_NEWLINK, link(("IFLA_IFNAME", DEVICE), ("IFLA_LINKINFO", {"attrs": kind})), NEW
                )
                sysctl.set_interface("ipv4", DEVICE, forwarding=0, rp_filter=1)
                sysctl.set_interface("ipv6", DEVICE, forwarding=0, disable_ipv6=1)
            made = read_link(self._kernel, DEVICE)
            held = tc.read(self._kernel, made.ifindex)
            if held is None or held.program != self._number:
                with self._succeeding({held.program} if held else set()):
                    tc.attach(self._kernel, made.ifindex, _FILTER_CLASS, self._program, FROM_TUNNEL)
            if not made.up or made.mtu != ANY_MTU:
                flags = IFF_UP | IFF_NOARP
                up = link(("IFLA_MTU", ANY_MTU), index=made.ifindex, flags=flags, change=flags)
                self._kernel.request(RTM_NEWLINK, up)
        return made.ifindex

    def payload(self) -> int:
        """The MTU of interfaces whose frames fit through the tunnel on this node's way to the others."""
        with explained(f"find the interface with the node's address {self._address}"), self._busy:
            index = interface_with(self._kernel, self._address)
            mtu = Link.parse(self._kernel.get(RTM_GETLINK, _LINK_BY_INDEX.pack(socket.AF_UNSPEC, 0, index, 0, 0))).mtu
        return mtu - _HEADERS[self._address.version]


def interface_with(kernel: Netlink, address: Address) -> int:
    """The index of the interface that has the node's address. Raises OSError, LinkError if there is none."""
    for body in kernel.dump(RTM_GETADDR, _ADDRESS.pack(socket.AF_UNSPEC, 0, 0, 0, 0)):
        index: int = _ADDRESS.unpack_from(body)[-1]
        found = dict(attributes(body, _ADDRESS.size))
        if address.packed in (found.get(_IFA_LOCAL), found.get(_IFA_ADDRESS)):
            return index
    raise LinkError(
        f"no interface of this node has its address {address}; see status.addresses of the Node, and --node-address"
    )
