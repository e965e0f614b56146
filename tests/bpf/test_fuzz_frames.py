"""The fuzz target over frames can fail: it finds what is wrong with changed programs. `make fuzz` runs it at length."""

from __future__ import annotations

import shutil
import struct
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random

import pytest
from bcc import BPF
from scapy.packet import Packet

from controller.node.kernel import program
from controller.node.kernel.errors import DatapathError
from controller.node.plane.model import LinkEntry, LinkState
from sfc.chain import Side
from tests.bpf.frames import udp
from tests.bpf.node import CONNECTION, IFINDEX, Node, Runs
from tests.fuzz import frames
from tests.fuzz.frames import FLAGS, FindingError

UP, DOWN = Side.UPSTREAM, Side.DOWNSTREAM
INPUTS, SEED = 30_000, 1

WRONG: dict[str, tuple[str, dict[str, str]]] = {
    "another chain's link receives": (
        "sent to slot",
        {"return link->connection == connection &&": "return (WRONG || link->connection == connection) &&"},
    ),
    "a link of the sender's side receives": (
        "sent to slot",
        {
            "&& link->side == side && link->state != UNWIRED": (
                "&& (WRONG || link->side == side) && link->state != UNWIRED"
            ),
        },
    ),
    "a link that is gone receives": ("sent to slot", {"link->state != GONE;": "(WRONG || link->state != GONE);"}),
    "the lookup table is believed": (
        "sent to slot",
        {"if (link && receives(link, connection, side) ": "if (link && (WRONG || receives(link, connection, side)) "},
    ),
    "frames for a group go to the sender's side": (
        "sent to slot|answered for",  # the latter if it is the sender itself
        {"choose(from->connection, !from->side, mac_pair": "choose(from->connection, from->side ^ !WRONG, mac_pair"},
    ),
    "what one chain announced is told to another": (
        "answered for",
        {
            "(struct place){about->connection, mixed(": "(struct place){WRONG ? 0 : about->connection, mixed(",
            "return heard->about.connection == about->connection && ": (
                "return (WRONG || heard->about.connection == about->connection) && "
            ),
        },
    ),
    "a drop is not counted": (
        "dropped",
        {
            "\ttell(connection, verdict);\n\treturn TC_ACT_SHOT;": (
                "\tif (!WRONG)\n\t\ttell(connection, verdict);\n\treturn TC_ACT_SHOT;"
            )
        },
    ),
    "a verdict is counted for another chain": (
        "of others",
        {"tell(from->connection, VERDICT_LONE_FRAGMENT": "tell(from->connection + WRONG, VERDICT_LONE_FRAGMENT"},
    ),
    "a verdict has no name": ("no name", {", VERDICT_LONE_FRAGMENT);": ", WRONG ? 99 : VERDICT_LONE_FRAGMENT);"}),
    "a fragment goes any way": (
        "another way",
        {
            "wide_hash(&addresses, namespace_of(from->connection))": (
                "WRONG ? bpf_get_prandom_u32() : wide_hash(&addresses, namespace_of(from->connection))"
            ),
            "part->to = *to;": "part->to = WRONG ? 0 : *to;",
        },
    ),
    "the fast path knows no plain way": (
        "on way 1",
        {
            "(far & (OWNER | PLAIN)) ==": "(far & (OWNER | (WRONG ? 0 : PLAIN))) ==",
            "return end & PLAIN ? 0 :": "return end & PLAIN && !WRONG ? 0 :",
        },
    ),
    "an answer bears a wrong checksum": (
        "answered by",
        {"\t\t\t\tpseudo_header);\n": "\t\t\t\tpseudo_header) + WRONG;\n"},
    ),
    "a frame is changed and goes on": (
        "forwarded, but changed",
        {"&& answer_arp(skb, frame, &neighbour);": "&& answer_arp(skb, frame, &neighbour) && !WRONG;"},
    ),
}
"""Name → (what the finding says, the program's text → what stands there instead). WRONG is 1 or 0."""

BEYOND = {
    "ARP": "if ((void *)(arp + 1) > end)\n\t\treturn false;",
    "IPv4": "if ((void *)(ip + 1) > end || ip->version != 4",
    "IPv6": "if ((void *)(ip + 1) > end || ip->version != 6)",
    "TCP": "if ((void *)(tcp + 1) > end)\n\t\treturn;",
    "ports": "if ((void *)(port + 2) > end)\n\t\treturn;",
    "ICMP": "if ((void *)(icmp + 1) > end)\n\t\treturn;",
    "quoted": "if ((void *)(word + 4) > end)\n\t\treturn;",
    "extension header": "if ((void *)(extension + 1) > end)\n\t\t\treturn NULL;",
    "VLAN tag": " || (void *)(tag + 1) > end)",
    "label": "if ((void *)(word + 1) > end)\n\t\treturn;",
    "GTP-U": "if ((void *)(gtpu + 12) > end ||",
}
"""What each reader compares before it reads."""

