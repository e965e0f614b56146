"""When a session counts as active: what a drain waits for. Pure; times are nanoseconds of CLOCK_MONOTONIC."""

from __future__ import annotations

from dataclasses import dataclass

_SECOND = 1_000_000_000
_TCP = 6
_NEIGHBOUR = 255
"""ARP and neighbour discovery; bpf/packet.h, PROTOCOL_NEIGHBOUR."""


@dataclass(frozen=True, slots=True)
class Session:
    """One conversation, as the `sessions` map remembers it."""

    connection: int
    protocol: int
    has_ports: bool
    """False for what is known by addresses alone, such as a first fragment too short for its ports: nobody sees
    such a TCP session end."""
    upstream: int
    """End of that side: slot << 32 | ifindex."""
    downstream: int
    last_seen_ns: int
    upstream_finished: bool
    """A FIN has come from that side."""
    downstream_finished: bool
    reset: bool


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long a silent session stays active."""

    tcp_closed_ns: int = 1 * _SECOND
    """After both FINs or a RST: time for the last acknowledgements."""
    tcp_idle_ns: int = 300 * _SECOND
    other_ns: int = 5 * _SECOND
    """UDP, ICMP and whatever else says nothing about its end."""

    @classmethod
    def of_seconds(cls, *, tcp_idle: float, other_idle: float) -> Timeouts:
        return cls(tcp_idle_ns=int(tcp_idle * _SECOND), other_ns=int(other_idle * _SECOND))


DEFAULT_TIMEOUTS = Timeouts()


def active(session: Session, now_ns: int, timeouts: Timeouts = DEFAULT_TIMEOUTS) -> bool:
    """Who asked for a neighbour is remembered for the answer's sake; nobody waits for that when a replica leaves."""
    if session.protocol == _NEIGHBOUR:
        return False
    return now_ns - session.last_seen_ns <= _patience(session, timeouts)


def _patience(session: Session, timeouts: Timeouts) -> int:
    if session.protocol != _TCP or not session.has_ports:
        return timeouts.other_ns
    closed = session.reset or (session.upstream_finished and session.downstream_finished)
    return timeouts.tcp_closed_ns if closed else timeouts.tcp_idle_ns
