"""Data links in the kernel: veth pairs between node and pod, and our filter on their host ends.

The only module that speaks netlink with pyroute2. Its messages go over a plain socket: its own IPRoute takes a quarter
to half a millisecond of Python for a request and more to be opened, which is most of an ADD, and keeps an event loop
for every thread that ever called it. One thread belongs to the node's network namespace; whatever is done inside a pod
happens in a thread that lives for that one job.
"""

from __future__ import annotations

import errno
import fcntl
import ipaddress
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pyroute2 import IPRoute, netns
from pyroute2.netlink import NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.rtnl import (
    RTM_DELLINK,
    RTM_DELTFILTER,
    RTM_GETLINK,
    RTM_NEWADDR,
    RTM_NEWLINK,
    RTM_NEWQDISC,
    RTM_NEWROUTE,
    RTM_NEWTFILTER,
)
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg
from pyroute2.netlink.rtnl.tcmsg import tcmsg

from controller.node.kernel.netlink import ETH_P_ALL, INGRESS, LinkDump, attributes
from controller.node.plane.model import HostLink
from sfc import mac
from sfc.chain import Interface, Route
from sfc.source_ports import PortRange

T = TypeVar("T")

ALIAS_PREFIX = "sfc/1"
"""Marks our host links; the number is the version of the alias' format."""

FILTER_HANDLE = 1
FILTER_PRIORITY = 0x5FC
CLSACT_HANDLE = 0xFFFF0000
CLSACT_PARENT = 0xFFFFFFF1
TCA_BPF_FLAG_ACT_DIRECT = 1
GET = (RTM_GETLINK, NLM_F_REQUEST)
"""pyroute2's "get" asks for an acknowledgement besides the answer, never reads it, and so grows with every call."""
NEW = NLM_F_CREATE | NLM_F_EXCL
PREPEND = NLM_F_CREATE
"""What `ip route prepend` sends."""

LOCAL_PORTS = Path("/proc/sys/net/ipv4/ip_local_port_range")
"""Of the calling thread's network namespace."""

LINK_GROUP = 1
IFA_F_NODAD = 0x02
TABLE_MAIN, PROTO_STATIC, SCOPE_LINK, TYPE_UNICAST = 254, 4, 253, 1
IFF_UP, IFF_NOARP = 0x01, 0x80

SOL_NETLINK, NETLINK_CAP_ACK, NETLINK_EXT_ACK = 270, 10, 11
ACKNOWLEDGEMENT = struct.Struct("=IHHII i IHHII")
"""A header, the error, the header of what is acknowledged; words about the error may follow."""
NLMSGERR_ATTR_MSG = 1
TIMEOUT_SECONDS = 5.0

SIOCGIFHWADDR = 0x8927
IFREQ_BYTES = 40
IFREQ_MAC = slice(18, 24)
"""Behind the name, and the address' family."""


class LinkError(Exception):
    """The kernel refused; the message says what was tried and why it was refused."""


class NameTakenError(LinkError):
    """The pod already has an interface of that name."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Whose a host link is. Written on the link itself, as its alias: the kernel is the only store."""

    pod_uid: str
    interface: str
    drain_id: str
    slot: int

    def __str__(self) -> str:
        return f"{ALIAS_PREFIX} {self.pod_uid} {self.interface} {self.drain_id} {self.slot}"

    @classmethod
    def parse(cls, alias: str | None) -> Identity | None:
        """None for a link that is not ours."""
        match (alias or "").split(" "):
            case [prefix, pod_uid, interface, drain_id, slot] if prefix == ALIAS_PREFIX and slot.isdecimal():
                return cls(pod_uid, interface, drain_id, int(slot))
        return None


@dataclass(frozen=True, slots=True)
class HostEnd:
    """Of a data link."""

    ifindex: int
    mac: str


