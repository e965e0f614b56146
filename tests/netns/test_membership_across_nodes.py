"""Random membership changes on three nodes under traffic, while each node learns late what the others publish.

Replicas join, become unready and ready, drain, crash, lose their interface; agents restart, with or without the API
server, and hand over to another program; a node is cut off and comes back. What one node publishes reaches each other
one by itself, up to two seconds late, and only as it is then.

Every packet is counted. A session is a sequence of questions and answers between the replica that opened it and the
one that got the first question. The oracle (`Account`) knows what may have harmed a session, and when; whatever else is
lost, arrives twice, or arrives at another replica, fails the test. A new session must reach a replica that serves at
that moment by what its own node knows.

CHANGES=5000 in the environment is the long form, and SEED repeats a run.
"""

from __future__ import annotations

import os
import random
import re
import select
import socket
import struct
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count, cycle
from pathlib import Path
from typing import Any

from controller.node.kernel.datapath import Datapath
from controller.node.plane import replica as pod
from controller.node.plane.cluster import Cluster
from controller.node.plane.drain import Drain
from controller.node.reconcile.heartbeat import EchoSender, Heartbeat
from sfc.chain import Patience
from tests.hash_key import HASH_KEY
from tests.netns.node import inside, run, settles
from tests.netns.nodes import PORT, Entries, Member, Nodes, nodes_of, passing_the_device
from tests.netns.topology import SO_RCVBUFFORCE, Node, Replica

SEED = int(os.environ.get("SEED", "1"))
CHANGES = int(os.environ.get("CHANGES", "25"))
NODES = 3
STAGES = ("client", "server")
MOST = 4
"""Replicas of a stage on a node."""
LAG_SECONDS = 2.0
"""The most by which a node's view is late."""
SESSIONS = 60
"""At the same time."""
ROUND_SECONDS = 0.03
ROUNDS = 2
"""After which a packet has been received, if it has arrived: in each, all that has come is received."""
TRANSIT_SECONDS = 1.0
"""In which the kernel has certainly carried a packet, however busy the machine is."""
LOST_SECONDS = 4.0
"""Until a question without an answer counts as lost."""
EVENTS_SECONDS = 1.0
"""What happened so close to a fault is in its message."""
LEAST = 5
"""Of frames that were returned, sessions that crossed and sessions that stayed: otherwise the run has shown little."""
MOST_FAULTS = 10
"""After which a run ends early."""
SLOTS = 60
"""Of a node, given in turn, so that most are used many times."""
PATIENCE = Patience(6, 6, 6, 6)
"""Seconds. Longer than any session is silent here, and short, so that drains end."""
SILENT_SECONDS = 3.0
"""A session that was silent for longer, because this test got no CPU, is given up: a drain may not wait for it."""
MAGIC = b"soak"
SOL_PACKET, IGNORE_OUTGOING, ETH_P_ALL = 263, 23, 3
ASKS, ANSWERS = 0, 1
FIN, SYN, ACK = 1, 2, 16
_TOLD = struct.Struct("!4sIIB")
"""Magic, session, number, whether it asks or answers."""
now = time.monotonic


@dataclass(eq=False)
class Place:
    """A replica, and what has become of it."""

    replica: Replica
    member: Member
    socket: socket.socket
    up: bool = True
    """Its interface."""
    serves: list[list[float]] = field(default_factory=list)
    """[from, until] of each time in which it may have new sessions, by what its own node knows."""

    def began(self) -> None:
        if not self.serves or self.serves[-1][1] != float("inf"):
            self.serves.append([now(), float("inf")])

    def ended(self) -> None:
        if self.serves and self.serves[-1][1] == float("inf"):
            self.serves[-1][1] = now()

    def served(self, since: float, until: float) -> bool:
        return any(begin <= until and end >= since for begin, end in self.serves)


@dataclass(eq=False)
class Session:
    number: int
    opener: Place
    stage: str
    """Whose replicas it reaches."""
    protocol: int
    version: int
    """Of IP; 0 for a single frame that belongs to no session."""
    length: int
    """Questions."""
    at: Place | None = None
    """Where the first question arrived."""
    next: int = 0
    before: float = 0.0
    """When the last question but one was sent."""
    sent: float = 0.0
    left: float = 0.0
    """When the last packet was sent, question or answer."""
    round: int = 0
    """In which it was sent."""
    due: float = float("inf")
    """When it must have arrived: ROUNDS later, and after TRANSIT_SECONDS."""
    answered: bool = True
    arrived: bool = True
    over: bool = False
    moved: bool = False


