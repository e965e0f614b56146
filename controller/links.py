"""Data links in the kernel: veth pairs between node and pod, and our filter on their host ends.

The only module that speaks netlink (pyroute2). pyroute2 0.9 keeps a socket and an event loop for every thread that
ever called it, and does not free them when the thread ends; so one thread owns the node's socket, and whatever is
done inside a pod happens in a thread that lives for that one job, with a socket that is closed at its end.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pyroute2 import IPRoute, netns
from pyroute2.netlink import NLM_F_ACK, NLM_F_CREATE, NLM_F_REQUEST
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.rtnl import RTM_GETLINK, RTM_NEWROUTE

from controller.link_dump import INGRESS, LinkDump
from controller.model import HostLink
from sfc.chain import Interface, Route
from sfc.source_ports import PortRange

T = TypeVar("T")

ALIAS_PREFIX = "sfc/1"
"""Marks our host links; the number is the version of the alias' format."""

FILTER_HANDLE = 1
FILTER_PRIORITY = 0x5FC
GET = (RTM_GETLINK, NLM_F_REQUEST)
"""pyroute2's "get" asks for an acknowledgement besides the answer, never reads it, and so grows with every call."""
PREPEND = (RTM_NEWROUTE, NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE)
"""What `ip route prepend` sends; pyroute2 has no word for it."""

LOCAL_PORTS = Path("/proc/sys/net/ipv4/ip_local_port_range")
"""Of the calling thread's network namespace."""

LINK_GROUP = 1
IFA_F_NODAD = 0x02
SCOPE_LINK = 253
IFF_UP = 0x01


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
class Pair:
    """A data link's two ends, each numbered in its own namespace."""

    ifindex: int
    mac: str
    """Both of the host end."""
    pod_ifindex: int


