"""Data links in the kernel: veth pairs between node and pod.

The alias of a host link says whose it is, so the agent remembers nothing. The pod's end is set up in pod_end.py, the
filter on the host end in tc.py, and the shortcut past it in tcx.py.

The index of a host end is chosen: CHOSEN_IFINDEX, a generation, the slot. So the program knows the slot of every frame
without a lookup, and no link soon gets the index of an earlier one in its slot.
"""

from __future__ import annotations

import errno
import secrets
import socket
import threading
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import count

from pyroute2.netlink.rtnl import RTM_DELLINK, RTM_GETLINK, RTM_NEWLINK

from controller.node.kernel import offloads, pod_end, sysctl, tc, tcx
from controller.node.kernel.errors import NameTakenError, explained, ignored
from controller.node.kernel.netlink import IFF_NOARP, IFF_UP, NEW, Link, Netlink, link, open_socket, read_link
from controller.node.plane.model import CHOSEN_IFINDEX, SLOTS, HostLink
from sfc import mac, threads
from sfc.chain import Interface
from sfc.source_ports import PortRange

ALIAS_PREFIX = "sfc/2"
"""Marks our host links; the number is the version of the alias' format."""
FORMER_PREFIX = "sfc/1"
"""Of the version that did not write down chain and stage. Its links stay until their pods end."""
MAX_ALIAS = 255
"""Bytes: the kernel's IFALIASZ (256) less the terminating zero."""

GENERATIONS = CHOSEN_IFINDEX // SLOTS
"""Interface indexes that the links of one slot get in turn."""

_OURS = (f"{ALIAS_PREFIX} ".encode(), f"{FORMER_PREFIX} ".encode())
_RTEXT_FILTER_SKIP_STATS = 1 << 3
_VETH_LINKS = link(
    ("IFLA_EXT_MASK", _RTEXT_FILTER_SKIP_STATS), ("IFLA_LINKINFO", {"attrs": [("IFLA_INFO_KIND", "veth")]})
)
"""Asks for all links of this kind, without their statistics."""
_LINK_GROUP = 1
_LOOK_SECONDS = 0.5
"""Between two looks of the monitor at whether it should end."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What a host link was made for, written on the link itself as its alias: the kernel is the only store.

    The longest alias has 224 of MAX_ALIAS bytes: a pod's UID has 36, an interface's name 15, a drain id 32, a slot 4,
    the names of a chain and a stage 63 each.
    """

    pod_uid: str
    interface: str
    drain_id: str
    slot: int
    chain: str = ""
    """Name of the chain, in the pod's namespace. Empty, as is the stage, on a link of the version before."""
    stage: str = ""

    def __str__(self) -> str:
        words = (ALIAS_PREFIX, self.pod_uid, self.interface, self.drain_id, str(self.slot), self.chain, self.stage)
        return " ".join(words)

    @classmethod
    def parse(cls, alias: str | None) -> Identity | None:
        """None for a link that is not ours."""
        match (alias or "").split(" "):
            case [prefix, pod_uid, interface, drain_id, slot, chain, stage] if prefix == ALIAS_PREFIX:
                known = cls(pod_uid, interface, drain_id, int(slot), chain, stage) if slot.isdecimal() else None
            case [prefix, pod_uid, interface, drain_id, slot] if prefix == FORMER_PREFIX:
                known = cls(pod_uid, interface, drain_id, int(slot)) if slot.isdecimal() else None
            case _:
                known = None
        return known


@dataclass(frozen=True, slots=True)
class HostEnd:
    """The end of a data link that is on the node."""

    ifindex: int
    mac: str
    """Lower case, colon-separated."""


