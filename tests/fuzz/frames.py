"""Any frame from any replica, to the real program, by BPF_PROG_TEST_RUN (as root).

Two chains share the program and its maps. Whatever a replica sends, the program must end with a redirect or a counted
verdict, must leave the frame as it is unless it answers it, and must send it to a link of the other side of the same
chain, or an answer back to the sender. Frames begin as one of the kinds of `tests/bpf/kinds.py`, or as a chain of
headers, and are then changed at random.

The counters are compared after each batch, because reading them takes longer than a thousand frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from benchmarks.bpffs import private_bpffs
from controller.node.plane.model import LinkState
from sfc.chain import Side
from tests.bpf.frames import MAC
from tests.bpf.kinds import FAMILIES
from tests.bpf.node import TC_ACT_REDIRECT, TC_ACT_SHOT, Node, Tally, shortest

BATCH = 500
LONGEST = 1600
"""Bytes of a frame: beyond an Ethernet MTU, within the pages that a test run accepts."""

ETHERTYPES = tuple(bytes.fromhex(t) for t in ("0800", "86dd", "0806", "8100", "88a8", "8847", "8864", "0004", "88cc"))
EXTENSIONS = (0, 43, 44, 50, 51, 60, 135, 139, 140, 253)
PROTOCOLS = (0, 1, 2, 6, 17, 41, 47, 50, 51, 58, 59, 132, 253, 255)
BYTES = (0, 1, 4, 5, 6, 15, 16, 40, 44, 45, 58, 60, 69, 0x60, 127, 128, 255)
DROPPED = {"unwired", "no_target"}
"""The verdicts of a frame that is not forwarded."""


@dataclass(frozen=True, slots=True)
class Place:
    """A link that frames come from, and the links that they may go to."""

    slot: int
    side: Side
    receivers: frozenset[int]


class FindingError(AssertionError):
    """Something that the program must not do, with the frames of the batch in which it did it."""

    def __init__(self, what: str, place: Place, batch: Sequence[bytes]) -> None:
        super().__init__(f"{what}; sent from slot {place.slot}")
        self.batch = batch


def fuzz(inputs: int, seed: int, kept: Path) -> str:
    """Sends so many frames; what was reached. Raises FindingError; `kept` has its frames then, one a line, in hex."""
    with private_bpffs() as bpffs:
        node = Node(bpffs / "fuzz", capacity=4096)
        try:
            return _fuzz(node, inputs, Random(seed))
        except FindingError as finding:
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_text("\n".join(frame.hex() for frame in finding.batch))
            raise
        finally:
            node.close()


def _fuzz(node: Node, inputs: int, random: Random) -> str:
    places, seeds = _world(node), _seeds()
    before = node.tally()
    start = before
    for number in range(0, inputs, BATCH):
        place = random.choice(places)
        batch = [_frame(random, seeds[place.side]) for _ in range(min(BATCH, inputs - number))]
        before = _sent(node, place, batch, before)
    reached = node.tally().since(start)
    return f"{reached.sent.total():,} sent; " + ", ".join(f"{n} {c:,}" for n, c in sorted(reached.verdicts.items()))


def _world(node: Node) -> list[Place]:
    """Two chains. In the first, links of every state; the second has nobody on its other side at first hash."""
    node.serve(Side.UPSTREAM, (1, 2, 3))
    node.serve(Side.DOWNSTREAM, (11, 12))
    node.link(13, Side.DOWNSTREAM, LinkState.DRAINING)
    node.link(14, Side.DOWNSTREAM, LinkState.WIRED)
    node.link(15, Side.DOWNSTREAM, LinkState.GONE)
    node.serve(Side.UPSTREAM, (5, 6), connection=8)
    node.serve(Side.DOWNSTREAM, (31,), connection=8)
    node.serve(Side.UPSTREAM, (41,), connection=9)
    first = {Side.UPSTREAM: {1, 2, 3}, Side.DOWNSTREAM: {11, 12, 13, 14}}
    second = {Side.UPSTREAM: {5, 6}, Side.DOWNSTREAM: {31}}
    found = [
        Place(slot, side, frozenset(chain[side.other]))
        for chain in (first, second)
        for side in Side
        for slot in sorted(chain[side] | ({15} if 11 in chain[side] else set()))
    ]
    return [*found, Place(41, Side.UPSTREAM, frozenset()), Place(50, Side.UPSTREAM, frozenset())]


def _sent(node: Node, place: Place, batch: Sequence[bytes], before: Tally) -> Tally:
    """Sends a batch from a place, and compares what came of it with what may; the counters afterwards."""
    redirected = dropped = answered = 0
    for frame in batch:
        action, after = node.deliver(place.slot, frame)
        redirected += action == TC_ACT_REDIRECT
        dropped += action == TC_ACT_SHOT
        if action not in (TC_ACT_REDIRECT, TC_ACT_SHOT):
            raise FindingError(f"action {action} for {frame.hex()}", place, batch)
        if after[: len(frame)] != frame:
            answered += 1
            if action != TC_ACT_REDIRECT:
                raise FindingError(f"a frame was changed and dropped: {frame.hex()}", place, batch)
    tally = node.tally()
    raised = tally.since(before)
    if strays := raised.sent.keys() - place.receivers - {place.slot}:
        raise FindingError(f"frames went to the slots {sorted(strays)}", place, batch)
    if raised.sent.total() != redirected:
        raise FindingError(
            f"{redirected} frames were redirected, {raised.sent.total()} were counted as sent", place, batch
        )
    if raised.sent[place.slot] != answered:
        raise FindingError(f"{answered} frames were changed, {raised.sent[place.slot]} went back", place, batch)
    if (counted := sum(raised.verdicts[name] for name in DROPPED)) != dropped:
        raise FindingError(f"{dropped} frames were dropped, {counted} were counted", place, batch)
    return tally


def _seeds() -> dict[Side, list[bytes]]:
    """The frames that a replica of each side may send, of every kind and in three conversations."""
    found: dict[Side, list[bytes]] = {}
    for side in Side:
        kinds = [kind for family in FAMILIES.values() for kind in family]
        frames = [kind.frame(side, number) for kind in kinds for number in range(3)]
        before = [frame for kind in kinds for sender, frame in kind.before(side, 0) if sender == side]
        found[side] = [bytes(frame) for frame in (*frames, *before)]
    return found


# --- making frames ----------------------------------------------------------------------------------------------------


def _frame(random: Random, seeds: Sequence[bytes]) -> bytes:
    """A frame that the kernel would deliver: long enough for its type, and not too long."""
    frame = bytearray(random.choice(seeds)) if random.random() < 0.8 else _headers(random)
    for _ in range(random.choice((0, 1, 1, 2, 4, 8))):
        random.choice(CHANGES)(random, frame, seeds)
    del frame[LONGEST:]
    frame.extend(bytes(max(0, 14 - len(frame))))
    return bytes(frame.ljust(shortest(bytes(frame)), b"\0"))


def _headers(random: Random) -> bytearray:
    """Headers in any order, each with a length field that need not be right."""
    frame = bytearray(bytes.fromhex((MAC[Side.UPSTREAM] + MAC[Side.DOWNSTREAM]).replace(":", "")))
    for _ in range(random.choice((0, 0, 1, 2, 3))):
        frame += random.choice(ETHERTYPES[3:5]) + random.randbytes(2)
    if random.random() < 0.5:
        frame += ETHERTYPES[0] + bytes((0x40 | random.choice((5, 5, 5, 6, 15, 4)), 0)) + random.randbytes(4)
        frame += random.choice((b"\0\0", b"\x40\0", b"\x20\0", b"\0\x01", b"\x20\xb9", b"\x1f\xff"))
        frame += bytes((random.choice(BYTES), random.choice(PROTOCOLS))) + random.randbytes(2)
        frame += bytes((10, 1, 0, random.randrange(4), 10, 1, 0, random.randrange(4)))
        return frame + random.randbytes(random.choice((0, 1, 3, 4, 8, 20, 60)))
    chain = [random.choice(EXTENSIONS) for _ in range(random.choice((0, 1, 2, 6, 12)))]
    frame += ETHERTYPES[1] + b"\x60\0\0\0" + random.randbytes(2)
    frame += bytes(((*chain, random.choice(PROTOCOLS))[0], random.choice((1, 64, 255))))
    for _ in range(2):
        frame += b"\xfd" + bytes(14) + bytes((random.randrange(4),))
    for next_header in (*chain[1:], random.choice(PROTOCOLS)):
        frame += bytes((next_header, random.choice((0, 0, 0, 1, 2, 255)))) + random.randbytes(6)
    return frame + random.randbytes(random.choice((0, 1, 4, 8, 24, 60)))


def _flip(random: Random, frame: bytearray, _: Sequence[bytes]) -> None:
    if frame:
        frame[random.randrange(len(frame))] ^= 1 << random.randrange(8)


def _poke(random: Random, frame: bytearray, _: Sequence[bytes]) -> None:
    if frame:
        frame[random.randrange(len(frame))] = random.choice(BYTES)


def _header_poke(random: Random, frame: bytearray, _: Sequence[bytes]) -> None:
    at = random.randrange(12, 64)
    if at < len(frame):
        frame[at] = random.choice((*BYTES, *PROTOCOLS, *EXTENSIONS))


def _type(random: Random, frame: bytearray, _: Sequence[bytes]) -> None:
    frame[12:14] = random.choice(ETHERTYPES)


def _cut(random: Random, frame: bytearray, _: Sequence[bytes]) -> None:
    del frame[random.randrange(len(frame) + 1) :]


def _grow(random: Random, frame: bytearray, _: Sequence[bytes]) -> None:
    frame += random.randbytes(random.choice((1, 4, 40, 400)))


def _splice(random: Random, frame: bytearray, seeds: Sequence[bytes]) -> None:
    at = random.choice((12, 14, 18, 34, 54))
    frame[at:] = random.choice(seeds)[random.choice((12, 14, 18, 34, 54)) :]


def _tag(random: Random, frame: bytearray, _: Sequence[bytes]) -> None:
    frame[12:12] = random.choice(ETHERTYPES[3:5]) + random.randbytes(2)


def _repeat(random: Random, frame: bytearray, _: Sequence[bytes]) -> None:
    start = random.choice((14, 34, 54))
    piece = frame[start : start + random.choice((4, 8, 20, 40))]
    frame[start:start] = piece * random.choice((1, 2, 8))


CHANGES = (_flip, _flip, _poke, _poke, _header_poke, _header_poke, _type, _cut, _grow, _splice, _tag, _repeat)