class Links:
    """The data links of the network namespace in which it was made. Every method may be called from any thread."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "netlink")
        self._route: Any = self._thread.submit(IPRoute, ext_ack=True).result()
        self._dump = LinkDump()
        self._dumping = threading.Lock()
        self._stop = threading.Event()
        self._monitors: list[threading.Thread] = []

    def close(self) -> None:
        self._stop.set()
        for monitor in self._monitors:
            monitor.join()
        self._thread.submit(self._route.close).result()
        self._thread.shutdown()
        self._dump.close()

    def create(self, name: str, identity: Identity, interface: Interface, pod: int) -> Pair:
        """A veth pair: `name` on the node, `interface` in the pod's network namespace (an open descriptor).

        The host end is up, but shut towards the node's own stack; the pod's end has its MAC and MTU, and is down
        until `configure`. A link called `name` that an earlier attempt left behind is replaced.
        """
        with _explained(f"create interface {interface.name!r} in the pod"):
            return self._thread.submit(self._create, name, identity, interface, pod).result()

    def configure(self, pair: Pair, interface: Interface, pod: int, ports: PortRange | None = None) -> None:
        """Brings the pod's end up, with addresses and routes. With `ports`, all the pod's sockets keep to them."""
        _in_namespace(pod, lambda: _configure(pair.pod_ifindex, interface, ports))

    def delete(self, name: str) -> None:
        """Both ends; succeeds when there is none."""
        with _explained(f"delete link {name!r}"):
            self._thread.submit(self._delete, name).result()

    def verify(self, name: str, interface: Interface, pod: int, ports: PortRange | None = None) -> tuple[str, ...]:
        """What differs from what `configure` was given, one sentence each; empty when all is as asked for."""
        with _explained(f"read interface {interface.name!r} of the pod"):
            if not self._thread.submit(self._find, name).result():
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

    def _create(self, name: str, identity: Identity, interface: Interface, pod: int) -> Pair:
        self._add_pair(name, interface, pod)
        link = self._find(name)
        _shut(name)
        self._route.link("set", index=link["index"], ifalias=str(identity), arp=False, state="up")
        return Pair(link["index"], link.get_attr("IFLA_ADDRESS"), pod_ifindex=link.get_attr("IFLA_LINK"))

    def _add_pair(self, name: str, interface: Interface, pod: int) -> None:
        mtu = {} if interface.mtu is None else {"mtu": interface.mtu}
        peer = {"ifname": interface.name, "address": interface.mac, "net_ns_fd": pod, **mtu}
        try:
            self._route.link("add", kind="veth", ifname=name, peer=peer, **mtu)
        except NetlinkError as error:
            if error.code != errno.EEXIST:
                raise
            if not self._delete(name):
                raise NameTakenError(f"the pod already has an interface {interface.name!r}") from error
            self._route.link("add", kind="veth", ifname=name, peer=peer, **mtu)

    def _find(self, name: str) -> Any:
        try:
            return self._route.link(GET, ifname=name)[0]
        except NetlinkError as error:
            if error.code != errno.ENODEV:
                raise
            return None

    def _delete(self, name: str) -> bool:
        with _ignored(errno.ENODEV):
            self._route.link("del", ifname=name)
            return True
        return False

    def _attach(self, ifindex: int, slot: int, program: int, program_name: str) -> None:
        with _ignored(errno.EEXIST):
            self._route.tc("add", "clsact", ifindex)
        self._route.tc(
            "replace-filter",
            "bpf",
            ifindex,
            handle=FILTER_HANDLE,
            parent=INGRESS,
            prio=FILTER_PRIORITY,
            fd=program,
            name=program_name,
            classid=slot,
            direct_action=True,
        )

    def _detach(self, ifindex: int) -> None:
        # In this order: no such filter; no clsact, so no filter either; no such link.
        with _ignored(errno.ENOENT, errno.EINVAL, errno.ENODEV):
            self._route.tc("del-filter", "bpf", ifindex, handle=FILTER_HANDLE, parent=INGRESS, prio=FILTER_PRIORITY)


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


def _configure(index: int, interface: Interface, ports: PortRange | None) -> None:
    """Inside the pod. Replicas share addresses on purpose, so duplicate address detection is off."""
    if ports:
        _keep_to(ports)
    _sysctl("ipv6", interface.name, accept_dad=0, dad_transmits=0)
    if any(_is_ipv6(address) for address in interface.addresses):
        _sysctl("ipv6", interface.name, disable_ipv6=0)
    with IPRoute(ext_ack=True) as route:
        with _explained(f"bring interface {interface.name!r} up"):
            route.link("set", index=index, state="up")
        for address in interface.addresses:
            with _explained(f"add address {address}"):
                _add_address(route, index, address)
        for wanted in interface.routes:
            with _explained(f"add route to {wanted.dst} via {wanted.gw or interface.name}"):
                _add_route(route, index, wanted)


def _keep_to(ports: PortRange) -> None:
    """The source ports of the pod's sockets that choose none themselves; IPv6, too."""
    try:
        LOCAL_PORTS.write_text(f"{ports.first} {ports.last}")
    except OSError as error:
        raise LinkError(
            f"cannot limit the pod's source ports to {ports}: {error.strerror} (does the pod raise the sysctl "
            "net.ipv4.ip_unprivileged_port_start beyond them?)"
        ) from error


def _add_address(route: Any, index: int, address: str) -> None:
    parsed = ipaddress.ip_interface(address)
    flags = {"flags": IFA_F_NODAD} if parsed.version == 6 else {}
    route.addr("add", index=index, address=str(parsed.ip), prefixlen=parsed.network.prefixlen, **flags)


def _add_route(route: Any, index: int, wanted: Route) -> None:
    """Goes before a route to the same destination that the pod's primary network brought, and leaves that in place.

    IPv4 has no metric better than the usual 0, but takes the route that was put in front. IPv6 would spread packets
    over routes of equal metric, so ours is better than the usual 1024.
    """
    next_hop = {"gateway": wanted.gw} if wanted.gw else {"scope": SCOPE_LINK}
    preferred = {"priority": 1} if _is_ipv6(wanted.dst) else {}
    family = socket.AF_INET6 if _is_ipv6(wanted.dst) else socket.AF_INET
    kind = {"type": "unicast", "proto": "static"}
    route.route(PREPEND, family=family, dst=wanted.dst, oif=index, **kind, **next_hop, **preferred)


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