class Links:
    """The data links of the network namespace in which it was made.

    Every method may be called from any thread, and raises LinkError when the kernel refuses. One thread makes all
    changes; `list` has a thread and a socket of its own, so that it does not wait for them.
    """

    def __init__(self) -> None:
        self._thread = threads.pool(1, "netlink")
        self._reader = threads.pool(1, "netlink-reader")
        self._requests = Netlink()
        self._dumps = Netlink()
        self._generations = defaultdict[int, "count[int]"](lambda: count(secrets.randbelow(GENERATIONS)))
        """By slot: so no link has the number that other nodes may still know from one of the 63 before in its slot."""
        self._thread.submit(int).result()  # the threads begin now: in this network namespace, not in a later caller's
        self.tcx = self._reader.submit(tcx.offered).result()
        """Whether the kernel has the hook at which links can have the shortcut."""
        self._stop = threading.Event()
        self._monitors: list[threads.Thread] = []

    def close(self) -> None:
        """Ends the monitors and closes the sockets; the links stay."""
        self._stop.set()
        for monitor in self._monitors:
            monitor.join()
        self._thread.shutdown()
        self._reader.shutdown()
        self._requests.close()
        self._dumps.close()

    def create(self, name: str, identity: Identity, interface: Interface, pod: int) -> HostEnd:
        """Makes a veth pair: `name` on the node, `interface` in the pod's network namespace (an open descriptor).

        The host end is up, but shut towards the node's own stack; the pod's end has its MAC and MTU, and is down
        until `configure`. A link called `name` that an earlier attempt left behind is replaced. Raises NameTakenError
        when the pod has an interface of that name.
        """
        with explained(f"create interface {interface.name!r} in the pod"):
            return self._thread.submit(self._create, name, identity, interface, pod).result()

    def configure(self, interface: Interface, pod: int, ports: PortRange | None = None) -> None:
        """Brings the pod's end up, with addresses and routes. With `ports`, all the pod's sockets keep to them."""
        pod_end.configure(interface, pod, ports)

    def delete(self, name: str) -> None:
        """Removes both ends; succeeds when there is no such link."""
        with explained(f"delete link {name!r}"):
            self._thread.submit(self._delete, name).result()

    def verify(self, name: str, interface: Interface, pod: int, ports: PortRange | None = None) -> tuple[str, ...]:
        """The differences from what `configure` was given, one sentence each; empty when there are none."""
        with explained(f"read interface {interface.name!r} of the pod"):
            if not self._thread.submit(_exists, name).result():
                return (f"host link {name!r} is missing",)
            return pod_end.verify(interface, pod, ports)

    def list(self) -> tuple[HostLink, ...]:
        """Every link of ours on the node, with the slot that its filter carries."""
        with explained("list links"):
            return self._reader.submit(self._list).result()

    def attach(self, ifindex: int, slot: int, program: int, program_name: str) -> None:
        """Puts our filter, with `slot` as its class id, at the link's ingress; replaces our own, touches no other. What
        leaves by the host end, the kernel completes (`offloads`).

        `program` is an open descriptor of the BPF program.
        """
        with explained(f"attach the filter to link {ifindex}"):
            self._thread.submit(self._attach, ifindex, slot, program, program_name).result()

    def detach(self, ifindex: int) -> None:
        """Removes our filter alone; succeeds when the filter or the link does not exist."""
        with explained(f"detach the filter from link {ifindex}"):
            self._thread.submit(tc.detach, self._requests, ifindex).result()

    def give_shortcut(self, ifindex: int, shortcut: tcx.Shortcut) -> None:
        """Puts the shortcut at the link's tcx hook, alone of ours; succeeds when the link does not exist.

        Takes 10 to 30 ms, in which the kernel changes no other link, unless a former agent left a shortcut there.
        """
        with explained(f"give link {ifindex} the shortcut"):
            self._thread.submit(tcx.attach, ifindex, shortcut).result()

    def take_shortcuts(self, ifindex: int) -> None:
        """Removes ours from the link's tcx hook; succeeds when there is none, or no such link. As slow as giving."""
        with explained(f"take the shortcut from link {ifindex}"):
            self._thread.submit(tcx.detach, ifindex).result()

    def monitor(self, on_change: Callable[[], None]) -> None:
        """Calls `on_change`, in a thread, whenever one of our links appears, changes or goes, until `close`."""
        events = open_socket(_LOOK_SECONDS, _LINK_GROUP)
        watch = partial(_watch, events, self._stop, on_change)
        self._monitors.append(threads.start("link-events", watch, until=self._stop.is_set))

    def _list(self) -> tuple[HostLink, ...]:
        """Runs in the reader's thread."""
        bodies = self._dumps.dump(RTM_GETLINK, _VETH_LINKS)
        found = [Link.parse(body) for body in bodies if _is_ours(body)]
        return tuple(
            _host_link(
                each,
                identity,
                tc.read(self._dumps, each.ifindex),
                tcx.read(each.ifindex) if self.tcx else (),
            )
            for each in found
            if (identity := Identity.parse(each.alias))
        )

    # These methods run in the netlink thread.

    def _create(self, name: str, identity: Identity, interface: Interface, pod: int) -> HostEnd:
        self._add_pair(name, identity.slot, interface, pod)
        _shut(name)
        made = read_link(self._requests, name)
        flags = IFF_UP | IFF_NOARP
        alias = ("IFLA_IFALIAS", str(identity))
        self._requests.request(RTM_NEWLINK, link(alias, index=made.ifindex, flags=flags, change=flags))
        return HostEnd(made.ifindex, mac.text(made.mac))

    def _attach(self, ifindex: int, slot: int, program: int, program_name: str) -> None:
        offloads.end(ifindex)
        tc.attach(self._requests, ifindex, slot, program, program_name)

    def _add_pair(self, name: str, slot: int, interface: Interface, pod: int) -> None:
        def add() -> None:
            self._requests.request(RTM_NEWLINK, _pair(name, self._free_index(slot), interface, pod), NEW)

        try:
            add()
        except FileExistsError as error:
            if not self._delete(name):
                raise NameTakenError(f"the pod already has an interface {interface.name!r}") from error
            add()

    def _free_index(self, slot: int) -> int:
        """The next index for a link of the slot. One that another interface has is passed over."""
        while _exists(index := CHOSEN_IFINDEX | next(self._generations[slot]) % GENERATIONS * SLOTS | slot):
            pass
        return index

    def _delete(self, name: str) -> bool:
        with ignored(errno.ENODEV):
            self._requests.request(RTM_DELLINK, link(("IFLA_IFNAME", name)))
            return True
        return False


