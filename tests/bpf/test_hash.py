"""The hashes of bpf/hash.h, run by the kernel: against published values, and against other implementations."""

from __future__ import annotations

import random
import struct
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from bcc import BPF

from controller.node.kernel.program import SOURCE
from tests.bpf.node import test_run
from tests.hash_key import HASH_KEY

WORDS, FACTORS = 7, 17
TEXT = 64
PUBLISHED = (
    0xABAC0158050FC4DC,
    0x369095118D299A8E,
    0xCC4FDD1A7D908B66,
    0xF464AEB267349C8C,
    0x81157B6C16A7B60D,
    0xC1D2363299E41531,
    0x9F3143F8DF074C46,
    0xB4BCC0DB243C6D75,
)
"""SipHash-1-3 of the bytes 0, 1, 2 … of 0 to 7 words under the key of the bytes 0 to 15: what the reference
implementation (github.com/veorq/SipHash) gives with one and three rounds."""
FRAME = bytes(14)
random.seed(20)
FACTORS_GIVEN = [random.getrandbits(64) for _ in range(FACTORS)]


@dataclass
class Hashes:
    keyed: tuple[int, ...]
    placement: tuple[int, int, int]


class Program:
    """hash.c, compiled with a key and factors."""

    def __init__(self, cflags: list[str]) -> None:
        self._bpf = BPF(src_file=bytes(Path(__file__).with_name("hash.c")), cflags=[f"-I{SOURCE}", *cflags])
        self._fd = self._bpf.load_func(b"hash", BPF.SCHED_CLS).fd

    def of(self, words: bytes) -> Hashes:
        table = self._bpf[b"words"]
        table[0] = table.Leaf.from_buffer_copy(words.ljust(TEXT, b"\0"))
        assert test_run(self._fd, 0, FRAME)[0] == 0
        result = self._bpf[b"hashes"][0]
        return Hashes(tuple(result.keyed), tuple(result.placement))

    def close(self) -> None:
        self._bpf.cleanup()


def program(key: bytes) -> Program:
    low, high = struct.unpack("<QQ", key)
    return Program(
        [f"-DCHOICE_KEY={low}ULL,{high}ULL", f"-DPLACEMENT_FACTORS={','.join(f'{f}ULL' for f in FACTORS_GIVEN)}"]
    )


@pytest.fixture(scope="module")
def reference() -> Iterator[Program]:
    loaded = program(bytes(range(16)))
    yield loaded
    loaded.close()


def test_the_keyed_hash_is_siphash_1_3_as_published(reference: Program) -> None:
    assert reference.of(bytes(range(8 * WORDS))).keyed == PUBLISHED


def test_the_keyed_hash_is_the_one_of_python_for_any_words() -> None:
    """Python hashes bytes with SipHash-1-3; without randomization, its key is zero."""
    assert sys.hash_info.algorithm == "siphash13"
    inputs = [random.randbytes(8 * WORDS) for _ in range(500)]
    script = (
        f"import ast; print([hash(each[:8 * n]) for each in ast.literal_eval(input()) for n in range(1, {WORDS + 1})])"
    )
    answer = subprocess.run(
        [sys.executable, "-c", script],
        input=repr(inputs),
        env={"PYTHONHASHSEED": "0"},
        capture_output=True,
        text=True,
        check=True,
    )
    theirs = [number % 2**64 for number in map(int, answer.stdout.strip(" []\n").split(","))]
    zero = program(bytes(16))

    ours = [one for each in inputs for one in zero.of(each).keyed[1:]]

    zero.close()
    assert ours == theirs


def test_the_placement_is_the_sum_that_it_promises(reference: Program) -> None:
    for _ in range(500):
        words = random.randbytes(TEXT)
        numbers = struct.unpack("<16I", words)

        assert reference.of(words).placement == tuple(placement(numbers[:count]) for count in (6, 12, 16))


@pytest.mark.parametrize("length", range(TEXT))
def test_the_placement_of_a_text_is_that_of_all_its_words(reference: Program, length: int) -> None:
    text = (b"x" * length).ljust(TEXT, b"\0")

    assert reference.of(text).placement[2] == placement(struct.unpack("<16I", text))


def placement(numbers: tuple[int, ...]) -> int:
    """A number for each 32 bits."""
    products = (number * factor for number, factor in zip(numbers, FACTORS_GIVEN[1:], strict=False))
    return (FACTORS_GIVEN[0] + sum(products)) % 2**64


def test_one_bit_of_a_flow_changes_half_of_its_keyed_hash(reference: Program) -> None:
    words = random.randbytes(16)
    before = reference.of(words).keyed[2]
    changed = []
    for bit in range(128):
        after = reference.of((int.from_bytes(words, "little") ^ 1 << bit).to_bytes(16, "little")).keyed[2]
        changed.append((before ^ after).bit_count())

    assert 28 < sum(changed) / len(changed) < 36
    assert min(changed) > 12


def test_what_a_node_compiles_with_comes_from_the_key_alone() -> None:
    """These numbers may never change: nodes of two versions would choose different replicas."""
    loaded = Program(HASH_KEY.cflags)

    hashes = loaded.of(bytes(range(48)))

    loaded.close()
    assert (hashes.keyed[2], hashes.placement[0]) == (0x21F1E6CDC67DB707, 0xFB1D09A476EC0D92)
