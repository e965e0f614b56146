"""Keeps the tunnel to the other nodes: its device is there, with this agent's program at it, and frames pass the device
where the node allows it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from sfc import threads

log = logging.getLogger(__name__)

LOOK_SECONDS = 10.0


class Interface(Protocol):
    """The one with the node's address."""

    @property
    def ifindex(self) -> int:
        """0 if frames have to go by the device."""

    @property
    def reason(self) -> str:
        """Why they have to."""


class Underlay(Protocol):
    """What carries the tunnel's frames. Every method raises an error that says what is wrong."""

    def interface(self) -> Interface:
        """As it is now."""

    def attach(self, ifindex: int) -> None:
        """Frames may pass the device at this interface. Idempotent, as is `detach`."""

    def detach(self, ifindex: int) -> None:
        """The counterpart of `attach`."""

    def routes(self, peers: Iterable[str], interface: int) -> Mapping[str, int]:
        """By address of each node: the index of that interface if frames leave by it, else 0."""


class Peers(Protocol):
    """The other nodes in the program's maps."""

    @property
    def underlay(self) -> int:
        """The index of the interface at which frames may pass the device; 0: none."""

    def set_underlay(self, address: str, port: int, ifindex: int) -> None:
        """Sets it, and what is looked for there: this node's address, and the UDP port."""

    def set_routes(self, routes: Mapping[str, int]) -> None:
        """By address of each node: by which interface frames leave past the device; 0: by the device."""

    def known(self) -> Mapping[str, int]:
        """The number of each node, by address."""


class DirectWay:
    """Past the tunnel's device, where the node allows it."""

    def __init__(self, peers: Peers, underlay: Underlay, address: str, port: int) -> None:
        """`address` and `port`: the tunnel's."""
        self._peers = peers
        self._underlay = underlay
        self._address, self._port = address, port
        self._told: object = None

    def look(self) -> None:
        """Opens this way, or shuts it, for all nodes that are known now. Never raises: the device does the same. What
        holds is logged when it changes."""
        try:
            found = self._underlay.interface()
            ifindex, reason = found.ifindex, found.reason
        except Exception as error:  # noqa: BLE001  # whatever it is: frames go by the device
            ifindex, reason = 0, str(error) or repr(error)
        try:
            self._lead(ifindex)
        except Exception as error:  # noqa: BLE001
            reason = reason or str(error) or repr(error)
        if reason and reason != self._told:
            log.warning("frames between nodes go by the tunnel's device, which is slower", extra={"reason": reason})
        elif not reason and ifindex != self._told:
            log.info("frames between nodes pass the tunnel's device", extra={"ifindex": ifindex})
        self._told = reason or ifindex

    def _lead(self, ifindex: int) -> None:
        before = self._peers.underlay
        self._peers.set_underlay(self._address, self._port, ifindex)
        if before not in (0, ifindex):
            self._underlay.detach(before)
        if ifindex:
            self._underlay.attach(ifindex)
        self._peers.set_routes(self._underlay.routes(self._peers.known(), ifindex))


class TunnelKeeper:
    """Its thread makes the device, and mends it. The others only ask whether it is there."""

    def __init__(
        self,
        make: Callable[[], int],
        lead_through: Callable[[int], None],
        payload: Callable[[], int],
        pass_it: Callable[[], None] = lambda: None,
        of_others: Callable[[], int | None] = lambda: None,
    ) -> None:
        """`make` makes the device unless it is there as it should be, and returns its interface index; it raises an
        error that says what is wrong. `lead_through`: frames for other nodes leave by the device from now on.
        `payload`: the MTU of interfaces whose frames fit through it; raises, too. `pass_it`: looks whether frames may
        pass the device. `of_others`: the smallest MTU that other nodes have published."""
        self._make = make
        self._lead_through = lead_through
        self._payload = payload
        self._pass_it = pass_it
        self._of_others = of_others
        self.payload: int | None = None
        """At the last look: the MTU of interfaces whose frames fit through this node's end of the tunnel."""
        self._problem: str | None = "not made yet"

    @property
    def there(self) -> bool:
        """Whether other nodes reach this one, as far as it can tell itself."""
        return self._problem is None

    def mtu(self) -> int | None:
        """Of interfaces whose chain says none: their frames fit through the tunnel between all nodes that are known.
        None if that is not known."""
        try:
            self.payload = self._payload()
        except Exception:
            log.exception("the MTU between the nodes is not known: interfaces get the kernel's default")
            return None
        return self.smallest()

    def smallest(self) -> int | None:
        """The same by what was found at the last look. Cheap."""
        return min((mtu for mtu in (self.payload, self._of_others()) if mtu), default=None)

    def keep(self) -> None:
        """Looks once. What goes wrong is logged when it begins, and when it ends."""
        try:
            self._lead_through(self._make())
            self.payload = self._payload()
            problem = None
        except Exception as error:  # noqa: BLE001  # whatever it is: chains on this node go on without the tunnel
            problem = str(error) or repr(error)
        if problem and problem != self._problem:
            log.error("no tunnel: replicas here and on other nodes do not reach each other", extra={"error": problem})
        elif self._problem and not problem:
            log.info("tunnel ready")
        self._problem = problem
        if not problem:
            self._pass_it()

    def run(self, stop: threading.Event) -> None:
        """Until `stop`."""
        while not stop.wait(LOOK_SECONDS):
            threads.beat()
            self.keep()