def _pair(name: str, index: int, interface: Interface, pod: int) -> bytes:
    mtu = [] if interface.mtu is None else [("IFLA_MTU", interface.mtu)]
    address = [("IFLA_ADDRESS", interface.mac)] if interface.mac else []  # else the kernel chooses one
    peer = {"attrs": [("IFLA_IFNAME", interface.name), ("IFLA_NET_NS_FD", pod), *address, *mtu]}
    kind = [("IFLA_INFO_KIND", "veth"), ("IFLA_INFO_DATA", {"attrs": [("VETH_INFO_PEER", peer)]})]
    return link(("IFLA_IFNAME", name), *mtu, ("IFLA_LINKINFO", {"attrs": kind}), index=index)


def _host_link(found: Link, identity: Identity, held: tc.Filter | None, shortcuts: tuple[int, ...]) -> HostLink:
    return HostLink(
        ifindex=found.ifindex,
        name=found.name,
        slot=identity.slot,
        pod_uid=identity.pod_uid,
        interface=identity.interface,
        drain_id=identity.drain_id,
        chain=identity.chain,
        stage=identity.stage,
        filter_slot=held.class_id if held else None,
        program=held.program if held else None,
        shortcuts=shortcuts,
        up=found.running,
        paired=found.paired,
    )


def _is_ours(message: bytes) -> bool:
    return any(prefix in message for prefix in _OURS)


def _exists(link: str | int) -> bool:
    """Whether an interface has this name, or this index."""
    try:
        socket.if_nametoindex(link) if isinstance(link, str) else socket.if_indextoname(link)
    except OSError:
        return False
    return True


def _shut(name: str) -> None:
    """Keeps the node's own stack away from a host end: an unwired link must not be a way from a pod to its node.

    The interface has no address, so the reverse-path filter refuses every IPv4 source; ARP is switched off with the
    link's flags; IPv6 is off altogether.
    """
    sysctl.set_interface("ipv4", name, forwarding=0, rp_filter=1)
    sysctl.set_interface("ipv6", name, forwarding=0, disable_ipv6=1)


def _watch(events: socket.socket, stop: threading.Event, on_change: Callable[[], None]) -> None:
    """Looks for our alias in the raw messages. The caller lists the links to learn what exactly happened."""
    with events:
        while not stop.is_set():
            threads.beat()
            try:
                changed = _is_ours(events.recv(1 << 16))
            except TimeoutError:
                continue
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                changed = True  # messages were lost; one may have been about a link of ours
            if changed:
                on_change()
