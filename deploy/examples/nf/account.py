"""Counts what happened to the traffic. Pure: no socket and no clock. Times are seconds on any clock of the caller's.

A datagram is received when its echo comes back. It is lost when its flow is settled without the echo. The loss counts
for the second in which the datagram was *sent*, because that is the second to look for in the other logs.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Flow:
    """One UDP flow as its sender knows it. Sequence numbers count from 0."""

    sent_at: list[float] = field(default_factory=list)
    echoed: set[int] = field(default_factory=set)
    highest: int = -1
    arrived: int = 0
    """Datagrams of this flow that reached the server, as the echoes report."""

    @property
    def complete(self) -> bool:
        """True when the echo of every datagram has come back."""
        return len(self.echoed) == len(self.sent_at)


@dataclass(slots=True)
class Account:
    """The counts of the whole run. The seconds of the report count from `started`."""

    started: float
    packets: Counter[str] = field(default_factory=Counter)
    connections: Counter[str] = field(default_factory=Counter)
    lost_per_second: Counter[int] = field(default_factory=Counter)
    breaks: list[dict[str, Any]] = field(default_factory=list)

    def sent(self, flow: Flow, now: float) -> int:
        """Counts the next datagram of `flow`, and returns its sequence number."""
        flow.sent_at.append(now)
        self.packets["sent"] += 1
        return len(flow.sent_at) - 1

    def echoed(self, flow: Flow, sequence: int, arrived: int) -> None:
        """Counts an echo. `arrived`: how many datagrams of the flow had reached the server by then."""
        flow.arrived = max(flow.arrived, arrived)
        if sequence in flow.echoed:
            self.packets["duplicated"] += 1
            return
        self.packets["received"] += 1
        if sequence < flow.highest:
            self.packets["reordered"] += 1
        flow.echoed.add(sequence)
        flow.highest = max(flow.highest, sequence)

    def strayed(self) -> None:
        """Counts an echo that reached a flow which did not send the datagram."""
        self.packets["strayed"] += 1

    def settle(self, flow: Flow) -> None:
        """Counts all datagrams of `flow` without an echo as lost. Call it once for each flow."""
        lost = [at for sequence, at in enumerate(flow.sent_at) if sequence not in flow.echoed]
        self.packets["lost"] += len(lost)
        self.packets["lostBeforeServer"] += min(len(lost), max(0, len(flow.sent_at) - flow.arrived))
        self.lost_per_second.update(self._second(at) for at in lost)

    def opened(self) -> None:
        """Counts a connection that the client tries to open."""
        self.connections["opened"] += 1

    def completed(self) -> None:
        """Counts a connection that ended as it should."""
        self.connections["completed"] += 1

    def broken(self, reason: str, now: float) -> None:
        """Counts a connection that broke, with a word for the reason."""
        self.connections["broken"] += 1
        self.breaks.append({"second": self._second(now), "reason": reason})

    def retransmitted(self, segments: int) -> None:
        """Adds TCP segments that a connection sent again."""
        self.connections["retransmittedSegments"] += segments

    def progress(self, now: float) -> dict[str, Any]:
        """The totals so far. A loss appears when its flow is settled, a few seconds after it happened."""
        packets = ("sent", "received", "lost", "lostBeforeServer", "duplicated", "reordered", "strayed")
        connections = ("opened", "completed", "broken", "retransmittedSegments")
        return {
            "seconds": round(now - self.started, 1),
            "packets": {name: self.packets[name] for name in packets},
            "connections": {name: self.connections[name] for name in connections},
        }

    def report(self, now: float) -> dict[str, Any]:
        """The result. `lost` is exact; `lostBeforeServer` is an upper limit: a lost echo may have a higher count."""
        return self.progress(now) | {
            "lostPerSecond": {str(second): lost for second, lost in sorted(self.lost_per_second.items())},
            "breaks": self.breaks,
        }

    def _second(self, at: float) -> int:
        return int(at - self.started)