class _Kernel:
    """Requests from the network namespace of the thread that makes it. One thread at a time may use it."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        self._socket.settimeout(TIMEOUT_SECONDS)
        for option in (NETLINK_CAP_ACK, NETLINK_EXT_ACK):
            self._socket.setsockopt(SOL_NETLINK, option, 1)
        self._sequence = 0

    def close(self) -> None:
        self._socket.close()

    def request(self, kind: int, message: Any, flags: int = 0) -> None:
        """Raises NetlinkError, with the kernel's words where it has any."""
        self._sequence += 1
        message["header"] = {
            "type": kind,
            "flags": NLM_F_REQUEST | NLM_F_ACK | flags,
            "sequence_number": self._sequence,
        }
        message.encode()
        self._socket.send(message.data)
        while True:  # until it is not the late answer to what was given up
            answer = self._socket.recv(1 << 12)
            _, _, _, sequence, _, error, *_ = ACKNOWLEDGEMENT.unpack_from(answer)
            if sequence == self._sequence:
                break
        if error:
            words = dict(attributes(answer, ACKNOWLEDGEMENT.size)).get(NLMSGERR_ATTR_MSG, b"").rstrip(b"\0").decode()
            raise NetlinkError(-error, words or os.strerror(-error))


class Links:
    """The data links of the network namespace in which it was made. Every method may be called from any thread."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "netlink")
        self._kernel = self._thread.submit(_Kernel).result()
        self._dump = LinkDump()
        self._dumping = threading.Lock()
        self._stop = threading.Event()
        self._monitors: list[threading.Thread] = []

    def close(self) -> None:
        self._stop.set()
        for monitor in self._monitors:
            monitor.join()
        self._thread.shutdown()
        self._kernel.close()
        self._dump.close()

    def create(self, name: str, identity: Identity, interface: Interface, pod: int) -> HostEnd:
        """A veth pair: `name` on the node, `interface` in the pod's network namespace (an open descriptor).

        The host end is up, but shut towards the node's own stack; the pod's end has its MAC and MTU, and is down
        until `configure`. A link called `name` that an earlier attempt left behind is replaced.
        """
        with _explained(f"create interface {interface.name!r} in the pod"):
            return self._thread.submit(self._create, name, identity, interface, pod).result()

    def configure(self, interface: Interface, pod: int, ports: PortRange | None = None) -> None:
        """Brings the pod's end up, with addresses and routes. With `ports`, all the pod's sockets keep to them."""
        _in_namespace(pod, lambda: _configure(interface, ports))

    def delete(self, name: str) -> None:
        """Both ends; succeeds when there is none."""
        with _explained(f"delete link {name!r}"):
            self._thread.submit(self._delete, name).result()

    def verify(self, name: str, interface: Interface, pod: int, ports: PortRange | None = None) -> tuple[str, ...]:
        """What differs from what `configure` was given, one sentence each; empty when all is as asked for."""
        with _explained(f"read interface {interface.name!r} of the pod"):
            if not self._thread.submit(_exists, name).result():
                return (f"host link {name!r} is missing",)
            return _in_namespace(pod, lambda: tuple(_differences(interface, ports)))

    def list(self) -> tuple[HostLink, ...]:
        """Every link of ours on the node, with the slot that its filter carries."""
        with _explained("list links"), self._dumping:
            found = (
                (link, Identity.parse(link.alias), self._dump.filter(link.ifindex, FILTER_PRIORITY, FILTER_HANDLE))
                for link in self._dump.links(ALIAS_PREFIX)
            )
            return tuple(
                HostLink(
                    ifindex=link.ifindex,
                    name=link.name,
                    slot=identity.slot,
                    pod_uid=identity.pod_uid,
                    interface=identity.interface,
                    drain_id=identity.drain_id,
                    filter_slot=held.class_id if held else None,
                    program=held.program if held else None,
                    up=link.up,
                    paired=link.paired,
                )
                for link, identity, held in found
                if identity
            )

    def attach(self, ifindex: int, slot: int, program: int, program_name: str) -> None:
        """Our filter, with `slot` as its class id, at the link's ingress; replaces our own, touches no other."""
        with _explained(f"attach the filter to link {ifindex}"):
            self._thread.submit(self._attach, ifindex, slot, program, program_name).result()

    def detach(self, ifindex: int) -> None:
        """Removes our filter alone; succeeds when it, or the link, is not there."""
        with _explained(f"detach the filter from link {ifindex}"):
            self._thread.submit(self._detach, ifindex).result()

    def monitor(self, on_change: Callable[[], None]) -> None:
        """Calls `on_change`, in a thread, whenever one of our links appears, changes or goes, until `close`."""
        events = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        events.bind((0, LINK_GROUP))
        events.settimeout(0.5)
        thread = threading.Thread(target=_watch, args=(events, self._stop, on_change), name="link-events", daemon=True)
        thread.start()
        self._monitors.append(thread)

    # What follows runs in the netlink thread.

    def _create(self, name: str, identity: Identity, interface: Interface, pod: int) -> HostEnd:
        self._add_pair(name, interface, pod)
        ifindex = socket.if_nametoindex(name)
        _shut(name)
        flags = IFF_UP | IFF_NOARP
        self._kernel.request(
            RTM_NEWLINK, _link(("IFLA_IFALIAS", str(identity)), index=ifindex, flags=flags, change=flags)
        )
        return HostEnd(ifindex, _mac(name))

    def _add_pair(self, name: str, interface: Interface, pod: int) -> None:
        mtu = [] if interface.mtu is None else [("IFLA_MTU", interface.mtu)]
        mac = [] if interface.mac is None else [("IFLA_ADDRESS", interface.mac)]
        peer = {"attrs": [("IFLA_IFNAME", interface.name), ("IFLA_NET_NS_FD", pod), *mac, *mtu]}
        kind = [("IFLA_INFO_KIND", "veth"), ("IFLA_INFO_DATA", {"attrs": [("VETH_INFO_PEER", peer)]})]

        def add() -> None:
            pair = _link(("IFLA_IFNAME", name), *mtu, ("IFLA_LINKINFO", {"attrs": kind}))
            self._kernel.request(RTM_NEWLINK, pair, NEW)

        try:
            add()
        except NetlinkError as error:
            if error.code != errno.EEXIST:
                raise
            if not self._delete(name):
                raise NameTakenError(f"the pod already has an interface {interface.name!r}") from error
            add()

    def _delete(self, name: str) -> bool:
        with _ignored(errno.ENODEV):
            self._kernel.request(RTM_DELLINK, _link(("IFLA_IFNAME", name)))
            return True
        return False

    def _attach(self, ifindex: int, slot: int, program: int, program_name: str) -> None:
        clsact = {"index": ifindex, "handle": CLSACT_HANDLE, "parent": CLSACT_PARENT}
        with _ignored(errno.EEXIST):
            self._kernel.request(RTM_NEWQDISC, _message(tcmsg, ("TCA_KIND", "clsact"), **clsact), NEW)
        options = {
            "attrs": [
                ("TCA_BPF_FD", program),
                ("TCA_BPF_NAME", program_name),
                ("TCA_BPF_CLASSID", slot),
                ("TCA_BPF_FLAGS", TCA_BPF_FLAG_ACT_DIRECT),
            ]
        }
        self._kernel.request(
            RTM_NEWTFILTER,
            _filter(ifindex, ("TCA_KIND", "bpf"), ("TCA_OPTIONS", options)),
            NLM_F_CREATE | NLM_F_REPLACE,
        )

    def _detach(self, ifindex: int) -> None:
        # In this order: no such filter; no clsact, so no filter either; no such link.
        with _ignored(errno.ENOENT, errno.EINVAL, errno.ENODEV):
            self._kernel.request(RTM_DELTFILTER, _filter(ifindex, ("TCA_KIND", "bpf")))


