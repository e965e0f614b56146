"""Sessions of the version before, which had them in hash maps of the kernel (docs/decisions/0023)."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from bcc import BPF
from bcc.libbcc import lib

from controller.node.kernel.session_table import FORMER_TABLES, _of_hash
from controller.node.kernel.succession import _maps_of
from sfc.chain import Side
from tests.bpf.frames import ADDRESS, ADDRESS6, numbered, tcp, tcp6, udp
from tests.bpf.node import CONNECTION, IFINDEX, Node, Runs, program_id

UP, DOWN = Side.UPSTREAM, Side.DOWNSTREAM
FORMER = """
#include <uapi/linux/bpf.h>
struct session { u64 end[2]; u32 stamp[2]; u64 last_seen; u32 last_tick; u8 fin[2]; u8 rst; u8 unused; };
struct key { u32 word[6]; };
struct wide_key { u32 word[12]; };
BPF_TABLE("lru_hash", struct key, struct session, sessions, 1024);
BPF_TABLE("lru_hash", struct wide_key, struct session, wide_sessions, 1024);
int former(struct __sk_buff *skb)
{
	struct wide_key wide = {};
	struct key key = {};

	return sessions.lookup(&key) || wide_sessions.lookup(&wide);
}
"""
TICK = 10_000_000
"""Nanoseconds, at most: the program's clock is late by up to one."""
OWNED = CONNECTION << 44
"""The latest of those versions noted the cross-connection in an end; earlier ones did not."""


class Former:
    """The program of that version, as far as its sessions go."""

    def __init__(self) -> None:
        self._bpf = BPF(text=FORMER.encode())
        self.program = program_id(self._bpf.load_func(b"former", BPF.SCHED_CLS).fd)

    def session(self, number: int, slot: int, *, protocol: int = 6, wide: bool = False, **fields: int) -> None:
        """The conversation of that number, between link 1 and another one."""
        family, addresses = (socket.AF_INET6, ADDRESS6) if wide else (socket.AF_INET, ADDRESS)
        ends = b"".join(socket.inet_pton(family, addresses[side]) for side in (UP, DOWN))
        key = (
            ends
            + struct.pack(">HH", 20000 + number, 80 if protocol == 6 else 53)
            + struct.pack("<III", protocol, 0, CONNECTION)
        )
        owner, seen = fields.get("owner", OWNED), time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        both = [owner | slot << 32 | IFINDEX for slot in (1, slot)]
        fin = fields.get("fin", 0)
        value = struct.pack("<QQIIQIBBBB", *both, 5, 5, seen - fields.get("silent", 0), 0, fin, fin, 0, 0)
        table = self._bpf[b"wide_sessions" if wide else b"sessions"]
        assert not lib.bpf_update_elem(table.map_fd, key, value, 0)


@pytest.fixture
def former() -> Iterator[Former]:
    former = Former()
    yield former
    former._bpf.cleanup()


@pytest.fixture
def two_targets(bpffs: Path) -> Iterator[Node]:
    node = Node(bpffs / "latter")
    node.serve(UP, (1,))
    node.serve(DOWN, (11, 12))
    yield node
    node.close()


def test_sessions_of_hash_maps_stay_where_they_are(former: Former, two_targets: Node) -> None:
    links = {number: 11 + number % 2 for number in range(40)}
    for number, slot in links.items():
        former.session(number, slot, owner=OWNED if number % 4 < 2 else 0)
        former.session(number, slot, wide=True)
        former.session(number, slot, protocol=17)

    with two_targets.datapath.succeeding({former.program}):
        pass

    for kind in (tcp, tcp6, udp):
        assert {number: two_targets.receiver(1, kind(UP, number)) for number in links} == links
        assert {two_targets.receiver(slot, kind(DOWN, number)) for number, slot in links.items()} == {1}


def test_an_idle_connection_of_a_hash_map_holds_a_drain(former: Former, two_targets: Node) -> None:
    former.session(0, 11, silent=100_000_000_000)
    former.session(1, 11, silent=100_000_000_000, fin=1)

    with two_targets.datapath.succeeding({former.program}):
        pass

    assert two_targets.datapath.activity([11, 12]) == {11: 1, 12: 0}
    assert len(list(two_targets.datapath.sessions())) == 1  # the one that was closed a while ago stays behind


def test_what_is_brought_from_a_hash_map_survives_a_crowd_if_it_is_a_connection(
    former: Former, two_targets: Node
) -> None:
    links = {number: 11 + number % 2 for number in range(40)}
    for number, slot in links.items():
        former.session(number, slot)
    with two_targets.datapath.succeeding({former.program}):
        pass

    runs, syn = Runs(two_targets.datapath.program_fd), bytes(tcp(UP, flags="S"))
    for number in range(100, 9000):
        runs.deliver(1, numbered(syn, UP, number))

    assert {number: two_targets.receiver(1, tcp(UP, number)) for number in links} == links


def test_an_agent_of_the_version_before_finds_the_sessions_where_it_looks(two_targets: Node, bpffs: Path) -> None:
    links = {number: two_targets.receiver(1, tcp(UP, number)) for number in range(40)}
    wide = {number: two_targets.receiver(1, tcp6(UP, number)) for number in range(40)}
    then = time.clock_gettime_ns(time.CLOCK_MONOTONIC) - TICK

    two_targets.datapath.session_tables.export(0)
    found = _in_former_tables(two_targets)
    later = two_targets.receiver(1, tcp(UP, 99))
    two_targets.datapath.session_tables.export(then)

    assert {slot for slot, _ in found} == {*links.values(), *wide.values()} == {11, 12}
    assert len(found) == 80
    assert sorted(_in_former_tables(two_targets)) == sorted([*found, (later, 6)])


def _in_former_tables(node: Node) -> list[tuple[int, int]]:
    """(downstream slot, protocol) of each session in the hash maps of the node's program."""
    with ExitStack() as cleanup:
        maps = [each for each in _maps_of(node.program, cleanup) if each.name in FORMER_TABLES]
        assert sorted((each.key_size, each.value_size) for each in maps) == [(24, 40), (48, 40)]
        entries = [entry for each in maps for entry in _of_hash(each)]
    return [(struct.unpack_from("<8xQ", value)[0] >> 32 & 0xFFF, key[-12]) for key, value in entries]


def test_after_the_version_before_has_led_its_sessions_count(former: Former, two_targets: Node, bpffs: Path) -> None:
    """Ours are as old as our last term."""
    two_targets.receiver(1, tcp(UP, 0))
    lib.bpf_obj_pin(former._bpf[b"sessions"].map_fd, str(bpffs / "latter" / "sessions").encode())

    latter = Node(bpffs / "latter")

    assert not list(latter.datapath.sessions())
    assert not (bpffs / "latter" / "sessions").exists()
    latter.datapath.close()