Hits = Callable[[Session, Place | None], bool]
"""Whether something harms a session that is at that replica; None: it may be on its way to any."""


@dataclass(frozen=True)
class Harm:
    """What may break sessions, and lose their packets."""

    kind: str
    since: float
    until: float
    hits: Hits
    only: str
    """What it explains; empty for everything."""


class Account:
    """What happened to packets, and whether something explains it."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.faults: list[str] = []
        self.events: deque[tuple[float, str]] = deque(maxlen=2000)
        """What was changed, what nodes learned, and which counters rose: for the message about a fault."""
        self._harms: deque[Harm] = deque(maxlen=400)
        self._open: dict[object, Harm] = {}
        self._lock = threading.Lock()

    @contextmanager
    def harm(self, kind: str, hits: Hits, only: str = "") -> Iterator[None]:
        """During the block."""
        token = object()
        with self._lock:
            self._open[token] = Harm(kind, now(), float("inf"), hits, only)
        try:
            yield
        finally:
            with self._lock:
                begun = self._open.pop(token)
                self._harms.append(replace(begun, until=now()))

    def judge(self, what: str, session: Session, since: float, until: float, told: str) -> None:
        """Something that must not happen has happened to a session, unless something harmed it in that time. A packet
        is not lost for what ended before it was sent, or began when it must have arrived; a session may be moved by
        what happened since its last packet."""
        with self._lock:
            harms = [*self._harms, *self._open.values()]
        moving = any(h.until >= session.before and h.since <= until and h.hits(session, session.at) for h in harms)
        places = {session.at, None} if moving else {session.at}
        kinds = (
            h.kind
            for h in harms
            if h.until >= since
            and h.since <= until
            and h.only in ("", what)
            and any(h.hits(session, at) for at in places)
        )
        kind = next(kinds, None)
        self.counts[f"{what}: {kind or 'unexplained'}"] += 1
        if kind is None:
            events = [*self.events]
            around = [f"\n    {at:.3f} {event}" for at, event in events if abs(at - session.sent) < EVENTS_SECONDS]
            self.faults.append(f"{now():.3f} {what}: session {session.number} {told}; around then: {''.join(around)}")


class Traffic:
    """Sends and receives, in a thread of its own."""

    def __init__(self, account: Account, seed: int) -> None:
        self.account = account
        self.believed: Callable[[Member], set[str]] = lambda _: set()
        """Replicas of other nodes that serve, as far as a node knows."""
        self.watch: Callable[[], None] = lambda: None
        """Called after each round."""
        self.introduced: Callable[[Member], bool] = lambda _: True
        """Whether all others know of a node. The first replica of a chain on a node reaches others only then."""
        self.left: deque[tuple[float, Place]] = deque(maxlen=100)
        """Those that left the targets, and when."""
        self._random = random.Random(seed)
        self._poll = select.epoll()
        self._places: dict[int, Place] = {}
        self.sessions: dict[int, Session] = {}
        self._numbers = count(1)
        self._round = 0
        self.ending = False
        """Nothing begins any more."""
        self._stop = threading.Event()
        self._lock = threading.RLock()
        """Held while a packet is handled, and while places come and go."""
        self._macs = {stage: bytes([2, 0x5F, 0xC0, 0, 1, at]) for at, stage in enumerate(STAGES)}

    def add(self, replica: Replica, member: Member) -> Place:
        interface = next(iter(replica.slots))
        opened = replica.socket(socket.AF_PACKET, socket.SOCK_RAW)
        opened.setsockopt(SOL_PACKET, IGNORE_OUTGOING, 1)
        opened.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 8 << 20)
        opened.setblocking(False)
        opened.bind((interface, ETH_P_ALL))
        place = Place(replica, member, opened)
        with self._lock:
            self._places[opened.fileno()] = place
            self._poll.register(opened, select.EPOLLIN)
        return place

    def remove(self, place: Place) -> None:
        with self._lock:
            del self._places[place.socket.fileno()]
            self._poll.unregister(place.socket)
            place.socket.close()
            for session in self.sessions.values():
                if session.opener is place:
                    session.over = True

    def places(self, stage: str | None = None) -> list[Place]:
        with self._lock:
            return [place for place in self._places.values() if stage in (None, place.replica.stage)]

    def end_sessions_of(self, place: Place) -> None:
        """The replica ends what it has opened, as one that shuts down does."""
        for session in self.sessions.values():
            if session.opener is place:
                session.length = min(session.length, session.next + 2)

    @contextmanager
    def flowing(self) -> Iterator[None]:
        thread = threading.Thread(target=self._run)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join()
            self._poll.close()

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                until = now() + ROUND_SECONDS
                while arrived := self._poll.poll(max(until - now(), 0)):
                    for descriptor, _ in arrived:
                        self._receive(descriptor)
                with self._lock:
                    self._go_on()
                self.watch()
        except Exception as error:  # noqa: BLE001
            self.account.faults.append(f"the traffic ended: {error!r}")

    def _go_on(self) -> None:
        self._round += 1
        for session in [*self.sessions.values()]:
            if session.due == float("inf") and self._round >= session.round + ROUNDS:
                session.due = max(now(), session.left + TRANSIT_SECONDS)
            if session.answered and now() - session.left > SILENT_SECONDS:
                session.over = True
            if session.over or (session.answered and session.next >= session.length):
                self.account.counts["sessions completed" if not session.over else "sessions given up"] += 1
                del self.sessions[session.number]
            elif session.answered:
                if self._random.random() < 0.5:
                    self._ask(session)
            elif now() > max(session.due, session.sent + LOST_SECONDS):
                told = "question" if not session.arrived else "answer"
                place = session.at.replica.name if session.at else "nowhere yet"
                self.account.judge(
                    f"{told} lost", session, session.sent, session.due,
                    f"({session.version}, {session.protocol}) of {session.opener.replica.name} at {place}: number "
                    f"{session.next - 1}, sent {now() - session.sent:.1f} s ago at {session.sent:.3f}",
                )  # fmt: skip
                del self.sessions[session.number]
        openers = [
            place
            for place in self._places.values()
            if place.up and not _pod(place).terminating and self.introduced(place.member)
        ]
        while openers and not self.ending and len(self.sessions) < SESSIONS:
            opener = self._random.choice(openers)
            number = next(self._numbers)
            stage = next(stage for stage in STAGES if stage != opener.replica.stage)
            protocol = self._random.choice((socket.IPPROTO_TCP, socket.IPPROTO_UDP))
            version, length = self._random.choice((4, 6)), self._random.choice((1, 2, 10, 40, 100))
            session = Session(number, opener, stage, protocol, version if length > 1 else 0, length)
            self.sessions[number] = session
            self._ask(session)

    def _ask(self, session: Session) -> None:
        session.sent, session.before = (at := now()), session.sent or at
        session.answered = session.arrived = False
        last = session.next == session.length - 1
        flags = SYN if not session.next else FIN | ACK if last else ACK
        self._send(session, session.opener, ASKS, session.next, flags)
        session.next += 1
        self.account.counts["questions"] += 1

    def _send(self, session: Session, place: Place, kind: int, number: int, flags: int) -> None:
        session.left, session.round, session.due = now(), self._round, float("inf")
        with suppress(OSError):  # its interface is gone, or down: the harm is noted
            place.socket.send(self._frame(session, place.replica.stage, kind, number, flags))

    def _frame(self, session: Session, stage: str, kind: int, number: int, flags: int) -> bytes:
        told = _TOLD.pack(MAGIC, session.number, number, kind)
        if not session.version:
            return b"\2\0" + struct.pack("!I", session.number) + self._macs[stage] + b"\x88\xb5" + told
        near, far = (session.number & 0xFFFF) | 1024, 7
        ports = (near, far) if kind == ASKS else (far, near)
        if session.protocol == socket.IPPROTO_TCP:
            payload = struct.pack("!HHIIBBHHH", *ports, number + 1, number + 1, 0x50, flags, 8192, 0, 0) + told
        else:
            payload = struct.pack("!HHHH", *ports, 8 + len(told), 0) + told
        asks = (struct.pack("!I", session.number), struct.pack("!I", 0))
        source, target = asks if kind == ASKS else asks[::-1]
        other = next(each for each in STAGES if each != stage)
        ether = self._macs[other] + self._macs[stage]
        if session.version == 4:
            head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 0, 0x4000, 64, session.protocol, 0)
            addresses = b"\x7b" + source[1:] + b"\x7b" + target[1:]
            return ether + b"\x08\x00" + head + addresses + payload
        head = struct.pack("!IHBB", 6 << 28, len(payload), session.protocol, 64)
        prefix = bytes.fromhex("fd00123400000000 00000000")
        return ether + b"\x86\xdd" + head + prefix + source + prefix + target + payload

    def _receive(self, descriptor: int) -> None:
        with self._lock:
            place = self._places.get(descriptor)
            while place:
                try:
                    frame = place.socket.recv(2048)
                except OSError:
                    return
                at = frame.find(MAGIC, 14)
                if at >= 0:
                    _, number, which, kind = _TOLD.unpack_from(frame, at)
                    self._arrived(place, number, which, kind)

    def _arrived(self, place: Place, number: int, which: int, kind: int) -> None:
        session = self.sessions.get(number)
        if session is None:
            self.account.counts["late"] += 1
            return
        if which != session.next - 1 or (session.answered if kind == ANSWERS else session.arrived):
            self.account.judge("twice", session, session.before, now(), f"number {which} at {place.replica.name}")
            return
        if not session.version:
            session.arrived = session.answered = True
            return
        if kind == ANSWERS:
            if place is not session.opener:
                told = f"of {session.opener.replica.name} answered at {place.replica.name}"
                self.account.judge("answer at another", session, session.sent, now(), told)
                session.over = True
            session.answered = True
            return
        session.arrived = True
        if session.at is None:
            self._begun(session, place)
        elif session.at is not place:
            told = f"of {session.opener.replica.name} went from {session.at.replica.name} to {place.replica.name}"
            told = f"{told}, number {which}, sent at {session.sent:.3f}"
            self.account.judge("moved", session, session.before, now(), told)
            session.at, session.moved = place, True
        last = which == session.length - 1
        flags = SYN | ACK if not which else FIN | ACK if last else ACK
        self._send(session, place, ANSWERS, which, flags)

    def _begun(self, session: Session, place: Place) -> None:
        session.at = place
        crossed = place.member is not session.opener.member
        self.account.counts["sessions that crossed" if crossed else "sessions that stayed on their node"] += 1
        since = session.sent - LAG_SECONDS - 1
        if place.served(session.sent - 0.001, now()):
            return
        late = self.believed(session.opener.member) - {each.replica.name for each in self.places() if _serves(each)}
        left = {other.replica.name for at, other in self.left if at >= since}
        if _pod(place).terminating and (late | left) - {place.replica.name}:
            self.account.counts["sessions that one refused, and another one took that drains"] += 1
        else:
            told = f"of {session.opener.replica.name} began at {place.replica.name}, which served {place.serves}"
            self.account.judge("at one that does not serve", session, session.sent, now(), told)


class Views:
    """What each node publishes, on its way to each of the others."""

    def __init__(self, nodes: Nodes, choose: random.Random) -> None:
        self._nodes = nodes
        self._random = choose
        self._under_way: dict[tuple[str, str], deque[tuple[float, Entries]]] = defaultdict(deque)
        self._published: dict[str, Entries] = {}
        self._met: set[tuple[str, str]] = set()
        """(node, another one that knows of links there)"""
        self.held: set[str] = set()
        """Nodes that neither write nor learn anything now."""
        self.away = False
        """The API server is."""

    def publish(self) -> None:
        for member in self._nodes.members:
            if self.away or member.name in self.held:
                continue
            entries = member.published()
            if entries != self._published.get(member.name):
                self._published[member.name] = entries
                for other in self._nodes.members:
                    if other is not member:
                        under_way = self._under_way[member.name, other.name]
                        due = now() + self._random.random() ** 2 * LAG_SECONDS
                        under_way.append((max(due, under_way[-1][0] if under_way else 0), entries))

    def deliver(self, at_once: Sequence[Member] = ()) -> None:
        """Each node learns what is due, and only the last of it."""
        for member in self._nodes.members:
            if self.away or member.name in self.held:
                continue
            news = {}
            for (writer, reader), under_way in self._under_way.items():
                while reader == member.name and under_way and (under_way[0][0] <= now() or member in at_once):
                    news[writer] = under_way.popleft()[1]
            if news:
                member.heard = {**member.heard, **news}
                member.world.node.reconciler.reconcile(verify=False)
                member.look()
                self._met |= {(writer, member.name) for writer, entries in news.items() if entries}
                self._met -= {(writer, member.name) for writer, entries in news.items() if not entries}

    @property
    def late(self) -> bool:
        """Whether something is on its way."""
        return any(self._under_way.values())

    def introduced(self, member: Member) -> bool:
        """Whether all other nodes have learned that it is in the chain, and let its frames in."""
        return all((member.name, other.name) in self._met for other in self._nodes.members if other is not member)

    def known_everywhere(self, place: Place) -> bool:
        """Whether all other nodes know that the replica serves."""
        return all(
            place.replica.name in _serving(other.heard.get(place.member.name, {}))
            for other in self._nodes.members
            if other is not place.member
        )


def _serving(entries: Entries) -> set[str]:
    return {
        link["uid"]
        for entry in entries.values()
        for side in ("upstream", "downstream")
        for link in entry.get(side, ())
        if link["state"] == "serving"
    }


class Churn:
    """Changes one thing after the other."""

    def __init__(
        self, nodes: Nodes, traffic: Traffic, programs: Callable[[Member], Datapath], ways: ExitStack, seed: int
    ) -> None:
        """`programs` loads another program for a node. `ways`: ends when the test does."""
        self._nodes, self._traffic, self._account = nodes, traffic, traffic.account
        self._programs = programs
        self._random = random.Random(seed)
        self.views = Views(nodes, self._random)
        traffic.introduced, traffic.believed = self.views.introduced, believed
        self.changes: Counter[str] = Counter()
        self._later: list[tuple[float, Callable[[], None]]] = []
        self._drained: set[Place] = set()
        self._ways = ways
        self._cut: Member | None = None
        self._quiet_until = 0.0

    def begin(self) -> None:
        for member in self._nodes.members:
            for stage in STAGES:
                for _ in range(2):
                    self._become_ready(self._added(member, stage))
        self.views.publish()
        time.sleep(LAG_SECONDS)
        self.views.deliver()

    def step(self) -> None:
        """One change at most, and what is due."""
        for at, what in [each for each in self._later if each[0] <= now()]:
            self._later.remove((at, what))
            what()
        kinds = {
            "join": 8, "ready": 16, "unready": 6, "drain": 8, "crash": 3, "interface down": 2, "agent restarted": 2,
            "agent succeeded": 0.5, "node cut off": 0.5, "API server away": 0.1, "verified": 3,
        }  # fmt: skip
        (kind,) = self._random.choices([*kinds], [*kinds.values()])
        if getattr(self, f"_{kind.replace(' ', '_')}")():
            self.changes[kind] += kind != "verified"
        self._tick()

    def _tick(self) -> None:
        """What agents do all the time: count the sessions of those that drain, end drains, publish, learn."""
        for member in self._nodes.members:
            node = member.world.node
            if any(not drain.ended for drain in node.reconciler.state.drains.values()):
                node.reconciler.sessions.count()
                node.reconciler.reconcile(verify=False)
            for place in self._places(member):
                drain = node.reconciler.state.drains.get(place.replica.name)
                if drain and drain.ended and place not in self._drained:
                    self._drained.add(place)  # its containers end now
                    self._later.append((now() + self._random.random(), partial(self._remove, place, "drained")))
        self.views.publish()
        self.views.deliver()

    @property
    def cut(self) -> bool:
        """Whether a node is cut off, or was until just now."""
        return self._cut is not None or self._quiet_until > now()

    def disagreement(self) -> str | None:
        """How the nodes' targets differ, when all have learned all."""
        serving = sorted(place.replica.name for place in self._traffic.places() if _serves(place))
        known = [
            sorted(
                uid
                for part in member.world.node.reconciler.state.plan.parts.values()
                for members in part.serving.values()
                for uid, _ in members
            )
            for member in self._nodes.members
            if self._places(member)
        ]
        return None if all(each == serving for each in known) else f"{serving} serve, and the nodes know {known}"

    def finish(self) -> None:
        """Nothing changes any more, until all have learned all."""
        while True:
            for at, what in [each for each in self._later if each[0] <= now()]:
                self._later.remove((at, what))
                what()
            self._tick()
            if not self._later and not self.views.late:
                return
            time.sleep(0.02)

    # The changes. Each answers whether there was something to change.

    def _join(self) -> bool:
        member, stage = self._random.choice(self._nodes.members), self._random.choice(STAGES)
        if member.name in self.views.held or len(self._places(member, stage)) >= MOST:
            return False
        self._added(member, stage)
        return True

    def _ready(self) -> bool:
        waiting = [
            place
            for place in self._traffic.places()
            if place.up and not (its := _pod(place)).ready and not its.terminating
        ]
        if not waiting:
            return False
        self._become_ready(self._random.choice(waiting))
        return True

    def _unready(self) -> bool:
        if not (place := self._moving()):
            return False
        loses = partial(_reaches, place)
        self._note("not ready", place)
        with self._account.harm("not ready", loses, only="moved"):
            place.member.world.node.become(place.replica, ready=False)
            self._reconcile(place.member)
        self._ended(place)
        return True

    def _drain(self) -> bool:
        if not (place := self._leaving()):
            return False
        self._note("drains", place)
        place.member.world.node.drain(place.replica)
        self._ended(place)
        self._traffic.end_sessions_of(place)
        return True

    def _crash(self) -> bool:
        if not (place := self._moving(suddenly=True)):
            return False
        self._remove(place, "crash")
        return True

    def _interface_down(self) -> bool:
        if not (place := self._moving()):
            return False
        shown = ("ip", "-n", place.replica.namespace, "link", "set", next(iter(place.replica.slots)))
        held = ExitStack()
        held.enter_context(self._account.harm("interface down", partial(_opened_by, place)))
        with self._account.harm("interface down", partial(_involves, place)):
            self._note("interface down", place)
            place.up = False
            run(*shown, "down")
            assert settles(lambda: not _is_up(place))
            self._links_changed(place.member)
        self._ended(place)

        def mend() -> None:
            if place.member.name in self.views.held:  # an agent that knows nothing yet leaves the link where it is
                self._later.append((now() + 0.1, mend))
                return
            if place in self._traffic.places():
                self._note("interface up", place)
                run(*shown, "up")
                assert settles(lambda: _is_up(place))
                if _pod(place).ready and not _pod(place).terminating:
                    place.began()
                self._links_changed(place.member)
                place.up = True
            held.close()

        self._later.append((now() + self._random.random() * 2, mend))
        return True

    def _agent_restarted(self) -> bool:
        """An agent is killed; the next one leads before it has heard of the API server."""
        member = self._random.choice(self._nodes.members)
        if member.name in self.views.held:
            return False
        self._lead(member, member.world.node.datapath, [*member.world.node.reconciler.state.drains.values()])
        return True

    def _agent_succeeded(self) -> bool:
        """Another process, with a program of its own, takes over."""
        member = self._random.choice(self._nodes.members)
        if member.name in self.views.held:
            return False
        newcomer = self._programs(member)
        drains = member.world.node.reconciler.drains.retire()
        member.world.node.datapath.shut_shortcuts()
        self._lead(member, newcomer, drains)
        if member.way:
            self._ways.enter_context(passing_the_device(member))
            member.look()
        return True

    def _lead(self, member: Member, datapath: Datapath, drains: Iterable[Drain]) -> None:
        node = member.world.node
        self._note("agent restarted" if datapath is node.datapath else "agent succeeded", member)
        node.lead(datapath, drains)
        datapath.take_over()
        with inside(node.namespace):
            tunnel = datapath.peers.tunnel(member.address, PORT)
            datapath.peers.open(tunnel.make())
            tunnel.close()
        member.lead()
        listed, node.reconciler._cluster = node.reconciler._cluster, _nothing
        self.views.held.add(member.name)
        node.reconcile()

        def hear() -> None:
            self._note("agent hears", member)
            if self.views.away:
                self._later.append((now() + 0.1, hear))
                return
            node.reconciler._cluster = listed
            self.views.held.discard(member.name)
            self.views.deliver([member])
            node.reconcile()

        self._later.append((now() + self._random.random(), hear))

    def _node_cut_off(self) -> bool:
        if self._cut or self._quiet_until > now() or self.views.held:
            return False
        member = self._cut = self._random.choice(self._nodes.members)
        held = ExitStack()
        held.enter_context(self._account.harm("node cut off", partial(_crosses, member)))
        self.views.held.add(member.name)
        self._note("cut off", member)
        self._nodes.cut(True, member)

        def mend() -> None:
            self._note("mended", member)
            self._nodes.cut(False, member)
            self.views.held.discard(member.name)
            self._later.append((now() + 2, held.close))
            self._cut = None
            self._quiet_until = now() + 5

        self._later.append((now() + self._random.uniform(0.3, 4), mend))
        return True

    def _API_server_away(self) -> bool:  # noqa: N802
        if self.views.away:
            return False
        self.views.away = True
        self._later.append((now() + self._random.uniform(1, 8), self._api_is_back))
        return True

    def _api_is_back(self) -> None:
        self.views.away = False

    def _verified(self) -> bool:
        self._random.choice(self._nodes.members).world.node.reconcile()
        return True

    # Their parts.

    def _added(self, member: Member, stage: str) -> Place:
        node = member.world.node
        replica = node.add(stage)
        self._account.events.append((now(), f"joined {replica.name}"))
        run("ip", "netns", "exec", replica.namespace, "sysctl", "-qw", "net.ipv4.ip_forward=0")
        return self._traffic.add(replica, member)

    def _become_ready(self, place: Place) -> None:
        self._note("ready", place)
        place.began()
        place.member.world.node.become(place.replica, ready=True)
        self._reconcile(place.member)

    def _remove(self, place: Place, kind: str) -> None:
        if place not in self._traffic.places():
            return
        self._note(kind, place)
        with ExitStack() as harmed:
            if kind == "crash":
                harmed.enter_context(self._account.harm(kind, partial(_involves, place)))
            self._ended(place)
            self._traffic.remove(place)
            place.member.world.node.remove(place.replica)

    def _moving(self, *, suddenly: bool = False) -> Place | None:
        """The same for one whose sessions choose again at once. What they choose may not be known to be cut off yet."""
        return None if self._cut else self._leaving(suddenly=suddenly)

    def _leaving(self, *, suddenly: bool = False) -> Place | None:
        """One that may leave, because another one of its stage serves that all nodes know and can reach."""
        places = [place for place in self._traffic.places() if place.member is not self._cut]
        known = [
            each
            for each in places
            if _serves(each)
            and self.views.known_everywhere(each)
            and each.member.name not in self.views.held  # an agent that has just begun has not heard that it is ready
        ]
        able = [
            each
            for each in places
            if (suddenly or each.member.name not in self.views.held)
            and (_serves(each) or (suddenly and _pod(each).terminating))
            and any(other is not each and other.replica.stage == each.replica.stage for other in known)
        ]
        return self._random.choice(able) if able else None

    def _note(self, kind: str, about: Place | Member) -> None:
        of = about.name if isinstance(about, Member) else about.replica.name
        self._account.events.append((now(), f"{kind} {of}"))

    def _ended(self, place: Place) -> None:
        if place.served(now(), now()):
            place.ended()
            self._traffic.left.append((now(), place))

    def _places(self, member: Member, stage: str | None = None) -> list[Place]:
        return [place for place in self._traffic.places(stage) if place.member is member]

    def _reconcile(self, member: Member) -> None:
        member.world.node.reconciler.reconcile(verify=False)

    def _links_changed(self, member: Member) -> None:
        member.world.node.reconciler.links_changed()
        self._reconcile(member)


