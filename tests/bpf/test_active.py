"""Which sessions a drain waits for: the program's rule and the agent's are the same."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterator
from dataclasses import astuple
from pathlib import Path

import pytest
from bcc import BPF

from controller.node.kernel.program import SOURCE, patience_flag
from controller.node.plane.model import SLOTS
from controller.node.plane.sessions import DEFAULT_PATIENCE, Session, active
from sfc.chain import Patience
from tests.bpf.node import test_run
from tests.hash_key import HASH_KEY

SECOND = 1_000_000_000
NOW = 1_000_000 * SECOND
PROTOCOLS = {"ICMP": 1, "TCP": 6, "UDP": 17, "SCTP": 132, "no IP": 253, "many flows": 254, "neighbour": 255}
SILENCES = [each for seconds in (0, 1, 2, 3, 5, 7, 300) for each in (seconds * SECOND, seconds * SECOND + 1)]
CHAINS = [Patience(), Patience(tcp=2, sctp=3, udp=7, other=1), Patience(udp=86_400)]
STANDINGS = [side | more for side in (0, 1) for more in (0, 2, 6, 10)]
CARRIED = [0, 16, 32, 64, 80, 112]
"""Bits of what a session of many flows has carried: TCP, SCTP, UDP, several."""
QUESTION = struct.Struct("<16x8xQ4xBBBBQ4III")
"""struct question in active.c"""


@pytest.fixture(scope="module")
def rule() -> Iterator[int]:
    flags = [f"-I{SOURCE}", f"-DSLOTS={SLOTS}", patience_flag(DEFAULT_PATIENCE), *HASH_KEY.cflags]
    module = BPF(src_file=bytes(Path(__file__).with_name("active.c")), cflags=flags)
    yield module.load_func(b"ask", BPF.SCHED_CLS).fd
    module.cleanup()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_program_and_the_agent_agree_about_every_session(rule: int, protocol: str) -> None:
    number, found = PROTOCOLS[protocol], set()
    standings = [standing | carried for standing in STANDINGS for carried in (CARRIED if number == 254 else [0])]
    for silence, own, standing, *bits in itertools.product(SILENCES, CHAINS, standings, *[(False, True)] * 4):
        upstream, downstream, reset, has_ports = bits
        told = standing & 0xF
        session = Session(
            7, number, has_ports, 1, 2, NOW - silence, upstream, downstream, reset, told > 1, _carried(standing)
        )
        noted = (NOW - silence, upstream, downstream, reset, standing)
        packed = QUESTION.pack(*noted, NOW, *astuple(own), number, has_ports)

        said, *_ = test_run(rule, 0, packed)

        expected = active(session, NOW, own.completed(DEFAULT_PATIENCE))
        assert (said, session, own) == (expected, session, own)
        found.add(expected)
    assert found == ({False} if protocol == "neighbour" else {False, True})


def _carried(standing: int) -> frozenset[int]:
    return frozenset(protocol for bit, protocol in {16: 6, 32: 132, 64: 17}.items() if standing & bit)


def test_a_session_that_was_seen_after_the_question_is_active(rule: int) -> None:
    """Another CPU may note a later time than the one that asks."""
    packed = QUESTION.pack(NOW + SECOND, 1, 1, 1, 0, NOW, *astuple(Patience()), PROTOCOLS["TCP"], True)

    assert test_run(rule, 0, packed)[0] == 1
