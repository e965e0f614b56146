"""The key of the hashes: whoever lacks it cannot aim at a replica, and nobody is shown it."""

from __future__ import annotations

import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from controller.node.kernel.datapath import Datapath
from controller.node.kernel.errors import DatapathError
from controller.node.kernel.hash_key import HashKey
from controller.node.kernel.program import SHOWN
from controller.node.plane.numbers import Numbered
from sfc.chain import Side
from tests.bpf.frames import ADDRESS, ADDRESS6, MAC, ether
from tests.bpf.node import Node
from tests.hash_key import HASH_KEY

UP, DOWN = Side.UPSTREAM, Side.DOWNSTREAM

VICTIMS, NEXT, ATTACKERS, LONGER = 7, 8, 9, 10
"""Cross-connections: two of one chain, before and behind a stage; one of the attacker's; and one whose namespace has
one letter more than the victim's."""
NAMESPACE = {VICTIMS: "victim", NEXT: "victim", ATTACKERS: "attacker", LONGER: "victims"}
CLIENT = {connection: connection for connection in NAMESPACE}
REPLICAS = {connection: tuple(range(10 * connection, 10 * connection + 4)) for connection in NAMESPACE}
"""Slots. The replicas of all cross-connections have the same identities, so their tables are alike."""
OTHER = HashKey(bytes(reversed(range(32))))
FLOWS = 400
AIMED = 80
"""Flows that the attacker found for one replica with a key of its own."""
MAGIC = (0x736F6D6570736575, 0x646F72616E646F6D, 0x6C7967656E657261, 0x7465646279746573)
"""SipHash begins with these, each combined with half of the key."""


def tcp4(number: int) -> Packet:
    return ether(UP) / IP(src=ADDRESS[UP], dst=ADDRESS[DOWN]) / TCP(sport=1024 + number, dport=80, flags="S")


def udp6(number: int) -> Packet:
    return ether(UP) / IPv6(src=ADDRESS6[UP], dst=ADDRESS6[DOWN]) / UDP(sport=1024 + number, dport=53)


def lone_fragment(number: int) -> Packet:
    source = f"10.9.{number >> 8}.{number & 255}"
    return ether(UP) / IP(src=source, dst=ADDRESS[DOWN], proto=17, id=number, frag=100) / Raw(bytes(64))


def not_ip(number: int) -> Packet:
    source = f"02:00:00:01:{number >> 8:02x}:{number & 255:02x}"
    return Ether(src=source, dst=MAC[DOWN], type=0x88B5) / Raw(bytes(46))


KINDS = {"IPv4": tcp4, "IPv6": udp6, "lone fragment": lone_fragment, "no IP": not_ip}


def serving(pins: Path, key: HashKey) -> Node:
    node = Node(pins, hash_key=key)
    for connection, namespace in NAMESPACE.items():
        node.datapath.set_number(connection, Numbered("0", namespace, f"chain-{connection}"))
        node.serve(UP, (CLIENT[connection],), connection=connection)
        node.serve(DOWN, REPLICAS[connection], connection=connection)
    return node


@pytest.fixture(scope="module")
def nodes(bpffs: Path) -> Iterator[tuple[Node, Node, Node]]:
    """Two with one key, and one with another key."""
    opened = (serving(bpffs / "one", HASH_KEY), serving(bpffs / "same", HASH_KEY), serving(bpffs / "other", OTHER))
    yield opened
    for node in opened:
        node.close()


def choices(
    node: Node, kind: Callable[[int], Packet], numbers: range | list[int], connection: int = VICTIMS
) -> list[int]:
    """Which of the four replicas gets each of these flows."""
    slots = REPLICAS[connection]
    return [slots.index(node.receiver(CLIENT[connection], kind(number))) for number in numbers]


def evenly(chosen: list[int]) -> bool:
    share = Counter(chosen)
    return all(abs(share[replica] - len(chosen) / 4) < bound(len(chosen), 1 / 4) for replica in range(4))


def unrelated(some: list[int], others: list[int]) -> bool:
    agreed = sum(one == other for one, other in zip(some, others, strict=True))
    return abs(agreed - len(some) / 4) < bound(len(some), 1 / 4)