def _nothing() -> Cluster | None:
    return None


def _pod(place: Place) -> pod.Replica:
    return place.member.world.node.pods[place.replica.name]


def _involves(place: Place, session: Session, other: Place | None) -> bool:
    """What begins may have been on its way there."""
    begins = other is None and session.stage == place.replica.stage
    return place in (session.opener, other) or begins


def _serves(place: Place) -> bool:
    return place.up and place.served(now(), now())


def believed(member: Member) -> set[str]:
    return set[str]().union(*map(_serving, member.heard.values()))


def _is_up(place: Place) -> bool:
    """By what the kernel tells, a moment after it was set up."""
    return all(link.up for link in place.member.world.node.links.list() if link.pod_uid == place.replica.name)


def _opened_by(place: Place, session: Session, other: Place | None) -> bool:
    return place is session.opener


def _reaches(place: Place, session: Session, other: Place | None) -> bool:
    return place is other


def _crosses(member: Member, session: Session, other: Place | None) -> bool:
    at = other.member if other else None
    return (session.opener.member is member) != (at is member) or session.moved or at is None


def slots_in_turn(node: Node) -> Iterator[int]:
    for slot in cycle(range(1, SLOTS)):
        if not any(slot in replica.slots.values() for replica in node.replicas):
            yield slot


