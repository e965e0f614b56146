"""What became of the traffic, as a pure account: fed with what was sent and what came back, asked for the result.

Nothing here knows a socket or a clock; times are seconds on whatever clock the caller uses.

A datagram has one of two ends. Its echo came back, or its flow was settled without it: then it is lost, and the loss
is booked on the second in which it was *sent*, because that is the second to look for in the other logs.
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
    """The server's own count of this flow's datagrams, as its echoes report it."""

    @property
    def complete(self) -> bool:
        return len(self.echoed) == len(self.sent_at)


@dataclass(slots=True)
class Account:
    """The whole run. `started` is the time from which the seconds of the report count."""

    started: float
    packets: Counter[str] = field(default_factory=Counter)
    connections: Counter[str] = field(default_factory=Counter)
    lost_per_second: Counter[int] = field(default_factory=Counter)
    breaks: list[dict[str, Any]] = field(default_factory=list)

    def sent(self, flow: Flow, now: float) -> int:
        """Books the next datagram of `flow`; returns its sequence number."""
        flow.sent_at.append(now)
        self.packets["sent"] += 1
        return len(flow.sent_at) - 1

    def echoed(self, flow: Flow, sequence: int, arrived: int) -> None:
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
        """An echo reached a flow that did not send the datagram."""
        self.packets["strayed"] += 1

    def settle(self, flow: Flow) -> None:
        """Closes the account of a flow that nobody waits for any longer."""
        lost = [at for sequence, at in enumerate(flow.sent_at) if sequence not in flow.echoed]
        self.packets["lost"] += len(lost)
        self.packets["lostBeforeServer"] += min(len(lost), max(0, len(flow.sent_at) - flow.arrived))
        self.lost_per_second.update(self._second(at) for at in lost)

    def opened(self) -> None:
        self.connections["opened"] += 1

    def completed(self) -> None:
        self.connections["completed"] += 1

    def broken(self, reason: str, now: float) -> None:
        self.connections["broken"] += 1
        self.breaks.append({"second": self._second(now), "reason": reason})

    def retransmitted(self, segments: int) -> None:
        self.connections["retransmittedSegments"] += segments

    def progress(self, now: float) -> dict[str, Any]:
        """The totals so far. Losses appear when their flow is settled, a few seconds after they happened."""
        packets = ("sent", "received", "lost", "lostBeforeServer", "duplicated", "reordered", "strayed")
        connections = ("opened", "completed", "broken", "retransmittedSegments")
        return {
            "seconds": round(now - self.started, 1),
            "packets": {name: self.packets[name] for name in packets},
            "connections": {name: self.connections[name] for name in connections},
        }

    def report(self, now: float) -> dict[str, Any]:
        """The result. `lost` is exact; `lostBeforeServer` is at most that: a lost echo may have held a higher count."""
        return self.progress(now) | {
            "lostPerSecond": {str(second): lost for second, lost in sorted(self.lost_per_second.items())},
            "breaks": self.breaks,
        }

    def _second(self, at: float) -> int:
        return int(at - self.started)
