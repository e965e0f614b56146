"""What this node can not do for a chain, for all reports; and an Event of the chain, written in a thread of its own."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime

from controller.node.plane.cluster import ChainKey
from controller.node.plane.plan import State, Trouble
from controller.node.report import COMPONENT
from kube.api import ApiError
from kube.events import Event, EventApi, Reporter, record, repeatable_name
from kube.objects import CHAINS
from sfc import threads
from sfc.chain import Chain

log = logging.getLogger(__name__)

REFUSED = "DataPathRefused"
LASTING_SECONDS = 2.0
"""A change that the kernel refuses for a shorter time is not reported: a link may vanish during a pass."""
LOOK_SECONDS = 2.0
AGAIN_SECONDS = 600.0
"""Between two writes of one Event while the trouble lasts."""


def troubles(state: State) -> Mapping[ChainKey, tuple[Trouble, ...]]:
    """By chain, for those that have any."""
    found = {key: part.troubles for key, part in state.plan.parts.items() if key and part.troubles}
    for key, refusal in state.refused.items():
        if key and state.written_at - refusal.since >= LASTING_SECONDS:
            message = (
                f"the kernel refused a change, and the chain stays as it is on this node until it is accepted: "
                f"{refusal.message}"
            )
            found[key] = (*found.get(key, ()), Trouble(REFUSED, message))
    return found


class Troubles:
    """The thread, and what it has reported."""

    def __init__(
        self, api: EventApi, node: str, state: Callable[[], State], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`clock`: seconds."""
        self._api = api
        self._node = node
        self._reporter = Reporter(COMPONENT, node)
        self._state = state
        self._clock = clock
        self._told: dict[str, float] = {}
        """By the Event's name: when it was written."""

    def run(self, stop: threading.Event) -> None:
        """Until `stop` is set."""
        threads.every(LOOK_SECONDS, stop, self.look, "troubles of chains could not be reported")

    def look(self) -> None:
        """Reports what is new, once; a write that fails is repeated at the next look."""
        now = self._clock()
        present = {self._name(chain, trouble): (chain, trouble) for chain, trouble in _present(self._state())}
        for name, (chain, trouble) in present.items():
            if now - self._told.get(name, now - AGAIN_SECONDS) >= AGAIN_SECONDS and self._tell(name, chain, trouble):
                self._told[name] = now
        self._told = {name: at for name, at in self._told.items() if name in present}

    def _tell(self, name: str, chain: Chain, trouble: Trouble) -> bool:
        about = CHAINS.reference(chain.namespace, chain.name, chain.uid)
        what = Event(trouble.reason, f"node {self._node}: {trouble.message}", warning=True)
        fields = {"chain": f"{chain.namespace}/{chain.name}", "reason": trouble.reason, "trouble": trouble.message}
        threads.beat()
        try:
            record(self._api, self._reporter.event(what, about, name, datetime.now(UTC)))
        except ApiError as error:
            if error.status not in (403, 404):  # the namespace is being deleted
                log.warning("could not report a trouble", extra={**fields, "error": str(error)})
                return False
        log.warning("not all can be done for a chain", extra=fields)
        return True

    def _name(self, chain: Chain, trouble: Trouble) -> str:
        return repeatable_name(chain.name, chain.uid, self._node, trouble.reason, trouble.message)


def _present(state: State) -> Iterator[tuple[Chain, Trouble]]:
    """One for each chain and reason: a chain may have the same trouble with many CrossConnections."""
    chains = state.cluster.chains if state.cluster else {}
    for key, of_chain in troubles(state).items():
        by_reason: dict[str, list[Trouble]] = {}
        for trouble in of_chain:
            by_reason.setdefault(trouble.reason, []).append(trouble)
        for first, *more in by_reason.values():
            others = f"; and so for {len(more)} more of its CrossConnections" if more else ""
            if chain := chains.get(key):
                yield chain, replace(first, message=first.message + others)