class Watch:
    """Notes for the message about a fault what each node counts and knows, whenever that changes."""

    def __init__(self, nodes: Nodes, account: Account) -> None:
        self._nodes, self._account = nodes, account
        self._counts: dict[str, Mapping[tuple[int, str], int]] = {}
        self._known: dict[str, str] = {}

    def look(self) -> None:
        for member in self._nodes.members:
            counters = member.world.node.datapath.counters
            counts, before = counters.drops() | counters.remarks(), self._counts.get(member.name, {})
            self._counts[member.name] = counts
            risen = [f"{verdict} +{n - before.get((of, verdict), 0)}" for (of, verdict), n in counts.items()
                     if n > before.get((of, verdict), 0)]  # fmt: skip
            if risen:
                self._account.events.append((now(), f"{member.name} counts {', '.join(risen)}"))
            known = _knowledge(member)
            if known != self._known.get(member.name):
                self._known[member.name] = known
                self._account.events.append((now(), f"{member.name} {known}"))


def _knowledge(member: Member) -> str:
    """Which replicas serve, and the states of the node's own ones, by its agent's last pass."""
    node = member.world.node
    names = {slot: replica.name for replica in [*node.replicas] for slot in replica.slots.values()}
    parts = node.reconciler.state.plan.parts.values()
    serving = sorted(uid for part in parts for members in part.serving.values() for uid, _ in members)
    states = sorted(f"{names.get(slot, slot)} {entry.state.name}" for part in parts
                    for slot, entry in part.plane.links.items())  # fmt: skip
    return f"knows that {', '.join(serving) or 'nobody'} serve; its own: {', '.join(states)}"


