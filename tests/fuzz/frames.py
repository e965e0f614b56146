"""Any frame from any replica, to the real program, by BPF_PROG_TEST_RUN (as root).

Chains with the same addresses share the program and its maps, while their links come, change their state, leave, and
make room for links of other chains. Whatever a replica sends, the program must end with a redirect, with a counted and
named verdict, or leave the frame to the host if it is from none of our links. It must leave the frame as it is unless
it answers it. It must send it to a link of the other side of the same chain that may receive, or the answer back to the
sender, with an address that this chain gave or learned. A frame that is sent again goes the same way. So the fast path
and the slow one must agree.

Where a frame goes is read for each one (decision.h). The counters are compared after each batch, because reading them
takes longer than a hundred frames.

The verifier proves that nothing is read beyond the end of a frame, and refuses the program otherwise. A test run makes
frames in one piece, so what the program does to pull headers in is not reached here: tests/netns has such frames.
Nor are races of two CPUs.
"""

from __future__ import annotations

import struct
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from random import Random
from typing import NamedTuple

from benchmarks.bpffs import private_bpffs
from controller.node.kernel.counters import verdicts
from controller.node.plane import maglev
from controller.node.plane.model import SLOTS, LinkEntry, LinkState
from sfc.chain import Side
from tests.bpf.frames import ADDRESS, ADDRESS6
from tests.bpf.node import IFINDEX, SLOT_FROM_MARK, TC_ACT_REDIRECT, TC_ACT_SHOT, TC_ACT_UNSPEC, Node, Runs
from tests.fuzz import grammar

BATCH = 100
AGAIN = 0.2
"""Of all frames: how many are sent twice."""
CHAINS = (7, 8, 9)
POOL = range(1, 25)
"""Slots that links come to and leave; some are always empty."""
OTHER_IFINDEX = 4711
RECEIVING = {LinkState.WIRED, LinkState.SERVING, LinkState.DRAINING}
DROPPED = {"unwired", "no_target"}
"""The verdicts of a frame that is not forwarded."""
REMARKS = {"lone_fragment", "early_fragment", "parted_fragment", "contested"}
DECISION = Path(__file__).with_name("decision.h")
FLAGS = (SLOT_FROM_MARK, "-include", str(DECISION))

PEER, PLAIN = 1, 2
"""How a frame is sent: with bpf_redirect_peer, or with bpf_redirect."""
_END, _END_AT = struct.Struct("<QI"), 56
"""skb->cb[2] … cb[4] in struct __sk_buff: the end that a frame is sent to, and the way."""


class FindingError(AssertionError):
    """Something that the program must not do, with the frames of the batch in which it did it."""

    def __init__(self, what: str, slot: int, batch: Sequence[bytes]) -> None:
        super().__init__(f"{what}; sent from slot {slot}")
        self.batch = batch


class End(NamedTuple):
    """bpf/session.h, end_of."""

    slot: int
    ifindex: int
    connection: int
    plain: bool


@dataclass(frozen=True, slots=True)
class Decision:
    action: int
    to: End | None
    frame: bytes


def fuzz(inputs: int, seed: int, kept: Path) -> str:
    """Sends so many frames; what was reached. Raises FindingError; `kept` has its frames then, one a line, in hex."""
    with private_bpffs() as bpffs:
        node = Node(bpffs / "fuzz", capacity=4096, cflags=FLAGS)
        try:
            return watch(node, inputs, Random(seed))
        except FindingError as finding:
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_text("\n".join(frame.hex() for frame in finding.batch))
            raise
        finally:
            node.close()


def watch(node: Node, inputs: int, random: Random) -> str:
    """The same with a node that was opened with FLAGS, and is empty."""
    world, seeds = World(node, random), grammar.seeds()
    oracle = Oracle(node, world)
    for number in range(0, inputs, BATCH):
        while random.random() < 0.5:
            world.change()
        slot = random.choice((0, *POOL, *world.links))
        side = world.links[slot].side if slot in world.links else Side.UPSTREAM
        batch = [grammar.frame(random, side, seeds[side]) for _ in range(min(BATCH, inputs - number))]
        oracle.watch(slot, batch, [random.random() < AGAIN for _ in batch])
    return oracle.reached()