SWITCH = 0x5AF30000
"""The first of as many numbers as there are faults, one in the instructions of each. Before they are loaded, the number
of the fault that is tried becomes 1, and all others 0. So all faulty programs are compiled at once, and the verifier,
too, sees one fault alone."""
SWITCHES = (
    f'#define SWITCH(number) ({{ u64 value_; asm("%0 = %1" : "=r"(value_) : "i"({SWITCH} + number)); value_; }})\n'
)
FAULTS = [*WRONG, *BEYOND]
_LOAD_CONSTANT, _CONSTANT = (0xB7, 0xB4), struct.Struct("<I")
"""The codes of an instruction that loads its own second half (linux/bpf.h)."""


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the program's source with a switch for each fault, which is compiled instead."""
    copy = tmp_path / "bpf"
    shutil.copytree(program.SOURCE, copy)
    monkeypatch.setattr(program, "SOURCE", copy)
    for number, (_, changes) in enumerate(WRONG.values()):
        for before, after in changes.items():
            change(copy, before, after.replace("WRONG", f"SWITCH({number})"))
    for number, check in enumerate(BEYOND.values(), len(WRONG)):
        comparison = check[check.index("(void *)") : check.index("> end") + len("> end")]
        change(copy, check, check.replace(comparison, f"(!SWITCH({number}) && {comparison})"))
    (copy / "packet.h").write_text(SWITCHES + (copy / "packet.h").read_text())
    return copy


@pytest.fixture
def faulty(source: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str | None], None]:
    """Lets all programs have this fault, or none."""
    compiled = program._compiled

    def choose(fault: str | None) -> None:
        def switched(flags: Sequence[str]) -> BPF:
            module = compiled(flags)
            dump = module.dump_func
            module.dump_func = lambda name: _switched(dump(name), fault)
            return module

        monkeypatch.setattr(program, "_compiled", switched)

    return choose


def _switched(code: bytes, fault: str | None) -> bytes:
    """The instructions with one fault, or none."""
    switched = bytearray(code)
    for at in range(0, len(code), 8):
        (value,) = _CONSTANT.unpack_from(code, at + 4)
        if code[at] in _LOAD_CONSTANT and value - SWITCH in range(len(FAULTS)):
            _CONSTANT.pack_into(switched, at + 4, FAULTS[value - SWITCH] == fault)
    return bytes(switched)


@pytest.fixture
def nodes(bpffs: Path) -> Iterator[list[Node]]:
    opened: list[Node] = []
    yield opened
    for node in opened:
        node.close()


def change(source: Path, before: str, after: str) -> None:
    """Changes the program in the one file that has this text."""
    files = [path for path in source.iterdir() if before in path.read_text()]
    assert len(files) == 1, f"{before!r} is in {len(files)} files of the program; this test has to follow it"
    files[0].write_text(files[0].read_text().replace(before, after))


def test_the_program_passes(bpffs: Path, nodes: list[Node]) -> None:
    nodes.append(Node(bpffs / "fuzzed", cflags=FLAGS))

    reached = frames.watch(nodes[0], INPUTS, Random(SEED))

    for word in ("answered", "dropped", "forwarded", "left to the host", "early_fragment", "parted_fragment"):
        assert word in reached


def test_the_program_with_none_of_the_faults_passes(
    faulty: Callable[[str | None], None], bpffs: Path, nodes: list[Node]
) -> None:
    faulty(None)
    nodes.append(Node(bpffs / "fuzzed", cflags=FLAGS))

    frames.watch(nodes[0], INPUTS, Random(SEED))


@pytest.mark.parametrize("name", WRONG)
def test_a_program_that_is_wrong_is_found(
    name: str, faulty: Callable[[str | None], None], bpffs: Path, nodes: list[Node]
) -> None:
    finding, _ = WRONG[name]
    faulty(name)
    nodes.append(Node(bpffs / "fuzzed", cflags=FLAGS))

    with pytest.raises(FindingError, match=finding):
        frames.watch(nodes[0], INPUTS, Random(SEED))


@pytest.mark.parametrize("reader", BEYOND)
def test_a_program_that_reads_beyond_the_end_is_refused(
    reader: str, faulty: Callable[[str | None], None], bpffs: Path
) -> None:
    faulty(reader)

    with pytest.raises(DatapathError, match="the kernel said"):
        Node(bpffs / "refused", cflags=FLAGS)


def test_a_session_that_moves_to_a_link_in_the_same_namespace_is_sent_there_the_plain_way(
    bpffs: Path, nodes: list[Node]
) -> None:
    """Found by the fuzz target: the stamp of the other side remained, so the fast path took the other way."""
    node = Node(bpffs / "plain", cflags=FLAGS)
    nodes.append(node)
    node.serve(UP, (1, 2))
    node.serve(DOWN, (11,))
    node.datapath.set_link(2, LinkEntry(IFINDEX, CONNECTION, UP, LinkState.SERVING, paired=False))
    runs = Runs(node.datapath.program_fd)

    def way(slot: int, frame: Packet) -> int:
        return frames.way_of(runs.deliver(slot, bytes(frame)))

    ways = [way(1, udp(UP)), way(11, udp(DOWN)), way(11, udp(DOWN)), way(2, udp(UP)), way(11, udp(DOWN))]

    assert ways == [frames.PEER, frames.PEER, frames.PEER, frames.PEER, frames.PLAIN]