class Alarms:
    """The other nodes as a heartbeat sees them. One that is taken to be down, and is not, is noted."""

    def __init__(self, member: Member, account: Account, cut: Callable[[], bool]) -> None:
        self._member, self._account, self._cut = member, account, cut
        self._held: dict[int, ExitStack] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._member.world.node.datapath.peers, name)

    def set_up(self, number: int, up: bool) -> None:
        if not up and not self._cut() and number not in self._held:
            self._account.counts["false alarms"] += 1
            held = self._held[number] = ExitStack()
            hits = partial(_crosses, self._member)
            held.enter_context(self._account.harm("false alarm", hits))
        self._account.events.append((now(), f"{self._member.name}: peer {number} {'up' if up else 'down'}"))
        self._member.world.node.datapath.peers.set_up(number, up)
        if up and (alarm := self._held.pop(number, None)):
            alarm.close()


@contextmanager
def heartbeats(nodes: Nodes, account: Account, cut: Callable[[], bool]) -> Iterator[None]:
    stop = threading.Event()
    with ExitStack() as stack:
        for member in nodes.members:
            with inside(member.world.node.namespace):
                sender = EchoSender(PORT)
            stack.callback(sender.close)
            heartbeat = Heartbeat(Alarms(member, account, cut), sender.send)
            thread = threading.Thread(target=heartbeat.run, args=(stop,))
            thread.start()
            stack.callback(thread.join)
        stack.callback(stop.set)
        yield