def _message(kind: Callable[[], Any], *attrs: tuple[str, object], **fields: int) -> Any:
    message = kind()
    for name, value in fields.items():
        message[name] = value
    message["attrs"] = list(attrs)
    return message


def _link(*attrs: tuple[str, object], **fields: int) -> Any:
    return _message(ifinfmsg, *attrs, **fields)


def _filter(ifindex: int, *attrs: tuple[str, object]) -> Any:
    """Ours."""
    info = FILTER_PRIORITY << 16 | ETH_P_ALL
    return _message(tcmsg, *attrs, index=ifindex, handle=FILTER_HANDLE, parent=INGRESS, info=info)


def _exists(name: str) -> bool:
    return any(name == found for _, found in socket.if_nameindex())


def _mac(name: str) -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        answer = fcntl.ioctl(any_socket, SIOCGIFHWADDR, name.encode().ljust(IFREQ_BYTES, b"\0"))
    return mac.text(answer[IFREQ_MAC])


def _shut(name: str) -> None:
    """Keeps the node's own stack away from a host end: an unwired link must not be a way from a pod to its node.

    The interface has no address, so the reverse-path filter refuses every IPv4 source; ARP is switched off with the
    link's flags; IPv6 is off altogether.
    """
    _sysctl("ipv4", name, forwarding=0, rp_filter=1)
    _sysctl("ipv6", name, forwarding=0, disable_ipv6=1)


