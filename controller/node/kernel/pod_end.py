"""The pod's end of a data link: addresses, routes and source ports, inside the pod's network namespace.

Each job runs in a thread of its own that enters the namespace and ends there, so no thread has to find its way back.

Formats: linux/if_addr.h and linux/rtnetlink.h.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import TypeVar

from pyroute2 import netns
from pyroute2.netlink import NLM_F_CREATE
from pyroute2.netlink.rtnl import RTM_GETADDR, RTM_GETROUTE, RTM_NEWADDR, RTM_NEWLINK, RTM_NEWROUTE
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from controller.node.kernel import sysctl
from controller.node.kernel.errors import LinkError, explained
from controller.node.kernel.netlink import (
    IFF_UP,
    NEW,
    Link,
    Netlink,
    attributes,
    link,
    number,
    packed,
    read_link,
)
from sfc import mac, threads
from sfc.chain import Interface, Route
from sfc.source_ports import PortRange

T = TypeVar("T")
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_PREPEND = NLM_F_CREATE
"""What `ip route prepend` sends."""
_IFA_ADDRESS, _IFA_F_NODAD = 1, 0x02
_RTA_DST, _RTA_OIF, _RTA_GATEWAY = 1, 4, 5
_TABLE_MAIN, _PROTO_STATIC, _SCOPE_LINK, _TYPE_UNICAST = 254, 4, 253, 1
_ADDRESS = struct.Struct("=BBBBI")
_ROUTE = struct.Struct("=BBBBBBBBI")
_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
"""By IP version."""


def configure(interface: Interface, pod: int, ports: PortRange | None) -> None:
    """Brings the interface up, with addresses and routes, in the network namespace `pod` (an open descriptor).

    With `ports`, sockets of the pod that choose no source port get one of these. Raises LinkError.
    """
    _in_namespace(pod, lambda: _configure(interface, ports))


def verify(interface: Interface, pod: int, ports: PortRange | None) -> tuple[str, ...]:
    """The differences from what `configure` was given, one sentence each. Raises OSError."""
    return _in_namespace(pod, lambda: tuple(_differences(interface, ports)))


def _in_namespace(namespace: int, job: Callable[[], T]) -> T:
    def run() -> T:
        netns.setns(namespace)
        return job()

    with threads.pool(1, "pod") as thread:
        return thread.submit(run).result()


def _configure(interface: Interface, ports: PortRange | None) -> None:
    """Replicas share addresses on purpose, so duplicate address detection is off."""
    if ports:
        _keep_to(ports)
    sysctl.set_interface("ipv6", interface.name, accept_dad=0, dad_transmits=0)
    if any(":" in address for address in interface.addresses):
        sysctl.set_interface("ipv6", interface.name, disable_ipv6=0)
    with closing(Netlink()) as kernel:
        with explained(f"bring interface {interface.name!r} up"):
            ifindex = socket.if_nametoindex(interface.name)
            kernel.request(RTM_NEWLINK, link(index=ifindex, flags=IFF_UP, change=IFF_UP))
        for address in interface.addresses:
            with explained(f"add address {address}"):
                kernel.request(RTM_NEWADDR, _address(ifindex, address), NEW)
        for wanted in interface.routes:
            with explained(f"add route to {wanted.dst} via {wanted.gw or interface.name}"):
                kernel.request(RTM_NEWROUTE, _route(ifindex, wanted), _PREPEND)


def _keep_to(ports: PortRange) -> None:
    try:
        sysctl.LOCAL_PORTS.write_text(f"{ports.first} {ports.last}")
    except OSError as error:
        raise LinkError(
            f"cannot limit the pod's source ports to {ports}: {error.strerror} (does the pod raise the sysctl "
            "net.ipv4.ip_unprivileged_port_start beyond them?)"
        ) from error


def _address(ifindex: int, written: str) -> bytes:
    parsed = ipaddress.ip_interface(written)
    ip, family = str(parsed.ip), _FAMILIES[parsed.version]
    fields = {"family": family, "prefixlen": parsed.network.prefixlen, "index": ifindex}
    if parsed.version == 6:
        return packed(ifaddrmsg, ("IFA_ADDRESS", ip), flags=_IFA_F_NODAD, **fields)
    return packed(ifaddrmsg, ("IFA_ADDRESS", ip), ("IFA_LOCAL", ip), **fields)


def _route(ifindex: int, wanted: Route) -> bytes:
    """Goes before a route to the same destination that the pod's primary network brought, and leaves that in place.

    IPv4 has no metric better than the usual 0, but takes the route that was put in front. IPv6 would spread packets
    over routes of equal metric, so ours is better than the usual 1024.
    """
    destination = ipaddress.ip_network(wanted.dst)
    attrs: list[tuple[str, object]] = [("RTA_OIF", ifindex)]
    if destination.prefixlen:
        attrs.append(("RTA_DST", str(destination.network_address)))
    if wanted.gw:
        attrs.append(("RTA_GATEWAY", wanted.gw))
    if destination.version == 6:
        attrs.append(("RTA_PRIORITY", 1))
    fields = {
        "family": _FAMILIES[destination.version],
        "dst_len": destination.prefixlen,
        "table": _TABLE_MAIN,
        "proto": _PROTO_STATIC,
        "scope": 0 if wanted.gw else _SCOPE_LINK,
        "type": _TYPE_UNICAST,
    }
    return packed(rtmsg, *attrs, **fields)


def _differences(interface: Interface, ports: PortRange | None) -> Iterator[str]:
    if ports:
        actual = "-".join(sysctl.LOCAL_PORTS.read_text().split())
        yield from _differing("the range of source ports", str(ports), actual)
    with closing(Netlink()) as kernel:
        found = _find(kernel, interface.name)
        if not found:
            yield f"interface {interface.name!r} is missing in the pod"
            return
        if not found.up:
            yield f"interface {interface.name!r} is down"
        yield from _differing("MAC", interface.mac, mac.text(found.mac))
        yield from _differing("MTU", interface.mtu, found.mtu)
        addresses = set(_addresses(kernel, found.ifindex))
        yield from (
            f"address {a} is missing" for a in interface.addresses if ipaddress.ip_interface(a) not in addresses
        )
        routes = set(_routes(kernel, found.ifindex))
        yield from (
            f"route to {r.dst} via {r.gw or interface.name} is missing"
            for r in interface.routes
            if (ipaddress.ip_network(r.dst), ipaddress.ip_address(r.gw) if r.gw else None) not in routes
        )


def _differing(what: str, wanted: object, actual: object) -> Iterator[str]:
    if wanted is not None and wanted != actual:
        yield f"{what} is {actual}, not {wanted}"


def _find(kernel: Netlink, name: str) -> Link | None:
    try:
        return read_link(kernel, name)
    except OSError as error:
        if error.errno != errno.ENODEV:
            raise
        return None


def _addresses(kernel: Netlink, ifindex: int) -> Iterator[ipaddress.IPv4Interface | ipaddress.IPv6Interface]:
    for body in kernel.dump(RTM_GETADDR, _ADDRESS.pack(socket.AF_UNSPEC, 0, 0, 0, 0)):
        _, length, _, _, index = _ADDRESS.unpack_from(body)
        if index == ifindex:
            found = dict(attributes(body, _ADDRESS.size))
            yield ipaddress.ip_interface((found[_IFA_ADDRESS], length))


def _routes(kernel: Netlink, ifindex: int) -> Iterator[tuple[_Network, _Address | None]]:
    """(destination, next hop or None) of each route over the link."""
    for version, family in _FAMILIES.items():
        anywhere = bytes(4 if version == 4 else 16)
        for body in kernel.dump(RTM_GETROUTE, _ROUTE.pack(family, *[0] * 8)):
            _, length, *_ = _ROUTE.unpack_from(body)
            found = dict(attributes(body, _ROUTE.size))
            if _RTA_OIF in found and number(found[_RTA_OIF]) == ifindex:
                gateway = found.get(_RTA_GATEWAY)
                yield (
                    ipaddress.ip_network((found.get(_RTA_DST, anywhere), length)),
                    ipaddress.ip_address(gateway) if gateway else None,
                )
