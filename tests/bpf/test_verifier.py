"""What the verifier has to go through to accept the program."""

from __future__ import annotations

from pathlib import Path

from tests.bpf.node import Node, verified_instructions

BUDGET = 500_000
"""Of the kernel's million, for each program. How many states it prunes differs from version to version, and a program
that it refuses leaves a node without a data path. So half remains for versions that this one was not tried on."""


def test_the_verifier_accepts_the_programs_well_below_its_limit(bpffs: Path) -> None:
    node = Node(bpffs / "verified", cflags=())
    try:
        instructions = verified_instructions(node.datapath.program_fd)
        at_tunnel = verified_instructions(node.datapath.peers.program_fd)
    finally:
        node.close()

    print(f"\nThe verifier went through {instructions:,} and {at_tunnel:,} of at most 1,000,000 instructions.")
    assert 1_000 < instructions < BUDGET
    assert 1_000 < at_tunnel < BUDGET