def _sysctl(family: str, interface: str, **values: int) -> None:
    """Of the calling thread's network namespace."""
    folder = Path("/proc/sys/net", family, "conf", interface)
    if not folder.exists():  # this family is off for the interface: IPv6 needs an MTU of 1280, or the kernel lacks it
        return
    for key, value in values.items():
        (folder / key).write_text(str(value))


def _in_namespace(namespace: int, job: Callable[[], T]) -> T:
    """Runs the job in a thread that enters the namespace and ends there: it has no way back to get wrong."""

    def run() -> T:
        netns.setns(namespace)
        return job()

    with ThreadPoolExecutor(1, "pod") as thread:
        return thread.submit(run).result()


def _configure(interface: Interface, ports: PortRange | None) -> None:
    """Inside the pod. Replicas share addresses on purpose, so duplicate address detection is off."""
    if ports:
        _keep_to(ports)
    _sysctl("ipv6", interface.name, accept_dad=0, dad_transmits=0)
    if any(_is_ipv6(address) for address in interface.addresses):
        _sysctl("ipv6", interface.name, disable_ipv6=0)
    with closing(_Kernel()) as kernel:
        with _explained(f"bring interface {interface.name!r} up"):
            index = socket.if_nametoindex(interface.name)
            kernel.request(RTM_NEWLINK, _link(index=index, flags=IFF_UP, change=IFF_UP))
        for address in interface.addresses:
            with _explained(f"add address {address}"):
                kernel.request(RTM_NEWADDR, _address(index, address), NEW)
        for wanted in interface.routes:
            with _explained(f"add route to {wanted.dst} via {wanted.gw or interface.name}"):
                kernel.request(RTM_NEWROUTE, _route(index, wanted), PREPEND)


def _keep_to(ports: PortRange) -> None:
    """The source ports of the pod's sockets that choose none themselves; IPv6, too."""
    try:
        LOCAL_PORTS.write_text(f"{ports.first} {ports.last}")
    except OSError as error:
        raise LinkError(
            f"cannot limit the pod's source ports to {ports}: {error.strerror} (does the pod raise the sysctl "
            "net.ipv4.ip_unprivileged_port_start beyond them?)"
        ) from error


def _address(index: int, address: str) -> Any:
    parsed = ipaddress.ip_interface(address)
    fields = {"index": index, "prefixlen": parsed.network.prefixlen}
    attr = ("IFA_ADDRESS", str(parsed.ip))
    if parsed.version == 6:
        return _message(ifaddrmsg, attr, family=socket.AF_INET6, flags=IFA_F_NODAD, **fields)
    return _message(ifaddrmsg, attr, ("IFA_LOCAL", str(parsed.ip)), family=socket.AF_INET, **fields)


