"""When a session counts as active, which is what a drain waits for. Times are nanoseconds on CLOCK_MONOTONIC."""

from __future__ import annotations

from dataclasses import dataclass

_SECOND = 1_000_000_000
_TCP = 6
_NEIGHBOUR = 255
"""ARP and neighbour discovery; bpf/packet.h, PROTOCOL_NEIGHBOUR."""


@dataclass(frozen=True, slots=True)
class Session:
    """One session, as the `sessions` map has it."""

    connection: int
    """Number of the cross-connection."""
    protocol: int
    """IP protocol number, or 255 for a neighbour that was asked for."""
    has_ports: bool
    """False for frames without readable ports, such as a first fragment that is too short. The end of such a TCP
    session is not seen."""
    upstream: int
    """The link on that side, as bpf/session.h packs an end."""
    downstream: int
    """The link on that side, as bpf/session.h packs an end."""
    last_seen_ns: int
    """When its last packet came."""
    upstream_finished: bool
    """A FIN has come from that side."""
    downstream_finished: bool
    """A FIN has come from that side."""
    reset: bool
    """A RST has come from either side."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long a silent session stays active."""

    tcp_closed_ns: int = 1 * _SECOND
    """For a TCP session after both FINs or a RST: time for the last acknowledgements."""
    tcp_idle_ns: int = 300 * _SECOND
    """For an open TCP session."""
    other_ns: int = 5 * _SECOND
    """For UDP, ICMP and everything else whose packets do not show its end."""

    @classmethod
    def of_seconds(cls, *, tcp_idle: float, other_idle: float) -> Timeouts:
        """Both in seconds; the time after a TCP session's end stays the default."""
        return cls(tcp_idle_ns=int(tcp_idle * _SECOND), other_ns=int(other_idle * _SECOND))


DEFAULT_TIMEOUTS = Timeouts()


def active(session: Session, now_ns: int, timeouts: Timeouts = DEFAULT_TIMEOUTS) -> bool:
    """Whether a drain waits for the session. It does not wait for a neighbour that was asked for: that entry only leads
    the answer back."""
    if session.protocol == _NEIGHBOUR:
        return False
    return now_ns - session.last_seen_ns <= _patience(session, timeouts)


def _patience(session: Session, timeouts: Timeouts) -> int:
    if session.protocol != _TCP or not session.has_ports:
        return timeouts.other_ns
    closed = session.reset or (session.upstream_finished and session.downstream_finished)
    return timeouts.tcp_closed_ns if closed else timeouts.tcp_idle_ns
