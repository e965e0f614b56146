"""The fuzz target over frames can fail: it finds what is wrong with changed programs. `make fuzz` runs it at length."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
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

RECEIVES = "return link->connection == connection && link->side == side && link->state"
LONE = "tell(from->connection, VERDICT_LONE_FRAGMENT);"
WRONG: dict[str, tuple[str, dict[str, str]]] = {
    "another chain's link receives": ("sent to slot", {RECEIVES: "return link->side == side && link->state"}),
    "a link of the sender's side receives": (
        "sent to slot",
        {RECEIVES: "return link->connection == connection && link->state"},
    ),
    "a link that is gone receives": ("sent to slot", {" && link->state != GONE;": ";"}),
    "the lookup table is believed": (
        "sent to slot",
        {"if (link && receives(link, connection, side))\n\t\t\treturn end_of(": "if (link)\n\t\t\treturn end_of("},
    ),
    "unknown frames go to the sender's side": (
        "sent to slot",
        {"choose(from->connection, !from->side, mac_pair": "choose(from->connection, from->side, mac_pair"},
    ),
    "what one chain announced is told to another": (
        "answered for",
        {
            "(struct place){about->connection, mixed(": "(struct place){0, mixed(",
            "return heard->about.connection == about->connection && ": "return ",
        },
    ),
    "a drop is not counted": (
        "dropped",
        {"\ttell(connection, verdict);\n\treturn TC_ACT_SHOT;": "\treturn TC_ACT_SHOT;"},
    ),
    "a verdict has no name": ("no name", {LONE: "tell(from->connection, 99);"}),
    "a verdict is counted for another chain": (
        "of others",
        {LONE: "tell(from->connection + 1, VERDICT_LONE_FRAGMENT);"},
    ),
    "a fragment goes any way": (
        "another way",
        {
            "wide_hash(&addresses, namespace_of(from->connection))": "bpf_get_prandom_u32()",
            "part->to = *to;": "part->to = 0;",
        },
    ),
    "the fast path knows no plain way": ("on way 1", {"(far & (OWNER | PLAIN)) ==": "(far & OWNER) =="}),
    "an answer bears a wrong checksum": ("answered by", {"return ~sum;": "return sum;"}),
    "a frame is changed and goes on": (
        "forwarded, but changed",
        {"&& answer_arp(skb, frame, &neighbour);": "&& answer_arp(skb, frame, &neighbour) && 0;"},
    ),
}
"""Name → (what the finding says, the program's text → what stands there instead)."""

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
}
"""What each reader compares before it reads."""


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the program's source, which is compiled instead."""
    copy = tmp_path / "bpf"
    shutil.copytree(program.SOURCE, copy)
    monkeypatch.setattr(program, "SOURCE", copy)
    return copy


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


@pytest.mark.parametrize("name", WRONG)
def test_a_program_that_is_wrong_is_found(name: str, source: Path, bpffs: Path, nodes: list[Node]) -> None:
    finding, changes = WRONG[name]
    for before, after in changes.items():
        change(source, before, after)
    nodes.append(Node(bpffs / "fuzzed", cflags=FLAGS))

    with pytest.raises(FindingError, match=finding):
        frames.watch(nodes[0], INPUTS, Random(SEED))


@pytest.mark.parametrize("reader", BEYOND)
def test_a_program_that_reads_beyond_the_end_is_refused(reader: str, source: Path, bpffs: Path) -> None:
    check = BEYOND[reader]
    comparison = check[check.index("(void *)") : check.index("> end") + len("> end")]
    change(source, check, check.replace(comparison, "0"))

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