def _route(index: int, wanted: Route) -> Any:
    """Goes before a route to the same destination that the pod's primary network brought, and leaves that in place.

    IPv4 has no metric better than the usual 0, but takes the route that was put in front. IPv6 would spread packets
    over routes of equal metric, so ours is better than the usual 1024.
    """
    destination = ipaddress.ip_network(wanted.dst)
    is_ipv6 = destination.version == 6
    attrs: list[tuple[str, object]] = [("RTA_OIF", index)]
    if destination.prefixlen:
        attrs.append(("RTA_DST", str(destination.network_address)))
    if wanted.gw:
        attrs.append(("RTA_GATEWAY", wanted.gw))
    if is_ipv6:
        attrs.append(("RTA_PRIORITY", 1))
    fields = {
        "family": socket.AF_INET6 if is_ipv6 else socket.AF_INET,
        "dst_len": destination.prefixlen,
        "table": TABLE_MAIN,
        "proto": PROTO_STATIC,
        "scope": 0 if wanted.gw else SCOPE_LINK,
        "type": TYPE_UNICAST,
    }
    return _message(rtmsg, *attrs, **fields)


def _differences(interface: Interface, ports: PortRange | None) -> Iterator[str]:
    if ports:
        yield from _differing("the range of source ports", str(ports), "-".join(LOCAL_PORTS.read_text().split()))
    with IPRoute(ext_ack=True) as route:
        try:
            link = route.link(GET, ifname=interface.name)[0]
        except NetlinkError as error:
            if error.code != errno.ENODEV:
                raise
            yield f"interface {interface.name!r} is missing in the pod"
            return
        if not link["flags"] & IFF_UP:
            yield f"interface {interface.name!r} is down"
        yield from _differing("MAC", interface.mac, link.get_attr("IFLA_ADDRESS"))
        yield from _differing("MTU", interface.mtu, link.get_attr("IFLA_MTU"))
        addresses = _addresses(route, link["index"])
        yield from (
            f"address {a} is missing" for a in interface.addresses if ipaddress.ip_interface(a) not in addresses
        )
        routes = _routes(route, link["index"])
        yield from (
            f"route to {r.dst} via {r.gw or interface.name} is missing"
            for r in interface.routes
            if _route_key(r.dst, r.gw) not in routes
        )


def _differing(what: str, wanted: object, actual: object) -> Iterator[str]:
    if wanted is not None and wanted != actual:
        yield f"{what} is {actual}, not {wanted}"


def _addresses(route: Any, index: int) -> frozenset[object]:
    return frozenset(
        ipaddress.ip_interface(f"{shown.get_attr('IFA_ADDRESS')}/{shown['prefixlen']}")
        for shown in route.get_addr(index=index)
    )


def _routes(route: Any, index: int) -> frozenset[object]:
    return frozenset(
        _route_key(f"{shown.get_attr('RTA_DST') or anywhere}/{shown['dst_len']}", shown.get_attr("RTA_GATEWAY"))
        for family, anywhere in (
            (socket.AF_INET, ipaddress.IPv4Address(0)),
            (socket.AF_INET6, ipaddress.IPv6Address(0)),
        )
        for shown in route.get_routes(family=family, oif=index)
    )


def _route_key(dst: str, gw: str | None) -> tuple[object, object]:
    return ipaddress.ip_network(dst), ipaddress.ip_address(gw) if gw else None


def _is_ipv6(address: str) -> bool:
    return ":" in address


def _watch(events: socket.socket, stop: threading.Event, on_change: Callable[[], None]) -> None:
    """Looks for our alias in the raw messages: what exactly happened is for the reader of the links to find out."""
    ours = f"{ALIAS_PREFIX} ".encode()
    with events:
        while not stop.is_set():
            try:
                changed = ours in events.recv(1 << 16)
            except TimeoutError:
                continue
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                changed = True  # messages were lost; one may have been about a link of ours
            if changed:
                on_change()


@contextmanager
def _ignored(*codes: int) -> Iterator[None]:
    try:
        yield
    except NetlinkError as error:
        if error.code not in codes:
            raise


@contextmanager
def _explained(doing: str) -> Iterator[None]:
    try:
        yield
    except NetlinkError as error:
        raise LinkError(f"cannot {doing}: {error.args[1]}") from error
    except OSError as error:
        raise LinkError(f"cannot {doing}: {error.strerror or error}") from error