def bound(draws: int, chance: float) -> float:
    """How far a count may be off by chance: five standard deviations, once in a million."""
    return 5 * math.sqrt(draws * chance * (1 - chance))


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_nodes_with_one_key_choose_the_same_replica_and_with_two_keys_by_chance(
    nodes: tuple[Node, Node, Node], kind: Callable[[int], Packet]
) -> None:
    one, same, other = (choices(node, kind, range(FLOWS)) for node in nodes)

    assert one == same
    assert unrelated(one, other)
    assert evenly(one)
    assert evenly(other)


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_both_links_of_a_stage_choose_the_same_replica_and_other_namespaces_by_chance(
    nodes: tuple[Node, Node, Node], kind: Callable[[int], Packet]
) -> None:
    before, behind, attackers, longer = (choices(nodes[0], kind, range(FLOWS), each) for each in NAMESPACE)

    assert before == behind
    assert unrelated(before, attackers)
    assert unrelated(before, longer)


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize(("own", "connection"), [(2, VICTIMS), (0, ATTACKERS)], ids=["own node", "own chain"])
def test_flows_that_an_attacker_finds_for_one_replica_spread_as_all_flows_do(
    nodes: tuple[Node, Node, Node], kind: Callable[[int], Packet], own: int, connection: int
) -> None:
    """The attacker has the program and the victim's targets, on a node or in a chain of its own."""
    numbers = range(20_000, 20_000 + 6 * AIMED)
    seen = choices(nodes[own], kind, numbers, connection)
    found = [number for number, chosen in zip(numbers, seen, strict=True) if chosen == 0][:AIMED]
    assert len(found) == AIMED

    assert evenly(choices(nodes[0], kind, found))


def test_tables_of_another_key_are_replaced_and_their_sessions_taken_over(bpffs: Path) -> None:
    former = serving(bpffs / "again", HASH_KEY)
    chosen = choices(former, tcp4, range(50))
    latter = Node(bpffs / "again", hash_key=OTHER)
    emptied = len(list(latter.datapath.sessions()))

    with latter.datapath.succeeding([former.program]):
        pass

    went_on = choices(latter, tcp4, range(50))
    former.datapath.close()
    latter.close()
    assert emptied == 0
    assert went_on == chosen


def test_tables_of_the_same_key_stay(bpffs: Path) -> None:
    former = serving(bpffs / "kept", HASH_KEY)
    choices(former, tcp4, range(50))
    latter = Node(bpffs / "kept", hash_key=HASH_KEY)

    assert len(list(latter.datapath.sessions())) == 50

    former.datapath.close()
    latter.close()


def shows(key: HashKey, text: str) -> bool:
    """The key itself, or a number that the program computes from nothing but the key."""
    written = " ".join(key.cflags)
    low, high, *factors = (int(number, 16) for number in re.findall(r"0x([0-9a-f]+)ULL", written))
    secret = [low, high, *factors, *(half ^ magic for half, magic in zip((low, high) * 2, MAGIC, strict=True))]
    return any(f"{number:x}" in text or str(number) in text for number in secret)


REFUSED = """
#define bpf_redirect(ifindex, flags) (*(volatile u32 *)(long)(ifindex))
"""


def test_a_program_that_the_kernel_refuses_shows_the_reason_but_not_the_key(
    bpffs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    header = tmp_path / "refused.h"
    header.write_text(REFUSED)

    with pytest.raises(DatapathError) as refused:
        Datapath.open(bpffs / "refused", cflags=["-include", str(header)], hash_key=HASH_KEY)

    said = capfd.readouterr().err
    assert "invalid mem access" in said
    assert shows(SHOWN, said), "the log would have shown the key"
    assert not shows(HASH_KEY, f"{said}{refused.value!r}{refused.value.__cause__!r}")


def test_a_program_that_does_not_compile_shows_the_reason_but_not_the_key(
    bpffs: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(DatapathError) as refused:
        Datapath.open(bpffs / "broken", cflags=["-DLINK_SLOT(skb)=nonsense"], hash_key=HASH_KEY)

    said = capfd.readouterr().err
    assert "nonsense" in said
    assert not shows(HASH_KEY, f"{said}{refused.value!r}{refused.value.__cause__!r}")


def test_nothing_on_the_node_that_others_may_read_has_the_key(nodes: tuple[Node, Node, Node], bpffs: Path) -> None:
    process = Path("/proc/self")
    pins = list((bpffs / "one").iterdir())
    left = [path for folder in ("/var/tmp/bcc", "/tmp/bcc") for path in Path(folder).rglob("*") if path.is_file()]

    assert not shows(HASH_KEY, (process / "cmdline").read_text() + (process / "environ").read_text())
    assert pins
    assert all(path.stat().st_mode & 0o077 == 0 and path.stat().st_uid == os.geteuid() for path in pins)
    assert not any(shows(HASH_KEY, path.read_text(errors="replace")) for path in left)