class World:
    """The links and targets of some chains, as the agent might leave them, or an agent that ended in between."""

    def __init__(self, node: Node, random: Random) -> None:
        self.links: dict[int, LinkEntry] = {}
        self.tables: dict[tuple[int, Side], frozenset[int]] = {}
        self.given: dict[tuple[int, Side], set[tuple[bytes, bytes]]] = defaultdict(set)
        """(address, MAC) by the connection and the side that asks."""
        self._node, self._random = node, random
        for connection in CHAINS:
            for side in Side:
                self._give(connection, side)
        for slot in POOL[:18]:
            self._set(slot, CHAINS[slot % 2], Side(slot // 2 % 2), LinkState.SERVING)
        self._set(19, CHAINS[2], Side.UPSTREAM, LinkState.SERVING)
        for connection in CHAINS:
            for side in Side:
                self._serve(connection, side)

    def receivers(self, slot: int) -> set[int]:
        """The slots that a frame from this slot may go to."""
        sender = self.links[slot]
        return {
            other
            for other, link in self.links.items()
            if (link.connection, link.side) == (sender.connection, sender.side.other) and link.state in RECEIVING
        }

    def change(self) -> None:
        """A link changes its state, leaves, or comes; a side gets other targets, or none."""
        random = self._random
        slot, connection, side = random.choice(POOL), random.choice(CHAINS[:2]), random.choice(list(Side))
        link = self.links.get(slot)
        event = random.random()
        if event < 0.25 and link:
            self._set(slot, link.connection, link.side, random.choice([*LinkState, LinkState.SERVING]))
        elif event < 0.4 and link:
            self._node.datapath.clear_link(slot)
            del self.links[slot]
        elif event < 0.75:
            self._set(slot, connection, side, LinkState.SERVING)
        elif event < 0.98:
            self._serve(connection, side)
        else:
            self._node.datapath.clear_targets(connection, side)
            self.tables.pop((connection, side), None)

    def _set(self, slot: int, connection: int, side: Side, state: LinkState) -> None:
        """A former link's entry may stay in targets and sessions: the program must not take the new one for it."""
        paired = slot % 5 != 0
        ifindex = OTHER_IFINDEX if slot % 11 == 0 else IFINDEX
        self.links[slot] = LinkEntry(ifindex, connection, side, state, paired)
        self._node.datapath.set_link(slot, self.links[slot])

    def _serve(self, connection: int, side: Side) -> None:
        slots = [
            slot
            for slot, link in self.links.items()
            if (link.connection, link.side, link.state) == (connection, side, LinkState.SERVING)
        ]
        if slots:
            table = struct.pack(f"<{maglev.LENGTH}H", *self._random.choices(slots, k=maglev.LENGTH))
            self._node.datapath.set_targets(connection, side, table)
            self.tables[connection, side] = frozenset(slots)

    def _give(self, connection: int, side: Side) -> None:
        """The addresses of the other side, with MACs that no other chain has."""
        for address in (ADDRESS[side.other], ADDRESS6[side.other]):
            mac = bytes((2, 0xFE, 0, 0, connection, side))
            self._node.datapath.set_neighbour(connection, side, address, mac.hex(":"))
            self.given[connection, side].add((ip_address(address).packed, mac))


@dataclass(slots=True)
class Expected:
    """What the counters must show after a batch."""

    sent: Counter[int] = field(default_factory=Counter)
    dropped: int = 0
    received: int = 0


class Oracle:
    """Compares what the program does with what it may do."""

    def __init__(self, node: Node, world: World) -> None:
        self._node, self._world = node, world
        self._runs = Runs(node.datapath.program_fd)
        self._told: dict[tuple[int, Side], set[tuple[bytes, bytes]]] = defaultdict(set)
        """(address, MAC) that frames of a side may have announced, by connection and side."""
        self._verdicts: Counter[tuple[int, str]] = Counter()
        self._actions: Counter[str] = Counter()

    def reached(self) -> str:
        by_name = {name: self._of_all(name) for name in sorted({name for _, name in self._verdicts})}
        return ", ".join(f"{count:,} {name}" for name, count in (*sorted(self._actions.items()), *by_name.items()))

    def watch(self, slot: int, batch: Sequence[bytes], again: Sequence[bool]) -> None:
        """Sends a batch of frames from a slot, some of them twice."""
        before, expected = self._traffic(), Expected()
        for frame, twice in zip(batch, again, strict=True):
            first = self._decided(slot, frame, expected, batch)
            if twice and self._decided(slot, frame, expected, batch).to != first.to:
                raise FindingError(f"a frame went another way when it was sent again: {frame.hex()}", slot, batch)
        self._compare_counters(slot, batch, before, expected)

    def _decided(self, slot: int, frame: bytes, expected: Expected, batch: Sequence[bytes]) -> Decision:
        action, after, context = self._runs.deliver(slot, frame)
        end, way = _END.unpack_from(context, _END_AT)
        decision = Decision(action, _end_of(end) if way else None, after)
        if problem := self._problem(slot, frame, decision, way, expected):
            raise FindingError(f"{problem}: {frame.hex()}", slot, batch)
        return decision

    def _problem(self, slot: int, frame: bytes, decision: Decision, way: int, expected: Expected) -> str:
        """What is wrong with a decision; empty if nothing is."""
        link = self._world.links.get(slot)
        if not slot or (link and link.ifindex != IFINDEX):
            self._actions["left to the host"] += 1
            untouched = (decision.action, decision.to, decision.frame) == (TC_ACT_UNSPEC, None, frame)
            return "" if untouched else "a frame from none of our links was not left alone"
        expected.received += 1
        if link:
            self._hear(link, frame)
        if decision.action == TC_ACT_SHOT:
            self._actions["dropped"] += 1
            expected.dropped += 1
            return self._problem_of_drop(slot, frame, decision)
        if decision.action != TC_ACT_REDIRECT or not decision.to or not link:
            return f"action {decision.action}"
        expected.sent[decision.to.slot] += 1
        if decision.to.slot == slot:
            self._actions["answered"] += 1
            return self._problem_of_answer(link, frame, decision.frame)
        self._actions["forwarded"] += 1
        return self._problem_of_forwarding(slot, frame, decision, decision.to, way)

    def _problem_of_drop(self, slot: int, frame: bytes, decision: Decision) -> str:
        if decision.frame != frame or decision.to:
            return "a frame was changed, or sent, and dropped"
        if slot not in self._world.links:
            return ""
        sender = self._world.links[slot]
        targets = self._world.tables.get((sender.connection, sender.side.other))
        return "dropped although all targets receive" if targets and targets <= self._world.receivers(slot) else ""

    def _problem_of_forwarding(self, slot: int, frame: bytes, decision: Decision, to: End, way: int) -> str:
        if to.slot not in self._world.receivers(slot):
            return f"sent to slot {to.slot}"
        receiver = self._world.links[to.slot]
        if to != End(to.slot, receiver.ifindex, receiver.connection, not receiver.paired):
            return f"sent to {to} instead of {receiver}"
        if way != (PEER if receiver.paired else PLAIN):
            return f"sent on way {way} to {receiver}"
        return "" if decision.frame == frame else f"forwarded, but changed to {decision.frame.hex()}"

    def _problem_of_answer(self, link: LinkEntry, frame: bytes, answer: bytes) -> str:
        frame, answer = _untagged(frame), _untagged(answer)
        asked = frame[38:42] if frame[12:14] == grammar.ARP else frame[62:78]
        mac = answer[6:12]
        known = self._world.given[link.connection, link.side] | self._told[link.connection, link.side.other]
        if (asked, mac) not in known:
            return f"{mac.hex(':')} answered for {asked.hex()}"
        right = _arp_answer if frame[12:14] == grammar.ARP else _nd_answer
        return "" if answer == right(frame, asked, mac) else f"answered by {answer.hex()}"

    def _hear(self, link: LinkEntry, frame: bytes) -> None:
        """Notes what a frame may announce; more than the program believes is no harm."""
        frame = _untagged(frame)
        if frame[12:14] == grammar.ARP:
            self._told[link.connection, link.side].add((frame[28:32], frame[22:28]))
        elif frame[12:14] == grammar.IPV6 and len(frame) >= 86:
            self._told[link.connection, link.side].add((frame[62:78], frame[80:86]))

    def _compare_counters(
        self, slot: int, batch: Sequence[bytes], before: dict[int, tuple[int, int]], expected: Expected
    ) -> None:
        after = self._traffic()
        sent = {each: after[each][1] - before[each][1] for each in after}
        if strays := {each: count for each, count in sent.items() if count != expected.sent[each]}:
            raise FindingError(f"sent {dict(expected.sent)}, counted {strays}", slot, batch)
        link = self._world.links.get(slot)
        received = after[slot][0] - before[slot][0] if link else 0
        if received != (expected.received if link else 0):
            raise FindingError(f"{expected.received} frames received, {received} counted", slot, batch)
        raised = self._told_verdicts(slot, batch) - self._verdicts
        self._verdicts += raised
        allowed = {(link.connection, name) for name in (*REMARKS, "no_target")} if link else {(0, "unwired")}
        if strays := set(raised) - allowed:
            raise FindingError(f"verdicts of others were counted: {strays}", slot, batch)
        if (counted := sum(count for (_, name), count in raised.items() if name in DROPPED)) != expected.dropped:
            raise FindingError(f"{expected.dropped} frames were dropped, {counted} were counted", slot, batch)
        early, parted, lone = (self._of_all(f"{word}_fragment") for word in ("early", "parted", "lone"))
        if early + parted > lone:
            raise FindingError(
                f"{lone} fragments came before their first one, and {early + parted} met it", slot, batch
            )

    def _told_verdicts(self, slot: int, batch: Sequence[bytes]) -> Counter[tuple[int, str]]:
        names, found = verdicts(), Counter[tuple[int, str]]()
        for (connection, number), (count,) in self._node.datapath._maps["drops"].items():
            if number not in names:
                raise FindingError(f"verdict {number} has no name", slot, batch)
            found[connection, names[number]] = count
        return found

    def _of_all(self, name: str) -> int:
        return sum(count for (_, each), count in self._verdicts.items() if each == name)

    def _traffic(self) -> dict[int, tuple[int, int]]:
        """By slot, (received, sent)."""
        traffic = self._node.datapath.counters.traffic(POOL)
        return {slot: (counted.received_packets, counted.sent_packets) for slot, counted in traffic.items()}


def way_of(run: tuple[int, bytes, bytes]) -> int:
    """How the frame of a test run was sent; 0 if it was not."""
    _, way = _END.unpack_from(run[2], _END_AT)
    return int(way)


def _end_of(packed: int) -> End:
    return End(packed >> 32 & (SLOTS - 1), packed & 0xFFFFFFFF, packed >> 44 & ((1 << 19) - 1), bool(packed >> 63))


def _untagged(frame: bytes) -> bytes:
    """Without a tag that the kernel keeps beside the frame; one without a VLAN hinders no answer."""
    return frame[:12] + frame[16:] if frame[12:14] in (grammar.DOT1Q, grammar.DOT1AD) else frame


def _arp_answer(frame: bytes, asked: bytes, mac: bytes) -> bytes:
    head = frame[6:12] + mac + grammar.ARP + bytes.fromhex("0001080006040002")
    return head + mac + asked + frame[22:32] + frame[42:]


def _nd_answer(frame: bytes, asked: bytes, mac: bytes) -> bytes:
    """RFC 4861, 4.4: solicited, override, and the target's MAC."""
    ends = asked + frame[22:38]
    told = bytes.fromhex("60000000") + asked + bytes((2, 1)) + mac
    message = b"\x88\0" + _checksum(ends + (4 + len(told)).to_bytes(4) + b"\0\0\0\x3a" + b"\x88\0\0\0" + told) + told
    head = frame[6:12] + mac + grammar.IPV6 + b"\x60\0\0\0" + len(message).to_bytes(2) + b"\x3a\xff"
    return head + ends + message


def _checksum(covered: bytes) -> bytes:
    """RFC 1071."""
    total = sum(struct.unpack(f"!{len(covered) // 2}H", covered))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return (total ^ 0xFFFF).to_bytes(2)
