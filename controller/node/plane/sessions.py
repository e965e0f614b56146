"""When a session counts as active, which is what a drain waits for. Times are nanoseconds on CLOCK_MONOTONIC."""

from __future__ import annotations

from dataclasses import dataclass

from sfc.chain import Patience

_SECOND = 1_000_000_000
_TCP, _UDP, _SCTP = 6, 17, 132
_NEIGHBOUR = 255
"""ARP and neighbour discovery; bpf/packet.h, PROTOCOL_NEIGHBOUR."""
_ANY = 254
"""A session of many flows; bpf/packet.h, PROTOCOL_ANY."""


@dataclass(frozen=True, slots=True)
class Session:
    """One session, as the `sessions` map has it."""

    connection: int
    """Number of the cross-connection."""
    protocol: int
    """IP protocol number; 255 for a neighbour that was asked for, 254 for all packets between two addresses or of one,
    253 for frames without IP."""
    has_ports: bool
    """False for frames without readable ports, such as a first fragment that is too short. The end of such a
    connection is not seen."""
    upstream: int
    """The link on that side, as bpf/session.h packs an end."""
    downstream: int
    """The link on that side, as bpf/session.h packs an end."""
    last_seen_ns: int
    """When its last packet came."""
    upstream_finished: bool
    """That side has no more data: a FIN of TCP, a SHUTDOWN of SCTP."""
    downstream_finished: bool
    """The same of the other side."""
    reset: bool
    """The latest packet was a RST of TCP or an ABORT of SCTP."""
    answered: bool
    """Both sides have sent packets."""
    carried: frozenset[int] = frozenset()
    """Of a session of many flows: which of TCP, UDP and SCTP it has carried, as IP protocol numbers."""

    @property
    def closed(self) -> bool:
        """The connection has ended, unless it goes on after a reset."""
        return self.reset or (self.upstream_finished and self.downstream_finished)


CLOSED_NS = 1 * _SECOND
"""How long a connection stays active after its end: time for the last acknowledgements, and to see whether it goes on
after a reset. A connection that nobody has answered is active for as long, too. No patience is shorter."""
DEFAULT_PATIENCE = Patience(tcp=300, sctp=300, udp=5, other=5)
"""Of a node, unless told otherwise."""


def active(session: Session, now_ns: int, patience: Patience = DEFAULT_PATIENCE) -> bool:
    """Whether a drain waits for the session. It does not wait for a neighbour that was asked for: that entry only leads
    the answer back. The program has the same rule (`active` in bpf/session.h)."""
    return session.protocol != _NEIGHBOUR and now_ns - session.last_seen_ns <= _patience_ns(session, patience)


def _patience_ns(session: Session, patience: Patience) -> int:
    if session.protocol == _ANY:
        counts = {_UDP: patience.udp, **({_TCP: patience.tcp, _SCTP: patience.sctp} if session.answered else {})}
        return _SECOND * max([patience.other, *(counts.get(protocol, 0) for protocol in session.carried)])
    if session.has_ports and session.protocol in (_TCP, _SCTP):
        if session.closed or not session.answered:
            return CLOSED_NS
        return _SECOND * (patience.tcp if session.protocol == _TCP else patience.sctp)
    return _SECOND * (patience.udp if session.protocol == _UDP else patience.other)
