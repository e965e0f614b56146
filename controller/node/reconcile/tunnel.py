"""Keeps the tunnel to the other nodes: its device is there, with this agent's program at it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from sfc import threads

log = logging.getLogger(__name__)

LOOK_SECONDS = 10.0


class TunnelKeeper:
    """Its thread makes the device, and mends it. The others only ask whether it is there."""

    def __init__(
        self, make: Callable[[], int], lead_through: Callable[[int], None], payload: Callable[[], int]
    ) -> None:
        """`make` makes the device unless it is there as it should be, and returns its interface index; it raises an
        error that says what is wrong. `lead_through`: frames for other nodes leave by the device from now on.
        `payload`: the MTU of interfaces whose frames fit through it; raises, too."""
        self._make = make
        self._lead_through = lead_through
        self._payload = payload
        self._problem: str | None = "not made yet"

    @property
    def there(self) -> bool:
        """Whether other nodes reach this one, as far as it can tell itself."""
        return self._problem is None

    def mtu(self) -> int | None:
        """Of interfaces whose chain says none: their frames fit through the tunnel. None if that is not known."""
        try:
            return self._payload()
        except Exception:
            log.exception("the MTU between the nodes is not known: interfaces get the kernel's default")
            return None

    def keep(self) -> None:
        """Looks once. What goes wrong is logged when it begins, and when it ends."""
        try:
            self._lead_through(self._make())
            problem = None
        except Exception as error:  # noqa: BLE001  # whatever it is: chains on this node go on without the tunnel
            problem = str(error) or repr(error)
        if problem and problem != self._problem:
            log.error("no tunnel: replicas here and on other nodes do not reach each other", extra={"error": problem})
        elif self._problem and not problem:
            log.info("tunnel ready")
        self._problem = problem

    def run(self, stop: threading.Event) -> None:
        """Until `stop`."""
        self.keep()
        while not stop.wait(LOOK_SECONDS):
            threads.beat()
            self.keep()