def acquainted(nodes: Nodes) -> None:
    """Gives each node the MACs of the others for good. The kernel keeps frames for a neighbour that it asks for, and
    sends them when a link is mended, long after they count as lost."""
    for member in nodes.members:
        node = member.world.node.namespace
        for other in nodes.members:
            shown = run("ip", "-n", other.world.node.namespace, "link", "show", "u0")
            mac = re.findall(r"link/ether (\S+)", shown)[0]
            if other is not member:
                run("ip", "-n", node, "neigh", "replace", other.address, "lladdr", mac, "dev", "u0", "nud", "permanent")


def test_nothing_is_lost_while_replicas_of_three_nodes_come_and_go_and_views_lag(bpffs: Path) -> None:
    with ExitStack() as datapaths, ExitStack() as cleanup:
        pins = [bpffs / f"soak{number}" for number in range(1, NODES + 1)]

        def opened(pin: Path) -> Datapath:
            datapath = Datapath.open(pin, hash_key=HASH_KEY)
            datapaths.callback(datapath.close)
            datapaths.callback(datapath.unpin)
            return datapath

        nodes = cleanup.enter_context(nodes_of("soak", {}, [opened(pin) for pin in pins]))
        acquainted(nodes)
        for member in nodes.members:
            node = member.world.node
            node.chain = replace(node.chain, patience=PATIENCE)
            node._slots = slots_in_turn(node)
        account = Account()
        traffic = Traffic(account, SEED)
        churn = Churn(nodes, traffic, lambda member: opened(pins[member.number - 1]), cleanup, SEED)
        traffic.watch = Watch(nodes, account).look
        cleanup.enter_context(heartbeats(nodes, account, lambda: churn.cut))
        churn.begin()
        before = sum(map(nodes.returned, nodes.members))

        def shown() -> list[int]:
            kinds = ("sessions that crossed", "sessions that stayed on their node")
            return [sum(map(nodes.returned, nodes.members)) - before, *(account.counts[kind] for kind in kinds)]

        def enough(changes: int) -> bool:
            return changes >= CHANGES and (min(shown()) >= LEAST or changes >= 2 * CHANGES + 100)

        began = now()
        with traffic.flowing():
            while not enough(sum(churn.changes.values())) and len(account.faults) < MOST_FAULTS:
                churn.step()
            churn.finish()
            traffic.ending = True
            assert settles(lambda: not traffic.sessions, seconds=120)

        print(f"\n{sum(churn.changes.values())} changes in {now() - began:.0f} s (SEED={SEED}): {dict(churn.changes)}")
        print(f"returned frames: {shown()[0]}; dropped: {nodes.dropped()}")
        print("\n".join(f"{n:8} {what}" for what, n in sorted(account.counts.items())))
        assert not account.faults, "\n".join(account.faults)
        assert min(shown()) >= LEAST
        assert not (found := churn.disagreement()), found
