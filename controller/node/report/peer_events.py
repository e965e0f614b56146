"""Reports nodes that fall silent, and come back, as Events of the Node, in a thread of its own.

When a node dies, all others notice at once. Their Events have one name, so that the API server keeps the first; they
try at random moments, and each of them tells about few nodes (docs/decisions/0037).
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from controller.node.plane.far import WIRE_VERSION
from controller.node.plane.hearing import Hearing, Silent
from controller.node.report import COMPONENT
from kube.api import ApiError
from kube.events import Event, EventApi, Reporter, repeatable_name
from kube.objects import EVENTS, NODES
from sfc import threads

log = logging.getLogger(__name__)

SILENT, HEARD = "PeerSilent", "PeerHeard"
FOREIGN = "WireVersionDiffers"
CUT_OFF, RECONNECTED = "MostPeersSilent", "PeersHeard"
LOOK_SECONDS = 1.0
LASTING_SECONDS = 5.0
"""What is over sooner is in the log only."""
TRIES_A_SECOND = 20
"""By all nodes that notice the same, together."""
MOST_SPREAD_SECONDS = 120.0
WINDOW_SECONDS = 600
"""An Event is written once in this time, by whomever."""
MOST_EVENTS = 5
"""How many of them this node writes in that time about others."""


@dataclass(slots=True)
class _Noticed:
    """What is to be told about a node, and has been."""

    due: float
    """When this node tells."""
    told: bool | None = None
    """Whether this node's Event was kept; None until it was tried."""


class PeerEvents:
    """The thread, and what it has reported."""

    def __init__(  # noqa: PLR0913
        self,
        api: EventApi,
        node: str,
        hearing: Callable[[], Hearing],
        names: Callable[[], Mapping[str, str]],
        *,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        chance: Callable[[], float] = random.random,
    ) -> None:
        """`names`: of the other nodes, by address. `clock`: seconds. `chance`: 0 to 1."""
        self._api = api
        self._node = node
        self._reporter = Reporter(COMPONENT, node)
        self._hearing = hearing
        self._names = names
        self._clock = clock
        self._now = now
        self._chance = chance
        self._noticed: dict[str, _Noticed] = {}
        """By address."""
        self._cut_off: _Noticed | None = None
        self._written: deque[float] = deque()
        """When this node told about others, in the last WINDOW_SECONDS."""
        self._named: dict[str, str] = {}
        """Names of silent nodes by address: their entries may be withdrawn."""

    def run(self, stop: threading.Event) -> None:
        """Until `stop` is set."""
        threads.every(LOOK_SECONDS, stop, self.look, "silent nodes could not be reported")

    def look(self) -> None:
        """Reports what is due, once; a write that the API server does not answer is repeated at the next look."""
        hearing, now = self._hearing(), self._clock()
        if not (hearing.silent or self._noticed or self._cut_off):
            return
        noticed = {*hearing.silent, *self._noticed}
        named = self._named if noticed <= self._named.keys() else {**self._named, **self._names()}
        self._named = {address: name for address, name in named.items() if address in noticed}
        while self._written and now - self._written[0] >= WINDOW_SECONDS:
            self._written.popleft()
        self._look_at_itself(hearing, now)
        for address in noticed:
            if not self._look_at(address, hearing, now):
                break  # the API server does not answer

    def _look_at_itself(self, hearing: Hearing, now: float) -> None:
        its = self._cut_off
        if hearing.cut_off and its is None:
            self._cut_off = _Noticed(now + LASTING_SECONDS)
        elif hearing.cut_off and its and now >= its.due and its.told is None:
            its.told = self._tell(self._node, Event(CUT_OFF, self._holding(hearing), warning=True))
        elif its and not hearing.cut_off:
            event = Event(RECONNECTED, "most other nodes answer again: this node does what it hears of them")
            if not (its.told and hearing.peers) or self._tell(self._node, event) is not None:
                self._cut_off = None

    def _look_at(self, address: str, hearing: Hearing, now: float) -> bool:
        """False if something was to be told, and the API server does not answer."""
        its, silent, name = self._noticed.get(address), hearing.silent.get(address), self._named.get(address, "")
        if its is None:
            spread = min(len(hearing.peers) / TRIES_A_SECOND, MOST_SPREAD_SECONDS)
            self._noticed[address] = _Noticed(now + LASTING_SECONDS + spread * self._chance())
        elif silent is None:
            event = Event(HEARD, f"answers node {self._node} again: sessions choose its replicas, too")
            if its.told and address in hearing.peers and self._tell(name, event) is None:
                return False
            del self._noticed[address]
        elif name and now >= its.due and its.told is None and self._may_tell(hearing, silent):
            its.told = self._tell(name, self._silence(address, silent, now))
            if its.told is None:
                return False
            self._written.append(now)
        return True

    def _may_tell(self, hearing: Hearing, silent: Silent) -> bool:
        """A node that is cut off tells nothing about others but their version, which it has heard."""
        return len(self._written) < MOST_EVENTS and (not hearing.cut_off or silent.version is not None)

    def _silence(self, address: str, silent: Silent, now: float) -> Event:
        if silent.version is not None:
            return Event(
                FOREIGN,
                f"its node agent sends in version {silent.version} of the wire, that of node {self._node} in version "
                f"{WIRE_VERSION}: they take nothing from each other, and sessions choose replicas on nodes of one "
                "version; finish the upgrade: kubectl -n sfc-system rollout status daemonset/sfc-node",
                warning=True,
            )
        return Event(
            SILENT,
            f"has not answered node {self._node} through the tunnel ({address}) for {now - silent.since:.0f} s: "
            "sessions choose replicas on other nodes; see whether the node is up (kubectl get nodes), and what lies "
            "between the two: the tunnel's UDP port has to pass both ways",
            warning=True,
        )

    def _holding(self, hearing: Hearing) -> str:
        names = sorted(self._named.get(address, address) for address in hearing.silent)
        shown = ", ".join(names[:5]) + (" …" if len(names) > 5 else "")
        return (
            f"{len(names)} of {len(hearing.peers)} nodes with replicas of the same chains are silent ({shown}): this "
            "node is probably cut off. It holds still, and goes on sending to them; see its network"
        )

    def _tell(self, name: str, event: Event) -> bool | None:
        """True if the Event is stored now; None if the API server does not answer, so that it has to be tried again."""
        moment = self._now()
        window = str(int(moment.timestamp()) // WINDOW_SECONDS)
        about = NODES.reference("", name, name)  # the UID of Events about nodes is their name, as the kubelet has it
        fields = {"peer": name, "reason": event.reason}
        threads.beat()
        try:
            body = self._reporter.event(event, about, repeatable_name(name, event.reason, window), moment)
            self._api.create(EVENTS.path(body["metadata"]["namespace"]), body)
        except ApiError as error:
            if error.status == 409:  # somebody else has told
                return False
            log.warning("could not report a silent node", extra={**fields, "error": str(error)})
            return None if error.status in (0, 429) or error.status >= 500 else False
        return True
